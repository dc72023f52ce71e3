"""The real transformers processors, asked for the grid, the crops and the tokens of image sizes.

Only pixels are left out: resizing gives an empty tensor of the right size. Importing a module of this package
imports torch and transformers; the fixture `oracle` does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Answers:
    """One row an image, int64."""

    grids: npt.NDArray[np.int64]
    """[N, 2]"""
    crops: npt.NDArray[np.int64]
    """[N], all that the encoder sees"""
    tokens: npt.NDArray[np.int64]
    """[N], of the sequence"""


def answers(rows: list[tuple[int, int, int, int]]) -> Answers:
    """From (rows, cols, crops, tokens) of each image."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Answers(table[:, :2], table[:, 2], table[:, 3])
