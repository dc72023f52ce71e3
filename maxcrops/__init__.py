"""Exact crop and token budgets for crop-based vision-language models."""

from __future__ import annotations

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
    ImageReadError,
    MaxCropsError,
    UnknownSpecError,
)
from maxcrops.planning import Plan, plan, rule_of_thumb
from maxcrops.specs import Spec, get_spec, list_specs
from maxcrops.specs.loading import load_spec

Layout = _core.Layout
View = _core.View

__version__ = "0.1.0"

__all__ = [
    "Bound",
    "BudgetTooSmallError",
    "ConfigError",
    "ImageReadError",
    "Layout",
    "MaxCropsError",
    "Plan",
    "Spec",
    "UnknownSpecError",
    "View",
    "count_tokens",
    "get_spec",
    "grids",
    "largest_max_crops",
    "layout",
    "list_specs",
    "load_spec",
    "plan",
    "rule_of_thumb",
    "scales",
    "worst_case",
]
