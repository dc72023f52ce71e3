"""Models that encode an image at its own resolution: they cut no crops, so that there is no max_crops to plan.

Source: transformers 5.23.0, the image processors of these model types; checked 2026-11-25.
"""

from __future__ import annotations

from maxcrops.exceptions import UnsupportedError

_PIXELS = "size (min_pixels and max_pixels)"

KNOBS = {
    "qwen2_vl": _PIXELS,
    "qwen2_5_vl": _PIXELS,
    "qwen2_5_omni": _PIXELS,
    "qwen3_vl": _PIXELS,
    "qwen3_vl_moe": _PIXELS,
    "qwen3_5": _PIXELS,
    "glm4v": _PIXELS,
    "glm4v_moe": _PIXELS,
    "glm46v": _PIXELS,
    "cohere_compass": _PIXELS,
    "hunyuan_vl": _PIXELS,
    "minimax_m3_vl": _PIXELS,
    "paddleocr_vl": _PIXELS,
    "exaone4_5": _PIXELS,
    "lfm3_vl": _PIXELS,
    "pixtral": "size (longest_edge)",
    "mistral3": "size (longest_edge)",
    "kimi_k25": "max_patches",
    "gemma4": "max_soft_tokens",
    "nemotron_h_omni": "max_num_patches",
    "muse_glimmer": "max_image_tokens",
    "siglip2": "max_num_patches",
    "pix2struct": "max_patches",
    "kosmos2_5": "max_patches",
}
"""Model type -> what limits the patches of one image."""

_IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
"""Shared by most of them."""


def refuse(operation: str, *names: str) -> None:
    """Raises UnsupportedError, with what to do instead, where a name is one of these models."""
    for name in names:
        known = _model_type(name)
        if known is not None:
            raise UnsupportedError(
                f"[{operation}] {name} encodes images at their own resolution and cuts no crops: what an image costs is"
                f" limited by {KNOBS[known]}, not by max_crops"
            )


def _model_type(name: str) -> str | None:
    """Of a model type, a published repository, or an image processor."""
    if name in _IMAGE_PROCESSORS:
        return "qwen2_vl"
    plain = _plain(name.split("/")[-1])
    exact = next((model_type for model_type in KNOBS if plain == _plain(model_type)), None)
    if exact is not None:
        return exact
    stems = [model_type for model_type in KNOBS if plain.startswith(f"{_plain(model_type)}-")]
    return max(stems, key=len, default=None)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
