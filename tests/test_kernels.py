"""The Triton kernels: interpreted, they give the CPU path's bytes; compiled, they spill nothing and store vectors."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maxcrops as mc
from maxcrops import _core
from maxcrops.exceptions import UnsupportedError
from maxcrops.preprocess import Preprocessor, _device

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

TESTS = Path(__file__).parent
ARCHITECTURES = ("80", "89", "90", "100")
DTYPES = ("fp32", "bf16", "fp16")


def run(command: list[str], **variables: str) -> str:
    """What a process of its own prints. Triton decides as it is imported whether it compiles or interprets."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**inherited, **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=TESTS, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


def test_interpreted_kernels() -> None:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "interpreted_kernels.py"]
    assert " passed" in run(command, TRITON_INTERPRET="1")


# -- compiled, by what the wheel ships: no GPU is needed -----------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What compiled_kernels.py finds, by kernel, dtype and architecture."""
    cache = tmp_path_factory.mktemp("triton")
    facts: dict[str, Any] = json.loads(run(["compiled_kernels.py", *ARCHITECTURES], TRITON_CACHE_DIR=str(cache)))
    assert len(facts) == len(ARCHITECTURES) * (4 * len(DTYPES) + 1)
    return facts


@pytest.fixture(params=ARCHITECTURES, ids=lambda arch: f"sm_{arch}")
def kernels(request: pytest.FixtureRequest, compiled: dict[str, Any]) -> dict[str, Any]:
    """Those of one architecture, by kernel and dtype."""
    end = f"-sm_{request.param}"
    return {name.removesuffix(end): facts for name, facts in compiled.items() if name.endswith(end)}


def test_nothing_spills(kernels: dict[str, Any]) -> None:
    for name, facts in kernels.items():
        assert (facts["stack"], facts["local"]) == (0, 0), name


def test_a_kernel_leaves_room_for_others(compiled: dict[str, Any]) -> None:
    """A program is a warp: a multiprocessor takes 24 of them on sm_89 and 32 elsewhere, and has 65536 registers: 24
    have 80 each, and 32 of Molmo2's 64; 21 of the horizontal pass by Triton 3.6 have 96. No pass needs what other
    threads have."""
    for name, facts in compiled.items():
        is_molmo2 = name.startswith("rounded-") and not name.endswith("sm_89")
        assert facts["threads"] == 32, name
        assert facts["registers"] <= (64 if is_molmo2 else 96 if name.startswith("resized") else 80), name
        assert (facts["shared"], facts["dynamic_shared"]) == (0, 0), name


def test_stores_are_of_two_values(kernels: dict[str, Any]) -> None:
    """And not of one: rows of a patch are 42 values, so that no more than two lie side by side for sure. A thread has
    four values, and a crop's kernel two ways to make them. Resized rows begin anywhere."""
    for name, facts in kernels.items():
        expected = ["st.global.b32" if name.endswith("16") else "st.global.v2.b32"] * 4
        assert facts["stores"] == (["st.global.b32"] * 16 if name == "resized-rows" else expected), name


def test_only_pixels_are_loaded_as_bytes(kernels: dict[str, Any]) -> None:
    """A pixel is one byte wherever it lies; the plan's words are of 8, its weights and the workspace of 4. A thread has
    four values; two source rows of two pixels, or of one with a window, in either way to make them."""
    bytes_a_thread = {"rounded": 2 * 2 * 2 * 4, "antialiased": 2 * 2 * 4, "resized": 4 * 4}
    for name, facts in kernels.items():
        loads = {re.sub(r".*\.", "", kind): number for kind, number in facts["loads"].items()}
        assert loads.keys() == {"b64", "b32", "b8"}, name
        assert loads["b8"] == bytes_a_thread[re.split("[-_]", name)[0]], name
        assert loads["b64"] <= 27, name
        assert loads["b32"] <= 34, name


def test_only_what_is_written_as_fused_is_fused(kernels: dict[str, Any]) -> None:
    """An operation of PTX without a rounding may be fused with another; one with .rn may not."""
    expected = {
        "rounded": 3 + 2 + 1,  # a chain of three; or each of two rows, and both
        "antialiased": 2 * (1 + 2) + 1 + 1,  # two rows, with a division by 255 of each pixel, and both; or a tap
        "resized": 1 + 1,  # a tap, and its division by 255
    }
    normalize = {"rounded": 1, "antialiased": 4}  # by two remainders, with antialias
    for name, facts in kernels.items():
        assert facts["may_fuse"] == [], name
        assert facts["inexact"] == [], name
        kind, _, divided = name.partition("-")[0].partition("_")
        fused = expected[kind] + (0 if divided else 2 * normalize.get(kind, 0))
        assert facts["fused"] == (16 if kind == "resized" else 4) * fused, name


def test_divisions_are_exact_and_only_where_they_must_be(kernels: dict[str, Any]) -> None:
    for name, facts in kernels.items():
        assert facts["divisions"] == (2 * 4 if "divided" in name else 0), name


def test_a_value_takes_few_instructions(compiled: dict[str, Any]) -> None:
    """Counted in sm_90's code, in each of a kernel's ways, with no row used again: a thread makes four values of each
    of a patch's 14 rows. A loop over taps counts once, and is unrolled by four: ten taps, or six by Triton 3.9."""
    most = {"rounded": (42, 42), "antialiased": (55, 121)}
    for name, facts in compiled.items():
        kind, _, rest = name.partition("-")
        once, loops = facts["instructions"]["once"], sorted(facts["instructions"]["loops"])
        if not rest.endswith("sm_90"):
            continue
        if kind == "resized":  # four values of each of four rows: with one tap, and what another adds
            assert (loops[-1] / 16 <= 18.5, loops[-2] / 16 <= 13, once <= 580) == (True, True, True), name
        else:
            counts = [(once - loops[-1] + 14 * loop) / (4 * 14) for loop in loops[-2:]]
            kind, _, divided = kind.partition("_")
            bounds = [bound + (12 if divided else 0) for bound in most[kind]]
            assert all(count <= bound for count, bound in zip(counts, bounds, strict=True)), (name, counts)


def test_16_bits_are_rounded_to_nearest(kernels: dict[str, Any]) -> None:
    conversions = {"bf16": {"cvt.rn.bf16x2.f32"}, "fp16": {"cvt.rn.f16x2.f32"}}
    for name, facts in kernels.items():
        assert set(facts["to_16_bits"]) == conversions.get(name.rpartition("-")[2], set()), name


# -- the backend, where it cannot run ------------------------------------------------------------------------------

SPEC = mc.get_spec("molmo2")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


def on_cuda(*shape: int, device: str = "cuda:0", dtype: Any = torch.uint8) -> Any:
    """A tensor on a GPU that need not be here: it has a device, and no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device=device)


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UnsupportedError, match=rf"without the package {package}; install it .*'maxcrops\[torch\]'"):
        Preprocessor(SPEC, backend="triton")
    with pytest.raises(UnsupportedError, match=f"without the package {package}"):
        Preprocessor(SPEC)(on_cuda(3, 50, 60))


@no_cuda
def test_a_missing_device_is_named() -> None:
    for image in (np.zeros((50, 60, 3), np.uint8), torch.zeros(3, 50, 60, dtype=torch.uint8), []):
        with pytest.raises(UnsupportedError, match=r"torch sees no CUDA device, got 'triton'; .*TRITON_INTERPRET=1"):
            Preprocessor(SPEC, backend="triton")(image)


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_images_of_several_devices_are_refused(backend: Any) -> None:
    images = [on_cuda(3, 50, 60), on_cuda(3, 50, 60, device="cuda:1")]
    message = r"image must be on cuda:0, .*, got cuda:1; give image.to\('cuda:0'\) \(image 1 of those given\)"
    with pytest.raises(ValueError, match=message):
        Preprocessor(SPEC, backend=backend)(images)
    with pytest.raises(ValueError, match=r"image must be on cuda:1, .*, got cuda:0"):
        Preprocessor(SPEC, backend=backend)(images, out=on_cuda(1, device="cuda:1", dtype=torch.float32))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_other_backends_refuse_images_on_a_gpu(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"image must be on the CPU, got a tensor on cuda:0; give image\.cpu\(\)"):
        Preprocessor(SPEC, backend=backend)(on_cuda(3, 50, 60))


def test_images_on_a_gpu_are_checked() -> None:
    device = torch.device("cuda:0")
    cases: list[tuple[Any, type[Exception], str]] = [
        (on_cuda(4, 50, 60), ValueError, "image must have 1 or 3 channels on a GPU, got 4; .* or image.cpu"),
        (on_cuda(2, 50, 60), ValueError, "image must have 1, 3 or 4 channels"),
        (on_cuda(3, 0, 60), ValueError, "image must have sides of 1 to"),
        (on_cuda(1, 3, 50, 60), ValueError, r"2 or 3 dimensions, got 4: shape \(1, 3, 50, 60\)"),
        (on_cuda(3, 50, 60, dtype=torch.float32), TypeError, r"image must be uint8, got torch.float32"),
    ]
    for image, error, message in cases:
        with pytest.raises(error, match=message):
            _device.read(image, device, None)
    for image in (on_cuda(3, 50, 60), on_cuda(50, 60, 3), on_cuda(50, 60), on_cuda(1, 50, 60)):
        pixels = _device.read(image, device, None).array
        assert (pixels.shape, pixels.device) == ((50, 60, 3), device)


def test_out_must_be_where_the_images_are() -> None:
    image = on_cuda(3, 50, 60)
    preprocess = Preprocessor(SPEC)
    shape = preprocess.output_shape([(50, 60)])
    with pytest.raises(ValueError, match="out must be on cuda:0, as the images are, got cpu"):
        preprocess(image, out=torch.zeros(shape))
    with pytest.raises(TypeError, match="out must be a torch tensor on cuda:0, got ndarray"):
        preprocess(image, out=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="return_tensors must be 'pt' or None on a device, got 'np'"):
        preprocess(image, return_tensors="np")


def test_an_image_of_too_many_bytes_is_refused() -> None:
    spec = SPEC.replace(max_crops=1)
    layout = mc.layout(spec, height=30000, width=30000)
    for strides in ((90000, 3, 1), (30000, 1, 900000000)):
        with pytest.raises(ValueError, match="image must span at most 2147483647 bytes on a device, got 30000 x 30000"):
            _core.DevicePlan(Preprocessor(spec)._native, [(0, *strides)], [layout], 16, 64)
