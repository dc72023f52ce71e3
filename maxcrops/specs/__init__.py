"""What is known of each model: one small file per family, looked up by name or recognised in a folder."""

from __future__ import annotations

import difflib
import warnings
from functools import cache
from typing import Any

from maxcrops.exceptions import UnknownSpecError, UnverifiedSettingsWarning
from maxcrops.specs import (
    aria,
    aya_vision,
    cohere2_vision,
    colmodernvbert,
    deepseek_ocr2,
    deepseek_vl2,
    gemma3,
    got_ocr2,
    granite4_vision,
    granite_docling,
    idefics2,
    idefics3,
    internvl,
    internvl_chat,
    lfm2_vl,
    llama4,
    llava_next,
    llava_onevision,
    minicpmv2_6,
    minicpmv4_6,
    mllama,
    molmo,
    molmo2,
    nvlm_d,
    ovis2,
    perception_lm,
    phi4_multimodal,
    qianfan_ocr,
    smolvlm,
    step3p7,
    unlimited_ocr,
)
from maxcrops.specs._family import Family
from maxcrops.specs._spec import Source, Spec, Taken
from maxcrops.specs.native import refuse

__all__ = ["FAMILIES", "Family", "Source", "Spec", "Taken", "get_spec", "knob_of", "list_specs", "nearest_keys"]

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        molmo,
        molmo2,
        cohere2_vision,
        aya_vision,
        internvl,
        internvl_chat,
        qianfan_ocr,
        got_ocr2,
        nvlm_d,
        llava_next,
        llava_onevision,
        granite4_vision,
        deepseek_vl2,
        aria,
        mllama,
        llama4,
        idefics3,
        smolvlm,
        colmodernvbert,
        granite_docling,
        idefics2,
        gemma3,
        phi4_multimodal,
        ovis2,
        lfm2_vl,
        minicpmv4_6,
        minicpmv2_6,
        deepseek_ocr2,
        unlimited_ocr,
        step3p7,
        perception_lm,
    )
)


@cache
def _registry() -> dict[str, Spec]:
    return {key: spec for family in FAMILIES for key, spec in family.specs().items()}


def _normalised(name: str) -> str:
    """Hyphens and underscores are equal, and so are cases."""
    return name.strip().lower().replace("_", "-")


@cache
def _by_name() -> dict[str, str]:
    """Every accepted name: keys, and repositories with and without their owner."""
    names: dict[str, str] = {}
    for key, spec in _registry().items():
        for repository in spec.checkpoints:
            names[_normalised(repository)] = key
            names[_normalised(repository.split("/")[-1])] = key
    names.update({_normalised(key): key for key in _registry()})
    return names


def list_specs() -> tuple[str, ...]:
    """Keys of all known specs: each family's, then its checkpoints'.

    >>> list_specs()[:2]
    ('molmo', 'molmo-7b-d')
    """
    return tuple(_registry())


def nearest_keys(name: str, count: int = 4) -> list[str]:
    """Known keys that look like `name`, the nearest first."""
    close = difflib.get_close_matches(_normalised(name.split("/")[-1]), _by_name(), n=count * 2, cutoff=0.4)
    return list(dict.fromkeys(_by_name()[match] for match in close))[:count]


def get_spec(key: str, **changes: Any) -> Spec:
    """The spec of a family or checkpoint, with some fields changed.

    Args:
        key: a family's key, which is its transformers ``model_type`` and means the class defaults (``molmo2``), a
            checkpoint's (``molmo2-8b``), or the name of a published repository (``allenai/Molmo2-8B``). Hyphens and
            underscores are equal.
        changes: as for :meth:`Spec.replace`.

    Returns:
        A frozen Spec.

    Raises:
        UnknownSpecError: no such key; the message names the nearest ones.
        UnsupportedError: a model that encodes images at their own resolution and cuts no crops.
        TypeError: a field that the spec does not have; the message lists the fields.
        ValueError: a value that does not fit.

    Warns:
        UnverifiedSettingsWarning: a checkpoint's settings that nobody compared with its files, and that changes leaves
            as they are.

    >>> get_spec("molmo-7b-d").max_crops
    12
    >>> get_spec("molmo2", low_res_col_tokens=False)
    Spec('molmo2': scale_fit, crop 378 px, stitched tokens, max_crops=8)
    """
    if not isinstance(key, str):
        raise TypeError(f"[get_spec] key must be a string, got {key!r}")
    known = _by_name().get(_normalised(key))
    if known is None:
        refuse("get_spec", key)
        nearest = nearest_keys(key)
        hint = f"the nearest known ones are {', '.join(nearest)}" if nearest else f"known are {', '.join(list_specs())}"
        raise UnknownSpecError(f"[get_spec] no model is known as {key!r}; {hint}")
    spec = _registry()[known]
    spec = spec.replace(**changes) if changes else spec
    if spec.doubt is not None:
        warnings.warn(
            f"[get_spec] {spec.doubt}; load_spec reads the model's own folder, or give what you know:"
            f" get_spec({key!r}, {spec.unverified[0]}=...)",
            UnverifiedSettingsWarning,
            stacklevel=2,
        )
    return spec


def knob_of(spec: Spec) -> tuple[str | None, str]:
    """(attribute of the image processor, key in it where it is a mapping) of the knob: where a folder keeps it."""
    (family,) = (family for family in FAMILIES if family.spec.key == spec.family)
    for read in family.reads:
        if read.field == spec.grid.knob_field and read.document == "image_processor":
            name, _, part = read.key.partition(".")
            return name, part
    return None, ""
