"""Shipped model configurations build models of the published size; others are read, or refused with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import maxcrops as mc
from maxcrops.exceptions import ConfigError, UnknownSpecError, UnsupportedError
from maxcrops.planning.dryrun._configs import config_origin, get_config, list_configs, load_config

NAMES = list_configs()


def test_the_promised_ones_are_shipped() -> None:
    assert {
        "molmo-7b-d",
        "molmo-7b-o",
        "molmo-72b",
        "molmo2-4b",
        "molmo2-8b",
        "internvl3-8b",
        "llava-v1.6-mistral-7b",
        "idefics3-8b-llama3",
        "smolvlm-instruct",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_configs_fit_their_specs(name: str) -> None:
    spec, config = mc.get_spec(name), get_config(name)
    assert config["model_type"] == spec.family
    vision = config.get("vision_config", {"image_size": 336, "patch_size": 14})  # A Molmo's is in its code.
    for key, expected in (("image_size", spec.crop_size), ("patch_size", spec.patch_size)):
        assert vision[key] in (expected, [expected, expected])


@pytest.mark.parametrize("name", NAMES)
def test_configs_say_where_they_come_from(name: str) -> None:
    origin, config = config_origin(name), get_config(name)
    assert origin.source
    assert origin.repository.count("/") == 1
    assert origin.checked.startswith("20")
    assert not [key for key in config if key.startswith("_")]
    for key in origin.unverified:
        value: Any = config
        for part in key.split("."):
            value = value[part]
    assert load_config(name) == get_config(origin.repository) == get_config(name.upper().replace("-", "_")) == config


def test_what_is_given_is_a_copy() -> None:
    get_config("molmo2-8b")["text_config"]["hidden_size"] = 1
    assert get_config("molmo2-8b")["text_config"]["hidden_size"] == 4096


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # Billions of the checkpoint's tensors: the hub's own count, or the size of its files. Molmo's are elsewhere.
        ("molmo2-8b", 8.66),
        ("molmo2-4b", 4.85),
        ("internvl3-8b", 7.94),
        ("llava-v1.6-mistral-7b", 7.57),
        ("idefics3-8b-llama3", 8.46),
        ("smolvlm-instruct", 2.25),
    ],
)
def test_parameters_are_as_many_as_published(name: str, billions: float, oracle: Callable[[str], ModuleType]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(**load_config(name))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert [type(model).__name__] == get_config(name)["architectures"]
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == billions
    # An object is as good as its file, and all that was written was taken.
    back = load_config(config)
    for part, values in get_config(name).items():
        for key, value in values.items() if isinstance(values, dict) else ():
            assert key.startswith("rope_") or back[part][key] == value, (part, key)


def test_folders_files_and_dicts_are_read(tmp_path: Path) -> None:
    config = get_config("smolvlm-instruct")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    for given in (tmp_path, str(tmp_path), file, config):
        assert load_config(given) == config
    nested = {"model_type": "molmo", "sizes": (1, 2)}
    loaded = load_config(nested)
    assert loaded == {"model_type": "molmo", "sizes": [1, 2]}
    loaded["sizes"].append(3)
    assert nested["sizes"] == (1, 2)


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "molmo2-8b").mkdir()
    (tmp_path / "molmo2-8b" / "config.json").write_text('{"model_type": "internvl"}', encoding="utf-8")
    assert load_config("molmo2-8b") == {"model_type": "internvl"}


def test_unknown_names_are_met_with_near_ones() -> None:
    with pytest.raises(UnknownSpecError, match=r"existing folder .* got 'molmo-2-8b'; .*molmo2-8b"):
        load_config("molmo-2-8b")
    with pytest.raises(UnknownSpecError, match="got '/models/molmo2-8b'"):
        load_config("/models/molmo2-8b")
    with pytest.raises(UnknownSpecError, match=", ".join(NAMES)):
        get_config("?")


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has none; download it"):
        load_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="existing folder"):
        load_config(tmp_path / "no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": ', "must be a JSON file, got: "),
        ('["molmo"]', "must hold a JSON object, got list"),
        ("{}", "must name its model_type, got None"),
        ('{"model_type": 2}', "must name its model_type, got 2"),
        ("[" * 100_000, "must be a JSON file"),
        ("\x00\xff", "must be a JSON file"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path)
    assert "config.json" in str(caught.value)


def test_remote_code_is_refused(tmp_path: Path) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
    pytest.importorskip("transformers")
    with pytest.raises(UnsupportedError, match=r"'internvl_chat', whose code .AutoConfig, AutoModel. .* converted for"):
        load_config({"model_type": "internvl_chat", "auto_map": code})
    for known in ("molmo", "molmo2", "qwen2_5_vl", "blip-2"):
        assert load_config({"model_type": known, "auto_map": code})["model_type"] == known


def test_quantised_weights_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="unquantised weights"):
        load_config({"model_type": "molmo", "quantization_config": {"load_in_4bit": True}})


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a folder with config\.json, a dict, .* got int"):
        load_config(3)
    with pytest.raises(ConfigError, match="plain data"):
        load_config({"model_type": "molmo", "dtype": object()})
