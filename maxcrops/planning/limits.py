"""Limits on max_crops: what each allows, and how a value stands against it.

A limit turns a value of max_crops into what it uses, exactly or with weaker evidence. The plan joins them: the first
one that is exceeded binds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from maxcrops._bounds import SizeLimit, bounds, largest_max_crops
from maxcrops.exceptions import BudgetTooSmallError
from maxcrops.specs import Spec

if TYPE_CHECKING:
    from maxcrops.planning.dryrun import DryRun

Evidence: TypeAlias = Literal["exact", "dry run", "fit of dry runs", "estimate"]
"""Where a number comes from, strongest first. Numbers of different evidence are never printed alike."""

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
    images: SizeLimit | None = None
    """Those that the bound is to hold for; all where None."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        """The exact bound over all image sizes, or those within the limit, for every image of the sample."""
        bound = bounds("plan", spec, max_crops, ("sequence_tokens",), self.images)["sequence_tokens"]
        return self.use_of(bound.tokens)

    def use_of(self, tokens_per_image: int) -> Use:
        """The same of a bound that is known."""
        tokens = tokens_per_image * self.images_per_sample
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
        limit = {} if self.images is None else asdict(self.images)
        try:
            return largest_max_crops(spec, max_tokens=per_image, **limit)
        except BudgetTooSmallError:
            return None


@dataclass(frozen=True)
class _RunLimit:
    """A limit that a dry run of each value tells about."""

    runs: Mapping[int, DryRun]
    """By max_crops."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        raise NotImplementedError

    def largest(self, spec: Spec) -> int | None:
        """The last of the values, from the smallest on, before one that exceeds the limit."""
        best = None
        for value in sorted(self.runs):
            if self.use(spec, value).verdict == "over":
                break
            best = value
        return best


@dataclass(frozen=True)
class MemoryLimit(_RunLimit):
    """The GPU's memory: the least that the caching allocator survives, and the CUDA context."""

    tight_share: float = 0.05
    """Of the memory; less to spare is tight: fragmentation and other processes vary by about this much."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        """Of the worst batch."""
        run = self.runs[max_crops]
        return Use(
            limit="memory",
            used=run.needed_bytes,
            available=run.device.memory_bytes,
            unit="bytes",
            evidence=run.evidence,
            tight_margin=int(run.device.memory_bytes * self.tight_share),
        )


@dataclass(frozen=True)
class LaunchLimit(_RunLimit):
    """CUDA's limit on the grid of a launch. Nothing is used of it as long as every launch passes."""

    def use(self, spec: Spec, max_crops: int) -> Use:
        """The launch that is farthest beyond it."""
        run = self.runs[max_crops]
        worst = max(run.launches, key=lambda launch: launch.size / launch.limit, default=None)
        return Use(
            limit="launch",
            used=worst.size if worst else 0,
            available=worst.limit if worst else 65535,
            unit=f"blocks along {worst.dimension}" if worst else "blocks along a grid dimension",
            evidence=run.evidence,
            tight_margin=0,
        )


@dataclass(frozen=True)
class LatencyLimit(_RunLimit):
    """A budget of time for the run, against an estimate by roofline."""

    max_latency_ms: float = 0.0

    def use(self, spec: Spec, max_crops: int) -> Use:
        """Milliseconds."""
        latency = self.runs[max_crops].latency_ms
        assert latency is not None
        available = int(self.max_latency_ms)
        return Use("latency", math.ceil(latency), available, "ms", "estimate", available // 10)


@dataclass(frozen=True)
class ComputeLimit(_RunLimit):
    """A budget of arithmetic for the run."""

    max_flops: float = 0.0

    def use(self, spec: Spec, max_crops: int) -> Use:
        """Floating-point operations; a multiply and an add are two."""
        run = self.runs[max_crops]
        return Use("compute", run.total_flops, int(self.max_flops), "FLOPs", run.evidence, int(self.max_flops) // 10)
