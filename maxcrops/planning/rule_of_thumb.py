"""The estimate that people use: 144 to 150 tokens a crop, whatever the grid.

It counts Molmo's connector outputs of the local crops, not its sequence tokens: overlapped features are dropped before
the language model, column and start tokens are added, and the global crop is left out. It is here to be compared with
the exact numbers, not to be planned with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

TOKENS_PER_CROP = 144
TOKENS_PER_CROP_WITH_SPECIALS = 150

_VERDICTS = ((2048, "safe"), (1024, "tight"), (256, "very tight"), (0, "hardly feasible"))
"""(least tokens left, verdict). The rule names verdicts for five values only; these thresholds reproduce them."""

RECOMMENDATIONS = (
    ("standard visual question answering", "12"),
    ("high resolution, with a lower batch size", "15-18"),
    ("very high resolution, batch size 8 to 16, memory watched", "20-24"),
    ("research only, batch size 1 to 4", "above 24"),
)
"""(use, max_crops) as the rule recommends."""


@dataclass(frozen=True)
class RuleOfThumb:
    """The estimate for one max_crops."""

    max_crops: int
    tokens: int
    """144 a crop."""
    tokens_with_specials: int
    """150 a crop."""
    left_for_text: int
    """Of the sequence, after 144 a crop; negative where it is exceeded."""
    verdict: str

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)


def rule_of_thumb(
    max_crops: Iterable[int] = (12, 20, 25, 28, 30), *, max_sequence_length: int = 4096
) -> list[RuleOfThumb]:
    """The estimate for some values of max_crops.

    Raises:
        ValueError: a max_crops that is no integer of at least 1.

    >>> [(row.max_crops, row.tokens, row.left_for_text, row.verdict) for row in rule_of_thumb([12, 20])]
    [(12, 1728, 2368, 'safe'), (20, 2880, 1216, 'tight')]
    """
    rows = []
    for crops in max_crops:
        if isinstance(crops, bool) or not isinstance(crops, int) or crops < 1:
            raise ValueError(f"[rule_of_thumb] max_crops must be integers of at least 1, got {crops!r}")
        tokens = TOKENS_PER_CROP * crops
        left = max_sequence_length - tokens
        verdict = next((name for least, name in _VERDICTS if left >= least), "over the limit")
        rows.append(RuleOfThumb(crops, tokens, TOKENS_PER_CROP_WITH_SPECIALS * crops, left, verdict))
    return rows
