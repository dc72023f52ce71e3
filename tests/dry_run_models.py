"""Models small enough to run for real in a second and large enough to have every kind of layer, with their inputs.

Those whose images have a spec get their inputs from the package; the others' are made here, as their processors do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import maxcrops as mc
from maxcrops.planning.dryrun._hybrid import Hybrid
from maxcrops.planning.dryrun._inputs import configured, make_inputs
from maxcrops.planning.dryrun._request import Point
from maxcrops.specs import Spec

TEXT_TOKENS = 37


@dataclass(frozen=True)
class Small:
    """A model, and its inputs at batch size 2."""

    config: Mapping[str, Any]
    spec: Spec | None = None
    size: tuple[int, int] = (200, 300)
    inputs: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    def point(self, batch_size: int = 2) -> Point:
        return Point(batch_size=batch_size, sizes=(self.size,), text_tokens=TEXT_TOKENS)

    def make_inputs(self, *, labels: bool) -> dict[str, Any]:
        if self.spec is not None:
            image_token_id = self.config.get("image_token_id", self.config.get("image_patch_id"))
            model_type = self.config["model_type"]
            return make_inputs(model_type, image_token_id, self.spec, self.point(), Hybrid(), labels=labels)
        assert self.inputs is not None
        tensors = self.inputs(self.config)
        if labels:
            tensors["labels"] = tensors["input_ids"].clamp(max=TEXT)
        return tensors

    @property
    def full_config(self) -> Mapping[str, Any]:
        return self.config if self.spec is None else configured(self.config, self.spec, self.point())


TEXT = 1
"""An id of text."""
IMAGE = 1990
"""The id that images' features replace."""


def _language(model_type: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 2000,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        **changes,
    }


def _vision(model_type: str | None, image_size: Any, **changes: Any) -> dict[str, Any]:
    named = {} if model_type is None else {"model_type": model_type}
    return {
        **named,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": 14,
        **changes,
    }


def _ids(num_images_tokens: int) -> dict[str, Any]:
    import torch

    ids = torch.full((2, num_images_tokens + TEXT_TOKENS), TEXT)
    ids[:, :num_images_tokens] = IMAGE
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    tensors = _ids(3 * config["mm_tokens_per_image"])
    types = (tensors["input_ids"] == IMAGE).long()
    return {**tensors, "token_type_ids": types, "pixel_values": torch.ones(6, 3, 112, 112)}


def _qwen(config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    rows, cols = 16, 20
    tensors = _ids(rows * cols // 4)
    return {
        **tensors,
        "mm_token_type_ids": (tensors["input_ids"] == IMAGE).int(),
        "pixel_values": torch.ones(2 * rows * cols, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, rows, cols]] * 2),
    }


def _mllama(config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    tensors = _ids(0)
    tensors["input_ids"][:, 0] = IMAGE
    tokens = tensors["input_ids"].shape[1]
    return {
        **tensors,
        "pixel_values": torch.ones(2, 1, 4, 3, 112, 112),
        "aspect_ratio_ids": torch.full((2, 1), 6),
        "aspect_ratio_mask": torch.ones(2, 1, 4, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, tokens, 1, 4, dtype=torch.long),
    }


_IDEFICS3 = {"longest_edge": 3 * 112, "crop_size": 112, "tokens_per_crop": 16, "pooling": (2, 2)}

MODELS: dict[str, Small] = {
    "molmo": Small(
        {
            "model_type": "molmo",
            "hidden_size": 192,
            "intermediate_size": 1024,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "embedding_size": 2000,
            "qkv_bias": True,
            "image_size": 112,
            "image_emb_dim": 96,
            "image_num_heads": 4,
            "image_num_layers": 5,
            "image_mlp_dim": 256,
            "vit_layers": [-2, -4],
        },
        mc.get_spec("molmo-7b-d", crop_size=112, overlap_margins=(2, 2)),
    ),
    "molmo2": Small(
        {
            "model_type": "molmo2",
            "text_config": _language("molmo2_text", head_dim=32, additional_vocab_size=16),
            "vision_config": _vision(None, [112, 112], head_dim=24, num_key_value_heads=4, num_hidden_layers=5),
            "adapter_config": {
                "hidden_size": 96,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 24,
                "vision_feature_layer": [4, 2],
                "intermediate_size": 512,
                "text_hidden_size": 192,
            },
            "image_patch_id": 2005,
        },
        mc.get_spec("molmo2-8b", crop_size=112, overlap_margins=(1, 1)),
    ),
    "internvl": Small(
        {
            "model_type": "internvl",
            "text_config": _language("qwen2"),
            "vision_config": _vision("internvl_vision", [112, 112]),
            "image_token_id": IMAGE,
            "downsample_ratio": 0.5,
        },
        mc.get_spec("internvl", crop_size=112, tokens_per_crop=16),
    ),
    "llava_next": Small(
        {
            "model_type": "llava_next",
            "text_config": _language("mistral"),
            "vision_config": _vision("clip_vision_model", 112, projection_dim=96),
            "image_token_id": IMAGE,
        },
        mc.get_spec(
            "llava-v1.6-mistral-7b", crop_size=112, resolutions=((112, 224), (224, 112), (224, 224), (112, 336))
        ),
    ),
    "idefics3": Small(
        {
            "model_type": "idefics3",
            "text_config": _language("llama"),
            "vision_config": _vision("idefics3_vision", 112),
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        mc.get_spec("idefics3", **_IDEFICS3),
    ),
    "smolvlm": Small(
        {
            "model_type": "smolvlm",
            "text_config": _language("llama"),
            "vision_config": _vision("smolvlm_vision", 112),
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
        mc.get_spec("smolvlm", **_IDEFICS3),
    ),
    "gemma3": Small(
        {
            "model_type": "gemma3",
            "text_config": _language("gemma3_text", head_dim=32, num_hidden_layers=6, sliding_window=64),
            "vision_config": _vision("siglip_vision_model", 112),
            "image_token_index": IMAGE,
            "mm_tokens_per_image": 16,
        },
        inputs=_gemma3,
    ),
    "qwen2_5_vl": Small(
        {
            "model_type": "qwen2_5_vl",
            "text_config": _language(
                "qwen2_5_vl_text", rope_parameters={"rope_type": "default", "mrope_section": [4, 6, 6]}
            ),
            "vision_config": {
                "hidden_size": 96,
                "intermediate_size": 256,
                "depth": 4,
                "num_heads": 4,
                "out_hidden_size": 192,
                "fullatt_block_indexes": [1, 3],
            },
            "image_token_id": IMAGE,
        },
        inputs=_qwen,
    ),
    "mllama": Small(
        {
            "model_type": "mllama",
            "text_config": _language("mllama_text_model", num_hidden_layers=4, cross_attention_layers=[1, 3]),
            "vision_config": {
                "hidden_size": 96,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "num_global_layers": 2,
                "attention_heads": 4,
                "image_size": 112,
                "patch_size": 14,
                "vision_output_dim": 288,
                "intermediate_layers_indices": [1, 3],
            },
            "image_token_index": IMAGE,
        },
        inputs=_mllama,
    ),
}
