"""The Triton kernels: interpreted, they give the CPU path's bytes; compiled, they spill nothing and store vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

TESTS = Path(__file__).parent


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
