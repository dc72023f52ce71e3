"""What max_crops does to given images: who keeps full resolution, what is lost, what it costs, where it stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from maxcrops._counting import count_tokens, scales
from maxcrops.specs import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Distribution:
    """Mean, percentiles and maximum over images."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Distribution:
        """Of a non-empty array."""
        import numpy as np

        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        return cls(float(np.mean(values)), float(p50), float(p90), float(p99), float(np.max(values)))

    def to_dict(self) -> dict[str, float]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ImageSummary:
    """Given images at one value of max_crops."""

    num_images: int
    num_full_resolution: int
    """Images that are not shrunk."""
    shrink: Distribution
    """By how much each image's sides are shrunk, 1 where they are not; the larger of both axes."""
    tokens: Distribution
    """Sequence tokens an image."""
    detail: float
    """Mean over the images of the linear scale, at most 1: the share of the sides' pixels that is kept."""
    num_over: int
    """Images that do not fit the sequence beside the text."""

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {**asdict(self), "shrink": self.shrink.to_dict(), "tokens": self.tokens.to_dict()}


def summarise(
    spec: Spec, sizes: npt.NDArray[np.int64], *, max_crops: int, max_tokens: int, num_threads: int = 1
) -> ImageSummary:
    """Summary of images of the given sizes at one max_crops; max_tokens is what one image may cost."""
    import numpy as np

    tokens = count_tokens(spec, sizes, max_crops=max_crops, num_threads=num_threads)
    scale = scales(spec, sizes, max_crops=max_crops, num_threads=num_threads)
    return ImageSummary(
        num_images=len(sizes),
        num_full_resolution=int((scale >= 1).sum()),
        shrink=Distribution.of(np.maximum(1.0, 1.0 / scale)),
        tokens=Distribution.of(tokens),
        detail=float(np.minimum(scale, 1.0).mean()),
        num_over=int((tokens > max_tokens).sum()),
    )


KNEE_SHARE = 0.99
"""Of the best detail: where more crops stop paying."""


def knee(max_crops: Sequence[int], summaries: Sequence[ImageSummary]) -> int | None:
    """The smallest max_crops that keeps KNEE_SHARE of the best detail among those given; None for no summaries.

    A share of what can be had, not a point of greatest curvature: that one moves with the range of values, and lies
    before the last large gain.
    """
    if not summaries:
        return None
    enough = KNEE_SHARE * max(summary.detail for summary in summaries)
    return next(value for value, summary in zip(max_crops, summaries, strict=True) if summary.detail >= enough)
