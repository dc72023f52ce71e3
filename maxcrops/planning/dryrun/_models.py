"""The real model class, built from a configuration alone, with weights that take no memory."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from maxcrops.exceptions import ConfigError, UnsupportedError
from maxcrops.planning.dryrun._cuda import FLASH, register_flash
from maxcrops.planning.dryrun._hybrid import BIG, Hybrid
from maxcrops.planning.dryrun._parts import part_of
from maxcrops.planning.dryrun._request import Attention, Trainable


def build(config: Mapping[str, Any], *, dtype: str, attention: Attention, hybrid: Hybrid) -> Any:
    """A model of transformers whose parameters are fakes on the CPU and whose buffers are real and full of ones.

    Nothing is read from a network or run from a repository. Ties between parameters are kept.

    Args:
        config: the model's config.json.
        dtype: of the parameters: "bfloat16", "float16" or "float32".
        attention: "sdpa", "eager", or "flash_attention_2", for which a stand-in is registered: the package is not
            needed.
        hybrid: whose fakes the parameters are.

    Returns:
        A torch.nn.Module, in evaluation mode.

    Raises:
        UnsupportedError: a model_type that transformers does not know, or a class that takes no images.
        ConfigError: no model_type, or values that the class rejects.
        ImportError: torch or transformers is not installed.
    """
    import torch

    if config.get("model_type") == "molmo":
        from maxcrops.planning.dryrun._molmo import build_molmo

        with torch.device("meta"):
            model = build_molmo(config, dtype, attention)
    else:
        model = meta_model(config, dtype=getattr(torch, dtype), attention=attention)
    _materialise(model, hybrid)
    return model.eval()


def build_real(
    config: Mapping[str, Any], *, dtype: str, attention: Attention, device: str, weights: str | None = None
) -> Any:
    """The same model with memory: what a dry run predicts can be measured on it.

    Args:
        config: the model's config.json.
        dtype: of the parameters.
        attention: as for ``build``; "flash_attention_2" needs its package.
        device: as torch names it.
        weights: a folder with weights of transformers' names; None: the class's random ones.

    Returns:
        A torch.nn.Module, in evaluation mode.

    Raises:
        As ``build``, and what transformers raises for weights that do not fit.
    """
    import torch

    if config.get("model_type") == "molmo":
        from maxcrops.planning.dryrun._molmo import build_molmo

        with torch.device(device):
            return build_molmo(config, dtype, attention).eval()
    parsed = _parsed(str(config.get("model_type")), config)
    kind = _class_of(parsed)
    settings = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    if weights is not None:
        return kind.from_pretrained(weights, config=parsed, local_files_only=True, **settings).to(device).eval()
    with torch.device(device):
        return kind._from_config(parsed, **settings).to(device).eval()


def import_class(config: Mapping[str, Any]) -> None:
    """Loads the modules that ``build_real`` needs, and builds nothing."""
    if config.get("model_type") != "molmo":
        _class_of(_parsed(str(config.get("model_type")), config))


def image_token_id(model: Any) -> int | None:
    """The id that a model replaces by features; None where it has none."""
    config = getattr(model, "config", None)
    ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((value for value in ids if isinstance(value, int)), None)


def enable_checkpointing(model: Any) -> None:
    """Has every layer recomputed in the backward pass, without reentering autograd, as transformers does by default."""
    # It was gradient_checkpointing_enable before transformers 5.23.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def meta_model(config: Mapping[str, Any], *, dtype: Any, attention: Attention) -> Any:
    """A model of transformers on torch's device "meta"."""
    import torch
    import transformers

    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            f"[dry_run] model_type must be in the model's configuration, got {model_type!r}; give the whole config.json"
        )
    parsed = _parsed(model_type, config)
    kind = _class_of(parsed)
    flash = attention == "flash_attention_2"
    if flash and not kind._supports_flash_attn:
        raise UnsupportedError(f"[dry_run] attention must be 'sdpa' or 'eager' for {kind.__name__}, got {attention!r}")
    try:
        with torch.device("meta"):
            # _from_config is what the Auto classes call; it alone takes a class that they do not list.
            # An implementation with "flash" in its name would be looked for in packages and on the hub: it comes later.
            model = kind._from_config(parsed, dtype=dtype, attn_implementation="eager" if flash else attention)
    except Exception as error:
        raise ConfigError(
            f"[dry_run] model must be a configuration that {kind.__name__} of transformers {transformers.__version__}"
            f" accepts, got {type(error).__name__}: {error}"
        ) from error
    if flash:
        register_flash()
        for module in model.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = FLASH
    return model


def set_trainable(model: Any, trainable: Trainable) -> None:
    """Leaves gradients to all parameters, to all but the vision encoder's, or to the connector's.

    Raises:
        UnsupportedError: no parameter is left to train.
    """
    found = False
    for name, parameter in model.named_parameters():
        part = part_of(name)
        trains = {"all": True, "frozen_vision": part != "vision", "connector": part == "connector"}[trainable]
        parameter.requires_grad_(trains)
        found |= trains
    if not found:
        raise UnsupportedError(
            f"[dry_run] trainable must leave something to train, got {trainable!r}, and no part of"
            f" {type(model).__name__} is recognised as its connector; use 'all' or 'frozen_vision'"
        )


# -- classes -------------------------------------------------------------------------------------------------------


def _parsed(model_type: str, config: Mapping[str, Any]) -> Any:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        remote = " (its code is in its repository, which is not run)" if "auto_map" in config else ""
        raise UnsupportedError(
            f"[dry_run] model_type must be one that transformers {transformers.__version__} knows, got"
            f" {model_type!r}{remote}; use a newer transformers, or the repository of the model that is converted for"
            " transformers (often named ...-hf)"
        )
    plain = {key: value for key, value in copy.deepcopy(dict(config)).items() if key != "auto_map"}
    try:
        return CONFIG_MAPPING[model_type].from_dict(plain)
    except Exception as error:
        raise ConfigError(
            f"[dry_run] model must be a configuration that transformers' {model_type} accepts, got"
            f" {type(error).__name__}: {error}"
        ) from error


def _class_of(config: Any) -> Any:
    """The class for images and text, or the one that the configuration names."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if isinstance(kind, (list, tuple)):
        kind = kind[0]
    if kind is None:
        names = config.architectures or []
        kind = next((found for name in names if (found := getattr(transformers, name, None)) is not None), None)
    if kind is None or "pixel_values" not in inspect.signature(kind.forward).parameters:
        named = f", which is {kind.__name__}" if kind is not None else ""
        raise UnsupportedError(
            f"[dry_run] model must take images, got model_type {config.model_type!r}{named}; give the configuration of"
            " the whole vision-language model, not of its language model"
        )
    return kind


# -- weights -------------------------------------------------------------------------------------------------------


def _materialise(model: Any, hybrid: Hybrid) -> None:
    """Replaces what is on "meta": parameters by fakes, buffers and other tensors by real ones."""
    import torch

    made: dict[int, Any] = {}

    def fake(parameter: Any) -> Any:
        if id(parameter) not in made:
            made[id(parameter)] = torch.nn.Parameter(hybrid.fake(parameter.data), requires_grad=parameter.requires_grad)
        return made[id(parameter)]

    def real(tensor: Any) -> Any:
        # Only shapes matter, and ones are valid as frequencies, as positions and as flags.
        if id(tensor) not in made:
            small = tensor.numel() <= BIG
            made[id(tensor)] = torch.ones_like(tensor, device="cpu") if small else hybrid.fake(tensor)
        return made[id(tensor)]

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = fake(parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = real(buffer)
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                setattr(module, name, real(value))
