"""The task whose knee is known: images lose their digit where they are said to, and the folder loads as any model's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import maxcrops as mc

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
GROUPS = 2


@pytest.fixture(scope="module")
def task() -> Iterator[Any]:
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import legible_task

        yield legible_task
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(task: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model that has seen three batches."""
    folder: Path = tmp_path_factory.mktemp("legible")
    task.build(folder, steps=3, batch_size=8, groups=GROUPS)
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder / "model").eval()


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "dataset.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        with Image.open(folder / row["image"]) as image:
            row["pixels"] = np.array(image)
    return rows


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(1, 13))
def test_a_stripe_is_what_torch_shrinks_to_nothing(task: Any, kept: int) -> None:
    values = np.array(task.stripe(kept), np.float64)
    blocks = np.random.default_rng(kept).normal(size=9)  # any block may have a factor of its own
    pixels = torch.from_numpy(np.kron(blocks, values / np.abs(values).max()))[None, None, None]
    shrunk = torch.nn.functional.interpolate(pixels, size=(1, 9 * kept), mode="bilinear", antialias=False)
    assert shrunk.abs().max() < 1e-12
    if kept > 1:  # one pixel more or less, and it is there
        other = torch.nn.functional.interpolate(pixels, size=(1, 9 * kept - 1), mode="bilinear", antialias=False)
        assert other.abs().max() > 0.05


def test_a_shape_that_is_shrunk_by_too_many_ratios_is_refused(task: Any) -> None:
    with pytest.raises(ValueError, match=r"grid must be shrunk by one ratio along either axis, got \(1, 3\)"):
        task.texture((1, 3))


def test_images_need_the_crops_that_they_are_said_to(task: Any, folder: Path, rows: list[dict[str, Any]]) -> None:
    spec = mc.load_spec(folder / "model")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    sizes = [row["pixels"].shape[:2] for row in rows]
    needs = np.array([row["needs_crops"] for row in rows])
    assert {need: int((needs == need).sum()) for need in task.NEEDS} == dict.fromkeys(task.NEEDS, 10 * GROUPS)
    for max_crops in task.MAX_CROPS:
        whole = mc.scales(spec, sizes, max_crops=max_crops) == 1
        assert whole.tolist() == (needs <= max_crops).tolist()
        assert mc.grids(spec, sizes, max_crops=max_crops).prod(axis=1)[whole].tolist() == needs[whole].tolist()
        assert whole.mean() == expected["legible_share"][str(max_crops)] == task.legible_share(max_crops)
    for size in set(sizes):
        one = mc.layout(spec, height=size[0], width=size[1], max_crops=max(task.MAX_CROPS))
        assert one.canvas == size  # every pixel is a pixel of the image


def test_the_digit_is_erased_below_the_need_and_nowhere_else(task: Any, processor: Any) -> None:
    """By transformers' own image processor, which is what is asked of any resize: not one step of 255 is left."""
    rng = np.random.default_rng(7)
    for grid in task.TEXTURES:
        ground = task.draw_ground(rng)
        images = [task.draw(grid, ground, digit) for digit in range(10)]
        flat = torch.from_numpy(ground / 255 - 0.5).float() / 0.5
        for max_crops in task.MAX_CROPS:
            pixels = processor.image_processor(
                images, max_crops=max_crops, input_data_format="channels_last", return_tensors="pt"
            )["pixel_values"]
            crops = pixels.unflatten(0, (10, -1)).unflatten(-1, (-1, 3))  # digit, crop, patch, pixel, channel
            assert (crops[:, 0] - flat).abs().max() < 1e-6  # the global crop
            if max_crops < np.prod(grid):
                assert (crops - flat).abs().max() < 1e-6
                assert (crops == crops[:1]).all()
            else:
                for digit in range(1, 10):
                    for crop in range(1, crops.shape[1]):  # each shows it
                        apart = (crops[:digit, crop] - crops[digit, crop]).abs().flatten(1).amax(1)
                        assert apart.min() * 255 / 2 > task.AMPLITUDE - 0.5


def test_a_seed_gives_the_same_dataset(task: Any, folder: Path, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        task.write_dataset(tmp_path, np.random.default_rng([seed, 1]), groups=GROUPS)
        files = sorted(path.name for path in (folder / "images").iterdir())
        assert files == sorted(path.name for path in (tmp_path / "images").iterdir())
        paths = ["dataset.jsonl", f"images/{files[0]}", f"images/{files[-1]}"]
        assert (tmp_path / paths[0]).read_bytes() == (folder / paths[0]).read_bytes()
        assert all((tmp_path / path).read_bytes() == (folder / path).read_bytes() for path in paths) == same


# -- folder --------------------------------------------------------------------------------------------------------


def test_the_folder_is_a_model_like_any_other(task: Any, folder: Path, processor: Any, model: Any) -> None:
    spec = mc.load_spec(folder / "model")
    assert (type(processor).__name__, type(model).__name__) == ("Molmo2Processor", "Molmo2ForConditionalGeneration")
    assert (spec.crop, spec.tokens, spec.max_crops) == (task.SPEC.crop, task.SPEC.tokens, task.KNEE)
    assert processor.tokenizer.padding_side == "left"
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    image_ids = processor.tokenizer.convert_tokens_to_ids(list(task.IMAGE_TOKENS))
    assert min(image_ids) == model.config.text_config.vocab_size
    text = 'any text: é, "7"\n'
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text
    for digit in "0123456789":
        assert len(processor.tokenizer(digit)["input_ids"]) == 1
    for grid in task.TEXTURES:
        image = task.draw(grid, np.array([128, 128, 128]), 3)
        for max_crops in task.MAX_CROPS:
            inputs = processor(text=[task.prompt(processor)], images=[image], max_crops=max_crops, return_tensors="pt")
            counted = mc.layout(spec, height=image.shape[0], width=image.shape[1], max_crops=max_crops)
            assert sum(int((inputs["input_ids"] == one).sum()) for one in image_ids) == counted.sequence_tokens
            assert len(inputs["pixel_values"]) == counted.num_crops


def test_a_model_answers_alike_what_it_cannot_tell_apart(
    task: Any, processor: Any, model: Any, rows: list[dict[str, Any]]
) -> None:
    """So that exactly one of ten is right, whatever the model."""
    for max_crops in (1, 7):
        some = [row for row in rows if row["needs_crops"] > max_crops]
        answers = task.answer(model, processor, [row["pixels"] for row in some], max_crops=max_crops)
        for group in {row["group"] for row in some}:
            digits = [row["answers"] for row in some if row["group"] == group]
            assert digits == [[str(digit)] for digit in range(10)]
            assert len({given for given, row in zip(answers, some, strict=True) if row["group"] == group}) == 1


def test_what_is_expected_is_the_closed_form(task: Any, folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert expected["knee"] == max(task.NEEDS) == 8
    assert expected["chance"] == 0.1
    assert list(expected["accuracy"]) == [str(max_crops) for max_crops in task.MAX_CROPS]
    perfect = task.expectation(1.0)["accuracy"]
    assert [perfect[k] for k in (1, 2, 4, 6, 8, 12)] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 1], abs=1e-12)
    assert [perfect[k] for k in (3, 5, 7)] == [perfect[k] for k in (2, 4, 6)]
