"""The same images under several models: what each makes of them, and its worst case beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from maxcrops._arguments import require_arguments
from maxcrops._bounds import Bound, bounds, is_bounded, size_limit
from maxcrops._counting import CountName, _as_sizes, count_tokens, grids
from maxcrops.planning.images import Distribution
from maxcrops.specs import Spec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STANDARD_SIZES = ((224, 224), (480, 640), (1080, 1920), (3024, 4032))
"""(height, width) in pixels: a crop, VGA, full HD, and a photograph of 12 megapixels."""


@dataclass(frozen=True, eq=False)
class ModelCosts:
    """What one model makes of the images of a comparison."""

    name: str
    spec: Spec
    max_crops: int
    """Most local crops, at which all of this holds."""
    grids: npt.NDArray[np.int64]
    """(rows, cols) of local crops, int64 [N, 2]."""
    crops: npt.NDArray[np.int64]
    """That the encoder sees, the global one included, int64 [N]."""
    sequence_tokens: npt.NDArray[np.int64]
    """int64 [N]."""
    cross_attention_keys: npt.NDArray[np.int64] | None
    """int64 [N]; None for a model without cross-attention layers."""
    worst_case: Bound | None
    """Of sequence tokens; None where there is none: ``spec.unbounded`` says why."""
    worst_case_keys: Bound | None
    """The same of cross-attention keys; None for a model without them too."""

    @property
    def counts(self) -> dict[CountName, npt.NDArray[np.int64]]:
        """Crops, sequence tokens and, where the model has them, keys: int64 [N] each."""
        counts: dict[CountName, npt.NDArray[np.int64]] = {"crops": self.crops, "sequence_tokens": self.sequence_tokens}
        if self.cross_attention_keys is not None:
            counts["cross_attention_keys"] = self.cross_attention_keys
        return counts

    @cached_property
    def distributions(self) -> dict[CountName, Distribution]:
        """Of the counts over the images; empty without images."""
        return {name: Distribution.of(count) for name, count in self.counts.items() if len(count)}

    @cached_property
    def totals(self) -> dict[CountName, int]:
        """Of the counts over the images."""
        return {name: int(count.sum()) for name, count in self.counts.items()}

    def costs(self, image: int) -> dict[str, Any]:
        """One image's numbers by name, the image by its place."""
        keys = self.cross_attention_keys
        rows, cols = self.grids[image].tolist()
        return {
            "rows": rows,
            "cols": cols,
            "num_crops": int(self.crops[image]),
            "sequence_tokens": int(self.sequence_tokens[image]),
            "cross_attention_keys": None if keys is None else int(keys[image]),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "key": self.spec.key,
            "max_crops": self.max_crops,
            "worst_case": None if self.worst_case is None else asdict(self.worst_case),
            "worst_case_keys": None if self.worst_case_keys is None else asdict(self.worst_case_keys),
            "unbounded": self.spec.unbounded if self.worst_case is None else None,
            "unverified": list(self.spec.unverified),
            **{
                name: {"total": self.totals[name], **distribution.to_dict()}
                for name, distribution in self.distributions.items()
            },
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same images under several models."""

    sizes: npt.NDArray[np.int64]
    """(height, width) of the images, int64 [N, 2]."""
    models: tuple[ModelCosts, ...]
    max_side: int | None
    """Longest side of the images that the worst cases hold for, pixels; None: of all images."""
    max_ratio: float | None
    """Largest ratio of their sides."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an image's costs are by model's name."""
        return {
            "max_side": self.max_side,
            "max_ratio": self.max_ratio,
            "models": [model.to_dict() for model in self.models],
            "images": [
                {
                    "height": height,
                    "width": width,
                    "costs": {model.name: model.costs(image) for model in self.models},
                }
                for image, (height, width) in enumerate(self.sizes.tolist())
            ],
        }


def compare(
    specs: Mapping[str, Spec] | Iterable[Spec],
    sizes: npt.ArrayLike = STANDARD_SIZES,
    *,
    max_crops: int | None = None,
    max_side: int | None = None,
    max_ratio: float | None = None,
    num_threads: int = 1,
) -> Comparison:
    """What several models make of the same images, and each one's worst case at its setting.

    Args:
        specs: from ``get_spec`` or ``load_spec``; a mapping names them, otherwise their keys do.
        sizes: integers [N, 2], (height, width) in pixels.
        max_crops: sets every model's own knob, in local crops; each one's setting where None.
        max_side: longest side of the images that worst cases are taken over, pixels; all images where None, and no
            worst case for a model whose cost grows with the image's ratio.
        max_ratio: largest ratio of the long side to the short one, with max_side.
        num_threads: threads to use.

    Returns:
        A Comparison, its models in the order given.

    Raises:
        TypeError: a spec that is none, sizes that are not integers.
        ValueError: two specs of one name, a wrong shape, a side or a knob out of range.

    >>> from maxcrops import get_spec
    >>> comparison = compare([get_spec("molmo-7b-d"), get_spec("internvl3-8b")], [(1080, 1920)])
    >>> [(model.name, model.totals["sequence_tokens"], model.worst_case.tokens) for model in comparison.models]
    [('molmo-7b-d', 1196, 1460), ('internvl3-8b', 2306, 3330)]
    """
    named = list(specs.items() if isinstance(specs, Mapping) else ((getattr(s, "key", ""), s) for s in specs))
    for _, spec in named:
        require_arguments("compare", spec, max_crops=max_crops)
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"[compare] specs must have names of their own, got {twice!r} twice; a mapping names them")
    limit = size_limit("compare", max_side, max_ratio, num_threads)
    array = _as_sizes("compare", sizes)
    models = []
    for name, spec in named:
        asked: tuple[CountName, ...] = ("sequence_tokens",)
        has_keys = bool(spec.fields().get("cross_attention_keys"))
        if has_keys:
            asked += ("cross_attention_keys",)
        bounded = tuple(count for count in asked if limit is not None or is_bounded(spec, count))
        found = bounds("compare", spec, max_crops, bounded, limit) if bounded else {}

        def counted(count: CountName, spec: Spec = spec) -> npt.NDArray[np.int64]:
            return count_tokens(spec, array, max_crops=max_crops, count=count, num_threads=num_threads)

        models.append(
            ModelCosts(
                name=name,
                spec=spec,
                max_crops=spec.max_crops if max_crops is None else min(max_crops, spec.max_crops_range[1]),
                grids=grids(spec, array, max_crops=max_crops, num_threads=num_threads),
                crops=counted("crops"),
                sequence_tokens=counted("sequence_tokens"),
                cross_attention_keys=counted("cross_attention_keys") if has_keys else None,
                worst_case=found.get("sequence_tokens"),
                worst_case_keys=found.get("cross_attention_keys"),
            )
        )
    return Comparison(sizes=array, models=tuple(models), max_side=max_side, max_ratio=max_ratio)
