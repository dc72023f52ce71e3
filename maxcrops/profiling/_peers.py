"""What maxcrops' preprocessing is measured against: each model's own way from an image to patches.

A peer is called with an image, uint8 [height, width, 3] (array or tensor) or a PIL image, and returns tensors by the
model's own keys. It takes as many threads as ``torch.set_num_threads`` says.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, TypeAlias

import numpy as np

from maxcrops._layout import layout
from maxcrops.profiling._torchvision import declare_missing
from maxcrops.specs import Spec


def require(*modules: str) -> tuple[Any, ...]:
    """The modules, imported, with the operators that torchvision may miss declared first.

    Raises:
        ImportError: a package is missing; the message names the extra to install.
    """
    try:
        declare_missing()
        return tuple(importlib.import_module(module) for module in modules)
    except ImportError as error:
        raise ImportError(
            f"[bench] measures against torch, torchvision and transformers ({error}): pip install 'maxcrops[bench]'"
        ) from error


class Molmo2Peer:
    """transformers' Molmo2ImageProcessor with a spec's settings."""

    family: ClassVar[str] = "molmo2"
    name: ClassVar[str] = "transformers"
    pixels: ClassVar[str] = "pixel_values"
    tolerance: ClassVar[float] = 0.0

    def __init__(self, spec: Spec, max_crops: int) -> None:
        (module,) = require("transformers.models.molmo2.image_processing_molmo2")
        crop, pixels = spec.crop, spec.pixels
        assert pixels is not None
        self._processor = module.Molmo2ImageProcessor(
            max_crops=max_crops,
            overlap_margins=list(crop.overlap_margins),
            patch_size=crop.patch_size,
            pooling_size=list(crop.pooling),
            size={"height": crop.crop_size, "width": crop.crop_size},
            image_mean=list(pixels.image_mean),
            image_std=list(pixels.image_std),
        )

    def __call__(self, image: Any) -> dict[str, Any]:
        # Without the format, an array that is 1, 3 or 4 px high would be taken for channels-first.
        known = {"input_data_format": "channels_last"} if hasattr(image, "ndim") else {}
        return dict(self._processor(image, return_tensors="pt", **known))


class MolmoPeer:
    """The pixels of Molmo's own preprocessor, as it makes them: torch and torchvision for the resize, NumPy behind it.

    Each view is x / 255 in float32, resized with antialias, clipped to [0, 1], letterboxed on zeros, normalised, cut
    into overlapping crops and these into patches. The mask of real pixels goes the same way and is averaged over each
    patch. The original appends the global crop's mask, -1, last, though that crop is first. Token ids and indices,
    which the original makes too, are left out.
    """

    family: ClassVar[str] = "molmo"
    name: ClassVar[str] = "Molmo's own pipeline"
    pixels: ClassVar[str] = "images"
    # The order in which torch sums the taps of a float resize depends on the compiler that built it.
    tolerance: ClassVar[float] = 2e-6

    def __init__(self, spec: Spec, max_crops: int) -> None:
        self._torch, self._transforms, self._functional = require(
            "torch", "torchvision.transforms", "torchvision.transforms.functional"
        )
        assert spec.pixels is not None
        self._spec = spec
        self._max_crops = max_crops
        self._mean = np.array(spec.pixels.image_mean, np.float32)
        self._std = np.array(spec.pixels.image_std, np.float32)

    def __call__(self, image: Any) -> dict[str, Any]:
        torch, spec = self._torch, self._spec
        source = np.asarray(image) if hasattr(image, "ndim") else np.array(image)  # writable, which torch wants
        side, window = spec.crop.crop_size, spec.crop.crop_size - sum(spec.crop.overlap_margins) * spec.crop.patch_size
        rows, cols = layout(spec, height=source.shape[0], width=source.shape[1], max_crops=self._max_crops).grid
        low_res, _ = self._letterbox(source, (side, side))
        crops, masks = [low_res], []
        if rows:
            overlap = side - window
            canvas, mask = self._letterbox(source, (rows * window + overlap, cols * window + overlap))
            for top in range(0, rows * window, window):
                for left in range(0, cols * window, window):
                    crops.append(canvas[top : top + side, left : left + side])
                    masks.append(mask[top : top + side, left : left + side, None])
        patches = self._patches(np.stack(crops))
        real = np.full(patches.shape[:2], -1, np.float32)
        if masks:
            real[:-1] = self._patches(np.stack(masks)).astype(np.float32).mean(axis=-1)
        return {"images": torch.from_numpy(patches), "image_masks": torch.from_numpy(real)}

    def _letterbox(self, source: Any, canvas: tuple[int, int]) -> tuple[Any, Any]:
        """The view, float32 [height, width, 3] and normalised, and whether each pixel is one of the image's."""
        height, width = (np.float32(side) for side in source.shape[:2])
        scale = min(np.float32(canvas[0]) / height, np.float32(canvas[1]) / width)
        scaled = int(height * scale), int(width * scale)
        pixels = self._functional.convert_image_dtype(self._torch.from_numpy(source).permute(2, 0, 1))
        bilinear = self._transforms.InterpolationMode.BILINEAR
        pixels = self._transforms.Resize(list(scaled), bilinear, antialias=True)(pixels).clip(0.0, 1.0)
        before = [(whole - part) // 2 for whole, part in zip(canvas, scaled, strict=True)]
        padding = [(start, whole - part - start) for start, whole, part in zip(before, canvas, scaled, strict=True)]
        view = np.pad(pixels.permute(1, 2, 0).numpy(), [*padding, (0, 0)])
        view -= self._mean
        view /= self._std
        return view, np.pad(np.ones(scaled, dtype=bool), padding)

    def _patches(self, crops: Any) -> Any:
        """[crops, side, side, channels] -> [crops, patches, patch * patch * channels], row by row."""
        count, side, _, channels = crops.shape
        size = self._spec.crop.patch_size
        grid = crops.reshape(count, side // size, size, side // size, size, channels)
        return grid.transpose(0, 1, 3, 2, 4, 5).reshape(count, (side // size) ** 2, size * size * channels)


Peer: TypeAlias = Molmo2Peer | MolmoPeer
PEERS: dict[str, type[Molmo2Peer] | type[MolmoPeer]] = {peer.family: peer for peer in (Molmo2Peer, MolmoPeer)}
"""By family."""
