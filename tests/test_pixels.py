"""The same pixels: Molmo2's arrays are transformers' own, Molmo's are those of a naive reading of its repository, and
every instruction set, number of threads and backend makes the same bytes."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from molmo_reference import grid, letterbox
from PIL import Image

import maxcrops as mc
from maxcrops import _core
from maxcrops.preprocess import Preprocessor

Bytes = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]
Size = tuple[int, int]

RESIZE = {1: "bilinear_rounded_one_thread", 2: "bilinear_rounded"}
"""Of torch's two answers, the one that it gives on so many threads; three threads and more answer as two do."""

MOLMO = mc.get_spec("molmo-7b-d")
MOLMO2 = mc.get_spec("molmo2")
SMALL = {"crop_size": 112, "overlap_margins": (2, 1), "max_crops": 5}
"""Crops that cost little, so that hundreds of sizes can be tried. Not below 66 px: see test_crops_below_66_px."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert torch.get_num_threads() == count
        yield
    finally:
        torch.set_num_threads(before)


def fuses() -> bool:
    """Whether torch's kernels multiply and add at once: the condition of the same bits for Molmo2."""
    return sys.modules["torch"].backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def sums_in_known_order() -> bool:
    """Whether torch's antialiased sums have the order that its compiler chose for the 2.13 wheel of x86."""
    torch = sys.modules["torch"]
    return torch.__version__.startswith("2.13") and platform.machine() in ("x86_64", "AMD64") and fuses()


def assert_same(got: Arrays, expected: Arrays, *, exact: bool, bound: float, note: object = "") -> None:
    """Keys, their order, dtypes, shapes and bits; where `exact` does not hold, pixels within `bound`."""
    assert list(got) == list(expected), note
    for key, array in got.items():
        wanted = expected[key]
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), (key, note)
        if exact or array.dtype != np.float32 or key == "image_masks":
            differ = np.count_nonzero(bits_of(array) != bits_of(wanted))
            assert differ == 0, (key, note)
        else:
            assert np.abs(array - wanted).max(initial=0) <= bound, (key, note)


def bits_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def noise(height: int, width: int) -> Bytes:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


@cache
def preprocessor(spec: mc.Spec, max_crops: int | None = None, dtype: str = "float32") -> Preprocessor:
    return Preprocessor(spec, max_crops=max_crops, dtype=dtype, num_threads=1)  # type: ignore[arg-type]


def sizes_of(canvas: Callable[[int], int], margin: int, longest: int, count: int, seed: int) -> list[Size]:
    """Sizes on purpose, then random ones: 1 px, identity, primes, ratios of 100, sides around the margin."""
    canvases = [canvas(crops) for crops in (1, 2, 3)]
    sides = [1, 2, 7, margin - 1, margin, margin + 1, 211, canvases[0] - 1, canvases[0] + 1]
    sizes = [(a, b) for a in sides for b in sides]
    sizes += [(a, b) for a in canvases for b in canvases]
    sizes += [(canvases[1], canvases[0] // 2), (canvases[0] // 2, canvases[1])]  # one axis stays, the other grows
    sizes += [(499, 97), (61, 337), (127, 1009), (797, 31)]
    sizes += [size for k in (1, 3, 8) for size in ((k, 100 * k), (100 * k, k))]
    sizes += [(longest, 3), (2, longest), (longest, longest // 3)]
    rng = np.random.default_rng(seed)
    for _ in range(count - len(sizes)):
        a, b = np.exp(rng.uniform(0, np.log(longest), 2)).astype(int).tolist()
        sizes.append((max(a, 1), max(b, 1)))
    return sizes


@cache
def photographs() -> dict[str, Path]:
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        return {}
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "ihc.png", "camera.png")
    paths = [Path(found.submodule_search_locations[0]) / "data" / name for name in names]
    return {path.stem: path for path in paths if path.exists()}


def photograph(name: str) -> Bytes:
    if name not in photographs():
        pytest.skip(f"scikit-image's {name} is not here")
    with Image.open(photographs()[name]) as image:
        return np.array(image.convert("RGB"))  # torch warns of read-only memory


PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "ihc", "camera")

# -- Molmo2: transformers' own processor ---------------------------------------------------------------------------

Upstream = Callable[..., dict[str, npt.NDArray[Any]]]


@pytest.fixture(scope="session")
def molmo2(oracle: Callable[[str], ModuleType]) -> Upstream:
    """Arrays of Molmo2ImageProcessor, as NumPy, on whatever number of threads torch is set to."""
    module = oracle("molmo2").upstream

    @cache
    def processor(settings: tuple[tuple[str, Any], ...]) -> Any:
        return module.Molmo2ImageProcessor(**{k: list(v) if isinstance(v, tuple) else v for k, v in settings})

    def preprocess(images: Any, **settings: Any) -> dict[str, npt.NDArray[Any]]:
        crop_size = settings.pop("crop_size", 378)
        names = {"pooling": "pooling_size"}
        own = {names.get(name, name): value for name, value in settings.items()}
        whose = processor(tuple(sorted(own.items())))
        format_ = {"input_data_format": "channels_last"} if isinstance(images, np.ndarray) else {}
        size = {"height": crop_size, "width": crop_size}
        features = whose(images, size=size, return_tensors="pt", **format_)
        return {key: tensor.numpy() for key, tensor in features.items()}

    return preprocess


def assert_molmo2(got: Arrays, expected: Arrays, std: Sequence[float] = (0.5, 0.5, 0.5), note: object = "") -> None:
    # Without fused multiply-add a resized value can round to the next of the 256.
    assert_same(got, expected, exact=fuses(), bound=1.001 / 255 / min(std), note=note)


@pytest.mark.parametrize("threads", RESIZE)
@pytest.mark.parametrize("max_crops", [1, 2, 4, 7])
def test_molmo2_equals_transformers(molmo2: Upstream, max_crops: int, threads: int) -> None:
    spec = MOLMO2.replace(resize=RESIZE[threads])
    with torch_threads(threads):
        for height, width in sizes_of(lambda crops: 266 * crops + 112, 112, 1400, 182, seed=1)[max_crops % 7 :: 7]:
            image = noise(height, width)
            expected = molmo2(image, max_crops=max_crops)
            assert_molmo2(preprocessor(spec, max_crops)(image), expected, note=(height, width))


@pytest.mark.parametrize("threads", RESIZE)
def test_molmo2_of_small_crops_equals_transformers_over_hundreds_of_sizes(molmo2: Upstream, threads: int) -> None:
    spec = MOLMO2.replace(resize=RESIZE[threads], **SMALL)
    with torch_threads(threads):
        for height, width in sizes_of(lambda crops: 70 * crops + 42, 42, 700, 240, seed=2):
            image = noise(height, width)
            assert_molmo2(preprocessor(spec)(image), molmo2(image, **SMALL), note=(height, width))


@pytest.mark.parametrize("threads", RESIZE)
@pytest.mark.parametrize(
    ("max_crops", "size"),
    [(8, (1080, 1920)), (12, (1500, 140)), (24, (311, 1907)), (36, (113, 5009)), (36, (1601, 1201))],
)
def test_molmo2_of_many_crops_equals_transformers(molmo2: Upstream, max_crops: int, size: Size, threads: int) -> None:
    image = noise(*size)
    spec = MOLMO2.replace(resize=RESIZE[threads])
    with torch_threads(threads):
        assert_molmo2(preprocessor(spec, max_crops)(image), molmo2(image, max_crops=max_crops))


@pytest.mark.parametrize("threads", RESIZE)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_molmo2_of_photographs_equals_transformers(molmo2: Upstream, name: str, threads: int) -> None:
    image = photograph(name)
    spec = MOLMO2.replace(resize=RESIZE[threads])
    with torch_threads(threads):
        assert_molmo2(preprocessor(spec, 4)(image), molmo2(image, max_crops=4))


def test_molmo2_reads_a_picture_file_as_transformers_reads_the_picture(molmo2: Upstream) -> None:
    if not photographs():
        pytest.skip("scikit-image's pictures are not here")
    with torch_threads(2), Image.open(photographs()["rocket"]) as picture:
        expected = molmo2(picture, **SMALL)
        for given_as in (picture, photographs()["rocket"], photographs()["rocket"].read_bytes()):
            assert_molmo2(preprocessor(MOLMO2.replace(**SMALL))(given_as), expected)


@pytest.mark.parametrize("threads", RESIZE)
def test_molmo2_of_a_batch_of_unequal_images_equals_transformers(molmo2: Upstream, threads: int) -> None:
    torch = sys.modules["torch"]
    sizes = [(300, 200), (90, 90), (300, 200), (41, 700), (112, 112), (300, 200), (90, 91)]
    images = [torch.from_numpy(noise(h, w) ^ np.uint8(37 * i)).permute(2, 0, 1) for i, (h, w) in enumerate(sizes)]
    spec = MOLMO2.replace(resize=RESIZE[threads], **SMALL)
    with torch_threads(threads):
        expected = molmo2(images, **SMALL)
        batch = preprocessor(spec)(images)
        assert all(isinstance(tensor, torch.Tensor) for tensor in batch.values())
        assert_molmo2({key: tensor.numpy() for key, tensor in batch.items()}, expected)
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        assert_molmo2(preprocessor(spec)(arrays), expected)


@pytest.mark.parametrize("threads", RESIZE)
@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)},
        {"image_mean": (0.0, 0.1, 1.0), "image_std": (1.0, 3.0, 0.01)},
        {"overlap_margins": (0, 0)},
        {"overlap_margins": (3, 0), "max_crops": 3},
        {"overlap_margins": (0, 5), "pooling": (3, 1)},
        {"pooling": (1, 1)},
        {"pooling": (3, 4), "overlap_margins": (1, 2)},
        {"patch_size": 16, "crop_size": 384},
        {"patch_size": 7, "crop_size": 77, "overlap_margins": (1, 1)},
        {"patch_size": 1, "crop_size": 67, "overlap_margins": (5, 6), "pooling": (5, 5)},
        {"patch_size": 33, "crop_size": 99, "overlap_margins": (1, 1), "pooling": (2, 1)},
        {"patch_size": 70, "crop_size": 70, "overlap_margins": (0, 0), "pooling": (1, 1)},
    ],
    ids=str,
)
def test_molmo2_with_other_settings_equals_transformers(
    molmo2: Upstream, changes: dict[str, Any], threads: int
) -> None:
    spec = MOLMO2.replace(resize=RESIZE[threads], **changes)
    with torch_threads(threads):
        for height, width in [(1, 1), (113, 111), (300, 97), (640, 480), (97, 1201), (500, 5)]:
            image = noise(height, width)
            got = preprocessor(spec)(image)
            assert_molmo2(got, molmo2(image, **changes), std=spec.image_std, note=(height, width))


@pytest.mark.parametrize("threads", RESIZE)
def test_small_canvases(molmo2: Upstream, threads: int) -> None:
    """On a canvas whose sides add up to 128 px or less torch takes its one-thread kernel on any number of threads."""
    changes = {"crop_size": 56, "overlap_margins": (1, 1)}
    spec = MOLMO2.replace(resize=RESIZE[threads], **changes)
    with torch_threads(threads):
        for height, width in [(1, 500), (113, 112), (300, 701), (57, 55)]:
            image = noise(height, width)
            assert_molmo2(preprocessor(spec)(image), molmo2(image, **changes), note=(height, width))


@pytest.mark.parametrize("threads", RESIZE)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_molmo2_in_16_bits_is_its_float32_rounded(molmo2: Upstream, dtype: str, threads: int) -> None:
    torch = sys.modules["torch"]
    changes = {**SMALL, "image_mean": (0.0, 0.5, 1.0), "image_std": (1.0, 0.003, 1e-4)}  # up to 10,000
    spec = MOLMO2.replace(resize=RESIZE[threads], **changes)
    with torch_threads(threads):
        for height, width in [(1, 1), (113, 111), (640, 480), (97, 901)]:
            image = noise(height, width)
            float32 = preprocessor(spec)(image)
            expected = molmo2(image, **changes)
            assert_molmo2(float32, expected, std=spec.image_std)
            rounded = torch.from_numpy(float32["pixel_values"]).to(getattr(torch, dtype)).view(torch.int16)
            batch = preprocessor(spec, dtype=dtype)(image, return_tensors="pt")
            assert list(batch) == list(expected)
            assert batch["pixel_values"].dtype == getattr(torch, dtype)
            assert torch.equal(batch["pixel_values"].view(torch.int16), rounded)
            assert torch.equal(batch["image_token_pooling"], torch.from_numpy(expected["image_token_pooling"]))


def test_float16_is_given_as_numpy_s() -> None:
    image = noise(200, 90)
    float32 = preprocessor(MOLMO2.replace(**SMALL))(image)["pixel_values"]
    float16 = preprocessor(MOLMO2.replace(**SMALL), dtype="float16")(image)["pixel_values"]
    np.testing.assert_array_equal(float16, float32.astype(np.float16), strict=True)


@st.composite
def images(draw: st.DrawFn, longest: int) -> Bytes:
    """Noise, flat colours, ramps and single bright pixels."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    kind = draw(st.sampled_from(["noise", "flat", "ramp", "points"]))
    if kind == "noise":
        return noise(height, width)
    if kind == "flat":
        return np.full((height, width, 3), draw(st.tuples(*[st.integers(0, 255)] * 3)), np.uint8)
    if kind == "ramp":
        return (
            (np.arange(height * width * 3) * draw(st.integers(1, 9)) % 256).astype(np.uint8).reshape(height, width, 3)
        )
    image = np.zeros((height, width, 3), np.uint8)
    image[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 255
    return image


@given(images(longest=400), st.integers(1, 36), st.sampled_from(sorted(RESIZE)))
@settings(max_examples=30)
def test_molmo2_of_any_image_equals_transformers(molmo2: Upstream, image: Bytes, max_crops: int, threads: int) -> None:
    changes = {**SMALL, "max_crops": max_crops}
    with torch_threads(threads):
        got = preprocessor(MOLMO2.replace(resize=RESIZE[threads], **changes))(image)
        assert_molmo2(got, molmo2(image, **changes))


# -- Molmo: a naive reading of its repository ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def molmo(oracle: Callable[[str], ModuleType]) -> ModuleType:
    return oracle("molmo_pixels")


def assert_molmo(got: Arrays, expected: Arrays, note: object = "") -> None:
    # Sums of the same products in another order: a few roundings of values below 1, divided by the smallest std.
    assert_same(got, expected, exact=sums_in_known_order(), bound=2e-6, note=note)


def kept_sides(size: Size, max_crops: int) -> tuple[int, int]:
    """(height, width), the least that is left of the image on its letterboxed canvases."""
    rows, cols = grid(*size, 336, max_crops)
    canvases = [(336, 336), (224 * rows + 112, 224 * cols + 112)]
    heights, widths = zip(*[letterbox(*size, canvas)[2:] for canvas in canvases], strict=True)
    return min(heights), min(widths)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("max_crops", [1, 2, 4, 7])
def test_molmo_equals_its_naive_reading(molmo: ModuleType, max_crops: int, threads: int) -> None:
    with torch_threads(threads):
        for size in sizes_of(lambda crops: 224 * crops + 112, 112, 1400, 182, seed=3)[max_crops % 7 :: 7]:
            image = noise(*size)
            height, width = kept_sides(size, max_crops)
            if min(height, width) == 0:
                with pytest.raises(ValueError, match=r"kept in its ratio it has a side of 0 px"):
                    preprocessor(MOLMO, max_crops)(image)
            elif width > 1:  # see test_molmo_of_one_column_is_right_where_torch_is_not
                got = preprocessor(MOLMO, max_crops)(image)
                assert_molmo(got, molmo.preprocess(image, max_crops), note=size)


def whole_crop(patches: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[576, 588] to [336, 336, 3]"""
    array: npt.NDArray[Any] = patches.reshape(24, 24, 14, 14, 3).swapaxes(1, 2).reshape(336, 336, 3)
    return array


def test_molmo_of_one_column_is_right_where_torch_is_not(molmo: ModuleType) -> None:
    """Of an image 1 px wide torch's antialiased resize repeats the first row, and so does the repository. A row of
    pixels torch does resize; a column is the same turned."""
    row = noise(1, 211)
    column = np.ascontiguousarray(row.swapaxes(0, 1))
    with torch_threads(1):
        theirs = whole_crop(molmo.preprocess(column, 1)["images"][0])[:, 167]
        turned = molmo.preprocess(row, 1)["images"]
    assert (theirs == theirs[0]).all(), "torch has learnt it: compare columns too"
    got = preprocessor(MOLMO, 1)
    assert_molmo({"images": got(row)["images"]}, {"images": turned})
    for crop, crop_of_row in zip(got(column)["images"], turned, strict=True):
        expected = np.ascontiguousarray(whole_crop(crop_of_row).swapaxes(0, 1))
        assert_molmo({"images": whole_crop(crop)}, {"images": expected})


@pytest.mark.parametrize(
    ("max_crops", "size"),
    [(12, (1080, 1920)), (12, (2800, 336)), (24, (311, 1907)), (36, (113, 5009)), (36, (1601, 1201))],
)
def test_molmo_of_many_crops_equals_its_naive_reading(molmo: ModuleType, max_crops: int, size: Size) -> None:
    image = noise(*size)
    with torch_threads(2):
        assert_molmo(preprocessor(MOLMO, max_crops)(image), molmo.preprocess(image, max_crops))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_molmo_of_photographs_equals_its_naive_reading(molmo: ModuleType, name: str) -> None:
    image = photograph(name)
    with torch_threads(1):
        assert_molmo(preprocessor(MOLMO, 6)(image), molmo.preprocess(image, 6))


@pytest.mark.parametrize("size", [(1, 1), (336, 336), (480, 640), (30, 1000), (701, 499)])
def test_molmo_of_one_crop_equals_its_naive_reading(molmo: ModuleType, size: Size) -> None:
    image = noise(*size)
    with torch_threads(1):
        got = preprocessor(MOLMO.replace(crop_mode="resize"))(image)
        assert len(got["images"]) == 1
        assert_molmo(got, molmo.preprocess(image, 1, one_crop=True))


def test_molmo_of_several_images_places_their_tokens_one_after_another(molmo: ModuleType) -> None:
    images = [noise(480, 640), noise(50, 40), noise(340, 1000), noise(480, 640)]
    with torch_threads(1):
        assert_molmo(preprocessor(MOLMO, 4)(images), molmo.preprocess_all(images, 4))


def test_molmo_of_every_grid_has_the_naive_positions_and_masks(molmo: ModuleType) -> None:
    """Pixels aside: 0 of them, so that only padding tells where the image lies."""
    grids = [(rows, cols) for rows in range(1, 10) for cols in range(1, 9 // rows + 1)]
    with torch_threads(1):
        for rows, cols in grids:
            image = np.zeros((224 * rows + 100, 224 * cols + 60, 3), np.uint8)
            got = preprocessor(MOLMO, 9)(image)
            assert len(got["images"]) == 1 + rows * cols
            assert_molmo(got, molmo.preprocess(image, 9), note=(rows, cols))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_molmo_in_16_bits_is_its_float32_rounded(molmo: ModuleType, dtype: str) -> None:
    torch = sys.modules["torch"]
    with torch_threads(1):
        for height, width in [(1, 1), (200, 301), (480, 640)]:
            image = noise(height, width)
            float32 = preprocessor(MOLMO, 3)(image)
            assert_molmo(float32, molmo.preprocess(image, 3))
            batch = preprocessor(MOLMO, 3, dtype)(image, return_tensors="pt")
            rounded = torch.from_numpy(float32["images"]).to(getattr(torch, dtype)).view(torch.int16)
            assert torch.equal(batch["images"].view(torch.int16), rounded)


@given(images(longest=700), st.integers(1, 9), st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_molmo_of_any_image_equals_its_naive_reading(
    molmo: ModuleType, image: Bytes, max_crops: int, threads: int
) -> None:
    height, width = kept_sides((image.shape[0], image.shape[1]), max_crops)
    assume(height > 0 and width > 1)
    with torch_threads(threads):
        assert_molmo(preprocessor(MOLMO, max_crops)(image), molmo.preprocess(image, max_crops))


# -- one answer: instruction sets, threads, backends ---------------------------------------------------------------

SPECS = {
    "rounded": MOLMO2.replace(**SMALL),
    "rounded, one thread": MOLMO2.replace(resize="bilinear_rounded_one_thread", **SMALL),
    "antialias": MOLMO.replace(crop_size=112, overlap_margins=(2, 2), max_crops=5),
    "rounded, patches of 9": MOLMO2.replace(crop_size=81, patch_size=9, overlap_margins=(1, 2), max_crops=6),
    "antialias, patches of 9": MOLMO.replace(
        crop_size=81, patch_size=9, overlap_margins=(1, 2), pooling=(1, 1), max_crops=6
    ),
}
VARIED = [(1, 1), (112, 112), (3, 50), (333, 41), (77, 410), (600, 301), (26, 27), (113, 499)]
POISON = {"float32": 0x7FC0DEAD, "bfloat16": 0x7FAB, "float16": 0x7DAB}
"""Bits of a NaN that nothing writes."""
GUARD = 83
"""Elements on either side of an output. Odd, so that an output also lies off every vector's alignment."""


def guarded(shape: tuple[int, ...], dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """An output full of poison in the middle of guard zones of it; and all of that memory as bits."""
    bits = np.uint32 if dtype == "float32" else np.uint16
    memory = np.full(int(np.prod(shape)) + 2 * GUARD, POISON[dtype], bits)
    out = memory[GUARD:-GUARD].reshape(shape)
    return (out.view(np.float32) if dtype == "float32" else out), memory


def written(preprocess: Preprocessor, images: list[Bytes]) -> npt.NDArray[Any]:
    """Bits of the output, every element of which was written and nothing beside it."""
    out, memory = guarded(preprocess.output_shape([image.shape[:2] for image in images]), preprocess.dtype)
    preprocess(images, out=out)
    poison = POISON[preprocess.dtype]
    assert (memory[:GUARD] == poison).all()
    assert (memory[-GUARD:] == poison).all()
    assert not (memory[GUARD:-GUARD] == poison).any()
    return memory[GUARD:-GUARD]


@pytest.mark.parametrize("dtype", POISON)
@pytest.mark.parametrize("name", SPECS)
def test_isas_and_threads_write_every_byte_alike(name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [noise(*size) for size in VARIED]
    expected = written(Preprocessor(SPECS[name], dtype=dtype, backend="reference"), images)
    for isa in _core.available_isas():
        monkeypatch.setenv("MAXCROPS_CPU_ISA", isa)
        assert _core.active_isa() == isa
        for threads in (1, 2, 3, 7):
            preprocess = Preprocessor(SPECS[name], dtype=dtype, num_threads=threads)
            assert np.array_equal(written(preprocess, images), expected), (isa, threads)
            one_by_one = np.concatenate([written(preprocess, [image]) for image in images])
            assert np.array_equal(one_by_one, expected), (isa, threads)


@pytest.mark.parametrize("dtype", POISON)
@pytest.mark.parametrize("spec", [MOLMO, MOLMO2], ids=["molmo", "molmo2"])
def test_isas_and_threads_write_large_outputs_alike(spec: mc.Spec, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 4 MB, which are written past the caches."""
    image = noise(900, 901)
    answers = []
    for isa in _core.available_isas():
        monkeypatch.setenv("MAXCROPS_CPU_ISA", isa)
        assert _core.active_isa() == isa
        for threads in (1, 7):
            preprocess = Preprocessor(spec, dtype=dtype, max_crops=9, num_threads=threads)
            answers.append(written(preprocess, [image]))
            assert answers[0].nbytes > 4 << 20
            assert np.array_equal(answers[-1], answers[0]), (isa, threads)


def test_unknown_isa_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = Preprocessor(SPECS["rounded"])
    out, memory = guarded(preprocess.output_shape([(20, 30)]), "float32")
    monkeypatch.setenv("MAXCROPS_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=r"MAXCROPS_CPU_ISA must be one of scalar.*, got mmx"):
        preprocess(noise(20, 30), out=out)
    assert (memory == POISON["float32"]).all()


@pytest.mark.parametrize("dtype", POISON)
@pytest.mark.parametrize("name", SPECS)
def test_the_reference_writes_the_same_bytes(name: str, dtype: Any) -> None:
    fast = Preprocessor(SPECS[name], dtype=dtype, backend="cpu", num_threads=2)
    slow = Preprocessor(SPECS[name], dtype=dtype, backend="reference")
    for size in [(1, 1), (112, 112), (3, 50), (150, 41), (77, 210), (33, 34), (2, 90), (90, 2)]:
        images = [noise(*size)]
        assert np.array_equal(written(fast, images), written(slow, images)), size


@pytest.mark.parametrize("spec", [MOLMO, MOLMO2], ids=["molmo", "molmo2"])
def test_the_reference_gives_the_same_arrays_at_the_model_s_own_settings(spec: mc.Spec) -> None:
    image = noise(150, 231)
    fast, slow = (Preprocessor(spec, backend=backend, max_crops=2)(image) for backend in ("cpu", "reference"))
    assert_same(fast, slow, exact=True, bound=0)


def test_molmo2_in_training_has_the_reference_s_pooling() -> None:
    """The training repository splits a thin image that transformers leaves whole; its pixels are made alike."""
    spec = MOLMO2.replace(variant="training", max_crops=3)
    image = noise(100, 900)
    fast, slow = (Preprocessor(spec, backend=backend)(image) for backend in ("cpu", "reference"))
    assert fast["image_num_crops"].tolist() == [4]
    assert_same(fast, slow, exact=True, bound=0)


# -- one answer: where the image lies ------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Bytes], Bytes]] = {
    "sliced": lambda a: np.repeat(np.repeat(a, 3, axis=0), 2, axis=1)[1::3, 1::2],
    "upside_down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "bgr": lambda a: a[..., ::-1],
    "turned": lambda a: np.rot90(a, 3),
    "fortran": np.asfortranarray,
    "planes": lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    "rgbx": lambda a: np.concatenate([a, a[..., :1]], axis=2)[..., :3],
    "one_row": lambda a: np.broadcast_to(a[:1], a.shape),
    "one_column": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "grey": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "padded_rows": lambda a: np.pad(a, ((0, 0), (0, 5), (0, 0)))[:, :-5],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["rounded", "rounded, one thread", "antialias"])
def test_strides_do_not_matter(name: str, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in _core.available_isas():
        monkeypatch.setenv("MAXCROPS_CPU_ISA", isa)
        preprocess = Preprocessor(SPECS[name], num_threads=2)
        for size in [(1, 1), (2, 90), (140, 33), (67, 155)]:
            image = VIEWS[view](noise(*size))
            before = image.copy()
            got = written(preprocess, [image])
            assert np.array_equal(got, written(preprocess, [np.ascontiguousarray(image)])), (isa, size)
            assert np.array_equal(image, before)


WITHIN_BOUNDS = """
import ctypes, mmap, os, sys
import numpy as np
import maxcrops as mc
from maxcrops import _core
from maxcrops.preprocess import Preprocessor

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect

def walled(nbytes, at_end):
    '''Memory that begins behind, or ends before, a page that nobody may touch.'''
    pages = -(-nbytes // PAGE) + 2
    memory = np.frombuffer(mmap.mmap(-1, pages * PAGE), np.uint8)
    address = memory.ctypes.data
    for wall in (address, address + (pages - 1) * PAGE):
        assert protect(ctypes.c_void_p(wall), ctypes.c_size_t(PAGE), 0) == 0
    inside = memory[PAGE:-PAGE]
    return inside[-nbytes:] if at_end else inside[:nbytes]

def image_views(height, width, at_end):
    rng = np.random.default_rng([height, width])
    memory = walled(3 * height * width, at_end)
    memory[:] = rng.integers(0, 256, memory.size, dtype=np.uint8)
    yield memory.reshape(height, width, 3)
    yield memory.reshape(height, width, 3)[::-1]
    yield memory.reshape(height, width, 3)[:, ::-1]
    yield memory.reshape(3, height, width).transpose(1, 2, 0)
    yield np.broadcast_to(memory[: 3 * width].reshape(1, width, 3), (height, width, 3))

small = {"crop_size": 70, "max_crops": 3}
specs = [mc.get_spec("molmo2", resize=resize, overlap_margins=(1, 1), **small)
         for resize in ("bilinear_rounded", "bilinear_rounded_one_thread")]
specs.append(mc.get_spec("molmo", overlap_margins=(1, 1), pooling=(1, 1), **small))
for isa in _core.available_isas():
    os.environ["MAXCROPS_CPU_ISA"] = isa
    for spec in specs:
        for dtype in ("float32", "float16"):
            pre = Preprocessor(spec, dtype=dtype, num_threads=2)
            for height, width in [(1, 1), (1, 2), (2, 1), (3, 5), (5, 43), (90, 16), (70, 70), (47, 141), (200, 33)]:
                shape = pre.output_shape([(height, width)])
                for at_end in (False, True):
                    out = walled(int(np.prod(shape)) * np.dtype(dtype).itemsize, at_end).view(dtype).reshape(shape)
                    for image in image_views(height, width, at_end):
                        pre(image, out=out)
                        assert np.array_equal(out, pre(image.copy())[next(iter(pre(image)))]), (isa, dtype, image.shape)
print("within bounds")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel to wall memory in")
def test_nothing_is_touched_outside_of_an_image_and_its_output(tmp_path: Path) -> None:
    """In a process of its own, which would end at the first byte outside."""
    command = [sys.executable, "-c", WITHIN_BOUNDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "within bounds"), done.stderr
