"""Molmo's arrays by a naive reading of its repository's preprocessor, in torch, torchvision and NumPy.

Grid, letterbox and tokens are those of molmo_reference; nothing of it comes from maxcrops. A token is written down, a
pixel mask is averaged, a pooled cell is looked up: no closed form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from molmo_reference import MARGIN, PATCH, POOL, grid, letterbox, tokens
from torchvision.transforms import InterpolationMode, Resize

CROP = 336
SIDE = CROP // PATCH  # patches
CELLS = SIDE // POOL  # pooled features
WINDOW = SIDE - 2 * MARGIN  # patches
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
KINDS = {"patch": 0, "col": 1, "start": 2, "low_start": 2, "end": 3}

Arrays = dict[str, npt.NDArray[Any]]


def _resize_and_pad(
    image: npt.NDArray[np.uint8], canvas: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Normalized [height, width, 3] and whether a pixel is the image's."""
    top, left, height, width = letterbox(*image.shape[:2], canvas)
    resize = Resize([height, width], InterpolationMode.BILINEAR, antialias=True)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(torch.float32) / 255
    resized = torch.clip(resize(pixels), 0.0, 1.0).permute(1, 2, 0).numpy()
    padding = ((top, canvas[0] - height - top), (left, canvas[1] - width - left))
    padded = np.pad(resized, (*padding, (0, 0)))
    padded -= MEAN
    padded /= STD
    return padded, np.pad(np.ones((height, width), bool), padding)


def _patches(crop: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[crop, crop, ...] -> [patches, values of a patch]"""
    starts = range(0, CROP, PATCH)
    return np.stack([crop[y : y + PATCH, x : x + PATCH].reshape(-1) for y in starts for x in starts])


def _own(at: int, count: int) -> range:
    """Cells along one axis that a crop does not leave to a neighbour."""
    margin = MARGIN // POOL
    return range(margin if at > 0 else 0, CELLS - (margin if at < count - 1 else 0))


def _positions(rows: int, cols: int) -> npt.NDArray[np.int32]:
    """[1 + rows * cols, cells of a crop]: where each stands among the tokens."""
    places = [at for at, token in enumerate(tokens(rows, cols)) if token == "patch"]
    low_res, local = places[: CELLS**2], iter(places[CELLS**2 :])
    step = WINDOW // POOL  # cells from one crop to the next
    token_of = {}
    for y in range((rows - 1) * step + CELLS):
        for x in range((cols - 1) * step + CELLS):
            token_of[y, x] = next(local)
    assert next(local, None) is None
    result = [low_res]
    for r in range(rows):
        for c in range(cols):
            result.append(
                [
                    token_of[r * step + i, c * step + j] if i in _own(r, rows) and j in _own(c, cols) else -100
                    for i in range(CELLS)
                    for j in range(CELLS)
                ]
            )
    return np.array(result, np.int32)


def preprocess(image: npt.NDArray[np.uint8], max_crops: int, *, one_crop: bool = False) -> Arrays:
    """uint8 [height, width, 3] to the arrays of one image; `one_crop` is crop_mode="resize"."""
    whole, whole_is_image = _resize_and_pad(image, (CROP, CROP))
    global_crop = _patches(whole)
    if one_crop:
        positions = _positions(1, 1)[:1]
        kinds = tokens(1, 1)[: CELLS * (CELLS + 1) + 2]
        masks = [_patches(whole_is_image).mean(axis=-1)]
        crops = [global_crop]
    else:
        rows, cols = grid(*image.shape[:2], CROP, max_crops)
        canvas, is_image = _resize_and_pad(
            image, ((rows * WINDOW + 2 * MARGIN) * PATCH, (cols * WINDOW + 2 * MARGIN) * PATCH)
        )
        crops, masks = [global_crop], []
        for top in range(0, rows * WINDOW * PATCH, WINDOW * PATCH):
            for left in range(0, cols * WINDOW * PATCH, WINDOW * PATCH):
                window = np.s_[top : top + CROP, left : left + CROP]
                crops.append(_patches(canvas[window]))
                masks.append(_patches(is_image[window]).mean(axis=-1))
        masks.append(np.full(SIDE**2, -1.0))
        positions = _positions(rows, cols)
        kinds = tokens(rows, cols)
    return {
        "images": np.stack(crops),
        "image_input_idx": positions,
        "image_masks": np.stack(masks).astype(np.float32),
        "image_tokens": np.array([KINDS[kind] for kind in kinds], np.int32),
    }


def preprocess_all(images: list[npt.NDArray[np.uint8]], max_crops: int) -> Arrays:
    """Of several images, as if their tokens followed each other."""
    parts = [preprocess(image, max_crops) for image in images]
    first = 0
    for part in parts:
        part["image_input_idx"][part["image_input_idx"] != -100] += first
        first += len(part["image_tokens"])
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
