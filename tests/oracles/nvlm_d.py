"""NVLM-D: InternVL's cut, each crop behind a tag in ordinary text.

The text is that of vLLM, vllm/model_executor/models/nvlm_d.py (get_image_repl). Its pieces are those into which Qwen's
vocabulary of 151,643 entries divides it; digits always stand alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oracles import Answers, answers
from oracles.internvl_chat import closest_grid

_PER_CROP = 256


def image_tokens(crops: int) -> list[str]:
    """Of all crops, the thumbnail included; an image that is one crop is its own thumbnail."""
    tokens = ["<Image"]
    for number in range(1, crops + 1):
        tokens += ["><" if number == 1 else "<", "tile"]
        tokens += ["_", *str(number)] if number < crops else ["_global", "_thumbnail"]
        tokens += [">"] + ["<|vision_pad|>"] * _PER_CROP
    return [*tokens, "</", "Image", ">"]


class Oracle:
    def __init__(self, *, min_dynamic_patch: int = 1, max_dynamic_patch: int = 6) -> None:
        self.range = (min_dynamic_patch, max_dynamic_patch)

    def __call__(self, sizes: npt.NDArray[np.int64]) -> Answers:
        counts = [0] + [len(image_tokens(crops)) for crops in range(1, self.range[1] + 2)]
        rows = []
        for height, width in sizes.tolist():
            grid = closest_grid(height, width, 448, *self.range)
            crops = grid[0] * grid[1]
            crops += crops != 1
            rows.append((*grid, crops, counts[crops]))
        return answers(rows)
