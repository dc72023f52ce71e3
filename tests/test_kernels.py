"""The Triton kernels: interpreted, they give the CPU path's bytes; compiled, they spill nothing and store vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

TESTS = Path(__file__).parent
ARCHITECTURES = ("80", "89", "90", "100")
DTYPES = ("fp32", "bf16", "fp16")


def run(command: list[str], **variables: str) -> str:
    """What a process of its own prints. Triton decides as it is imported whether it compiles or interprets."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(TESTS.parent), *filter(None, [inherited.get("PYTHONPATH")])])
    environment = {**inherited, "PYTHONPATH": path, **variables}
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
    assert len(facts) == len(ARCHITECTURES) * (3 * len(DTYPES) + 1)
    return facts


@pytest.fixture(params=ARCHITECTURES, ids=lambda arch: f"sm_{arch}")
def kernels(request: pytest.FixtureRequest, compiled: dict[str, Any]) -> dict[str, Any]:
    """Those of one architecture, by kernel and dtype."""
    end = f"-sm_{request.param}"
    return {name.removesuffix(end): facts for name, facts in compiled.items() if name.endswith(end)}


def test_nothing_spills(kernels: dict[str, Any]) -> None:
    for name, facts in kernels.items():
        assert (facts["stack"], facts["local"]) == (0, 0), name


def test_a_kernel_leaves_room_for_others(kernels: dict[str, Any]) -> None:
    """64 registers: 1024 threads in the 65536 of a multiprocessor. No pass needs what other threads have."""
    for name, facts in kernels.items():
        assert facts["threads"] == 128, name
        assert facts["registers"] <= 64, name
        assert (facts["shared"], facts["dynamic_shared"]) == (0, 0), name


def test_a_thread_stores_all_it_makes_at_once(kernels: dict[str, Any]) -> None:
    """Four values, which is what the offset of every crop of 27 patches a side is a multiple of."""
    for name, facts in kernels.items():
        assert facts["stores"] == ["st.global.v2.b32" if name.endswith("16") else "st.global.v4.b32"], name


def test_only_what_is_written_as_fused_is_fused(kernels: dict[str, Any]) -> None:
    """An operation of PTX without a rounding may be fused with another; one with .rn may not."""
    for name, facts in kernels.items():
        assert facts["may_fuse"] == [], name
        assert facts["inexact"] == [], name
        # A thread has four values: three products in either order, one to normalise; the last taps of a window, and
        # there the division by 255.
        expected = {"rounded": 4 * (3 + 3 + 1), "divided": 4 * (3 + 3), "antialiased": 4, "resized": 4 * 2}
        assert facts["fused"] == expected[name.partition("-")[0]], name


def test_divisions_are_exact_and_only_where_they_must_be(kernels: dict[str, Any]) -> None:
    for name, facts in kernels.items():
        divides = name.startswith(("divided", "antialiased"))
        assert facts["divisions"] == (4 if divides else 0), name


def test_16_bits_are_rounded_to_nearest(kernels: dict[str, Any]) -> None:
    conversions = {"bf16": {"cvt.rn.bf16x2.f32"}, "fp16": {"cvt.rn.f16x2.f32"}}
    for name, facts in kernels.items():
        assert set(facts["to_16_bits"]) == conversions.get(name.rpartition("-")[2], set()), name
