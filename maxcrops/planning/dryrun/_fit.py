"""Logs of whole tables of dry runs from a few direct runs, event by event.

Runs of one model that differ in batch size and images alone make the same events in the same order, and what an event
asks for is nearly always one product of sizes: 2304 bytes a crop, 8192 a token, 2 a pair of tokens. So each
allocation's bytes are explained by the fewest terms that reproduce all runs exactly, and a log at another point is the
order of events of a run that is alike, with the bytes that the terms give there.

Where the order changes is known: at a batch size of 1 (training), where an attention call gets too many batch entries
for a kernel, where the gradient of an embedding has to sort, and where the rows of a mask need padding. Runs on the
same side of all of these share their order; runs on different sides still share the allocations that have the same
operator, module and phase, so that few runs are needed for each order.

A point is determined only if
- some run is on its side of all that matters, and no two runs on the same sides have different orders; where they do,
  something else changes the order, and only points between runs of one order are determined;
- every allocation is explained, by at least one independent run more than there are terms, so that a run is reproduced
  that was not needed to solve for them, and if there are several explanations, they agree at the point;
- it lies within the sizes of the runs that the allocation was seen in. Nothing is extrapolated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from maxcrops._layout import layout
from maxcrops.planning.dryrun._attention import (
    GRID_LIMIT,
    AttentionCall,
    AttentionPlatform,
    Kernel,
    choose_kernel,
    round_up,
)
from maxcrops.planning.dryrun._events import AttentionUse, EventLog
from maxcrops.planning.dryrun._launch import PHASES
from maxcrops.planning.dryrun._parts import part_of
from maxcrops.planning.dryrun._request import Point
from maxcrops.specs import Spec

_Floats: TypeAlias = npt.NDArray[np.float64]
_Bools: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]
_Identity: TypeAlias = tuple[str | int, ...]

TOLERANCE = 0.02
"""Error of a part's traffic, of all traffic, and of the number of operators: sums of too many terms to be exact."""

_SORTED_INDICES = 3072
"""Most indices for which the gradient of an embedding is added up in place (_temporaries.py, _embedding_backward)."""
_ROTARY_LENGTH = 4096
"""Positions that Molmo's rotary tables have at least."""
_MOST_TERMS = 3
_EXACT, _TRAFFIC, _OPERATORS = range(3)
_KINDS = {"attention": _EXACT, "flops": _EXACT, "traffic_bytes": _TRAFFIC, "num_operators": _OPERATORS}
"""How values are explained."""
_ABSENT = -1
_PRECISION = 1e-11  # of a solution in float64, relative


@dataclass(frozen=True)
class Features:
    """The sizes that a log's bytes follow from. All but batch_size are of one sample."""

    batch_size: int
    crops: int
    """Encoder inputs, global ones included."""
    outputs: int
    """Features that leave the connector."""
    tokens: int
    """Text included."""
    patches: int
    """That the encoder sees."""

    def terms(self) -> _Floats:
        """[terms]: what the bytes of an allocation may be proportional to."""
        batch, tokens = self.batch_size, self.tokens
        in_eights = round_up(tokens, 8)
        each = (1, self.crops, self.outputs, tokens, tokens * tokens, tokens * in_eights)
        batched = (batch * size for size in each)
        # A tenth of the indices is what _embedding_backward counts as repeated; flash's buffers have queries in 128s.
        tenths = batch * tokens // 10, batch * self.patches // 10
        rest = *tenths, batch * round_up(tokens, 128), max(tokens, _ROTARY_LENGTH)
        return np.array([*each, *batched, *rest], np.float64)

    def sides(self) -> npt.NDArray[np.bool_]:
        """[sides]: on which side of each condition it is that may change the order of events."""
        batch = self.batch_size
        too_many = batch * self.outputs > GRID_LIMIT, batch * self.crops > GRID_LIMIT
        sorts = batch * self.tokens > _SORTED_INDICES, batch * self.patches > _SORTED_INDICES
        return np.array([self.tokens % 8 == 0, *sorts, batch == 1, *too_many])


# Places in Features.terms.
_OF_IMAGES = [1, 2, 3]  # crops, outputs, tokens
_SIZES = [*_OF_IMAGES, 6]  # and batch_size
_BATCHED = range(6, 15)
_PADDED = [5, 11]  # tokens times tokens in eights, of one sample and of all
_PLAIN = [0, 6, 7, 8, 9, 10]  # 1, and of all samples: 1, crops, outputs, tokens, pairs of tokens


def features_of(spec: Spec, point: Point) -> Features:
    """The sizes at a point, from layouts alone."""
    images = [layout(spec, height=height, width=width, max_crops=point.max_crops) for height, width in point.sizes]
    return Features(
        batch_size=point.batch_size,
        crops=sum(image.num_crops for image in images),
        outputs=sum(image.connector_outputs for image in images),
        tokens=sum(image.sequence_tokens for image in images) + point.text_tokens,
        patches=sum(image.vit_patches for image in images),
    )


class FittedLogs:
    """Logs of one model under one way of running it, at any point that its direct runs determine.

    All points have the same number of images a sample.

    Args:
        runs: direct runs by their points.
    """

    def __init__(self, runs: Mapping[Features, EventLog] | None = None) -> None:
        self.runs: dict[Features, EventLog] = {}
        self._signatures: dict[Features, str] = {}
        self._identities: dict[str, list[_Identity]] = {}
        self._orders: list[_Order] | None = None
        for features, log in (runs or {}).items():
            self.update(features, log)

    def update(self, features: Features, log: EventLog) -> None:
        """Add a direct run."""
        signature = log.signature()
        self.runs[features], self._signatures[features] = log, signature
        if signature not in self._identities:
            self._identities[signature] = _identities(log)
        self._orders = None

    def at(self, features: Features) -> EventLog | None:
        """The log at a point: of its direct run if there was one, else rebuilt; None where the runs do not tell.

        None also where an attention call would get another kernel than in the runs with the same order of events.
        """
        if features in self.runs:
            return self.runs[features]
        order = self.order_at(features)
        return None if order is None else order.at(features)

    def order_at(self, features: Features) -> _Order | None:
        """The one order of events that a point can have; None where there is none or more than one."""
        if self._orders is None:
            self._orders = self._fit()
        orders = [order for order in self._orders if order.has_sides(features)]
        if len(orders) > 1 or not self._sides_tell:
            orders = [order for order in orders if order.encloses(features)]
        return orders[0] if len(orders) == 1 else None

    @property
    def _sides_tell(self) -> bool:
        """Whether the order of every run is that of all runs on the same sides: nothing else changes it."""
        return len({features.sides().tobytes() for features in self.runs}) == len(
            {(features.sides().tobytes(), signature) for features, signature in self._signatures.items()}
        )

    def _fit(self) -> list[_Order]:
        solver = _Solver(self.runs)
        places = defaultdict(list)
        for place, signature in enumerate(self._signatures.values()):
            places[signature].append(place)
        row_of: dict[_Identity, int] = {}
        rows = {
            signature: np.array([row_of.setdefault(identity, len(row_of)) for identity in self._identities[signature]])
            for signature in places
        }
        values = np.full((len(row_of), len(self.runs)), _ABSENT, np.int64)
        for place, (features, log) in enumerate(self.runs.items()):
            values[rows[self._signatures[features]], place] = [*log.num_bytes.tolist(), *_totals(log).values()]
        return [_Order(solver, own, values[rows[signature]]) for signature, own in places.items()]


class _Order:
    """The runs with one order of events, and what explains their allocations.

    Args:
        solver: of all runs.
        own: the places of those with this order.
        values: [N + totals, runs]: bytes of each allocation, and the totals, in all runs that have them; -1 in others.
    """

    def __init__(self, solver: _Solver, own: Sequence[int], values: _Ints) -> None:
        self._log = solver.logs[own[0]]
        self._num_allocations = len(self._log.num_bytes)
        totals = [kind for kind, _ in _totals(self._log)]
        kinds = [_EXACT] * self._num_allocations + [_KINDS[kind] for kind in totals]
        distinct, inverse = np.unique(np.column_stack([kinds, values]), axis=0, return_inverse=True)
        self._kinds = distinct[:, 0]
        self._row: npt.NDArray[np.intp] = inverse.reshape(-1)  # [N + totals]
        elsewhere = ~np.isin(np.arange(len(solver.logs)), own)
        rows = []
        for kind, *seen in distinct.tolist():
            row = solver.explain(tuple(seen), kind)
            if not len(row.explanations):  # Allocations that seemed to correspond and do not: these runs alone.
                own_row = solver.explain(tuple(np.where(elsewhere, _ABSENT, seen).tolist()), kind)
                row = own_row if len(own_row.explanations) else row
            rows.append(row)
        self._is_explained = all(len(row.explanations) for row in rows)
        self._explanations = np.concatenate([row.explanations for row in rows])
        self._first = np.cumsum([0, *(len(row.explanations) for row in rows[:-1])])
        self._low = np.array([row.low for row in rows]).max(0)
        self._high = np.array([row.high for row in rows]).min(0)

        self._enclosed = solver.terms[own].min(0), solver.terms[own].max(0)
        sides = solver.sides[own]
        matters = np.ones(sides.shape[1], np.bool_)
        # Padding shows in the rows of masks, and happens nowhere if a run that could show it does not.
        matters[0] = sides[:, 0].all() or any(row.is_padded for row in rows)
        lookup = np.array(self._log.operators)[self._log.operator] == "embedding_dense_backward"
        lookups = {part_of(self._log.modules[place]) for place in self._log.module[lookup]}
        matters[1:3] = bool(lookups), "vision" in lookups
        matters[3] = (self._log.phase == PHASES.index("backward")).any()
        self._sides = sides.min(0) & matters, sides.max(0) | ~matters

    def has_sides(self, features: Features) -> bool:
        """Whether some run is on the same side as the point, of each condition."""
        sides, (low, high) = features.sides(), self._sides
        return bool(((low <= sides) & (sides <= high)).all())

    def encloses(self, features: Features) -> bool:
        """Whether every term is between those of the runs, and so on their side of any threshold of one term."""
        terms, (low, high) = features.terms(), self._enclosed
        return bool(((low <= terms) & (terms <= high)).all())

    def excess(self, features: Features) -> float:
        """How far the point is outside of what the explanations hold for: the logarithm of a ratio; 0 inside."""
        terms = features.terms()
        return float(np.log(np.maximum(terms / self._high, self._low / terms).clip(1)).max())

    def at(self, features: Features) -> EventLog | None:
        """The log at a point on the sides of these runs; None where it is not determined."""
        if not self._is_explained or self.excess(features) > 0:
            return None
        terms = features.terms()
        found = self._explanations @ terms
        spread = np.maximum.reduceat(found, self._first) - np.minimum.reduceat(found, self._first)
        found = found[self._first]
        whole = np.rint(found)
        exact, traffic = self._kinds == _EXACT, self._kinds == _TRAFFIC
        allowed = np.where(exact, 0.1 + _PRECISION * found, TOLERANCE * found)
        allowed[traffic] = TOLERANCE * found[self._row][self._kinds[self._row] == _TRAFFIC].sum()
        is_whole = ~exact | (np.abs(found - whole) <= 0.1 + _PRECISION * found)
        if not ((spread <= allowed) & is_whole & (whole >= 0)).all():
            return None
        values = whole.astype(np.int64)[self._row]
        totals = dict(zip(_totals(self._log), values[self._num_allocations :].tolist(), strict=True))
        attention = _attention_of(self._log, totals)
        if _chosen(attention, self._log.platform) != _chosen(self._log.attention, self._log.platform):
            return None
        return replace(
            self._log,
            num_bytes=values[: self._num_allocations],
            attention=attention,
            batch_size=features.batch_size,
            flops={part: totals["flops", part] for part in self._log.flops},
            traffic_bytes={part: totals["traffic_bytes", part] for part in self._log.traffic_bytes},
            num_operators=totals["num_operators", ""],
        )


@dataclass(frozen=True)
class _Row:
    """What explains equal values, and where that holds."""

    explanations: _Floats
    """[explanations, terms]: coefficients. Without any: too few runs, or no few terms reproduce them."""
    low: _Floats
    """[terms]"""
    high: _Floats
    """[terms]"""

    @property
    def is_padded(self) -> bool:
        """Whether nothing explains it but rows in eights."""
        return bool(len(self.explanations) and self.explanations[:, _PADDED].any(1).all())


class _Solver:
    """Finds the terms that reproduce values at the points of runs."""

    def __init__(self, runs: Mapping[Features, EventLog]) -> None:
        self.logs = list(runs.values())
        self.terms = np.array([features.terms() for features in runs])
        """[runs, terms]"""
        self.sides = np.array([features.sides() for features in runs])
        """[runs, conditions]"""
        traffic = [sum(log.traffic_bytes.values()) for log in self.logs]
        self._weights = np.ones((3, len(traffic)))
        self._weights[_TRAFFIC] = 1 / np.maximum(traffic, 1)
        self._rows: dict[tuple[tuple[int, ...], int], _Row] = {}
        self._systems: dict[tuple[bytes, int, int], tuple[npt.NDArray[np.intp], _Floats, _Floats]] = {}

    def explain(self, values: tuple[int, ...], kind: int) -> _Row:
        """All explanations with the fewest terms, up to three and up to one less than there are values.

        Args:
            values: of the runs, -1 where there is none.
            kind: exactly, or within TOLERANCE (of all traffic; of the value) by plain terms with positive coefficients.
        """
        key = values, kind
        if key not in self._rows:
            self._rows[key] = self._explain(values, kind)
        return self._rows[key]

    def _explain(self, values: tuple[int, ...], kind: int) -> _Row:
        wanted = np.array(values, np.float64)
        seen = wanted != _ABSENT
        wanted, terms = (wanted * self._weights[kind])[seen], self.terms[seen]
        explanations = self._exact(seen, wanted) if kind == _EXACT else self._closest(seen, wanted, kind)
        # Within the sizes that were seen, and no term that counts above what was seen.
        low, high = np.zeros(terms.shape[1]), np.full(terms.shape[1], np.inf)
        low[_SIZES] = terms[:, _SIZES].min(0)
        counts = np.asarray(explanations.any(0))
        counts[_SIZES] = True
        high[counts] = terms[:, counts].max(0)
        return _Row(explanations, low, high)

    def _exact(self, seen: _Bools, wanted: _Floats) -> _Floats:
        """All explanations with the fewest terms for which one has integers: bytes of an element times elements.

        Others may be coincidences: they count only if no number of terms gives integers, with images enough to try.
        """
        others = np.empty((0, self.terms.shape[1]))
        for size in range(1, _MOST_TERMS + 1):
            coefficients, errors = self._solve(seen, wanted, size, _EXACT)
            fitting = coefficients[(errors <= 0.01 + _PRECISION * wanted).all(1)]
            if (np.abs(fitting - np.rint(fitting)) < 1e-3).all(1).any():
                return fitting
            others = others if len(others) else fitting
        return others if self._num_images(seen) > _MOST_TERMS else others[:0]

    def _num_images(self, seen: _Bools) -> int:
        return len(np.unique(self.terms[seen][:, _OF_IMAGES], axis=0))

    def _closest(self, seen: _Bools, wanted: _Floats, kind: int) -> _Floats:
        """The closest explanation by plain terms and positive coefficients: a term more must halve the error."""
        closest, least = np.empty((0, self.terms.shape[1])), 2.0
        for size in range(1, _MOST_TERMS + 1):
            coefficients, errors = self._solve(seen, wanted, size, kind)
            relative = errors.max(1) if kind == _TRAFFIC else (errors / np.maximum(wanted, 1)).max(1)
            relative[(coefficients < 0).any(1)] = np.inf
            best = int(relative.argmin()) if len(relative) else 0
            if len(relative) and relative[best] / TOLERANCE < least / 2:
                closest, least = coefficients[best : best + 1], float(relative[best]) / TOLERANCE
        return closest

    def _solve(self, seen: _Bools, wanted: _Floats, size: int, kind: int) -> tuple[_Floats, _Floats]:
        """Least squares by every set of so many terms that leaves a run to verify them.

        Returns:
            Coefficients [sets, terms] and absolute errors [sets, runs].
        """
        key = seen.tobytes(), size, kind
        if key not in self._systems:
            chosen = np.array(list(combinations(range(self.terms.shape[1]) if kind == _EXACT else _PLAIN, size)))
            weighted = self.terms[seen] * self._weights[kind, seen, None]
            columns = np.moveaxis(weighted[:, chosen], 1, 0)  # [sets, runs, size]
            largest = columns.max(1, keepdims=True)
            verified = np.full(len(chosen), len(wanted) > size)
            if size > 1 and kind == _EXACT:
                # Of terms that grow with the batch alike, as of those that do not, only other images tell.
                num_batched = np.isin(chosen, _BATCHED).sum(1)
                verified &= self._num_images(seen) > np.maximum(num_batched, size - num_batched)
            kept = np.flatnonzero(verified)
            inverses = np.linalg.pinv((columns / largest)[kept], 1e-9) / np.moveaxis(largest[kept], 1, 2)
            self._systems[key] = chosen[kept], columns[kept], inverses
        chosen, columns, inverses = self._systems[key]
        solved = inverses @ wanted  # [sets, size]
        coefficients = np.zeros((len(chosen), self.terms.shape[1]))
        np.put_along_axis(coefficients, chosen, solved, 1)
        return coefficients, np.abs((columns @ solved[..., None])[..., 0] - wanted)


def design_points(points: Sequence[Features], logs: FittedLogs) -> list[Features]:
    """Which of the wanted points to run next, so that all become determined; none when they are.

    First those of least and most tokens at the smallest and the largest batch size; then one whose order is not known;
    then the one that is farthest outside of what holds; of several, the one farthest from all runs. To be called again
    with the new runs:

        while batch := design_points(points, logs):
            for features in batch:
                logs.update(features, run(features))
    """
    if not logs.runs:
        batches = [features.batch_size for features in points]
        corners = []
        for batch in sorted({min(batches, default=0), max(batches, default=0)}):
            row = sorted((f for f in points if f.batch_size == batch), key=lambda f: (f.tokens, f.crops))
            corners += row[:1] + row[-1:]
        return list(dict.fromkeys(corners))
    lacking = [features for features in dict.fromkeys(points) if logs.at(features) is None]
    if not lacking:
        return []
    orders = [logs.order_at(features) for features in lacking]
    # One without an order is worth more than any with one.
    worth = np.array([order.excess(f) if order else np.inf for f, order in zip(lacking, orders, strict=True)])
    candidates = [lacking[place] for place in np.flatnonzero(worth == worth.max())]
    runs, sizes = (np.log([f.terms()[_SIZES] for f in fs]) for fs in (logs.runs, candidates))
    return [candidates[int(np.linalg.norm(sizes[:, None] - runs, axis=2).min(1).argmax())]]


def _identities(log: EventLog) -> list[_Identity]:
    """[N + totals]: of an allocation, its operator, module and phase, and which it is of those with the same three."""
    seen: Counter[_Identity] = Counter()
    identities: list[_Identity] = []
    for operator, module, phase in zip(log.operator.tolist(), log.module.tolist(), log.phase.tolist(), strict=True):
        key = log.operators[operator], log.modules[module], phase
        identities.append((*key, seen[key]))
        seen[key] += 1
    return [*identities, *_totals(log)]


def _totals(log: EventLog) -> dict[tuple[str, str], int]:
    """(what, part of the model) -> its value."""
    return {
        **{
            ("attention", f"{place}.{name}"): size
            for place, use in enumerate(log.attention)
            for name, size in _sizes(use.call).items()
        },
        **{("flops", part): value for part, value in log.flops.items()},
        **{("traffic_bytes", part): value for part, value in log.traffic_bytes.items()},
        ("num_operators", ""): log.num_operators,
    }


def _sizes(call: AttentionCall) -> dict[str, int]:
    """The sizes of a call, by name."""
    mask = {f"mask_shape.{place}": size for place, size in enumerate(call.mask_shape)}
    return {"batch": call.batch, "queries": call.queries, "keys": call.keys, **mask}


def _attention_of(log: EventLog, totals: Mapping[tuple[str, str], int]) -> tuple[AttentionUse, ...]:
    """The calls of a log with other sizes."""
    uses = []
    for place, use in enumerate(log.attention):
        sizes = {name: totals["attention", f"{place}.{name}"] for name in _sizes(use.call)}
        mask_shape = tuple(sizes.pop(f"mask_shape.{axis}") for axis in range(len(use.call.mask_shape)))
        changes: dict[str, Any] = {**sizes, "mask_shape": mask_shape}
        uses.append(replace(use, call=replace(use.call, **changes)))
    return tuple(uses)


def _chosen(uses: Sequence[AttentionUse], platform: AttentionPlatform | None) -> list[Kernel]:
    """The kernels that the platform would choose."""
    return [] if platform is None else [choose_kernel(platform, use.call) for use in uses]
