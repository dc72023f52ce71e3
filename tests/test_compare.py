"""Comparisons of models: the numbers are those of each model alone; models are told from images."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sizes import random_sizes, within

import maxcrops as mc
from maxcrops.planning import STANDARD_SIZES

Run = Callable[..., tuple[int, str, str]]

SIZES = {"a.png": (480, 640), "b.jpg": (1080, 1920), "c.webp": (900, 50)}
KEYS = ("molmo-7b-d", "internvl3-8b", "mllama", "lfm2_vl")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(folder / name)
    return folder


# -- the function ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_crops", [None, 6])
def test_numbers_are_those_of_each_model_alone(max_crops: int | None) -> None:
    specs = [mc.get_spec(key) for key in mc.list_specs()]
    specs = [spec for spec in specs if max_crops is None or spec.max_crops_range[0] <= max_crops]
    sizes = random_sizes(200, seed=4)
    comparison = mc.compare(specs, sizes, max_crops=max_crops, num_threads=2)
    assert (comparison.sizes == sizes).all()
    assert [model.name for model in comparison.models] == [spec.key for spec in specs]
    for model, spec in zip(comparison.models, specs, strict=True):
        assert (model.grids == mc.grids(spec, sizes, max_crops=max_crops)).all()
        for name, count in model.counts.items():
            assert (count == mc.count_tokens(spec, sizes, max_crops=max_crops, count=name)).all()
        assert model.totals["sequence_tokens"] == model.sequence_tokens.sum()
        assert model.distributions["crops"].max == model.crops.max()
        assert (model.worst_case is None) == (spec.unbounded is not None)
        if model.worst_case is not None:
            assert model.worst_case == mc.worst_case(spec, max_crops=max_crops)
            assert model.sequence_tokens.max() <= model.worst_case.tokens
        assert (model.cross_attention_keys is None) == (spec.family != "mllama")


def test_keys_have_a_worst_case_of_their_own() -> None:
    (model,) = mc.compare([mc.get_spec("mllama")], [(1080, 1920)]).models
    assert model.worst_case_keys == mc.worst_case(mc.get_spec("mllama"), count="cross_attention_keys")
    assert model.costs(0) == {
        "rows": 2,
        "cols": 2,
        "num_crops": 4,
        "sequence_tokens": 1,
        "cross_attention_keys": 1028,
    }


def test_a_limit_on_sizes_bounds_every_model() -> None:
    specs = [mc.get_spec(key) for key in KEYS]
    comparison = mc.compare(specs, max_side=300, max_ratio=3)
    for model, spec in zip(comparison.models, specs, strict=True):
        assert model.worst_case == mc.worst_case(spec, max_side=300, max_ratio=3)


def test_standard_sizes_and_none() -> None:
    specs = {"first": mc.get_spec("molmo"), "second": mc.get_spec("molmo", max_crops=3)}
    assert mc.compare(specs).sizes.tolist() == [list(size) for size in STANDARD_SIZES]
    empty = mc.compare(specs, [])
    assert [model.name for model in empty.models] == ["first", "second"]
    assert [model.max_crops for model in empty.models] == [12, 3]
    assert [model.distributions for model in empty.models] == [{}, {}]
    assert empty.to_dict()["images"] == []


def test_a_knob_beyond_its_range_is_told_at_its_last_value() -> None:
    spec = mc.get_spec("llava_next")
    assert mc.compare([spec], max_crops=1000).models[0].max_crops == spec.max_crops_range[1]


def test_wrong_arguments() -> None:
    molmo = mc.get_spec("molmo")
    with pytest.raises(ValueError, match=r"\[compare\] specs must have names of their own, got 'molmo' twice"):
        mc.compare([molmo, molmo.replace(max_crops=3)])
    with pytest.raises(TypeError, match=r"\[compare\] spec must be a Spec .*got 'molmo'"):
        mc.compare(["molmo"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"\[compare\] sizes must have shape"):
        mc.compare([molmo], [1, 2, 3])
    with pytest.raises(ValueError, match="max_ratio needs max_side"):
        mc.compare([molmo], max_ratio=2)


# -- the command -------------------------------------------------------------------------------------------------------


def _cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def test_text(run: Run, photos: Path) -> None:
    status, out, err = run("compare", *KEYS, photos / "a.png", photos / "b.jpg")
    assert (status, err) == (0, "")
    images, _, worst = out.partition("\nWorst case over all image sizes, exact")
    lines = [_cells(line) for line in images.splitlines() if any(key in line for key in KEYS)]
    comparison = mc.compare([mc.get_spec(key) for key in KEYS], [SIZES["a.png"], SIZES["b.jpg"]])
    assert len(lines) == 2 * len(KEYS)
    for at, line in enumerate(lines):
        model = comparison.models[at % len(KEYS)]
        costs = model.costs(at // len(KEYS))
        expected = [model.name, f"{costs['rows']}x{costs['cols']}", costs["num_crops"], costs["sequence_tokens"]]
        expected += [costs["cross_attention_keys"]] if costs["cross_attention_keys"] is not None else []
        if at % len(KEYS) == 0:
            expected = [("480x640", "1080x1920")[at // len(KEYS)], *expected]
            expected.append(str(photos / ("a.png", "b.jpg")[at // len(KEYS)]))
        assert line == [str(value) for value in expected]
    assert re.search(r"^molmo-7b-d +max_crops +12 +1460 +12x1 +2800x336$", worst.replace("  \n", "\n"), re.MULTILINE)
    assert re.search(r"^mllama +max_image_tiles +4 +1 +1028 ", worst, re.MULTILINE)
    assert re.search(r"^lfm2_vl +max_tiles +10 +unbounded *$", worst, re.MULTILINE)
    assert f"lfm2_vl: {mc.get_spec('lfm2_vl').unbounded}." in worst


def test_limit_on_sizes(run: Run) -> None:
    status, out, _ = run("compare", "molmo-7b-d", "lfm2_vl", "--max-side", 300, "--max-ratio", 2)
    assert status == 0
    assert "Worst case over all images up to 300 px a side and a ratio of 2, exact" in out
    assert "unbounded" not in out
    assert "--max-side" not in out


def test_many_images_are_summarised(run: Run, photos: Path) -> None:
    for at in range(20):
        Image.new("L", (100 + 90 * at, 300)).save(photos / f"more{at}.png")
    status, out, _ = run("compare", "molmo-7b-d", "mllama", photos)
    assert status == 0
    assert "23 images" in out
    assert "a.png" not in out
    sizes = [*SIZES.values(), *((300, 100 + 90 * at) for at in range(20))]
    for key, count in (("molmo-7b-d", "sequence_tokens"), ("mllama", "cross_attention_keys")):
        costs = mc.count_tokens(mc.get_spec(key), sizes, count=count)
        numbers = [costs.sum(), costs.mean(), *np.percentile(costs, (50, 90)), costs.max()]
        line = next(line for line in out.splitlines() if line.startswith(key) and count.replace("_", " ") in line)
        assert _cells(line)[-5:] == [f"{number:.0f}" for number in numbers]
    _, everything, _ = run("compare", "molmo-7b-d", "mllama", photos, "--all")
    assert "23 images" in everything
    assert str(photos / "a.png") in everything
    assert "more19.png" in everything


def test_json_and_csv(run: Run, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    status, out, err = run("compare", *KEYS, photos, "--size", "700x800", "--json", "--csv", table)
    assert status == 0
    assert f"wrote {4 * len(KEYS)} rows" in err
    comparison = mc.compare([mc.get_spec(key) for key in KEYS], [(700, 800), *SIZES.values()])
    data = json.loads(out)
    paths = [None, *(str(photos / name) for name in SIZES)]
    assert [image.pop("path") for image in data["images"]] == paths
    assert data == {**json.loads(json.dumps(comparison.to_dict())), "unreadable": []}
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    expected: list[dict[str, Any]] = [
        {"path": path, "height": height, "width": width, "model": model.name, **model.costs(at)}
        for at, (path, (height, width)) in enumerate(zip(paths, comparison.sizes.tolist(), strict=True))
        for model in comparison.models
    ]
    assert rows == [{name: "" if v is None else str(v) for name, v in row.items()} for row in expected]


def test_unreadable_files_stop_nothing(run: Run, photos: Path) -> None:
    (photos / "words.png").write_text("words")
    status, out, err = run("compare", "molmo2", photos, photos / "missing.png", "--json")
    assert status == 1
    data = json.loads(out)
    assert len(data["images"]) == 3
    assert [Path(file["path"]).name for file in data["unreadable"]] == ["words.png", "missing.png"]
    status, out, err = run("compare", "molmo2", photos / "missing.png")
    assert status == 1
    assert "missing.png: no such file" in err
    assert "Worst case" in out


def test_settings_follow_a_model(run: Run) -> None:
    name = "gemma3:do_pan_and_scan=true:max_crops=3"
    status, out, _ = run("compare", "gemma3", name, "--size", "400x1200", "--json")
    assert status == 0
    ours = mc.compare({"gemma3": mc.get_spec("gemma3"), name: mc.get_spec("gemma3", do_pan_and_scan=True, max_crops=3)},
                      [(400, 1200)])  # fmt: skip
    data = json.loads(out)
    assert [image["costs"] for image in data["images"]] == [image["costs"] for image in ours.to_dict()["images"]]
    assert data["models"] == json.loads(json.dumps(ours.to_dict()["models"]))


def test_a_setting_that_looks_like_a_pattern(run: Run) -> None:
    _, out, _ = run("compare", "molmo:overlap_margins=[2, 2]", "--size", "400x1200", "--json")
    (image,) = json.loads(out)["images"]
    layout = mc.layout(mc.get_spec("molmo", overlap_margins=(2, 2)), height=400, width=1200)
    assert [cost["sequence_tokens"] for cost in image["costs"].values()] == [layout.sequence_tokens]


def test_another_max_crops(run: Run) -> None:
    _, out, _ = run("compare", "molmo", "internvl", "-n", 5, "--json")
    assert [model["max_crops"] for model in json.loads(out)["models"]] == [5, 5]


def test_models_and_images_are_told_apart(run: Run, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "run-7"
    model.mkdir()
    config = {"max_crops": 20, "processor_class": "MolmoProcessor"}
    (model / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "molmo2").mkdir()  # a known name goes before a folder of that name
    (photos / "a.png").rename(tmp_path / "no suffix")
    for argument in ("run-7", model, model / "preprocessor_config.json"):
        status, out, _ = run(
            "compare", argument, "molmo2", "allenai/Molmo-7B-D-0924", "no suffix", "photos/*", "--json"
        )
        data = json.loads(out)
        assert status == 0
        assert [model["name"] for model in data["models"]] == [str(argument), "molmo2", "allenai/Molmo-7B-D-0924"]
        assert [model["max_crops"] for model in data["models"]] == [20, 8, 12]
        assert [image["path"] for image in data["images"]] == ["no suffix", "photos/b.jpg", "photos/c.webp"]


def test_a_folder_of_an_unknown_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    status, _, err = run("compare", "molmo2", tmp_path)
    assert status == 2
    assert err.startswith(f"maxcrops: [load_spec] {tmp_path} holds no known model: its files name bert")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["molmo-7b-d", "molmo-7b-x"], r"'molmo-7b-x' is neither a model nor .* nearest known ones are .*molmo-7b-d"),
        (["molmo-7b-d", "./no-folder"], r"'./no-folder' is neither a model nor an image or folder that exists"),
        (["molmo-7b-d", "gemma3:do_pan=true"], "gemma3 has no field 'do_pan'"),
        (["a.png"], "no MODEL among a.png"),
        (["qwen2_vl", "molmo2"], "cuts no crops"),
        (["molmo2", "--size", "480"], "--size must be HEIGHTxWIDTH"),
        (["molmo2", "--max-ratio", "3"], "max_ratio needs max_side"),
        (["molmo2", "-n", "0"], "max_crops must be in"),
    ],
)
def test_errors(arguments: list[str], message: str, run: Run) -> None:
    status, out, err = run("compare", *arguments)
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_all_models_at_once(run: Run) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in within(mc.get_spec("lfm2_vl")).items()]
    for more in ([], flags):
        status, out, _ = run("compare", *mc.list_specs(), "--json", *more)
        assert status == 0
        assert [model["name"] for model in json.loads(out)["models"]] == list(mc.list_specs())
