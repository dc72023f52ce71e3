"""Limits on max_crops: what each allows, and how a value stands against it.

A limit turns a value of max_crops into what it uses, exactly or with weaker evidence. The plan joins them: the first
one that is exceeded binds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from maxcrops._bounds import largest_max_crops, worst_case
from maxcrops.exceptions import BudgetTooSmallError
from maxcrops.specs import Spec

Evidence: TypeAlias = Literal["exact"]
"""Where a number comes from. Numbers of different evidence are never printed alike."""

Verdict: TypeAlias = Literal["safe", "tight", "over"]
"""over: some image does not fit; tight: every image fits, with less than the tight margin to spare; safe: with more."""

VERDICTS: tuple[Verdict, ...] = ("safe", "tight", "over")
"""From best to worst."""


@dataclass(frozen=True)
class Use:
    """What one value of max_crops uses of one limit."""

    limit: str
    """Name of the limit."""
    used: int
    available: int
    unit: str
    evidence: Evidence
    tight_margin: int
    """Less than this to spare is tight."""

    @property
    def spare(self) -> int:
        """What is left; negative where the limit is exceeded."""
        return self.available - self.used

    @property
    def verdict(self) -> Verdict:
        """How it stands."""
        if self.spare < 0:
            return "over"
        return "tight" if self.spare < self.tight_margin else "safe"


class Limit(Protocol):
    """Anything that max_crops uses up."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        """What max_crops uses in the worst case."""
        ...

    def largest(self, spec: Spec) -> int | None:
        """The largest max_crops that stays within the limit; None where the smallest exceeds it."""
        ...


@dataclass(frozen=True)
class SequenceLimit:
    """The language model's sequence: image tokens and text together."""

    max_sequence_length: int
    """Tokens."""
    text_tokens: int
    """Reserved for text: prompt, chat template and answer."""
    images_per_sample: int = 1
    tight_margin: int = 100
    """Tokens. Prompts vary by about this much with the template."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        """The exact bound over all image sizes, for every image of the sample."""
        tokens = worst_case(spec, max_crops=max_crops).tokens * self.images_per_sample
        return Use(
            limit="sequence",
            used=tokens + self.text_tokens,
            available=self.max_sequence_length,
            unit="tokens",
            evidence="exact",
            tight_margin=self.tight_margin,
        )

    def largest(self, spec: Spec) -> int | None:
        """From the exact inverse of the bound."""
        per_image = (self.max_sequence_length - self.text_tokens) // self.images_per_sample
        try:
            return largest_max_crops(spec, max_tokens=per_image)
        except BudgetTooSmallError:
            return None
