"""The kernels, and the backend that launches them, give the CPU path's bytes. test_kernels.py runs this file in a
process of its own, in which Triton interprets."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton_interpreter
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import maxcrops as mc
from maxcrops import _core
from maxcrops.kernels import crops as kernels
from maxcrops.preprocess import Batch, Preprocessor
from maxcrops.preprocess._triton import write_crops

triton_interpreter.make_exact()

Bytes = npt.NDArray[np.uint8]
Size = tuple[int, int]

POISON = 0xA5
MOLMO = mc.get_spec("molmo-7b-d")
MOLMO2 = mc.get_spec("molmo2")
# Crops that cost little. The global crop of SMALL2 is summed in one chain, its local crops are not.
SMALL2 = MOLMO2.replace(crop_size=56, overlap_margins=(1, 1), max_crops=4)
SPECS = {
    "molmo2": MOLMO2.replace(crop_size=84, overlap_margins=(2, 1), max_crops=3),
    "molmo2-small": SMALL2,
    "molmo2-one-thread": SMALL2.replace(resize="bilinear_rounded_one_thread", crop_size=84),
    "molmo2-patches-of-16": MOLMO2.replace(crop_size=80, patch_size=16, overlap_margins=(1, 2), max_crops=4),
    "molmo2-patches-of-5": MOLMO2.replace(crop_size=35, patch_size=5, overlap_margins=(1, 1), max_crops=4),
    "molmo2-channels": SMALL2.replace(image_mean=(0.48, 0.45, 0.41), image_std=(0.27, 0.26, 0.28)),
    "molmo": MOLMO.replace(crop_size=84, overlap_margins=(2, 2), max_crops=3),
    "molmo-small": MOLMO.replace(crop_size=42, patch_size=7, overlap_margins=(2, 2), max_crops=4),
    "molmo-patches-of-5": MOLMO.replace(crop_size=30, patch_size=5, overlap_margins=(2, 2), max_crops=4),
    "molmo-patches-of-16": MOLMO.replace(crop_size=96, patch_size=16, overlap_margins=(2, 2), max_crops=4),
}
BATCHES: dict[str, list[Size]] = {
    "ragged": [(97, 211), (1, 1), (200, 130), (3, 300), (56, 56)],
    "one": [(61, 47)],
    "one pixel": [(1, 1)],
    "thin": [(1, 2), (2, 1), (1, 7), (7, 1), (1, 100), (100, 1), (1, 257), (3, 300)],
    "primes": [(7, 11), (37, 53), (127, 131), (211, 97)],
    "identity": [(56, 56), (84, 84), (56, 84), (84, 56), (35, 35), (42, 42)],
    "larger": [(303, 401)],
}


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program costs the interpreter nearly the same for any number of values: a whole row of small crops."""
    monkeypatch.setattr(kernels, "BLOCK", 512)
    monkeypatch.setattr(kernels, "TILE", {"ROWS": 128, "BLOCK": 512})


def noise(height: int, width: int) -> Bytes:
    """Noise with runs of the extremes in it."""
    rng = np.random.default_rng([height, width])
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[rng.random((height, width)) < 0.1] = 0
    image[rng.random((height, width)) < 0.1] = 255
    return image


def bits_of(array: Any) -> npt.NDArray[Any]:
    if isinstance(array, torch.Tensor):
        array = array.view(torch.int16 if array.element_size() == 2 else torch.int32).numpy()
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def both(
    spec: mc.Spec, images: Sequence[torch.Tensor], dtype: str = "float32", misalignment: int = 0
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Bits of the kernels and of the CPU path; nothing beside the output may be written. What a kernel leaves out keeps
    the poison, which is no pixel's bits."""
    cpu = Preprocessor(spec, dtype=dtype, backend="cpu", num_threads=1)  # type: ignore[arg-type]
    expected = next(iter(cpu(list(images), input_data_format="channels_last", return_tensors="pt").values()))
    layouts = [cpu._layout(*image.shape[:2]) for image in images]
    size, guard = expected.numel() * expected.element_size(), 64
    memory = torch.full((guard + misalignment + size + guard,), POISON, dtype=torch.uint8)
    begin = guard + misalignment
    out = memory[begin : begin + size].view(getattr(torch, dtype)).view(expected.shape)
    write_crops(cpu._native, images, layouts, out)
    assert (memory[:begin] == POISON).all()
    assert (memory[begin + size :] == POISON).all()
    return bits_of(out), bits_of(expected)


def assert_same_bits(*arguments: Any, **more: Any) -> None:
    got, expected = both(*arguments, **more)
    assert np.count_nonzero(got != expected) == 0


def tensors(sizes: Sequence[Size]) -> list[torch.Tensor]:
    return [torch.from_numpy(noise(*size)) for size in sizes]


def without_refused(spec: mc.Spec, sizes: Sequence[Size]) -> list[Size]:
    """Kept in its ratio, a thin image may have a side of 0 px, which every backend refuses."""

    def is_refused(size: Size) -> bool:
        try:
            Preprocessor(spec, backend="cpu").output_shape([size])
        except ValueError:
            return True
        return False

    kept = [size for size in sizes if not is_refused(size)]
    assert len(kept) >= len(sizes) // 2
    return kept


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("spec", ["molmo2-small", "molmo-small"])
def test_bytes_are_those_of_the_cpu(spec: str, batch: str) -> None:
    assert_same_bits(SPECS[spec], tensors(without_refused(SPECS[spec], BATCHES[batch])))


@pytest.mark.parametrize("spec", ["molmo2", "molmo"])
def test_flat_images(spec: str) -> None:
    """Rounded weights may add up to more than 1, and white to more than white."""
    sizes = [(97, 211), (113, 127)]
    assert_same_bits(
        SPECS[spec], [torch.full((*size, 3), value, dtype=torch.uint8) for size in sizes for value in (0, 255)]
    )


@pytest.mark.parametrize("spec", SPECS)
def test_every_spec(spec: str) -> None:
    assert_same_bits(SPECS[spec], tensors([(97, 211), (1, 1), (35, 80), (300, 10)]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("spec", ["molmo2", "molmo"])
def test_every_dtype(spec: str, dtype: str) -> None:
    assert_same_bits(SPECS[spec], tensors([(97, 211), (1, 1), (50, 300)]), dtype)


@pytest.mark.parametrize("spec", [MOLMO2, MOLMO], ids=["molmo2", "molmo"])
def test_published_crops(spec: mc.Spec) -> None:
    """27 patches a side and 24."""
    assert_same_bits(spec.replace(max_crops=2), tensors([(300, 500)]), "bfloat16")


@pytest.mark.parametrize("spec", ["molmo2-patches-of-5", "molmo-patches-of-5"])
@pytest.mark.parametrize("block", [64, 1024])
def test_any_block(spec: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end with a row of a crop and do not; tiles of a part of an image's rows, and of a part of each."""
    monkeypatch.setattr(kernels, "BLOCK", block)
    monkeypatch.setattr(kernels, "TILE", {"ROWS": 4, "BLOCK": block})
    assert_same_bits(SPECS[spec].replace(max_crops=1), tensors([(5, 3), (1, 1), (40, 31)]))


def test_many_views() -> None:
    """The search for a tile's view halves numbers of views that are no power of two."""
    sizes = [(10 + 7 * i % 40, 10 + 11 * i % 60) for i in range(17)]
    for count in (2, 3, 17):
        assert_same_bits(SPECS["molmo-patches-of-5"].replace(max_crops=1), tensors(sizes[:count]))


@pytest.mark.parametrize("spec", ["molmo2-small", "molmo-small"])
def test_any_strides(spec: str) -> None:
    wide = torch.from_numpy(noise(90, 120))
    images = [
        wide.permute(2, 0, 1).contiguous().permute(1, 2, 0),  # channel planes
        wide[5:77, 3:100],
        wide[::2, ::3],
        wide.transpose(0, 1),
        wide[..., :1].expand(90, 120, 3),  # one channel, repeated
        wide[:1].expand(50, 120, 3),
        torch.from_numpy(np.dstack([noise(40, 50), noise(40, 50)]))[..., 1:4],
    ]
    assert_same_bits(SPECS[spec], images)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_alignment(dtype: str) -> None:
    step = 4 if dtype == "float32" else 2
    for spec in ("molmo2-patches-of-5", "molmo-small"):
        assert_same_bits(SPECS[spec], tensors([(20, 30)]), dtype, misalignment=step)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["molmo2-small", "molmo-small"])
def test_division_where_no_reciprocal_gives_it(name: str) -> None:
    spec = SPECS[name].replace(image_mean=(0.5, 0.5, 0.5), image_std=(1e-42, 1.0, 1e30))
    native = Preprocessor(spec, backend="cpu")._native
    assert not plan_of(spec, native, [(10, 10)]).by_arithmetic
    assert_same_bits(spec, tensors([(70, 130)]))


def plan_of(spec: mc.Spec, native: _core.Preprocessor, sizes: Sequence[Size]) -> _core.DevicePlan:
    layouts = [_core.layout(spec._core, *size) for size in sizes]
    return _core.DevicePlan(native, [(0, 3 * width, 3, 1) for _, width in sizes], layouts, *kernels.TILE.values())


@pytest.mark.parametrize("spec", ["molmo2-small", "molmo-small"])
def test_an_empty_batch_launches_nothing(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "DevicePlan", None)
    write_crops(Preprocessor(SPECS[spec], backend="cpu")._native, [], [], torch.empty(0, 16, 588))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The grid of each launch."""
    grids: list[tuple[int, ...]] = []
    executor = triton_interpreter.interpreter.GridExecutor
    call = executor.__call__

    def counted(self: Any, *arguments: Any, **more: Any) -> Any:
        grids.append(self.grid)
        return call(self, *arguments, **more)

    monkeypatch.setattr(executor, "__call__", counted)
    return grids


@pytest.mark.parametrize(
    ("spec", "sizes", "count"),
    [
        ("molmo2-small", [(50, 60), (200, 30), (9, 9)], 1),
        ("molmo-small", [(50, 60), (200, 30), (9, 9)], 2),
        ("molmo-small", [(31, 37), (9, 9)], 1),  # enlarged in every view
    ],
)
def test_launches_have_one_dimension(spec: str, sizes: list[Size], count: int, launches: list[tuple[int, ...]]) -> None:
    images = tensors(sizes)
    cpu = Preprocessor(SPECS[spec], backend="cpu")
    write_crops(cpu._native, images, [cpu._layout(*size) for size in sizes], torch.empty(cpu.output_shape(sizes)))
    assert len(launches) == count
    assert all(len(grid) == 1 for grid in launches)


def test_outputs_behind_the_reach_of_32_bits() -> None:
    """A crop whose first element is the 2^31 + 16th: no page of the memory before it exists."""
    image, behind = torch.from_numpy(noise(40, 50)), 2**31 + 16
    spec = SMALL2.replace(max_crops=1)
    cpu = Preprocessor(spec, dtype="float16", backend="cpu")
    expected = cpu(image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    layouts = [_core.layout(spec._core, 40, 50)]
    plan = _core.DevicePlan(cpu._native, [(image.data_ptr(), *image.stride())], layouts, *kernels.TILE.values())
    words = torch.empty(plan.num_words, dtype=torch.int64)
    plan.write(words.numpy())
    outputs = plan.first_crop_word + int(_core.CropWord.OUTPUT)
    words[outputs :: int(_core.CropWord.END)][: plan.num_crops] += behind
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's
    sparse = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    memory = mmap.mmap(-1, 2 * (behind + expected.numel()), flags=sparse)
    out = torch.frombuffer(memory, dtype=torch.float16)
    grid = (plan.num_crops * 4 * -(-4 * 42 // kernels.BLOCK),)  # of 4 x 4 patches of 42 values a row
    kernels.rounded_crops_kernel[grid](
        out, words, words.view(torch.float32), plan.first_view_word, plan.first_crop_word,
        PATCH=14, SIDE=4, BLOCK=kernels.BLOCK, ALIGNMENT=16, BY_ARITHMETIC=True, **kernels.OPTIONS,
    )  # fmt: skip
    assert torch.equal(out[behind:].view(expected.shape), expected)


# -- Preprocessor(backend="triton"), with the CPU as its device ----------------------------------------------------

FACES = {"molmo2": SMALL2, "molmo": SPECS["molmo-small"]}
PIXELS = {"molmo2": "pixel_values", "molmo": "images"}
face = pytest.mark.parametrize("name", FACES)


def pair(spec: mc.Spec, **settings: Any) -> tuple[Preprocessor, Preprocessor]:
    """On the device, on the CPU."""
    return Preprocessor(spec, backend="triton", **settings), Preprocessor(spec, backend="cpu", **settings)


def assert_same_batch(got: Batch, expected: Batch) -> None:
    assert list(got) == list(expected)
    for key, value in got.items():
        assert isinstance(value, torch.Tensor), key
        assert (value.dtype, value.shape) == (expected[key].dtype, expected[key].shape), key
        assert not value.numel() or torch.equal(value.view(torch.uint8), expected[key].view(torch.uint8)), key
    assert got.failures == expected.failures


@face
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_is_that_of_the_cpu(name: str, dtype: Any) -> None:
    device, cpu = pair(FACES[name], dtype=dtype, max_crops=3)
    images = [torch.from_numpy(noise(97, 61)).permute(2, 0, 1).contiguous(), torch.from_numpy(noise(61, 97))]
    assert_same_batch(device(images), cpu(images))
    assert_same_batch(device(images[0]), cpu(images[0]))
    batch = torch.stack([images[0], images[0].flip(1)])
    assert_same_batch(device(batch), cpu(batch))


@face
def test_every_kind_of_image(name: str, tmp_path: Path) -> None:
    device, cpu = pair(FACES[name])
    Image.fromarray(noise(40, 50)).save(tmp_path / "image.png")
    rgba = np.dstack([noise(40, 50), noise(40, 50)[..., :1]])
    images: list[Any] = [
        noise(40, 50), noise(40, 50)[::-1, ::-1], noise(40, 50)[..., 0], torch.from_numpy(noise(40, 50)[..., 0].copy()),
        Image.fromarray(noise(40, 50)), tmp_path / "image.png", (tmp_path / "image.png").read_bytes(),
        rgba, torch.from_numpy(rgba),
    ]  # fmt: skip
    assert_same_batch(device(images), cpu(images, return_tensors="pt"))


@face
def test_no_images(name: str) -> None:
    device, cpu = pair(FACES[name])
    assert_same_batch(device([]), cpu([], return_tensors="pt"))


@face
def test_images_that_cannot_be_used_are_left_out(name: str) -> None:
    device, cpu = pair(FACES[name])
    images = [torch.from_numpy(noise(40, 50)), torch.zeros(3, 5, 5), b"no image", noise(30, 20), torch.zeros(2, 2)]
    assert_same_batch(device(images, errors="skip"), cpu(images, errors="skip"))
    with pytest.raises(TypeError, match=r"image must be uint8, got torch.float32; .* \(image 1 of those given\)"):
        device(images)


@face
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_out_is_written_and_given_back(name: str, dtype: Any) -> None:
    device, cpu = pair(FACES[name], dtype=dtype)
    image = torch.from_numpy(noise(60, 90))
    expected = cpu(image)[PIXELS[name]]
    memory = torch.full((len(expected) + 2, *expected.shape[1:]), 7, dtype=expected.dtype)
    out = memory[1:-1]
    assert device(image, out=out)[PIXELS[name]] is out
    assert torch.equal(out, expected)
    assert (memory[[0, -1]] == 7).all()
    if dtype == "float16":
        bits = torch.zeros(expected.shape, dtype=torch.uint16)
        assert device(image, out=bits)[PIXELS[name]] is bits
        assert torch.equal(bits.view(torch.float16), expected)


def test_out_that_does_not_fit_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "DevicePlan", None)
    device = Preprocessor(SMALL2, backend="triton")
    shape = device.output_shape([(60, 90)])
    image = torch.from_numpy(noise(60, 90))
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.zeros(shape, np.float32), TypeError, "out must be a torch tensor on cpu, got ndarray"),
        (torch.zeros(shape, device="meta"), ValueError, "out must be on cpu, as the images are, got meta"),
        (torch.zeros(shape, dtype=torch.float16), TypeError, "out must be float32, got torch.float16"),
        (torch.zeros(shape, dtype=torch.uint16), TypeError, "out must be float32, got torch.uint16"),
        (torch.zeros(shape[1:]), ValueError, r"out must have shape \["),
        (torch.zeros(shape[::-1]).permute(2, 1, 0), ValueError, "out must be C-contiguous"),
    ]
    for out, error, message in cases:
        with pytest.raises(error, match=rf"^\[preprocess\] {message}"):
            device(image, out=out)
    out = torch.zeros(shape)
    inside = out.view(-1).view(torch.uint8)[-60 * 90 * 3 :].view(60, 90, 3)
    with pytest.raises(ValueError, match="out must not overlap image 0 in memory"):
        device(inside, out=out)
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or None on a device, got 'np'"):
        device(image, return_tensors="np")


@face
def test_the_host_waits_for_nothing(name: str) -> None:
    """Nothing but new memory, views and copies that may be in flight: no value comes back. The interpreter has two
    operations of its own."""
    used = set()

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            used.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    device = Preprocessor(FACES[name], backend="triton")
    images = [torch.from_numpy(noise(60, 90)), noise(20, 30)]
    with Recorded():
        device(images)
    assert device(images).backend == "triton"
    assert used - {"new_empty", "set_"} <= {"empty", "_to_copy", "view", "detach", "transpose", "expand"}


@pytest.mark.parametrize(("name", "what"), [("molmo2", r"\d+ crops"), ("molmo", "the resized rows of a batch")])
def test_memory_that_is_not_there_is_told_in_bytes(name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Preprocessor(FACES[name], backend="triton")
    image, allocate = torch.from_numpy(noise(60, 90)), torch.empty

    def out_of_memory(*args: Any, **settings: Any) -> torch.Tensor:
        if settings.get("dtype") == torch.int64:  # the plan's words
            return allocate(*args, **settings)
        raise torch.OutOfMemoryError("CUDA out of memory")

    out = None if name == "molmo2" else next(iter(device(image).values()))  # the crops come first
    monkeypatch.setattr(torch, "empty", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match=rf"{what} need \d+ bytes .* fewer images .*CUDA out of memory"):
        device(image, out=out)


def test_only_cuda_tensors_choose_this_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preprocessor, "_on_device", None)
    Preprocessor(SMALL2, backend="auto")(torch.from_numpy(noise(60, 90)))
