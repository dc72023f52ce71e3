"""NVLM-D: InternVL's cut, each crop announced by a tag in ordinary text.

The grid is that of the nearest aspect ratio, stretched; a thumbnail follows when there is more than one crop. The text
of an image is ``<Image>``, then ``<tile_1>`` and 256 tokens, and so on, at last ``<tile_global_thumbnail>`` and 256
tokens, then ``</Image>``; an image that is one crop has the last tag alone. Tags are no special tokens: Qwen's
vocabulary divides each of them into 5, ``<Image`` is 1 (its bracket is one token with the next), ``</Image>`` 3::

    4 + 261 * (n + 1)     or 265 for one crop
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Checkpoint, Family
from maxcrops.specs._rules import ClosestRatio, Fixed, Tiled
from maxcrops.specs._spec import Source
from maxcrops.specs.internvl_chat import READS, tokens_of_crop
from maxcrops.specs.internvl_chat import SPEC as INTERNVL

_CHECKED = "2026-11-25"
_CROPPED = ClosestRatio(max_crops=6, min_crops=1)

SPEC = replace(
    INTERNVL,
    key="nvlm_d",
    family="nvlm_d",
    description="NVLM-D: grid of nearest aspect ratio, a tag in text before every crop, thumbnail last",
    grid=_CROPPED,
    tokens=Tiled(tokens_per_crop=256, crop_extra_tokens=5, global_extra_tokens=5, image_extra_tokens=4),
    choices={"dynamic_image_size": {"true": {"grid": _CROPPED}, "false": {"grid": Fixed(rows=1, cols=1)}}},
    sources=(
        Source("text of an image", "vLLM, vllm/model_executor/models/nvlm_d.py (get_image_repl)", _CHECKED),
        Source(
            "pieces of a tag",
            "the Qwen vocabulary of 151,643 entries (dashscope 2.0.2, resources/qwen.tiktoken), that of Qwen2-72B",
            _CHECKED,
        ),
        Source("defaults", "https://huggingface.co/nvidia/NVLM-D-72B, configuration_nvlm_d.py", _CHECKED),
    ),
    caveats=(
        "Tags from <tile_10> on are six tokens, not five: with more than 9 crops the count is a token short for each.",
        "Tags are counted as Qwen's vocabulary divides them; a tokenizer with tokens of its own for them counts fewer.",
        "A text that goes on without a line break may share the last bracket's token with it.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    model_types=("NVLM_D",),
    # The thumbnail's tag is written in any case, so there is no count without one.
    reads=tuple(read for read in READS if read.field != "use_thumbnail"),
    derive=tokens_of_crop,
    checkpoints={
        "nvlm-d-72b": Checkpoint(
            repositories=("nvidia/NVLM-D-72B",),
            where="https://huggingface.co/nvidia/NVLM-D-72B, config.json and configuration_nvlm_d.py",
            checked="unverified: max_dynamic_patch and use_thumbnail as in its class and in vLLM",
            unverified=("max_crops", "global_crop"),
        ),
    },
)
