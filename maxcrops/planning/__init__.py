"""Limits on max_crops and the plan that joins them."""

from maxcrops.planning._plan import Plan, PlanRow, plan
from maxcrops.planning.images import Distribution, ImageSummary
from maxcrops.planning.limits import Limit, SequenceLimit, Use, Verdict
from maxcrops.planning.rule_of_thumb import RECOMMENDATIONS, RuleOfThumb, rule_of_thumb

__all__ = [
    "RECOMMENDATIONS",
    "Distribution",
    "ImageSummary",
    "Limit",
    "Plan",
    "PlanRow",
    "RuleOfThumb",
    "SequenceLimit",
    "Use",
    "Verdict",
    "plan",
    "rule_of_thumb",
]
