"""What a model's processor would hand it at a point, made from layouts and counts alone: no image is read.

Ids, masks, grids and indices are real and right; pixels are ones, in float32 as processors give them. Only whether all
of a crop's are zeros, as padding is, changes a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from maxcrops import _core
from maxcrops._layout import layout
from maxcrops.exceptions import ConfigError, UnsupportedError
from maxcrops.planning.dryrun._request import Point
from maxcrops.specs import Spec

MOST_REAL_VALUES = 64 << 20
"""Of ones in an array, beyond which it is fake (256 MiB in float32)."""


class MakesTensors(Protocol):
    """A Hybrid, or whoever makes real tensors instead."""

    def fake(self, tensor: Any, /) -> Any:
        """A tensor like one on "meta"."""


@dataclass(frozen=True)
class Family:
    """How one family's processor packs images."""

    arrays: Callable[[Spec, Point, Sequence[_core.Layout]], Mapping[str, Any]]
    """(spec, point, layouts of a sample's images) -> NumPy arrays by the model's names; see ``_ones``."""
    placeholders: Callable[[Spec, _core.Layout], int] | None
    """How many of an image's tokens have the image token's id; None where the model goes by indices instead."""
    token_types: bool = False
    """Whether the processor marks image tokens in mm_token_type_ids."""
    configure: Callable[[Spec, Point], Mapping[str, Any]] = lambda spec, point: {}
    """What of the model's configuration follows from the spec and the point."""


def family_of(model_type: object) -> Family:
    """How a model_type's images are packed.

    Raises:
        UnsupportedError: it is not known.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedError(
            f"[dry_run] model_type must be one of {', '.join(FAMILIES)}, whose inputs are known, got {model_type!r}"
        )
    return FAMILIES[model_type]


def configured(config: Mapping[str, Any], spec: Spec, point: Point) -> dict[str, Any]:
    """The model's configuration with what follows from the spec and the point."""
    return {**config, **family_of(config.get("model_type")).configure(spec, point)}


def make_inputs(
    model_type: str, image_token_id: int | None, spec: Spec, point: Point, hybrid: MakesTensors, *, labels: bool = False
) -> dict[str, Any]:
    """The model's inputs at a point: tensors by the names of its forward method.

    Every sample is its images' tokens and ``text_tokens`` more, without padding: input_ids are int64
    [batch_size, tokens], placeholders first.

    Args:
        model_type: of the model's configuration.
        image_token_id: the id that is replaced by features.
        spec: how images are cut.
        point: batch, sizes and text.
        hybrid: makes pixels that are too many to be real.
        labels: whether to add what a collator gives for training: the text's ids, and -100 for image tokens.

    Raises:
        UnsupportedError: a family whose inputs are not known.
        ConfigError: a spec of another family than the model, or no image_token_id where one is needed.
        ValueError: no image, or a count that is not positive.
    """
    import torch

    family = family_of(model_type)
    _check(model_type, spec, point)
    images = [layout(spec, height=height, width=width, max_crops=point.max_crops) for height, width in point.sizes]
    of_images = sum(image.sequence_tokens for image in images)
    ids = torch.full((point.batch_size, of_images + point.text_tokens), 1 if image_token_id != 1 else 2)
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if labels:
        tensors["labels"] = ids.clone()
        tensors["labels"][:, :of_images] = -100
    if family.placeholders is not None:
        if image_token_id is None:
            raise ConfigError(
                "[dry_run] image_token_id must be in the model's configuration, got none; give the whole config.json"
            )
        ids[:, : sum(family.placeholders(spec, image) for image in images)] = image_token_id
    if family.token_types:
        tensors["mm_token_type_ids"] = torch.zeros_like(ids)
        tensors["mm_token_type_ids"][:, :of_images] = 1
    for name, array in family.arrays(spec, point, images).items():
        if array.strides[-1] or array.size <= MOST_REAL_VALUES:
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
        else:
            dtype = torch.from_numpy(array[..., :0].copy()).dtype
            tensors[name] = hybrid.fake(torch.empty(array.shape, dtype=dtype, device="meta"))
    return tensors


def _check(model_type: str, spec: Spec, point: Point) -> None:
    if spec.family != model_type:
        raise ConfigError(
            f"[dry_run] spec must be of the model's family, {model_type}, got {spec.key!r} of family {spec.family};"
            " load it from the model's folder with load_spec"
        )
    for name, value, least in (
        ("batch_size", point.batch_size, 1),
        ("the number of images in a sample", len(point.sizes), 1),
        ("text_tokens", point.text_tokens, 1),
        ("new_tokens", point.new_tokens, 1),
    ):
        if value < least:
            raise ValueError(f"[dry_run] {name} must be at least {least}, got {value}")


# -- families ------------------------------------------------------------------------------------------------------


def _num_crops(images: Sequence[_core.Layout]) -> int:
    return sum(image.num_crops for image in images)


def _molmo(spec: Spec, point: Point, images: Sequence[_core.Layout]) -> dict[str, Any]:
    """Patches [samples, crops, patches, values], how much of each is image, and where each feature goes."""
    arrays, samples = _preprocessed(spec, point), point.batch_size
    return {
        "images": _ones(samples, *arrays["images"].shape),
        **{name: _repeated(arrays[name][None], samples) for name in ("image_masks", "image_input_idx")},
    }


def _molmo2(spec: Spec, point: Point, images: Sequence[_core.Layout]) -> dict[str, Any]:
    """Patches [crops, patches, values], and the index tensors that say which of them each feature pools."""
    arrays, samples = _preprocessed(spec, point), point.batch_size
    crops, patches, values = arrays["pixel_values"].shape
    pooling = _repeated(arrays["image_token_pooling"], samples)
    starts = np.repeat(np.arange(samples, dtype=pooling.dtype) * (crops * patches), len(pooling) // samples)
    return {
        "pixel_values": _ones(samples * crops, patches, values),
        "image_token_pooling": np.where(pooling >= 0, pooling + starts[:, None], pooling),
        **{name: _repeated(arrays[name], samples) for name in ("image_grids", "image_num_crops")},
    }


def _preprocessed(spec: Spec, point: Point) -> dict[str, Any]:
    """What the preprocessor makes of black images of these sizes: its index tensors are the model's own."""
    from maxcrops.preprocess import Preprocessor

    black = [np.broadcast_to(np.uint8(0), (*size, 3)) for size in point.sizes]
    return Preprocessor(spec, num_threads=1, max_crops=point.max_crops)(black)


def _internvl(spec: Spec, point: Point, images: Sequence[_core.Layout]) -> dict[str, Any]:
    """The crops of the batch in one row, [crops, 3, height, width]."""
    return {"pixel_values": _ones(point.batch_size * _num_crops(images), 3, spec.crop_size, spec.crop_size)}


def _llava_next(spec: Spec, point: Point, images: Sequence[_core.Layout]) -> dict[str, Any]:
    """Crops of each image, padded to the most that one has, and (height, width) of the images."""
    most = max(image.num_crops for image in images)
    sizes = np.array([(image.height, image.width) for image in images], np.int64)
    return {
        "pixel_values": _ones(point.batch_size * len(images), most, 3, spec.crop_size, spec.crop_size),
        "image_sizes": _repeated(sizes, point.batch_size),
    }


def _idefics3(spec: Spec, point: Point, images: Sequence[_core.Layout]) -> dict[str, Any]:
    """Crops of each sample, and a mask of their pixels: crops are full, as the canvas is a multiple of their size."""
    crops, side = (point.batch_size, _num_crops(images)), (spec.crop_size, spec.crop_size)
    return {"pixel_values": _ones(*crops, 3, *side), "pixel_attention_mask": _ones(*crops, *side, dtype="int64")}


def _ones(*shape: int, dtype: str = "float32") -> Any:
    """An array of ones that takes no memory: pixels and their masks, whose values nobody needs."""
    return np.broadcast_to(np.ones((), dtype), shape)


def _repeated(array: Any, times: int) -> Any:
    """Along the first axis."""
    return np.concatenate([array] * times)


def _every_crop(spec: Spec, image: _core.Layout) -> int:
    tokens: int = spec.tokens_per_crop
    return tokens * image.num_crops


def _pinpoints(spec: Spec, point: Point) -> dict[str, Any]:
    """The model finds its grids again, in the list that its processor was given."""
    chosen: Any = spec.knob_value if point.max_crops is None else spec.knob_at(point.max_crops)
    return {"image_grid_pinpoints": [list(resolution) for resolution in chosen]}


_IDEFICS3 = Family(arrays=_idefics3, placeholders=_every_crop)

FAMILIES: Mapping[str, Family] = {
    "molmo": Family(arrays=_molmo, placeholders=None),
    "molmo2": Family(arrays=_molmo2, placeholders=lambda _, image: image.connector_outputs, token_types=True),
    "internvl": Family(arrays=_internvl, placeholders=_every_crop),
    "llava_next": Family(arrays=_llava_next, placeholders=lambda _, image: image.sequence_tokens, configure=_pinpoints),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
}
"""By model_type."""
