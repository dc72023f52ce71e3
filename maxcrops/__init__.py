"""Exact crop and token budgets for crop-based vision-language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from maxcrops import _core
except ImportError as error:
    raise ImportError(
        "[maxcrops] the extension maxcrops._core is not built here; in a clone, run 'pip install .' and start Python"
        " elsewhere, or 'pip install -e .'"
    ) from error

from maxcrops._bounds import Bound, largest_max_crops, worst_case
from maxcrops._counting import count_tokens, grids, scales
from maxcrops._layout import layout
from maxcrops.exceptions import (
    BudgetTooSmallError,
    ConfigError,
    DryRunError,
    ImageReadError,
    MaxCropsError,
    TruncatedImageError,
    UnboundedError,
    UnknownSpecError,
    UnsupportedError,
    UnverifiedSettingsWarning,
)
from maxcrops.planning import Comparison, Plan, compare, plan, rule_of_thumb
from maxcrops.specs import Spec, get_spec, list_specs
from maxcrops.specs.loading import load_spec

if TYPE_CHECKING:
    from maxcrops.data.guard import Guard, guard
    from maxcrops.planning.dryrun import DryRun, dry_run
    from maxcrops.preprocess import Batch, Preprocessor
    from maxcrops.profiling.probe import Probe, ProbeRow, probe
    from maxcrops.profiling.sweep import sweep
    from maxcrops.profiling.sweep_result import Sweep, SweepRow

Layout = _core.Layout
View = _core.View

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Bound",
    "BudgetTooSmallError",
    "Comparison",
    "ConfigError",
    "DryRun",
    "DryRunError",
    "Guard",
    "ImageReadError",
    "Layout",
    "MaxCropsError",
    "Plan",
    "Preprocessor",
    "Probe",
    "ProbeRow",
    "Spec",
    "Sweep",
    "SweepRow",
    "TruncatedImageError",
    "UnboundedError",
    "UnknownSpecError",
    "UnsupportedError",
    "UnverifiedSettingsWarning",
    "View",
    "compare",
    "count_tokens",
    "dry_run",
    "get_spec",
    "grids",
    "guard",
    "largest_max_crops",
    "layout",
    "list_specs",
    "load_spec",
    "plan",
    "probe",
    "rule_of_thumb",
    "scales",
    "sweep",
    "worst_case",
]


_LAZY = {
    "Guard": "maxcrops.data.guard",
    "guard": "maxcrops.data.guard",
    "Batch": "maxcrops.preprocess",
    "Preprocessor": "maxcrops.preprocess",
    "DryRun": "maxcrops.planning.dryrun",
    "dry_run": "maxcrops.planning.dryrun",
    "Probe": "maxcrops.profiling.probe",
    "ProbeRow": "maxcrops.profiling.probe",
    "probe": "maxcrops.profiling.probe",
    "Sweep": "maxcrops.profiling.sweep_result",
    "SweepRow": "maxcrops.profiling.sweep_result",
    "sweep": "maxcrops.profiling.sweep",
}


def __getattr__(name: str) -> Any:
    # What needs arrays imports NumPy; counting and planning start sooner without it.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'maxcrops' has no attribute {name!r}")
