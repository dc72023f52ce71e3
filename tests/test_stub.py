"""The committed stub is the module's, and the examples in docstrings hold."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import maxcrops

STUB = Path(__file__).parents[1] / "maxcrops" / "_core.pyi"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(maxcrops.__path__, "maxcrops.")
    if module.name not in ("maxcrops._core", "maxcrops.__main__")  # compiled; runs the command line
)


def _lines(text):
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_stub_is_current(tmp_path):
    pytest.importorskip("nanobind", reason="nanobind writes the stub")
    fresh = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "maxcrops._core", "-o", str(fresh)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    assert _lines(STUB.read_text()) == _lines(fresh.read_text())


def test_stub_is_installed():
    installed = Path(maxcrops.__file__).parent / "_core.pyi"
    assert installed.read_text() == STUB.read_text()


@pytest.mark.parametrize("name", ["maxcrops", *MODULES])
def test_examples(name):
    if name.startswith("maxcrops.kernels."):
        pytest.importorskip("triton")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_are_found():
    for name in ("_layout", "_counting", "_bounds", "specs", "planning._plan", "planning.rule_of_thumb"):
        finder = doctest.DocTestFinder(exclude_empty=True)
        assert any(test.examples for test in finder.find(importlib.import_module(f"maxcrops.{name}"))), name
