"""The parts of a vision-language model, told by the names of its modules."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Part: TypeAlias = Literal["vision", "connector", "language_model"]

_CONNECTOR = re.compile(
    r"(^|\.)(multi_modal_projector|multimodal_projector|mm_projector|vision_projector|img_projection\w*|image_projector"
    r"|image_pooling\w*|connector|adapter|vision_adapter|merger\w*|deepstack_merger\w*|modality_projection|aligner|perceiver_resampler"
    r"|embed_vision|image_newline|pad_embed)(\.|$)"
)
_VISION = re.compile(
    r"(^|\.)(\w*vision\w*|\w*visual\w*|\w*image_encoder\w*|image_vit|vit|img_processor|image_embed)(\.|$)"
)


def part_of(path: str) -> Part:
    """Which part of the model a module or parameter belongs to, by the names on its path.

    >>> part_of("model.vision_tower.layers.3.mlp"), part_of("model.visual.merger.mlp.0"), part_of("lm_head")
    ('vision', 'connector', 'language_model')
    """
    if _CONNECTOR.search(path):
        return "connector"
    return "vision" if _VISION.search(path) else "language_model"
