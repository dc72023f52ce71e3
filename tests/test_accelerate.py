"""An accelerated processor is the original, only that its image work is done here."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import maxcrops as mc
from maxcrops.exceptions import UnsupportedError
from maxcrops.integrations import transformers
from maxcrops.integrations.transformers import accelerate, spec_of

KEYS = ["pixel_values", "image_token_pooling", "image_grids", "image_num_crops"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def molmo2(oracle: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    """oracles.molmo2, with as many threads as the bits of its pixels are known for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield oracle("molmo2")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def original(molmo2: ModuleType) -> Any:
    return molmo2.Oracle(max_crops=6).image_processor


@pytest.fixture(scope="module")
def accelerated(original: Any) -> Any:
    return accelerate(original, num_threads=1)


@pytest.fixture
def processor(molmo2: ModuleType) -> Any:
    processor = molmo2.Oracle(max_crops=4).processor
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    processor.chat_template = CHAT_TEMPLATE
    return processor


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Slopes and noise, so that both interpolation and rounding show."""
    rng = np.random.default_rng([height, width, channels, seed])
    slopes = np.add.outer(np.linspace(0, 150, height), np.linspace(0, 90, width))[..., None]
    return np.asarray(slopes + rng.integers(0, 16, (height, width, channels)), np.uint8)


def assert_same(here: Any, there: Any) -> None:
    assert type(here) is type(there)
    assert list(here) == list(there)
    for key, expected in there.items():
        got = here[key]
        assert type(got) is type(expected), key
        if hasattr(expected, "dtype"):
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape), key
            np.testing.assert_array_equal(np.asarray(got), np.asarray(expected), err_msg=key)
        else:
            assert got == expected, key


# -- the same results ----------------------------------------------------------------------------------------------


def pil(mode: str, **info: Any) -> Image.Image:
    image = Image.fromarray(photo(70, 120)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(photo(70, 120, 1)[..., 0]))
    image.info.update(info)
    return image


def given_as(form: str) -> Any:
    """Images in every form that the original takes."""
    import torch

    image, other = photo(70, 120), photo(150, 64)
    batch = np.stack([photo(70, 120, seed=seed) for seed in range(3)])
    return {
        "array": image,
        "array, channels first": np.ascontiguousarray(image.transpose(2, 0, 1)),
        "array, strided": photo(140, 240)[::2, ::2],
        "array, one channel": photo(70, 120, 1),
        "array, four channels": photo(70, 120, 4),
        "tensor": torch.from_numpy(image.copy()),
        "tensor, channels first": torch.from_numpy(image.copy()).permute(2, 0, 1),
        "PIL": Image.fromarray(image),
        "PIL, turned": turned(image),
        "PIL, transparent colour": pil("RGB", transparency=(9, 9, 9)),
        **{f"PIL, {mode}": pil(mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr")},
        "PIL, palette with transparency": pil("P", transparency=0),
        "list": [image, other, image],
        "tuple": (image, other),
        "mixed list": [Image.fromarray(other), torch.from_numpy(image.copy()), np.moveaxis(image, 2, 0), pil("LA")],
        "nested": [[image, other], [other]],
        "nested, one empty": [[], [other]],
        "nested, without channels": [[image[..., 0]], [other]],
        "array of a batch": batch,
        "tensor of a batch": torch.from_numpy(batch),
        "list of batches": [batch, batch[:1]],
    }[form]


def turned(image: npt.NDArray[np.uint8]) -> Image.Image:
    """A PIL image whose EXIF orientation the original does not look at."""
    result = Image.fromarray(image)
    result.getexif()[0x0112] = 6
    return result


FORMS = [
    "array", "array, channels first", "array, strided", "array, one channel", "array, four channels",
    "tensor", "tensor, channels first",
    "PIL", "PIL, turned", "PIL, transparent colour", "PIL, 1", "PIL, L", "PIL, LA", "PIL, P", "PIL, RGBA", "PIL, CMYK",
    "PIL, YCbCr", "PIL, palette with transparency",
    "list", "tuple", "mixed list", "nested", "nested, one empty", "nested, without channels",
    "array of a batch", "tensor of a batch", "list of batches",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images(original: Any, accelerated: Any, form: str) -> None:
    images = given_as(form)
    assert_same(accelerated(images, return_tensors="pt"), original(images, return_tensors="pt"))


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
@pytest.mark.parametrize("method", ["__call__", "preprocess"])
def test_every_type_of_results(original: Any, accelerated: Any, return_tensors: str | None, method: str) -> None:
    images = [photo(90, 200), photo(200, 90)]
    here = getattr(accelerated, method)(images, return_tensors=return_tensors)
    assert list(here) == KEYS
    assert_same(here, getattr(original, method)(images, return_tensors=return_tensors))


KNOBS: list[dict[str, Any]] = [
    {"max_crops": 1},
    {"max_crops": 13},
    {"overlap_margins": [4, 2]},
    {"overlap_margins": [0, 0]},
    {"size": 392},
    {"size": {"height": 224, "width": 224}, "overlap_margins": [2, 2]},
    {"patch_size": 18, "size": 378},
    {"patch_size": 16, "size": 64, "overlap_margins": [1, 1]},
    {"size": 56, "overlap_margins": [1, 1]},
    {"size": 28, "overlap_margins": [0, 0]},
    {"pooling_size": [3, 2]},
    {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]},
    {"image_mean": 0.4, "image_std": (0.3,)},
    {"input_data_format": "channels_last"},
    {"do_convert_rgb": False},
    {"do_resize": False},
    {"do_resize": False, "resample": None},
    {"resample": Image.Resampling.BILINEAR, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
    {"device": "cpu"},
    {"disable_grouping": True},
    {"disable_grouping": False},
    {"do_center_crop": True, "crop_size": 100, "do_pad": True, "pad_size": {"height": 9, "width": 9}},
]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_knob(original: Any, accelerated: Any, knobs: dict[str, Any]) -> None:
    images = [photo(300, 500), photo(500, 300), photo(300, 500, seed=1)]
    assert_same(accelerated(images, return_tensors="np", **knobs), original(images, return_tensors="np", **knobs))


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_knob_as_an_attribute(molmo2: ModuleType, knobs: dict[str, Any]) -> None:
    original = molmo2.Oracle(**knobs).image_processor
    image = photo(300, 500)
    assert_same(accelerate(original)(image), original(image))


@settings(max_examples=25)
@given(
    sides=st.lists(
        st.tuples(*[st.integers(1, 700) | st.sampled_from([1, 3, 4, 112, 378])] * 2), min_size=1, max_size=3
    ),
    max_crops=st.integers(1, 12),
    margins=st.sampled_from([[4, 4], [2, 2], [0, 4], [0, 0]]),
    first=st.booleans(),
    said=st.booleans(),
)
def test_any_size(
    original: Any,
    accelerated: Any,
    sides: list[tuple[int, int]],
    max_crops: int,
    margins: list[int],
    first: bool,
    said: bool,
) -> None:
    """Without `said`, both guess where the channels of an image of 1, 3 or 4 px are, and guess the same."""
    images = [photo(*size) for size in sides]
    if first:
        images = [np.moveaxis(image, 2, 0) for image in images]
    knobs: dict[str, Any] = {"max_crops": max_crops, "overlap_margins": margins, "return_tensors": "np"}
    if said:
        knobs["input_data_format"] = "channels_first" if first else "channels_last"
    assert_same(accelerated(images, **knobs), original(images, **knobs))


def test_paths(original: Any, accelerated: Any, tmp_path: Path) -> None:
    """Read by transformers, with whatever torchvision can decode here."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo(70, 120)).save(path)
    try:
        there = original([str(path)])
    except Exception as error:
        with pytest.raises(type(error)):
            accelerated([str(path)])
    else:
        assert_same(accelerated([str(path)]), there)


@pytest.mark.parametrize(
    "knobs", [{"foo": 1}, {"max_crops": "3"}, {"max_crops": None}, {"return_tensors": "xx"}], ids=str
)
def test_wrong_knobs_fail_as_before(original: Any, accelerated: Any, knobs: dict[str, Any]) -> None:
    with pytest.raises(Exception) as there:  # noqa: PT011  # whatever the original raises
        original(photo(30, 40), **knobs)
    with pytest.raises(there.type) as here:
        accelerated(photo(30, 40), **knobs)
    assert str(here.value) == str(there.value)


@pytest.mark.parametrize(
    "images", [3, None, [[photo(3, 4)], 3], photo(3, 4)[None, None]], ids=["3", "None", "mix", "5-D"]
)
def test_what_is_no_image_fails_as_before(original: Any, accelerated: Any, images: Any) -> None:
    with pytest.raises(Exception) as there:  # noqa: PT011
        original(images)
    with pytest.raises(there.type):
        accelerated(images)


# -- refusals ------------------------------------------------------------------------------------------------------

REFUSED_KNOBS: list[tuple[dict[str, Any], str]] = [
    ({"resample": Image.Resampling.BICUBIC}, "resample"),
    ({"do_rescale": False}, "do_rescale=False"),
    ({"do_normalize": False}, "do_normalize=False"),
    ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ({"device": "meta"}, "device='meta'"),
    ({"size": {"height": 378, "width": 392}}, "size="),
    ({"size": {"shortest_edge": 378}}, "size="),
    ({"size": 380}, "crop_size 380"),
    ({"max_crops": 0}, "max_crops"),
    ({"image_mean": [0.4, 0.5]}, "image_mean"),
    ({"overlap_margins": [20, 20]}, "overlap_margins"),
]


@pytest.mark.parametrize(("knobs", "named"), REFUSED_KNOBS, ids=str)
def test_refused_knobs(accelerated: Any, knobs: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        accelerated(photo(30, 40), **knobs)
    with pytest.raises(UnsupportedError, match=named):
        spec_of(accelerated, **knobs)


@pytest.mark.parametrize(("knobs", "named"), REFUSED_KNOBS[:4], ids=str)
def test_refused_attributes(molmo2: ModuleType, knobs: dict[str, Any], named: str) -> None:
    original = molmo2.Oracle(**{name: value or 0 for name, value in knobs.items()}).image_processor
    with pytest.raises(UnsupportedError, match=named.partition("=")[0]):
        accelerate(original)
    assert accelerate(original, strict=False) is original


def refused_image(form: str) -> Any:
    import torch

    image = photo(30, 40)
    return {
        "float array": image / np.float32(255),
        "int32 array": image.astype(np.int32),
        "bool array": image > 99,
        "float tensor": torch.from_numpy(image / np.float32(255)),
        "tensor on meta": torch.empty((3, 30, 40), dtype=torch.uint8, device="meta"),
        "none": [],
    }[form]


@pytest.mark.parametrize("form", ["float array", "int32 array", "bool array", "float tensor", "tensor on meta", "none"])
def test_refused_images(accelerated: Any, form: str) -> None:
    with pytest.raises(UnsupportedError):
        accelerated(refused_image(form))


@pytest.mark.parametrize(
    "image",
    [pil("L"), pil("RGBA"), photo(30, 40, 1), photo(30, 40, 4)],
    ids=["PIL, L", "PIL, RGBA", "array, 1", "array, 4"],
)
def test_refuses_other_channels_left_as_they_are(accelerated: Any, image: Any) -> None:
    with pytest.raises(UnsupportedError, match="do_convert_rgb=True"):
        accelerated(image, do_convert_rgb=False)


def test_not_strict_leaves_the_call_to_the_original(original: Any, caplog: pytest.LogCaptureFixture) -> None:
    transformers._log_once.cache_clear()
    lenient = accelerate(original, strict=False)
    image = photo(60, 90)
    with caplog.at_level(logging.WARNING, "maxcrops"):
        for resample in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC):
            assert_same(lenient(image, resample=resample), original(image, resample=resample))
        assert_same(lenient(image / 255), original(image / 255))
        assert_same(lenient(image), original(image))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("maxcrops")]
    assert len(ours) == 3
    assert "NEAREST" in ours[0]
    assert "BICUBIC" in ours[1]
    assert "float64" in ours[2]


def test_refused_classes(molmo2: ModuleType, original: Any, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import CLIPImageProcessor

    class Rescaling(type(original)):  # type: ignore[misc]
        def rescale_and_normalize(self, *args: Any) -> Any:
            return super().rescale_and_normalize(*args)

    class Named(type(original)):  # type: ignore[misc]
        """Changes nothing of the image work."""

        model_input_names = ("pixel_values",)

    for other in (CLIPImageProcessor(), Rescaling(), object()):
        with pytest.raises(UnsupportedError, match=type(other).__name__):
            accelerate(other)
        assert accelerate(other, strict=False) is other
    patched = copy.deepcopy(original)
    patched.resize = original.resize
    with pytest.raises(UnsupportedError, match="resize"):
        accelerate(patched)
    assert_same(accelerate(Named())(photo(60, 90)), Named()(photo(60, 90)))


@pytest.mark.parametrize("num_threads", [0, -1])
def test_refuses_no_threads(original: Any, num_threads: int) -> None:
    with pytest.raises(ValueError, match="num_threads"):
        accelerate(original, num_threads=num_threads)


# -- everything else is theirs -------------------------------------------------------------------------------------


def test_given_stays_as_it_is(molmo2: ModuleType, processor: Any) -> None:
    given = processor.image_processor
    before = copy.deepcopy(vars(given))
    result = accelerate(processor)
    assert processor.image_processor is given
    assert type(given) is molmo2.upstream.Molmo2ImageProcessor
    assert vars(given) == before
    assert result is not processor
    assert type(result) is type(processor)
    assert isinstance(result.image_processor, type(given))
    assert result.tokenizer is processor.tokenizer
    assert result.video_processor is processor.video_processor
    result.image_processor.overlap_margins[0] = 2
    result.image_processor.max_crops = 3
    assert vars(given) == before
    assert spec_of(result.image_processor).max_crops == 3


def test_accelerating_twice(original: Any, accelerated: Any) -> None:
    again = accelerate(accelerated, num_threads=2)
    assert type(again).__bases__ == type(accelerated).__bases__
    assert_same(again(photo(60, 90)), original(photo(60, 90)))


def test_methods_that_look_at_sizes(original: Any, accelerated: Any) -> None:
    for height, width in [(480, 640), (100, 2000), (1080, 1920)]:
        for knobs in (None, {"max_crops": 12}):
            here = accelerated.get_image_grid_and_crops(height, width, knobs)
            assert here == original.get_image_grid_and_crops(height, width, knobs)
            here = accelerated.get_number_of_image_patches(height, width, knobs)
            assert here == original.get_number_of_image_patches(height, width, knobs)


def test_spec_counts_as_the_processor(processor: Any) -> None:
    spec = spec_of(accelerate(processor).image_processor, max_crops=7)
    assert spec.max_crops == 7
    [crops] = processor._get_num_multimodal_tokens([(700, 900)], max_crops=7)["num_image_patches"]
    assert mc.layout(spec, height=700, width=900).num_crops == crops


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_processor_call(processor: Any, return_tensors: str | None) -> None:
    images = [[photo(200, 300)], [Image.fromarray(photo(500, 200)), photo(90, 90)]]
    text = ["<|image|>\n", "\n<|image|>\n\n<|image|>"]
    knobs: dict[str, Any] = {"padding": True, "return_tensors": return_tensors}
    accelerated = accelerate(processor)
    assert_same(accelerated(images, text, **knobs), processor(images, text, **knobs))
    knobs["images_kwargs"] = {"max_crops": 2}
    assert_same(accelerated(images, text, **knobs), processor(images, text, **knobs))
    assert_same(accelerated(text="\n", return_tensors="np"), processor(text="\n", return_tensors="np"))
    with pytest.raises(ValueError, match="number of images"):
        accelerated(images[:1], text)


def test_processor_call_with_video(processor: Any) -> None:
    video = np.stack([photo(60, 80, seed=seed) for seed in range(2)])
    knobs: dict[str, Any] = {
        "text": ["<|video|>\n<|image|>"],
        "images": [photo(60, 80)],
        "videos": [video],
        "video_metadata": [{"fps": 1.0, "total_num_frames": 2, "frames_indices": [0, 1]}],
        "do_sample_frames": False,
        "return_tensors": "pt",
    }
    assert_same(accelerate(processor)(**knobs), processor(**knobs))


def test_chat_template(processor: Any) -> None:
    message = {
        "role": "user",
        "content": [
            {"type": "image", "image": Image.fromarray(photo(333, 222))},
            {"type": "text", "text": "\n"},
            {"type": "image", "image": Image.fromarray(photo(50, 60))},
        ],
    }
    knobs: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    here = accelerate(processor).apply_chat_template([message], **knobs)
    assert_same(here, processor.apply_chat_template([message], **knobs))
    assert here["image_num_crops"].tolist()[1] == 2


def test_saves_the_original(molmo2: ModuleType, processor: Any, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoProcessor

    accelerated = accelerate(processor)
    assert repr(accelerated.image_processor) == repr(processor.image_processor)
    assert accelerated.to_json_string() == processor.to_json_string()
    processor.save_pretrained(tmp_path / "there")
    accelerated.save_pretrained(tmp_path / "here")
    there, here = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("there", "here"))
    assert here == there
    assert b"maxcrops" not in b"".join(here.values())
    loaded = AutoProcessor.from_pretrained(tmp_path / "here")
    assert type(loaded.image_processor) is molmo2.upstream.Molmo2ImageProcessor
    again = accelerate(loaded)
    assert_same(again([photo(60, 90)], "<|image|>"), processor([photo(60, 90)], "<|image|>"))

    accelerated.image_processor.save_pretrained(tmp_path / "alone")
    config = json.loads((tmp_path / "alone" / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert config["image_processor_type"] == "Molmo2ImageProcessor"
    alone = AutoImageProcessor.from_pretrained(tmp_path / "alone")
    assert type(alone) is molmo2.upstream.Molmo2ImageProcessor
    assert alone.max_crops == 4
    from_its_class = type(accelerated.image_processor).from_pretrained(tmp_path / "alone")
    assert_same(from_its_class(photo(60, 90)), alone(photo(60, 90)))


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies(processor: Any, copied: Callable[[Any], Any]) -> None:
    accelerated = accelerate(processor, num_threads=1, strict=False)
    accelerated.image_processor.max_crops = 2
    result = copied(accelerated.image_processor)
    assert type(result) is type(accelerated.image_processor)
    assert vars(result) == vars(accelerated.image_processor)
    processor.image_processor.max_crops = 2
    assert_same(result(photo(60, 500)), processor.image_processor(photo(60, 500)))
    whole = copied(accelerated)
    assert_same(whole([photo(60, 500)], "<|image|>"), processor([photo(60, 500)], "<|image|>"))
    assert type(whole.image_processor) is type(accelerated.image_processor)


# -- on a device ---------------------------------------------------------------------------------------------------

TESTS = Path(__file__).parent


def test_interpreted_on_a_device(original: Any) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "interpreted_processors.py"],
        cwd=TESTS, env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]


def test_a_device_that_is_not_there(original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = r"^\[accelerate\] device must be None here, got 'cuda': .* torch sees no CUDA device"
    with pytest.raises(UnsupportedError, match=message):
        accelerate(original, device="cuda")
    assert accelerate(original, device="cuda", strict=False) is original


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_a_device_without_a_package(original: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UnsupportedError, match=rf"got 'cuda': .*the package {package}; install it"):
        accelerate(original, device="cuda")


@pytest.mark.parametrize("device", ["cpu", "cuda:x", "meta", "", 0])
def test_what_is_no_device(original: Any, device: Any) -> None:
    with pytest.raises(ValueError, match=r"device must be 'cuda', 'cuda:N' or None, got"):
        accelerate(original, device=device, strict=False)


def test_a_device_of_too_high_a_number(original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pytest.importorskip("triton")
    for name, value in {"is_available": True, "current_device": 0, "device_count": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with pytest.raises(ValueError, match="device must be one of 1 here, got 'cuda:1'"):
        accelerate(original, device="cuda:1")
    assert type(accelerate(original, device="cuda:0"))._maxcrops_device == "cuda:0"


def test_images_on_a_device() -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    settings = {"do_convert_rgb": True, "input_data_format": None}
    with FakeTensorMode():
        image, four = (torch.empty((n, 50, 60), dtype=torch.uint8, device="cuda:1") for n in (3, 4))
        for place in ("cuda", "cuda:1"):
            assert transformers._given(image, settings, place).shape == (50, 60, 3)
            with pytest.raises(UnsupportedError, match=r"four channels on cuda:1 .*image\.cpu\(\)"):
                transformers._given(four, settings, place)
        for other, fix in (("cuda:11", "give one on cuda:11"), ("cuda:0", "on cuda:0"), (None, "the CPU's memory")):
            with pytest.raises(UnsupportedError, match=rf"an image on cuda:1 cannot be accelerated; .*{fix}"):
                transformers._given(image, settings, other)


# -- the image processor of Molmo's checkpoints --------------------------------------------------------------------


class MolmoImageProcessor:
    """Looks like the one that Molmo's checkpoints bring with them, and is as slow."""

    calls = 0

    def __init__(self, **settings: Any) -> None:
        self.max_crops = 12
        self.overlap_margins = [4, 4]
        self.base_image_input_size = [336, 336]
        self.image_token_length_w = 12
        self.image_token_length_h = 12
        self.image_patch_size = 14
        self.image_padding_mask = True
        self.do_normalize = True
        self.image_mean = [0.48145466, 0.4578275, 0.40821073]
        self.image_std = [0.26862954, 0.26130258, 0.27577711]
        vars(self).update(settings)

    def _normalize(self, image: Any) -> Any:
        raise NotImplementedError

    def image_to_patches_and_tokens(self, image: Any, *args: Any) -> Any:
        raise NotImplementedError

    def build_image_input_idx(self, image_tokens: Any, *args: Any) -> Any:
        raise NotImplementedError

    def preprocess(
        self,
        image: Any,
        image_patch_token_id: int,
        image_col_token_id: int,
        image_start_token_id: int,
        image_end_token_id: int,
        max_crops: Any = None,
        overlap_margins: Any = None,
        base_image_input_size: Any = None,
        image_token_length_w: Any = None,
        image_token_length_h: Any = None,
        image_patch_size: Any = None,
        **kwargs: Any,
    ) -> Any:
        MolmoImageProcessor.calls += 1
        size = base_image_input_size or self.base_image_input_size
        spec = mc.get_spec("molmo").replace(
            max_crops=max_crops or self.max_crops,
            overlap_margins=tuple(overlap_margins or self.overlap_margins),
            crop_size=size if isinstance(size, int) else size[0],
            patch_size=image_patch_size or self.image_patch_size,
            image_mean=tuple(self.image_mean),
            image_std=tuple(self.image_std),
        )
        ids = {
            "patch": image_patch_token_id,
            "col": image_col_token_id,
            "start": image_start_token_id,
            "end": image_end_token_id,
        }
        batch = mc.Preprocessor(spec, backend="reference", token_ids=ids)(
            np.asarray(image, np.uint8), input_data_format="channels_last"
        )
        tokens = batch["image_tokens"].astype(np.int64)
        return batch["images"], tokens, batch["image_input_idx"], batch["image_masks"]

    def multimodal_preprocess(
        self, images: Any, tokens: Any, image_idx: Any, sequence_length: int, *ids: int, **kwargs: Any
    ) -> dict[str, Any]:
        done = [self.preprocess(image, *ids, **kwargs) for image in images]
        crops, image_tokens, places, masks = map(np.concatenate, zip(*done, strict=True))
        return {
            "input_ids": np.concatenate([image_tokens, tokens]),
            "images": crops,
            "image_input_idx": places,
            "image_masks": masks,
        }


class MolmoProcessor:
    """As far as it matters here."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self.tokenizer = object()


IDS = (152066, 152067, 152064, 152065)


def assert_same_arrays(here: tuple[Any, ...], there: tuple[Any, ...]) -> None:
    assert len(here) == len(there) == 4
    for got, expected in zip(here, there, strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"max_crops": 3},
        {"overlap_margins": [2, 4], "image_padding_mask": False},
        {"base_image_input_size": 224, "image_token_length_h": 8, "image_token_length_w": 8},
        {"base_image_input_size": [238, 238], "image_token_length_h": 9, "image_token_length_w": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(70, 120), (420, 300), (3, 90)])
def test_molmo(size: tuple[int, int], knobs: dict[str, Any]) -> None:
    image = photo(*size)
    original = MolmoImageProcessor(image_mean=[0.5, 0.4, 0.3])
    accelerated = accelerate(original)
    before = MolmoImageProcessor.calls
    here = accelerated.preprocess(image, *IDS, **knobs)
    assert MolmoImageProcessor.calls == before
    assert_same_arrays(here, original.preprocess(image, *IDS, **knobs))
    attributes = {name: value for name, value in knobs.items() if hasattr(original, name)}
    assert_same_arrays(
        accelerate(MolmoImageProcessor(**attributes, image_mean=[0.5, 0.4, 0.3])).preprocess(image, *IDS), here
    )


def test_molmo_processor() -> None:
    processor = MolmoProcessor(MolmoImageProcessor())
    accelerated = accelerate(processor, num_threads=1)
    assert processor.image_processor is not accelerated.image_processor
    assert accelerated.tokenizer is processor.tokenizer
    assert type(processor.image_processor) is MolmoImageProcessor
    assert isinstance(accelerated.image_processor, MolmoImageProcessor)
    arguments = ([photo(70, 120), photo(90, 60)], np.arange(4), [-1, -1], 1024, *IDS)
    here = accelerated.image_processor.multimodal_preprocess(*arguments, max_crops=4)
    there = processor.image_processor.multimodal_preprocess(*arguments, max_crops=4)
    assert_same_arrays(tuple(here.values()), tuple(there.values()))
    again = pickle.loads(pickle.dumps(accelerated.image_processor))
    assert vars(again) == vars(processor.image_processor)
    assert type(again) is type(accelerated.image_processor)
    assert spec_of(again).max_crops == 12


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"base_image_input_size": [336, 224]}, "square"),
        ({"image_token_length_w": 11}, "image_token_length_w=11"),
        ({"overlap_margins": [3, 4]}, "overlap_margins"),
        ({"overlap_margins": [12, 12]}, "overlap_margins"),
    ],
    ids=str,
)
def test_molmo_refuses_knobs(knobs: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        accelerate(MolmoImageProcessor()).preprocess(photo(30, 40), *IDS, **knobs)
    with pytest.raises(UnsupportedError, match=named):
        accelerate(MolmoImageProcessor(**knobs))


@pytest.mark.parametrize("settings", [{"do_normalize": False}, {"image_mean": None}, {"image_std": None}], ids=str)
def test_molmo_refuses_attributes(settings: dict[str, Any]) -> None:
    [name] = settings
    with pytest.raises(UnsupportedError, match=name):
        accelerate(MolmoImageProcessor(**settings))


def test_molmo_not_strict() -> None:
    original = MolmoImageProcessor()
    image = photo(30, 40).astype(np.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        accelerate(original).preprocess(image, *IDS)
    before = MolmoImageProcessor.calls
    here = accelerate(original, strict=False).preprocess(image, *IDS, 2)
    assert MolmoImageProcessor.calls == before + 1
    assert_same_arrays(here, original.preprocess(image, *IDS, 2))


def test_molmo_stays_on_the_cpu() -> None:
    """Its processor concatenates NumPy arrays."""
    with pytest.raises(
        UnsupportedError, match=r"a processor of NumPy arrays with device='cuda' cannot .* leave device"
    ):
        accelerate(MolmoImageProcessor(), device="cuda")


def test_molmo_refuses_another_of_its_name() -> None:
    methods = {name: vars(MolmoImageProcessor)[name] for name in vars(MolmoImageProcessor) if not name.startswith("__")}
    other = type("MolmoImageProcessor", (), {**methods, "preprocess": lambda self, images: images})
    with pytest.raises(UnsupportedError, match="MolmoImageProcessor"):
        accelerate(other())
    changed = type("Mine", (MolmoImageProcessor,), {"_normalize": lambda self, image: image})
    with pytest.raises(UnsupportedError, match="Mine with its own _normalize"):
        accelerate(changed())


# -- threads and processes -----------------------------------------------------------------------------------------

SIZES = [(60, 500), (300, 200), (90, 90), (410, 420), (60, 501), (33, 44)]


def test_shared_by_threads(original: Any, accelerated: Any) -> None:
    images = [photo(*size) for size in SIZES]
    expected = [original(image, max_crops=1 + i % 4) for i, image in enumerate(images)]

    def run(start: int) -> None:
        for step in range(4 * len(images)):
            i = (start + step) % len(images)
            assert_same(accelerated(images[i], max_crops=1 + i % 4), expected[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


class Photos:
    """A data set that a spawned worker can unpickle although its torchvision has to be helped first."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.processor([photo(*SIZES[index])], "<|image|>", return_tensors="np"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _photos, (pickle.dumps(self.processor),)


def _photos(pickled: bytes) -> Photos:
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    return Photos(pickle.loads(pickled))


def _only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    [row] = rows
    return row


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_workers(processor: Any, start: str) -> None:
    """Workers run torch with one thread, where the original itself gives other bits than here."""
    from torch.utils.data import DataLoader

    accelerated = accelerate(processor)
    accelerated([photo(600, 700)], "<|image|>")  # threads, if any, are running before the fork
    loader = DataLoader(
        Photos(accelerated), num_workers=2, multiprocessing_context=start, collate_fn=_only, timeout=120
    )
    rows = list(loader)
    assert len(rows) == len(SIZES)
    for row, size in zip(rows, SIZES, strict=True):
        assert_same(row, dict(processor([photo(*size)], "<|image|>", return_tensors="np")))
