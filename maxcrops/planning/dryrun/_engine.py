"""Executes a model at one point, on fake weights, and gives the log of what it allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from maxcrops.exceptions import ConfigError, MaxCropsError
from maxcrops.planning.dryrun._attention import AttentionPlatform
from maxcrops.planning.dryrun._cuda import as_on_cuda, platform_of, workspaces
from maxcrops.planning.dryrun._events import Category, EventLog
from maxcrops.planning.dryrun._hybrid import Hybrid, dispatch_mode
from maxcrops.planning.dryrun._imports import shorten_imports
from maxcrops.planning.dryrun._inputs import configured, make_inputs
from maxcrops.planning.dryrun._launch import Phase
from maxcrops.planning.dryrun._models import build, enable_checkpointing, image_token_id, set_trainable
from maxcrops.planning.dryrun._recorder import Recorder
from maxcrops.planning.dryrun._request import Mode, Optimizer, RunRequest


class Observer(Protocol):
    """Whom the steps below tell where they are: a Recorder, or nobody who cares."""

    phase: Phase
    scale: float

    def mark(self, tensors: Any, category: Category, /) -> None: ...


def observe(request: RunRequest) -> EventLog:
    """Builds the model of a request, runs it once as asked, and gives the log.

    What is exact: shapes and lives of all that PyTorch's operators return, which is what the allocator is asked for.
    What kernels take for themselves comes from the table in ``_temporaries``.

    Raises:
        UnsupportedError: a model that is not known or takes no images, a family whose inputs are not known.
        ConfigError: a configuration that the model's class rejects, or that does not fit the spec.
        ValueError: a count in the point that is not positive.
    """
    hybrid = Hybrid()
    point, spec = request.point, request.spec
    config = configured(request.config, spec, point)
    model = build(config, dtype=request.dtype, attention=request.attention, hybrid=hybrid)
    training = request.mode == "train"
    inputs = make_inputs(config["model_type"], image_token_id(model), spec, point, hybrid, labels=training)
    if training:
        set_trainable(model, request.trainable)
        if request.gradient_checkpointing:
            enable_checkpointing(model)
    try:
        return record(
            model,
            inputs,
            hybrid,
            mode=request.mode,
            new_tokens=point.new_tokens,
            optimizer=request.optimizer,
            platform=platform_of(request),
        )
    except MaxCropsError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            f"[dry_run] model and spec must describe the same model, but {type(model).__name__} cannot be run on the"
            f" inputs of {spec.key!r}: {type(error).__name__}: {error}; take both from the model's own folder"
        ) from error


def observe_in_child(request: RunRequest) -> EventLog:
    """As ``observe``, in a process that does nothing else."""
    shorten_imports()
    return observe(request)


def record(
    model: Any,
    inputs: Mapping[str, Any],
    hybrid: Hybrid,
    *,
    mode: Mode,
    new_tokens: int = 1,
    optimizer: Optimizer = "adamw_foreach",
    platform: AttentionPlatform | None = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> EventLog:
    """The log of one run of a model that ``build`` made.

    Weights, inputs and, in training, the optimizer's states are there from the beginning: a training step is the second
    of a run, as the first has no states yet when its activations are at their most.

    Args:
        model: on fakes of `hybrid`.
        inputs: of its forward method; with labels in mode "train".
        hybrid: runs the operators.
        mode: what to run.
        new_tokens: decoded in mode "generate".
        optimizer: in mode "train".
        platform: the CUDA device whose kernels are modelled; None: the CPU's own, for comparisons with it.
        around: entered around the run, inside of the recorder.
    """
    recorder = Recorder(model, hybrid, workspaces=workspaces(platform) if platform is not None else None)
    step = None
    recorder.add([*model.parameters(), *model.buffers()], "weights", "weights")
    if mode == "train" and optimizer != "none":
        step = make_optimizer(model, optimizer)
        recorder.add(warm_states(step, hybrid, optimizer), "optimizer states", "optimizer")
    recorder.phase = "forward"
    recorder.add(hybrid.tensors_in(dict(inputs)), "inputs")
    on_device = as_on_cuda(platform, recorder) if platform is not None else nullcontext()
    with on_device, recorder.watching(), around():
        if mode == "train":
            train(model, inputs, step, recorder)
        elif mode == "generate":
            generate(model, inputs, new_tokens, recorder)
        else:
            prefill(model, inputs, recorder)
        return replace(recorder.log(), platform=platform, batch_size=len(inputs["input_ids"]))


# -- what is run; on a real model too ------------------------------------------------------------------------------


def prefill(model: Any, inputs: Mapping[str, Any], observer: Observer) -> Any:
    """The forward pass over a prompt as transformers' ``generate`` makes it: with a cache, and logits of one token."""
    import torch

    observer.phase = "forward"
    with torch.no_grad():
        outputs = model(**inputs, use_cache=True, logits_to_keep=1)
    observer.mark(tensors_of(outputs.past_key_values), "kv_cache")
    return outputs


def generate(model: Any, inputs: Mapping[str, Any], new_tokens: int, observer: Observer) -> None:
    """A prefill, then `new_tokens` steps of one token each.

    Of more than two steps only the first and the last are run. What the others would add to the cache is put there in
    one piece: they are the same but for its length, in which their memory never falls and their work is linear.
    """
    import torch

    cache = prefill(model, inputs, observer).past_key_values
    observer.phase = "decode"
    ids, mask = inputs["input_ids"], inputs["attention_mask"]

    def decode(length: int) -> None:
        token = torch.ones_like(ids[:, :1])
        seen = mask.new_ones((len(mask), length))
        with torch.no_grad():
            model(input_ids=token, attention_mask=seen, past_key_values=cache, use_cache=True, logits_to_keep=1)
        observer.mark(tensors_of(cache), "kv_cache")

    prompt = mask.shape[1]
    # Work is linear in the length: n steps do n / 2 times what the first and the last do together.
    observer.scale = new_tokens / 2 if new_tokens > 1 else 1
    decode(prompt + 1)
    if new_tokens > 2:
        observer.scale = 0
        _lengthen(cache, new_tokens - 2)
        observer.mark(tensors_of(cache), "kv_cache")
        observer.scale = new_tokens / 2
    if new_tokens > 1:
        decode(prompt + new_tokens)


def _lengthen(cache: Any, tokens: int) -> None:
    """Puts so many tokens into every layer of a cache."""

    def more(tensor: Any) -> Any:
        """Of one element in memory: a view of the cache would keep it alive."""
        batch, heads, _, size = tensor.shape
        return tensor.new_empty((1, 1, 1, 1)).expand(batch, heads, tokens, size)

    for index, layer in enumerate(cache.layers):
        cache.update(more(layer.keys), more(layer.values), index)


def train(model: Any, inputs: Mapping[str, Any], optimizer: Any, observer: Observer) -> None:
    """One step: forward pass, loss, backward pass, update. Gradients are dropped at its end."""
    model.train()
    observer.phase = "forward"
    loss = model(**inputs, use_cache=False).loss
    observer.phase = "backward"
    loss.backward()
    observer.mark([p.grad for p in model.parameters() if p.grad is not None], "gradients")
    del loss
    observer.phase = "optimizer"
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=True)


def make_optimizer(model: Any, kind: Optimizer) -> Any:
    """AdamW as CUDA runs it: torch chooses foreach there, and on the CPU only when it is told to."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = kind == "adamw_fused"
    return torch.optim.AdamW(parameters, lr=1e-5, foreach=not fused, fused=fused)


def warm_states(optimizer: Any, hybrid: Hybrid, kind: Optimizer) -> list[Any]:
    """Gives the optimizer the states that a first step would have left.

    Returns:
        Those on the device: step counts are on the host unless the optimizer is fused.
    """
    import torch

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = hybrid.fake(torch.empty_like(parameter, device="meta"))
    with dispatch_mode(hybrid.run):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return hybrid.tensors_in(
        [
            value
            for state in optimizer.state.values()
            for name, value in state.items()
            if name != "step" or kind == "adamw_fused"
        ]
    )


def tensors_of(cache: Any) -> list[Any]:
    """The tensors of a cache, whatever its kind."""
    import torch

    if isinstance(cache, torch.Tensor):
        return [cache]
    if type(cache).__name__.endswith(("Cache", "Layer")):
        cache = vars(cache)
    if isinstance(cache, dict):
        cache = list(cache.values())
    # Not by a nested function that calls itself: such a cycle would keep the tensors, as cycles are not collected.
    return [tensor for item in cache for tensor in tensors_of(item)] if isinstance(cache, (list, tuple)) else []
