"""ColModernVBERT: Idefics3's image processor under a processor for retrieval.

The cut and the token string are Idefics3's, with 64 tokens a crop::

    67 + rows * (66 cols + 1)     or 67 when the whole page is one crop

A page is embedded as one prompt, whose other tokens (the visual prompt's words) come on top.
"""

from __future__ import annotations

from dataclasses import replace

from maxcrops.specs._family import Checkpoint, Family, Read, both_sides, positive, square
from maxcrops.specs._spec import Source
from maxcrops.specs.idefics3 import CROPS_OF_512, READS
from maxcrops.specs.idefics3 import SPEC as IDEFICS3

_CHECKED = "2026-11-25"

SPEC = replace(
    IDEFICS3.replace(tokens_per_crop=64, patch_size=16, pooling=(4, 4)),
    key="colmodernvbert",
    family="colmodernvbert",
    description="ColModernVBERT: Idefics3's cut and tokens",
    sources=(
        Source(
            "cutting and defaults",
            "transformers 5.23.0, models/idefics3/image_processing_idefics3.py (the image processor it uses)",
            _CHECKED,
        ),
        Source("tokens", "transformers 5.23.0, models/colmodernvbert/processing_colmodernvbert.py", _CHECKED),
    ),
    caveats=(*IDEFICS3.caveats, "_get_num_multimodal_tokens inherits the first of these disagreements."),
)

_IN_VLM_CONFIG = (
    Read("patch_size", "config", "vlm_config.vision_config.patch_size", square),
    Read("pooling", "config", "vlm_config.pixel_shuffle_factor", both_sides),
    Read("max_sequence_length", "config", "vlm_config.text_config.max_position_embeddings", positive),
)

FAMILY = Family(
    spec=SPEC,
    processor_classes=("ColModernVBertProcessor",),
    model_types=("colmodernvbert",),
    reads=(*(read for read in READS if read.document != "config"), *_IN_VLM_CONFIG),
    checkpoints={
        "colmodernvbert-250m": Checkpoint(
            repositories=("ModernVBERT/colmodernvbert", "ModernVBERT/colmodernvbert-merged"),
            where="https://huggingface.co/Qdrant/colmodernvbert, preprocessor_config.json and processor_config.json: a"
            " copy",
            checked=f"{_CHECKED}, by that copy",
            changes=CROPS_OF_512,
        ),
    },
)
