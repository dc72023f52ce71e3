"""Idefics3: no search, the long side scaled to longest_edge and both sides rounded up to whole crops.

Only the ratio counts: a 10 x 10 pixel image is enlarged to 16 crops. Every crop is announced by two tokens, each row
of crops ends in a newline, and the global crop, made from the already resized canvas, comes last::

    172 + rows * (171 cols + 1)     or 172 when the whole image is one crop

Oddities: ``get_number_of_image_patches`` disagrees with the real split unless longest_edge is a multiple of the crop
size and at most 4096, and reports 0 crops for an image that is not split. The numbers here are the real split's.
"""

from __future__ import annotations

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, flag, positive, square
from maxcrops.specs._rules import CeilGrid, CropRule, Fixed, Tiled
from maxcrops.specs._spec import Source, Spec

_CHECKED = "2026-11-24"
_SPLIT = CeilGrid(longest_edge=4 * 364)

SPEC = Spec(
    key="idefics3",
    family="idefics3",
    description="Idefics3: long side scaled, whole crops, global crop last",
    grid=_SPLIT,
    crop=CropRule(crop_size=364, patch_size=14, pooling=(2, 2), global_position="last"),
    tokens=Tiled(tokens_per_crop=169, crop_extra_tokens=2, row_end_tokens=1, global_extra_tokens=3),
    knob="longest_edge",
    aliases={"max_image_size": "crop_size", "image_seq_len": "tokens_per_crop"},
    choices={"do_image_splitting": {"true": {"grid": _SPLIT}, "false": {"grid": Fixed(rows=0, cols=0)}}},
    sources=(
        Source(
            "cutting, tokens and defaults",
            "transformers 5.23.0, models/idefics3/image_processing_idefics3.py and processing_idefics3.py",
            _CHECKED,
        ),
    ),
    caveats=(
        "get_number_of_image_patches disagrees with the real split unless longest_edge is a multiple of the crop size"
        " and at most 4096; the numbers here are the real split's.",
        "Tokens <row_i_col_j> exist for 1..6 only; beyond 6 rows or columns a tokenizer splits the tag in several.",
        "A tokenizer that does not merge two newlines needs one token more for a split image (split_extra_tokens=1).",
    ),
)

CROPS_OF_384 = {"longest_edge": 4 * 384, "crop_size": 384, "tokens_per_crop": 81, "pooling": (3, 3)}
CROPS_OF_512 = {
    "longest_edge": 4 * 512,
    "crop_size": 512,
    "patch_size": 16,
    "tokens_per_crop": 64,
    "pooling": (4, 4),
}
"""What the SmolVLM checkpoints change, those with a vision encoder for 384 px and those with one for 512 px."""

READS = (
    Read("longest_edge", "image_processor", "size.longest_edge"),
    Read("crop_size", "image_processor", "max_image_size", square),
    Read("do_image_splitting", "image_processor", "do_image_splitting", flag),
    Read("tokens_per_crop", "processor", "image_seq_len", positive),
    Read("patch_size", "config", "vision_config.patch_size", square),
    Read("pooling", "config", "scale_factor", both_sides),
    Read("max_sequence_length", "config", "text_config.max_position_embeddings", positive),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("Idefics3Processor",),
    model_types=("idefics3",),
    image_processor_types=("Idefics3ImageProcessor", "Idefics3ImageProcessorFast", "Idefics3ImageProcessorPil"),
    reads=READS,
    checkpoints={
        "idefics3-8b-llama3": Checkpoint(
            repositories=("HuggingFaceM4/Idefics3-8B-Llama3",),
            where="https://huggingface.co/HuggingFaceM4/Idefics3-8B-Llama3, preprocessor_config.json",
            checked=_CHECKED,
        ),
        "smolvlm-instruct": Checkpoint(
            repositories=("HuggingFaceTB/SmolVLM-Instruct",),
            where="https://huggingface.co/HuggingFaceTB/SmolVLM-Instruct, preprocessor_config.json",
            checked=_CHECKED,
            changes=CROPS_OF_384,
        ),
        "smolvlm-256m-instruct": Checkpoint(
            repositories=("HuggingFaceTB/SmolVLM-256M-Instruct", "HuggingFaceTB/SmolVLM-500M-Instruct"),
            where="https://huggingface.co/HuggingFaceTB/SmolVLM-256M-Instruct, preprocessor_config.json",
            checked=_CHECKED,
            changes=CROPS_OF_512,
        ),
    },
)
