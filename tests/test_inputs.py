"""What people hand to a preprocessor is read as transformers reads it, and copied only where it has to be."""

from __future__ import annotations

import gc
import io
import re
import subprocess
import sys
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from maxcrops.exceptions import ImageReadError
from maxcrops.preprocess import _pillow_memory
from maxcrops.preprocess._inputs import read_pixels

ORIENTATION = 0x0112
EXPORTS = hasattr(Image.Image, "__arrow_c_array__")
needs_export = pytest.mark.skipif(not EXPORTS, reason="this Pillow does not show its memory")

Bytes = npt.NDArray[np.uint8]
Upstream = Callable[..., Bytes]


@pytest.fixture(scope="session")
def torch(oracle: Callable[[str], ModuleType]) -> ModuleType:
    oracle("molmo2")
    return sys.modules["torch"]


@pytest.fixture(scope="session")
def upstream(oracle: Callable[[str], ModuleType]) -> Upstream:
    """Pixels [height, width, channels] as Molmo2's own image processor sees them."""
    processor = oracle("molmo2").upstream.Molmo2ImageProcessor()

    def read(image: Any, **settings: Any) -> Bytes:
        if isinstance(image, np.ndarray):
            image = np.array(image, order="C")  # torch takes neither read-only memory nor strides below 0
        settings.setdefault("do_convert_rgb", True)
        array: Bytes = processor.process_image(image, **settings).permute(1, 2, 0).numpy()
        return array

    return read


@pytest.fixture(scope="session")
def load_image(oracle: Callable[[str], ModuleType]) -> Callable[[Path], Bytes]:
    """Pixels [height, width, 3] as transformers' load_image gives them."""
    oracle("molmo2")
    from transformers.image_utils import load_image

    def load(path: Path) -> Bytes:
        with warnings.catch_warnings(), Image.open(path) as image:  # a path's file would stay open
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            return np.asarray(load_image(image))

    return load


def noise(*shape: int) -> Bytes:
    return np.random.default_rng(list(shape)).integers(0, 256, shape, dtype=np.uint8)


def picture(height: int = 20, width: int = 44, mode: str = "RGB") -> Image.Image:
    """Noise, transparency included where the mode has it."""
    if mode == "RGBA":
        return Image.fromarray(noise(height, width, 4))
    if mode in ("LA", "RGBa"):
        return picture(height, width, "RGBA").convert(mode)
    if mode in ("PA", "La"):
        return picture(height, width, "LA").convert(mode)
    if mode in ("I", "F"):
        return Image.fromarray((np.arange(height * width).reshape(height, width) - 100).astype("i4")).convert(mode)
    if mode.startswith("I;16"):
        return picture(height, width, "L").convert("I").convert(mode)
    image = Image.fromarray(noise(height, width, 3))
    return (
        Image.frombytes(mode, image.size, image.tobytes()) if mode in ("LAB", "YCbCr", "HSV") else image.convert(mode)
    )


def encoded(image: Image.Image, suffix: str = "png", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **settings)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def check(array: Bytes, expected: npt.ArrayLike) -> None:
    assert array.dtype == np.uint8
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, expected, strict=True)


# -- arrays --------------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Bytes], Bytes]] = {
    "plain": lambda a: a,
    "sliced": lambda a: np.repeat(np.repeat(a, 3, axis=0), 2, axis=1)[1::3, 1::2],
    "upside_down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "turned": lambda a: np.rot90(a, 3),
    "fortran": np.asfortranarray,
    "broadcast_rows": lambda a: np.broadcast_to(a[:1], a.shape),
    "broadcast_columns": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "planes": lambda a: np.ascontiguousarray(a.T).T,
}


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)], ids=str)
@pytest.mark.parametrize("strides", VIEWS)
def test_array(strides: str, channels: tuple[int, ...], upstream: Upstream) -> None:
    array = VIEWS[strides](noise(11, 13, *channels))
    got = read_pixels(array)
    assert not got.is_torch
    check(got.array, upstream(array, input_data_format="channels_last"))
    assert np.shares_memory(got.array, array) == (channels != (4,))


@pytest.mark.parametrize("step", [1, -1])
def test_reversed_channels(step: int, upstream: Upstream) -> None:
    array = noise(11, 13, 3)[..., ::step]
    got = read_pixels(array).array
    check(got, upstream(array))
    assert got.strides == array.strides


def test_read_only_array() -> None:
    array = noise(11, 13, 3)
    array.flags.writeable = False
    check(read_pixels(array).array, array)


def test_caller_may_still_write() -> None:
    array = noise(11, 13, 3)
    got = read_pixels(array).array
    array[:] = 7
    check(got, np.full((11, 13, 3), 7, np.uint8))


def test_subclasses_of_array(tmp_path: Path) -> None:
    array = noise(11, 13, 3)
    for subclass in (np.recarray, np.ma.MaskedArray):
        got = read_pixels(array.view(subclass)).array
        assert type(got) is np.ndarray
        check(got, array)
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=(11, 13, 3))
    assert np.shares_memory(read_pixels(mapped).array, mapped)


def test_every_value_and_alpha(upstream: Upstream) -> None:
    values, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    array = np.stack([values, values[:, ::-1], values // 2, alphas], axis=-1)
    check(read_pixels(array).array, upstream(array))


def test_more_rgba_than_is_converted_at_once(upstream: Upstream) -> None:
    for shape in ((700, 301, 4), (2, 40_000, 4), (40_000, 2, 4)):
        array = noise(*shape)
        check(read_pixels(array).array, upstream(array))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4])),
    steps=st.tuples(*[st.sampled_from([-3, -2, -1, 1, 2, 3])] * 2),
    first=st.booleans(),
    named=st.booleans(),
)
def test_any_shape(
    upstream: Upstream, shape: tuple[int, int, int], steps: tuple[int, int], first: bool, named: bool
) -> None:
    image = noise(*shape)[:: steps[0], :: steps[1]]
    name = "channels_first" if first else "channels_last"
    array = image.transpose(2, 0, 1) if first else image
    if not named and first and array.shape[-1] in (1, 3, 4):
        image, name = array, "channels_last"  # what it is taken for
        if image.shape[-1] == 4 and min(image.shape) < 1:
            return
    got = read_pixels(array, input_data_format=name if named else None).array
    assert got.shape == (*image.shape[:2], 3)
    check(got, upstream(array, input_data_format=name))


# -- where the channels are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "numpy_size", "torch_size"),
    [
        ((20, 30, 3), (20, 30), (20, 30)),
        ((3, 20, 30), (20, 30), (20, 30)),
        ((4, 20, 30), (20, 30), (20, 30)),
        ((20, 30, 1), (20, 30), (20, 30)),
        ((3, 20, 3), (3, 20), (20, 3)),
        ((1, 20, 3), (1, 20), (20, 3)),
        ((4, 20, 3), (4, 20), (20, 3)),
        ((3, 20, 4), (3, 20), (20, 4)),
        ((1, 1, 1), (1, 1), (1, 1)),
        ((4, 4, 4), (4, 4), (4, 4)),
    ],
)
def test_where_the_channels_are(
    shape: tuple[int, ...], numpy_size: tuple[int, int], torch_size: tuple[int, int], torch: ModuleType
) -> None:
    array = noise(*shape)
    assert read_pixels(array).array.shape == (*numpy_size, 3)
    assert read_pixels(torch.from_numpy(array)).array.shape == (*torch_size, 3)
    for form in (array, torch.from_numpy(array)):
        for name, size in (("channels_last", shape[:2]), ("channels_first", shape[1:])):
            channels = shape[2] if name == "channels_last" else shape[0]
            if channels in (1, 3, 4):
                assert read_pixels(form, input_data_format=name).array.shape == (*size, 3)
            else:
                with pytest.raises(ValueError, match="1, 3 or 4 channels"):
                    read_pixels(form, input_data_format=name)


def test_upstream_takes_a_low_array_for_another(upstream: Upstream) -> None:
    array = noise(3, 20, 3)
    assert upstream(array).shape == (20, 3, 3)
    check(read_pixels(array).array, upstream(array, input_data_format="channels_last"))


def test_format_is_nothing_to_an_image_without_channels(upstream: Upstream) -> None:
    for name in ("channels_first", "channels_last"):
        check(read_pixels(noise(4, 6), input_data_format=name).array, upstream(noise(4, 6), input_data_format=name))
        check(read_pixels(picture(), input_data_format=name).array, upstream(picture(), input_data_format=name))


def test_upstream_names_of_formats(upstream: Upstream) -> None:
    from transformers.image_utils import ChannelDimension

    assert read_pixels(noise(3, 5, 3), input_data_format=ChannelDimension.FIRST).array.shape == (5, 3, 3)
    assert read_pixels(noise(3, 5, 3), input_data_format=ChannelDimension.LAST).array.shape == (3, 5, 3)


# -- tensors -------------------------------------------------------------------------------------------------------

TENSOR_VIEWS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda t: t,
    "channels_last_memory": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "sliced": lambda t: t.repeat_interleave(2, dim=2)[:, :, 1::2],
    "expanded": lambda t: t[:, :1].expand(t.shape),
    "flipped": lambda t: t.flip(1),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("strides", TENSOR_VIEWS)
@pytest.mark.parametrize("first", [True, False])
def test_tensor(first: bool, strides: str, channels: int, upstream: Upstream, torch: ModuleType) -> None:
    tensor = TENSOR_VIEWS[strides](torch.from_numpy(noise(channels, 11, 13)))
    tensor = tensor if first else tensor.permute(1, 2, 0)
    got = read_pixels(tensor)
    assert got.is_torch
    check(got.array, upstream(tensor))
    assert np.shares_memory(got.array, tensor.numpy()) == (channels != 4)


def test_tensor_without_channels(upstream: Upstream, torch: ModuleType) -> None:
    tensor = torch.from_numpy(noise(11, 13))
    check(read_pixels(tensor).array, upstream(tensor))


def test_subclass_of_tensor(upstream: Upstream, torch: ModuleType) -> None:
    from torchvision.tv_tensors import Image as ImageTensor

    tensor = ImageTensor(torch.from_numpy(noise(3, 11, 13)))
    got = read_pixels(tensor)
    assert got.is_torch
    check(got.array, upstream(tensor))


def test_tensor_may_go(torch: ModuleType) -> None:
    tensor = torch.from_numpy(noise(3, 300, 300)).clone()
    expected = tensor.numpy().transpose(1, 2, 0).copy()
    got = read_pixels(tensor).array
    del tensor
    gc.collect()
    torch.full((3, 300, 300), 9, dtype=torch.uint8)
    check(got, expected)


def test_torch_is_never_imported(tmp_path: Path) -> None:
    code = """
import io, sys
import numpy as np
from PIL import Image
from maxcrops.preprocess._inputs import read_pixels
image, file = Image.new("RGB", (5, 4)), io.BytesIO()
image.save(file, "PNG")
for given in (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 4), np.uint8), image, file.getvalue()):
    assert read_pixels(given).array.shape == (4, 5, 3)
try:
    read_pixels([])
except TypeError:
    print("torch" in sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


# -- PIL images ----------------------------------------------------------------------------------------------------

MODES = [
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "I;16L",
    "I;16B", "F",
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_pil_image(mode: str, upstream: Upstream) -> None:
    image = picture(mode=mode)
    assert image.mode == mode
    before = image.copy()
    got = read_pixels(image)
    assert not got.is_torch
    check(got.array, upstream(image))
    assert image == before


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [("P", 7), ("P", bytes(range(256))), ("L", 100), ("RGB", (1, 2, 3)), ("1", 0), ("RGB", None), ("L", None)],
)
def test_transparency_in_the_info(mode: str, transparency: Any, upstream: Upstream) -> None:
    image = picture(mode=mode)
    if mode == "RGB":
        image.putpixel((3, 4), (1, 2, 3))
    image.info["transparency"] = transparency
    check(read_pixels(image).array, upstream(image))
    assert image.info["transparency"] == transparency


@pytest.mark.parametrize("mode", ["RGB", "YCbCr", "HSV", "LAB"])
def test_pil_image_unconverted(mode: str, upstream: Upstream) -> None:
    image = picture(mode=mode)
    check(read_pixels(image, do_convert_rgb=False).array, upstream(image, do_convert_rgb=False))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_an_object_is_left_alone(orientation: int, upstream: Upstream) -> None:
    data = encoded(picture(), "jpg", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as image:
        got = read_pixels(image).array
        check(got, upstream(image))
        check(got, np.asarray(image))
    assert got.shape == (20, 44, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "CMYK"])
def test_image_that_is_still_to_be_decoded(mode: str, suffix: str, upstream: Upstream, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    try:
        picture(mode=mode).save(path)
    except (OSError, ValueError):
        pytest.skip(f"{suffix} cannot hold {mode}")
    with Image.open(path) as image, Image.open(path) as other:
        check(read_pixels(image).array, upstream(other))
        check(read_pixels(image).array, upstream(image))  # and once it is decoded


# -- files ---------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda path: path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
}
FORMATS = [
    "jpg",
    "png",
    "tif",
    pytest.param("webp", marks=pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")),
]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_file_is_turned_upright(
    orientation: int, suffix: str, load_image: Callable[[Path], Bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"image.{suffix}"
    picture().save(path, exif=exif(orientation))
    expected = load_image(path)
    for way in WAYS.values():
        got = read_pixels(way(path))
        assert not got.is_torch
        check(got.array, expected)
    if suffix != "tif":  # which Pillow turns itself, old ones twice
        assert expected.shape == ((44, 20, 3) if orientation >= 5 else (20, 44, 3))


def test_orientation_behind_the_pixels(load_image: Callable[[Path], Bytes], tmp_path: Path) -> None:
    data = encoded(picture(), exif=exif(6))
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    path = tmp_path / "late.png"
    path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    check(read_pixels(path).array, load_image(path))
    assert read_pixels(path).array.shape == (44, 20, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("way", WAYS)
def test_file_drops_transparency(way: str, mode: str, load_image: Callable[[Path], Bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    picture(mode=mode).save(path)
    check(read_pixels(WAYS[way](path)).array, load_image(path))
    check(read_pixels(WAYS[way](path), do_convert_rgb=False).array, load_image(path))


@pytest.mark.parametrize(("mode", "transparency"), [("P", 7), ("P", bytes(range(256))), ("L", 100), ("RGB", (1, 2, 3))])
def test_file_drops_transparency_of_one_colour(
    mode: str, transparency: Any, load_image: Callable[[Path], Bytes], tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    picture(mode=mode).save(path, transparency=transparency)
    check(read_pixels(path).array, load_image(path))


def test_cmyk_jpeg(load_image: Callable[[Path], Bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    picture(mode="CMYK").save(path)
    check(read_pixels(path).array, load_image(path))


def test_first_frame(load_image: Callable[[Path], Bytes], tmp_path: Path) -> None:
    frames = [picture(20, 44), picture(21, 44).crop((0, 0, 44, 20))]
    for suffix in ("gif", "png", "tif"):
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        check(read_pixels(path).array, load_image(path))


def test_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "image.ppm"
    picture(mode="L").save(path)
    array = read_pixels(path).array
    expected = array.copy()
    path.unlink()
    gc.collect()
    check(array, expected)


def test_many_threads_read_files(small_blocks: None) -> None:
    images = [picture(60 + i, 50) for i in range(8)]
    files = [encoded(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, image in zip(pool.map(read_pixels, files * 4), images * 4, strict=True):
            check(got.array, np.asarray(image))


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Images of more than 4 KiB lie in several blocks, as those of more than 16 MiB usually do."""
    before = Image.core.get_block_size()
    Image.core.set_block_size(4096)
    yield
    Image.core.set_block_size(before)


def is_one_block(image: Image.Image) -> bool:
    try:
        image.__arrow_c_array__()
    except ValueError:
        return False
    return True


def allocated(read: Callable[[], Any]) -> int:
    """Peak of what Python and NumPy allocate meanwhile, in bytes."""
    read()
    tracemalloc.start()
    try:
        kept = read()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1000, 1500), (1000, 1500, 1), (1000, 1500, 3), (3, 1000, 1500)])
def test_arrays_are_not_copied(shape: tuple[int, ...], torch: ModuleType) -> None:
    array = noise(*shape)
    assert np.shares_memory(read_pixels(array).array, array)
    assert allocated(lambda: read_pixels(array)) < 10_000
    assert allocated(lambda: read_pixels(torch.from_numpy(array))) < 10_000


def test_rgba_needs_the_result_and_little_more() -> None:
    array = noise(1000, 1500, 4)
    assert allocated(lambda: read_pixels(array)) < 1000 * 1500 * 3 + 1_000_000


@needs_export
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pil_images_are_not_copied(mode: str) -> None:
    image = picture(1000, 1500, mode)
    assert allocated(lambda: np.asarray(image)) > 1000 * 1500
    assert allocated(lambda: read_pixels(image)) < 10_000
    first, second = read_pixels(image).array, read_pixels(image).array
    assert np.shares_memory(first, second)
    image.paste("white", (0, 0, *image.size))
    assert first.min() == 255


@needs_export
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_files_are_decoded_into_one_block(suffix: str, mode: str, small_blocks: None) -> None:
    data = encoded(Image.radial_gradient("L").resize((450, 300)).convert(mode), suffix, exif=exif(6))
    with Image.open(io.BytesIO(data)) as image:
        first, second = read_pixels(image).array, read_pixels(image).array
        assert np.shares_memory(first, second)
        check(first, np.asarray(image.convert("RGB")))
    assert allocated(lambda: read_pixels(data)) < 100_000 < first.nbytes
    check(read_pixels(data).array, np.rot90(first, -1))
    assert Image.core.get_use_block_allocator() == 0


@pytest.mark.parametrize("mode", MODES)
def test_image_in_several_blocks(mode: str, small_blocks: None, upstream: Upstream) -> None:
    image = picture(100, 150, mode)
    if EXPORTS and mode in ("RGB", "L"):
        assert not is_one_block(image)
    check(read_pixels(image).array, upstream(image))


@needs_export
def test_image_beyond_the_usual_block() -> None:
    image = Image.radial_gradient("L").resize((2100, 2100)).convert("RGB")
    assert not is_one_block(image)
    check(read_pixels(image).array, np.asarray(image))


@pytest.mark.parametrize("mode", MODES)
def test_pillow_without_export(mode: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pillow_memory, "_EXPORTS", False)
    image = picture(mode=mode)
    check(read_pixels(image).array, upstream(image))
    data = encoded(picture(), exif=exif(6))
    check(read_pixels(data).array, np.rot90(np.asarray(picture()), -1))


@needs_export
def test_no_memory_for_one_block(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        get_alignment = Image.core.get_alignment

        @staticmethod
        def new_block(mode: str, size: tuple[int, int]) -> None:
            raise MemoryError

    monkeypatch.setattr(_pillow_memory, "_imaging", Core)
    for mode in ("RGB", "L"):
        image = picture(100, 150, mode)
        check(read_pixels(image).array, np.asarray(image.convert("RGB")))
        check(read_pixels(encoded(image)).array, np.asarray(image.convert("RGB")))


def test_rows_with_gaps(upstream: Upstream) -> None:
    before = Image.core.get_alignment()
    Image.core.set_alignment(64)
    try:
        for mode in ("RGB", "L", "RGBA"):
            image = picture(7, 5, mode)
            check(read_pixels(image).array, upstream(image))
            check(read_pixels(encoded(picture(7, 5))).array, np.asarray(picture(7, 5)))
    finally:
        Image.core.set_alignment(before)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_borrowed_memory(mode: str, tmp_path: Path) -> None:
    image = picture(mode=mode)
    borrowed = Image.frombuffer(mode, image.size, image.tobytes(), "raw", mode, 0, 1)
    check(read_pixels(borrowed).array, np.asarray(image.convert("RGB")))
    path = tmp_path / "image.ppm"  # a PPM file of mode L is mapped
    image.save(path)
    with Image.open(path) as mapped:
        check(read_pixels(mapped).array, np.asarray(image.convert("RGB")))
    check(read_pixels(path).array, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_image_may_go(mode: str) -> None:
    image = picture(300, 300, mode)
    expected = upright = np.array(read_pixels(image).array)
    got = read_pixels(image).array
    image.close()
    del image
    gc.collect()
    others = [Image.new("RGB", (300, 300), "white") for _ in range(20)]  # would take the freed memory
    check(got, expected)
    del others
    assert upright.shape == (300, 300, 3)


@needs_export
def test_memory_goes_with_the_last_array() -> None:
    def held() -> int:
        stats = Image.core.get_stats()
        count: int = stats["allocated_blocks"] - stats["freed_blocks"]
        return count

    image = picture(100, 150)
    references = sys.getrefcount(image), sys.getrefcount(image.im)
    before = held()
    array = read_pixels(image).array
    assert (sys.getrefcount(image), sys.getrefcount(image.im)) == references
    owner = array.base
    while isinstance(owner, np.ndarray):
        owner = owner.base
    gone = weakref.ref(owner)
    part = array[10:20, ::-2]
    del image, array, owner
    assert held() == before
    assert gone() is not None
    part.sum()
    del part
    assert gone() is None
    assert held() == before - 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_nothing_leaks() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    gray = picture(700, 700, "L").resize((1400, 1400))
    files = [encoded(gray.convert(mode), suffix) for mode in ("RGB", "L") for suffix in ("jpg", "png")]
    images = [gray.convert(mode) for mode in ("RGB", "L", "P")]
    for data in files:
        read_pixels(data)
    before = resident()
    for _ in range(8):
        for image in (*files, *images):
            read_pixels(image)
    assert resident() - before < 30_000_000  # one reading of each is as much


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [
        ("float32", "if its values are 0 to 1, give (image * 255).round().astype('uint8'), if"),
        ("float64", "if they are 0 to 255, image.round().astype('uint8')"),
        ("int64", "if its values are 0 to 255, give image.astype('uint8')"),
        ("uint16", "give image.astype('uint8')"),
        ("int8", "give image.astype('uint8')"),
        ("bool", "give image.astype('uint8') * 255"),
        ("object", "give image.astype('uint8')"),
    ],
)
def test_wrong_dtype(dtype: str, fix: str) -> None:
    with pytest.raises(TypeError, match=rf"^\[preprocess\] image must be uint8, got {dtype}; .*{re.escape(fix)}"):
        read_pixels(np.zeros((5, 6, 3), dtype))


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [
        ("float32", "give (image * 255).round().to(torch.uint8)"),
        ("bfloat16", "image.round().to(torch.uint8)"),
        ("int32", "give image.to(torch.uint8)"),
        ("bool", "give image.to(torch.uint8) * 255"),
    ],
)
def test_wrong_dtype_of_tensor(dtype: str, fix: str, torch: ModuleType) -> None:
    with pytest.raises(
        TypeError, match=rf"^\[preprocess\] image must be uint8, got torch\.{dtype}; .*{re.escape(fix)}"
    ):
        read_pixels(torch.zeros((3, 5, 6), dtype=getattr(torch, dtype)))


@pytest.mark.parametrize("shape", [(), (5,), (1, 5, 6, 3), (1, 1, 5, 6, 3)])
def test_wrong_number_of_dimensions(shape: tuple[int, ...], torch: ModuleType) -> None:
    array = np.zeros(shape, np.uint8)
    for form in (array, torch.from_numpy(array)):
        with pytest.raises(ValueError, match=rf"^\[preprocess\] image must have 2 or 3 dimensions, got {len(shape)}"):
            read_pixels(form)


@pytest.mark.parametrize("shape", [(5, 6, 2), (5, 6, 5), (2, 5, 6), (5, 6, 0)])
def test_wrong_number_of_channels(shape: tuple[int, ...], torch: ModuleType) -> None:
    array = np.zeros(shape, np.uint8)
    first, middle, last = shape
    for form, got in (
        (array, f"{last} in {first} x {middle} pixels"),
        (torch.from_numpy(array), f"{first} in {middle} x {last} pixels"),
    ):
        with pytest.raises(ValueError, match=rf"^\[preprocess\] image must have 1, 3 or 4 channels, got {got}"):
            read_pixels(form)


@pytest.mark.parametrize("shape", [(0, 6, 3), (5, 0, 3), (0, 0), (0, 6, 4), (2**31, 1, 3), (1, 2**31, 3), (2**31, 1)])
def test_impossible_sides(shape: tuple[int, ...]) -> None:
    array = np.broadcast_to(np.uint8(0), shape)
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must have sides of 1 to 2147483647 pixels, got"):
        read_pixels(array)


def test_longest_side() -> None:
    array = np.broadcast_to(np.uint8(0), (2**31 - 1, 1, 3))
    assert read_pixels(array).array.shape == array.shape


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_empty_pil_image(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must have sides of 1 to"):
        read_pixels(Image.new(mode, size))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "F"])
def test_unconverted_image_without_three_channels(mode: str) -> None:
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must have 3 channels where do_convert_rgb is False"):
        read_pixels(picture(mode=mode), do_convert_rgb=False)


def test_unconverted_array() -> None:
    check(read_pixels(noise(5, 6, 3), do_convert_rgb=False).array, noise(5, 6, 3))
    for shape in ((5, 6), (5, 6, 1), (5, 6, 4)):
        with pytest.raises(ValueError, match="must have 3 channels where do_convert_rgb is False"):
            read_pixels(noise(*shape), do_convert_rgb=False)


def test_mode_that_pillow_cannot_convert() -> None:
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must have a mode that Pillow converts to RGB, got La"):
        read_pixels(picture(mode="La"))


def test_tensors_elsewhere(torch: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must be on the CPU, got a tensor on meta"):
        read_pixels(torch.zeros((3, 5, 6), dtype=torch.uint8, device="meta"))
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must be a dense tensor, got torch\.sparse_coo"):
        read_pixels(torch.zeros((3, 5, 6), dtype=torch.uint8).to_sparse())


@pytest.mark.parametrize("given", [None, 3, [], [[1, 2], [3, 4]], (), {}, object(), np.uint8(3), io.BytesIO()])
def test_unknown_type(given: object) -> None:
    with pytest.raises(TypeError, match=r"^\[preprocess\] image must be a NumPy array, a torch tensor, a PIL image, a"):
        read_pixels(given)


@pytest.mark.parametrize("name", ["HWC", "none", "", "channels_middle"])
def test_unknown_format(name: str) -> None:
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must have an input_data_format of 'channels_first'"):
        read_pixels(noise(5, 6, 3), input_data_format=name)


@pytest.mark.parametrize("url", ["http://example.org/a.png", "https://example.org/a.png", "data:image/png;base64,AAAA"])
def test_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"^\[preprocess\] image must be a path .* got a URL"):
        read_pixels(url)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", str(tmp_path / "none.png")):
        with pytest.raises(
            ImageReadError, match=r"^\[preprocess\] image must be readable, got .*none\.png: no such file"
        ):
            read_pixels(path)
    with pytest.raises(ImageReadError, match="is a folder"):
        read_pixels(tmp_path)
    with pytest.raises(ImageReadError, match="null"):
        read_pixels("a\0b")


@pytest.mark.parametrize("data", [b"", b"abc", bytes(1000), b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=rf"^\[preprocess\] image must be readable, got {len(data)} bytes: "):
        read_pixels(data)
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        read_pixels(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "ppm", "gif"])
def test_truncated_file(suffix: str, tmp_path: Path) -> None:
    data = encoded(picture(60, 80), suffix)[:-900]
    for form in (data, memoryview(data), bytearray(data)):
        with pytest.raises(ImageReadError):
            read_pixels(form)
    path = tmp_path / f"short.{suffix}"
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=f"short.{suffix}"):
        read_pixels(path)


def test_truncated_pil_image(tmp_path: Path) -> None:
    path = tmp_path / "short.png"
    path.write_bytes(encoded(picture(60, 80))[:-900])
    with Image.open(path) as image:
        for _ in range(2):
            with pytest.raises(ImageReadError, match=r"short\.png"):
                read_pixels(image)


def test_closed_pil_image() -> None:
    image = Image.open(io.BytesIO(encoded(picture())))
    image.close()
    with pytest.raises(ImageReadError, match="a PIL image of mode RGB"):
        read_pixels(image)


@pytest.mark.parametrize("limit", [700, 400])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bomb(action: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())  # 880 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(
            ImageReadError, match=r"got \d+ bytes: .*; if you trust it, set PIL\.Image\.MAX_IMAGE_PIXELS"
        ):
            read_pixels(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 880)
    assert read_pixels(data).array.shape == (20, 44, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_pixels(data).array.shape == (20, 44, 3)


@given(
    cut=st.integers(0, 400), at=st.integers(0, 400), bits=st.integers(1, 255), suffix=st.sampled_from(["jpg", "png"])
)
def test_broken_bytes_are_read_or_refused(cut: int, at: int, bits: int, suffix: str) -> None:
    data = bytearray(encoded(picture(8, 12), suffix))
    data[at % len(data)] ^= bits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ImageReadError):
            assert read_pixels(data[: max(0, len(data) - cut)]).array.shape[2] == 3
