"""What the tests share: Hypothesis profiles, and the way to the real transformers processors."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], ModuleType]:
    """Imports oracles.<family>. Only tests that ask for this fixture import torch and transformers."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    from oracles.torchvision_ops import declare_missing

    declare_missing()
    return lambda family: importlib.import_module(f"oracles.{family}")
