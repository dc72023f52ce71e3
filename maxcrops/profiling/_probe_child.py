"""What the process of one point does: builds the model, runs it, and reads the clock and the memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from maxcrops.exceptions import UnsupportedError
from maxcrops.planning.dryrun import _engine, _models
from maxcrops.planning.dryrun._inputs import configured, make_inputs
from maxcrops.planning.dryrun._request import RunRequest
from maxcrops.profiling._child import Taken
from maxcrops.profiling._memory import memory_of
from maxcrops.profiling._torchvision import declare_missing


@dataclass(frozen=True, kw_only=True)
class PointRequest:
    """One point of a probe."""

    run: RunRequest
    device: str
    """As torch names it."""
    weights: str | None = None
    """A folder with weights; None: random ones."""
    files: tuple[str, ...] = ()
    """The images of a sample, where they are files."""
    memory_limit: int | None = None
    """Bytes beside what the imports take."""
    repeats: int = 5
    """Warm runs."""


class _Real:
    """Stands in for a Hybrid: pixels that are too many to be copied are made on the device."""

    def __init__(self, device: str) -> None:
        self._device = device

    def fake(self, tensor: Any) -> Any:
        import torch

        return torch.ones_like(tensor, device=self._device)


def measure(request: PointRequest, taken: Taken) -> None:
    """Builds the model, runs it once cold and `repeats` times warm."""
    import torch

    with contextlib.suppress(ImportError):  # a model that needs torchvision will say so itself
        declare_missing()
    run, training = request.run, request.run.mode == "train"
    taken["preprocess_seconds"] = preprocess_seconds(request)
    config = configured(run.config, run.spec, run.point)
    _models.import_class(config)
    memory = memory_of(request.device, request.memory_limit)
    memory.enforce()
    taken["capacity_bytes"] = memory.capacity
    model = _models.build_real(
        config, dtype=run.dtype, attention=run.attention, device=request.device, weights=request.weights
    )
    optimizer = None
    if training:
        _models.set_trainable(model, run.trainable)
        if run.gradient_checkpointing:
            _models.enable_checkpointing(model)
        if run.optimizer != "none":
            optimizer = _engine.make_optimizer(model, run.optimizer)
    taken["fixed_bytes"] = memory.in_use() + (_grown_in_training(model, optimizer) if training else 0)
    made = make_inputs(
        config["model_type"],
        _models.image_token_id(model),
        run.spec,
        run.point,
        _Real(request.device),
        labels=training,
    )
    inputs = {name: tensor.to(request.device) for name, tensor in made.items()}
    tokens = inputs["input_ids"].numel()
    nobody: Any = SimpleNamespace(mark=lambda *_: None)
    step: Callable[[], object]
    if training:
        step = partial(_engine.train, model, inputs, optimizer, nobody)
    elif run.mode == "generate":
        step = partial(_generate, model, inputs, run.point.new_tokens, nobody)
        tokens += len(inputs["input_ids"]) * run.point.new_tokens
    else:
        step = partial(_engine.prefill, model, inputs, nobody)

    def seconds() -> float:
        started = time.perf_counter()
        step()
        if request.device != "cpu":
            torch.cuda.synchronize(request.device)
        return time.perf_counter() - started

    memory.begin()
    taken["first_seconds"] = seconds()
    warm = [seconds() for _ in range(request.repeats)]
    taken.update(memory.peaks())
    for name, part in (("warm_seconds_p20", 0.2), ("warm_seconds", 0.5), ("warm_seconds_p80", 0.8)):
        taken[name] = float(np.quantile(warm, part))
    taken["tokens_per_second"] = tokens / taken["warm_seconds"]


def preprocess_seconds(request: PointRequest) -> float | None:
    """What a Preprocessor takes for the batch's images, decoding of files included; None where it makes no such pixels.

    Sample by sample, on the threads that it takes by itself.
    """
    from maxcrops.preprocess import Preprocessor

    point = request.run.point
    try:
        preprocess = Preprocessor(request.run.spec, max_crops=point.max_crops)
    except UnsupportedError:
        return None
    images: list[Any] = list(request.files) or [np.zeros((*size, 3), np.uint8) for size in point.sizes]
    started = time.perf_counter()
    for _ in range(point.batch_size):
        preprocess(images)
    return time.perf_counter() - started


def _grown_in_training(model: Any, optimizer: Any) -> int:
    """Bytes of gradients, and of AdamW's two moments."""
    trained: int = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return trained * (1 if optimizer is None else 3)


def _generate(model: Any, inputs: Mapping[str, Any], new_tokens: int, nobody: Any) -> None:
    """A prefill and every step after it; the dry run's leaves out those between the first and the last."""
    import torch

    cache = _engine.prefill(model, inputs, nobody).past_key_values
    mask = inputs["attention_mask"]
    token = torch.ones_like(inputs["input_ids"][:, :1])
    for _ in range(new_tokens):
        mask = torch.cat((mask, mask[:, :1]), dim=1)
        with torch.no_grad():
            model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
