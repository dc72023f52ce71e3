"""Image sizes to count: int64 [N, 2] arrays of (height, width), always the same ones."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

import maxcrops as mc

Sizes = npt.NDArray[np.int64]

LARGEST = 8000
_PRIMES = (2, 3, 5, 7, 13, 31, 61, 97, 127, 211, 337, 499, 797, 1009, 2003, 4099, 7919)
_MULTIPLES = (1, 2, 3, 4, 5, 7, 8, 12)
_CROPS = 12  # grids whose ratios are met exactly, and half-way to the next


def _ratios() -> list[Fraction]:
    """width / height of every grid of at most 12 crops, rising."""
    grids = [(r, c) for r in range(1, _CROPS + 1) for c in range(1, _CROPS // r + 1)]
    return sorted({Fraction(c, r) for r, c in grids})


def _scaled(ratio: Fraction, factors: tuple[int, ...]) -> list[tuple[int, int]]:
    sizes = [(ratio.denominator * k, ratio.numerator * k) for k in factors]
    return [size for size in sizes if max(size) <= LARGEST]


@cache
def edge_sizes(tile: int, margin: int) -> Sizes:
    """Sizes at which an answer changes: windows of `tile` pixels, `margin` more on an axis."""
    near = (-1, 0, 1)
    sides = {1, 111, 112, 113, *_PRIMES}
    for base in {0, margin}:
        sides |= {base + k * tile + d for k in _MULTIPLES for d in near}
        sides |= {base + d for d in near}
    sides = {side for side in sides if 1 <= side <= LARGEST}
    sizes = [(h, w) for h in sides for w in sides]

    ratios = _ratios()
    half_way = [(a + b) / 2 for a, b in pairwise(ratios)]
    for ratio in ratios:
        sizes += _scaled(ratio, (1, 2, 10, 97, tile // 2, tile, 2 * tile))
        # Where multiples of one grid pass from one to the next: h * w = tile^2 * crops / 2.
        sizes += [(h, w) for k in (1, 2, 3) for h, w in _scaled(ratio, (round(tile * k / 2**0.5),))]
        sizes += [(h, w) for k in (1, 2, 3) for h, w in _scaled(ratio, (int(tile * k / 2**0.5) + 1,))]
    for ratio in half_way:
        sizes += _scaled(ratio, (1, 2, 3, 7, 10, 50, 64))
    sizes += [(60, 11), (11, 60), (4200, 650), (650, 4200)]
    sizes += [(side, side) for side in range(1, 2000, 9)]
    sizes += [size for k in range(1, 81) for size in ((k, 100 * k), (100 * k, k))]
    sizes += [size for long in (1000, 4096, LARGEST) for size in ((1, long), (long, 1))]
    return np.unique(np.array(sizes, dtype=np.int64), axis=0)


def random_sizes(count: int, seed: int) -> Sizes:
    """A mixture: uniform, log-uniform, thin, and nearly of a small grid's ratio; sides of 1 to 8000."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, LARGEST, (count, 2), endpoint=True)
    logarithmic = np.exp(rng.uniform(0, np.log(LARGEST), (count, 2))).astype(np.int64)
    kind = rng.integers(0, 10, count)
    sizes[kind >= 4] = logarithmic[kind >= 4]
    thin = kind == 8
    sizes[thin, rng.integers(0, 2, count)[thin]] = rng.integers(1, 130, count)[thin]
    ratios = np.array([float(ratio) for ratio in _ratios()])[rng.integers(0, len(_ratios()), count)]
    alike = kind == 9
    sizes[alike, 1] = np.round(sizes[alike, 0] * ratios[alike] + rng.integers(-1, 2, count)[alike]).astype(np.int64)
    return np.clip(sizes, 1, LARGEST)


def mixed_sizes(tile: int, margin: int, count: int, seed: int) -> Sizes:
    """All edge sizes, then random ones up to `count`."""
    edges = edge_sizes(tile, margin)
    return np.concatenate([edges, random_sizes(max(count - len(edges), 0), seed)])


def within(spec: mc.Spec) -> dict[str, Any]:
    """Arguments that a bound of the spec needs: a limit on sizes where it has none without."""
    return {} if spec.unbounded is None else {"max_side": 300}
