"""Limits on max_crops and the plan that joins them."""

from maxcrops.planning._compare import STANDARD_SIZES, Comparison, ModelCosts, compare
from maxcrops.planning._plan import Plan, PlanRow, plan
from maxcrops.planning.images import Distribution, ImageSummary
from maxcrops.planning.limits import Limit, SequenceLimit, Use, Verdict
from maxcrops.planning.rule_of_thumb import RECOMMENDATIONS, RuleOfThumb, rule_of_thumb

__all__ = [
    "RECOMMENDATIONS",
    "STANDARD_SIZES",
    "Comparison",
    "Distribution",
    "ImageSummary",
    "Limit",
    "ModelCosts",
    "Plan",
    "PlanRow",
    "RuleOfThumb",
    "SequenceLimit",
    "Use",
    "Verdict",
    "compare",
    "plan",
    "rule_of_thumb",
]
