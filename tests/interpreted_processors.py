"""A processor accelerated for a device gives the original's results. test_accelerate.py runs this file in a process of
its own, in which Triton interprets and the CPU's memory is the device's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import triton_interpreter
from PIL import Image

from maxcrops.exceptions import UnsupportedError
from maxcrops.integrations.transformers import accelerate
from maxcrops.kernels import crops as kernels
from maxcrops.preprocess import Preprocessor

triton_interpreter.make_exact()

RNG = np.random.default_rng(0)
PHOTO, OTHER = (RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((70, 120), (150, 64)))


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program costs the interpreter the same for any number of values."""
    monkeypatch.setattr(kernels, "BLOCK", 2048)
    monkeypatch.setattr(kernels, "TILE", {"ROWS": 128, "BLOCK": 2048})


@pytest.fixture(scope="module")
def processor(oracle: Callable[[str], ModuleType]) -> Any:
    made = oracle("molmo2").Oracle(max_crops=2).processor
    torch.set_num_threads(2)  # as many as the bits of its pixels are known for
    made.tokenizer.pad_token = made.tokenizer.eos_token
    return made


def assert_same(here: Any, there: Any) -> None:
    assert (type(here), list(here)) == (type(there), list(there))
    for key, expected in there.items():
        assert (here[key].dtype, here[key].shape) == (expected.dtype, expected.shape), key
        assert torch.equal(here[key], expected), key


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that ran."""
    seen: list[str] = []
    call = Preprocessor.__call__

    def noted(self: Preprocessor, *arguments: Any, **options: Any) -> Any:
        seen.append(self.backend)
        return call(self, *arguments, **options)

    monkeypatch.setattr(Preprocessor, "__call__", noted)
    return seen


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 0)])
def test_a_processor(processor: Any, device: Any, backends: list[str]) -> None:
    images, text = [PHOTO, Image.fromarray(OTHER)], "<|image|> <|image|>"
    got = accelerate(processor, device=device)(images, text, return_tensors="pt")
    assert_same(got, processor(images, text, return_tensors="pt"))
    assert backends == ["triton"]


def test_every_layout(processor: Any) -> None:
    original = processor.image_processor
    accelerated = accelerate(original, device="cuda")
    first = torch.from_numpy(PHOTO).permute(2, 0, 1)
    for images in (
        first,
        first.contiguous(),
        first[:1],
        PHOTO.transpose(2, 0, 1),
        [first, OTHER],
        torch.stack([first]),
    ):
        assert_same(accelerated(images, return_tensors="pt"), original(images, return_tensors="pt"))


def test_knobs(processor: Any) -> None:
    original = processor.image_processor
    accelerated = accelerate(original, device="cuda")
    expected = original(PHOTO, max_crops=1, return_tensors="pt")
    assert_same(accelerated(PHOTO, max_crops=1, device="cuda", return_tensors="pt"), expected)
    for device in ("cpu", "cuda:1", "meta"):
        with pytest.raises(UnsupportedError, match=rf"device='{device}' cannot be accelerated; pass device='cuda'"):
            accelerated(PHOTO, device=device)
    with pytest.raises(UnsupportedError, match=r"return_tensors='np' with device='cuda' cannot .*; pass 'pt'"):
        accelerated(PHOTO, return_tensors="np")
    lenient = accelerate(original, device="cuda", strict=False)
    assert type(lenient(PHOTO, return_tensors="np")["pixel_values"]) is np.ndarray


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_keep_the_device(processor: Any, copied: Callable[[Any], Any], backends: list[str]) -> None:
    original = processor.image_processor
    accelerated = accelerate(original, device="cuda")
    result = copied(accelerated)
    assert type(result) is type(accelerated)
    assert_same(result(PHOTO, return_tensors="pt"), original(PHOTO, return_tensors="pt"))
    accelerate(result)(PHOTO)
    assert backends == ["triton", "cpu"]
    assert accelerated.to_dict() == original.to_dict()
