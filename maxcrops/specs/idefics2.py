"""Idefics2: the whole image in one crop of its own ratio, or four quadrants and the whole image.

Every crop is scaled into 378..980 px a side by itself and pooled to 64 tokens. A token stands before, between and
behind them; the whole image comes last::

    66     or 326 with quadrants

There is no search: do_image_splitting is the only knob.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, flag, positive, square
from maxcrops.specs._rules import CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-25"
_WHOLE = Fixed(rows=0, cols=0)

SPEC = Spec(
    key="idefics2",
    family="idefics2",
    description="Idefics2: the whole image with its ratio kept, or quadrants and the whole image",
    grid=_WHOLE,
    crop=CropRule(
        crop_size=980,
        patch_size=32,
        global_position="last",
        sizing="edges",
        global_sizing="edges",
        shortest_edge=378,
        longest_crop_edge=980,
    ),
    tokens=Tiled(tokens_per_crop=64, crop_extra_tokens=1, global_extra_tokens=2),
    knob="do_image_splitting",
    aliases={"longest_edge": "longest_crop_edge", "image_seq_len": "tokens_per_crop"},
    choices={"do_image_splitting": {"false": {"grid": _WHOLE}, "true": {"grid": Fixed(rows=2, cols=2)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/idefics2/image_processing_idefics2.py, processing_idefics2.py and"
            " configuration_idefics2.py (patches)",
            _CHECKED,
        ),
    ),
    caveats=(
        "With do_image_splitting an image with a side of 1 px has empty quadrants: transformers fails on it.",
        "The processor counts by the image processor's own do_image_splitting: one in a call changes the crops, not"
        " the tokens.",
        "Of two images side by side in the text the second needs one token less: they share the one between.",
        "Crops of a batch are padded to the largest: the vision encoder can see more patches than an image alone has.",
        "The class default does not split and has patches of 32 px; published checkpoints have 14.",
    ),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("Idefics2Processor",),
    model_types=("idefics2",),
    image_processor_types=("Idefics2ImageProcessor", "Idefics2ImageProcessorFast", "Idefics2ImageProcessorPil"),
    reads=(
        Read("do_image_splitting", "image_processor", "do_image_splitting", flag),
        Read("crop_size", "image_processor", "size.longest_edge", positive),
        Read("longest_crop_edge", "image_processor", "size.longest_edge", positive),
        Read("shortest_edge", "image_processor", "size.shortest_edge", positive),
        Read("tokens_per_crop", "config", "perceiver_config.resampler_n_latents", positive),
        Read("tokens_per_crop", "processor", "image_seq_len", positive),
        Read("patch_size", "config", "vision_config.patch_size", square),
        Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
    ),
    checkpoints={
        "idefics2-8b": Checkpoint(
            repositories=("HuggingFaceM4/idefics2-8b",),
            where="https://huggingface.co/HuggingFaceM4/idefics2-8b, preprocessor_config.json and config.json",
            checked="unverified: splitting and patches of 14 px are from memory",
            changes={"do_image_splitting": "true", "patch_size": 14},
            unverified=("do_image_splitting", "patch_size"),
        ),
    },
)
