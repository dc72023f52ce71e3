"""On a real device: the CPU path's bytes, whatever is given, and a host that waits for nothing. Skipped without CUDA,
unless MAXCROPS_REQUIRE_CUDA=1 makes that a failure. benchmarks/gpu_check.py runs this file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import maxcrops as mc
from maxcrops.preprocess import Batch, Preprocessor

torch: Any = pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and os.environ.get("MAXCROPS_REQUIRE_CUDA") != "1", reason="needs CUDA"
)

Size = tuple[int, int]

MODELS = ("molmo2", "molmo")
PIXELS = {"molmo2": "pixel_values", "molmo": "images"}
DTYPES = ("float32", "bfloat16", "float16")
RAGGED: Sequence[Size] = [(551, 676), (97, 211), (480, 640), (300, 41), (1080, 1920), (551, 676)]
ODD: Sequence[Size] = [(1, 1), (3, 5), (7, 11), (37, 53), (131, 127), (61, 337), (378, 378), (336, 336), (1237, 811)]
THIN: Sequence[Size] = [(1, 2), (1, 257), (257, 1), (3, 300), (300, 3), (100, 2000)]  # Molmo refuses some

model = pytest.mark.parametrize("model", MODELS)


def noise(size: Size) -> Any:
    """uint8 [3, height, width], with runs of the extremes in it."""
    generator = torch.Generator().manual_seed(10_000 * size[0] + size[1])
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    chosen = torch.rand(size, generator=generator)
    image[:, chosen < 0.1] = 0
    image[:, chosen > 0.9] = 255
    return image


def assert_pixels_agree(model: str, got: Any, expected: Any) -> None:
    """Molmo2's are rounded to 8 bits on the way: the bits are equal. Molmo's are sums of floats, equal to 2e-6, behind
    which a 16-bit type may round to its other side."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if model == "molmo2":
        assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))
        return
    rtol = 0 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps
    torch.testing.assert_close(got.float(), expected.float(), rtol=rtol, atol=2e-6)


def assert_agrees(model: str, got: Batch, expected: Batch) -> None:
    assert list(got) == list(expected)
    for key, value in got.items():
        assert value.is_cuda, key
        if key == PIXELS[model]:
            assert_pixels_agree(model, value.cpu(), expected[key])
        else:
            assert torch.equal(value.cpu(), expected[key]), key
    assert got.failures == expected.failures


def both(model: str, sizes: Sequence[Size], **settings: Any) -> None:
    images = [noise(size) for size in sizes]
    options: Any = {"input_data_format": "channels_first", "errors": "skip"}
    expected = Preprocessor(mc.get_spec(model), backend="cpu", **settings)(images, return_tensors="pt", **options)
    got = Preprocessor(mc.get_spec(model), **settings)([image.cuda() for image in images], **options)
    assert_agrees(model, got, expected)


@pytest.fixture
def no_synchronisation() -> Iterator[Any]:
    """Called, it makes any wait of the host an error until the test ends."""
    before = torch.cuda.get_sync_debug_mode()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode(before)


@model
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_ragged_batch(model: str, dtype: str) -> None:
    both(model, RAGGED, dtype=dtype)


@model
@pytest.mark.parametrize("max_crops", [1, 24])
def test_other_max_crops(model: str, max_crops: int) -> None:
    both(model, RAGGED, max_crops=max_crops)


@model
def test_odd_sizes(model: str) -> None:
    both(model, ODD, dtype="bfloat16", max_crops=4)


@model
def test_thin_sizes(model: str) -> None:
    both(model, THIN)


@model
def test_a_large_image(model: str) -> None:
    both(model, [(3024, 4032)], dtype="bfloat16", max_crops=24)


@model
def test_many_images(model: str) -> None:
    both(model, [(40 + 7 * i % 90, 50 + 11 * i % 130) for i in range(130)], dtype="bfloat16", max_crops=2)


@model
def test_any_strides(model: str) -> None:
    wide = noise((300, 420)).permute(1, 2, 0).contiguous()
    views = [wide, wide[5:177, 3:400], wide[::2, ::3], wide.transpose(0, 1), wide[..., :1].expand(300, 420, 3)]
    device = wide.cuda()
    moved = [device.as_strided(view.shape, view.stride(), view.storage_offset()) for view in views]
    assert [view.stride() for view in moved] == [view.stride() for view in views]
    options: Any = {"input_data_format": "channels_last"}
    expected = Preprocessor(mc.get_spec(model), backend="cpu")(views, **options)
    assert_agrees(model, Preprocessor(mc.get_spec(model))(moved, **options), expected)


@model
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_written_whole_and_nothing_beside_it(model: str, dtype: str) -> None:
    images = [noise(size) for size in RAGGED[:4]]
    key = PIXELS[model]
    expected = Preprocessor(mc.get_spec(model), dtype=dtype, backend="cpu")(images)[key]  # type: ignore[arg-type]
    memory = torch.full((len(expected) + 2, *expected.shape[1:]), torch.nan, dtype=expected.dtype, device="cuda")
    out = memory[1:-1]
    preprocess = Preprocessor(mc.get_spec(model), dtype=dtype)  # type: ignore[arg-type]
    assert preprocess([image.cuda() for image in images], out=out)[key] is out
    assert_pixels_agree(model, out.cpu(), expected)
    assert memory[[0, -1]].isnan().all()


@model
def test_it_runs_in_the_order_of_the_current_stream(model: str) -> None:
    """The image is there only when the stream has waited for a while, and gone behind the call."""
    image = noise((480, 640))
    expected = Preprocessor(mc.get_spec(model), backend="cpu")(image)
    device = torch.zeros_like(image, device="cuda")
    source = image.cuda()
    preprocess = Preprocessor(mc.get_spec(model))
    preprocess(device)  # compiles
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1 << 28)
        device.copy_(source)
        got = preprocess(device)
        device.zero_()
    stream.synchronize()
    assert_agrees(model, got, expected)


@model
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # is a prototype
@pytest.mark.parametrize("source", ["device", "pinned", "mixed"])
def test_the_host_waits_for_nothing(model: str, source: str, no_synchronisation: Any) -> None:
    images = [noise(size) for size in RAGGED]
    pinned = {"device": 0, "pinned": len(images), "mixed": 2}[source]
    given = [image.pin_memory() if index < pinned else image.cuda() for index, image in enumerate(images)]
    expected = Preprocessor(mc.get_spec(model), backend="cpu")(images)
    preprocess = Preprocessor(mc.get_spec(model), backend="triton")
    preprocess(given)  # compiles
    torch.cuda.synchronize()
    no_synchronisation()
    torch.cuda._sleep(1 << 30)
    got = preprocess(given)
    assert not torch.cuda.current_stream().query()  # the device still sleeps
    torch.cuda.set_sync_debug_mode("default")
    assert_agrees(model, got, expected)


@model
def test_auto_goes_where_the_images_are(model: str) -> None:
    preprocess = Preprocessor(mc.get_spec(model))
    image = noise((97, 211))
    assert all(value.is_cuda for value in preprocess(image.cuda()).values())
    assert not any(value.is_cuda for value in preprocess(image).values())
    out = torch.empty(preprocess.output_shape([(97, 211)]), device="cuda")
    assert all(value.is_cuda for value in preprocess(image, out=out).values())


@model
def test_a_second_batch_takes_no_new_memory(model: str) -> None:
    """But its output, which is given: the workspace of the first is reused."""
    preprocess = Preprocessor(mc.get_spec(model), dtype="bfloat16")
    images = [noise(size).cuda() for size in RAGGED]
    out = torch.empty(preprocess.output_shape(RAGGED), dtype=torch.bfloat16, device="cuda")
    preprocess(images, out=out)
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        preprocess(images, out=out)
    assert torch.cuda.memory_reserved() == before


def test_an_accelerated_processor() -> None:
    pytest.importorskip("transformers.models.molmo2")
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

    from maxcrops.integrations.transformers import accelerate

    original = Molmo2ImageProcessor(max_crops=4)
    images = [noise(size) for size in RAGGED]
    expected = accelerate(original)(images, return_tensors="pt")
    accelerated = accelerate(original, device="cuda")
    for given in (images, [images[0].cuda(), *images[1:]]):
        assert_agrees("molmo2", Batch(accelerated(given, return_tensors="pt")), Batch(expected))
