"""Watches a model run: every storage from its allocation to its end, and what was computed where."""

from __future__ import annotations

import bisect
import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from maxcrops.planning.dryrun._attention import AttentionCall, Kernel
from maxcrops.planning.dryrun._events import CATEGORIES, AttentionUse, Category, EventLog
from maxcrops.planning.dryrun._hybrid import Hybrid, dispatch_mode
from maxcrops.planning.dryrun._launch import PHASES, Phase
from maxcrops.planning.dryrun._parts import part_of

OUTSIDE = 0
"""The unit of what no running module made."""

Workspaces = Callable[[Any, Sequence[Any], Mapping[str, Any], Any], int]
"""(operator, arguments, keywords, result) -> bytes that the operator's kernel takes and gives back."""

# Those read as much of their input as they write, not all of it.
_GATHERS = {"embedding", "index", "index_select", "gather", "slice_copy", "embedding_dense_backward"}
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}


class Recorder:
    """Runs a model through a Hybrid and keeps the log.

    Where a module's path is asked for: the innermost running module; in the backward pass, the one that ran when the
    forward pass made the node, told by the node's sequence number; for a gradient that is accumulated, the owner of the
    parameter.

    Categories, decided at the end:
        weights, gradients, optimizer, kv_cache
            what ``mark`` was told.
        activations
            made in a forward pass (or in its recomputation under checkpointing) and alive when the layer that made it
            had returned: kept for a later layer, for the backward pass, or as an input or output of the model. A layer
            is the outermost item of a ModuleList; outside of those, the innermost module.
        temporaries
            all else: what a layer makes and gives back before it returns, what the backward pass makes but gradients,
            and what an optimizer step makes but its states.

    Reference cycles are not collected meanwhile, so that nothing depends on when the collector would run.

    Args:
        model: whose modules are named.
        hybrid: runs the operators.
        workspaces: what kernels take beside their results.
    """

    def __init__(self, model: Any, hybrid: Hybrid, *, workspaces: Workspaces | None = None) -> None:
        import torch
        from torch.utils.flop_counter import flop_registry

        self.phase: Phase = "load"
        self.scale: float = 1
        """How many times what is computed counts, in FLOPs, traffic and operators."""
        self._attention: dict[tuple[Phase, Kernel, AttentionCall], AttentionUse] = {}
        self._torch, self._hybrid, self._workspaces = torch, hybrid, workspaces
        self._flop_registry = flop_registry
        self._current_node = torch._C._current_autograd_node
        self._next_sequence_nr = torch._C._autograd._get_sequence_nr
        self._device_of = torch.ops.prim.device.default
        aten = torch.ops.aten
        self._in_place = {aten.add.Tensor: aten.add_.Tensor, aten.index_put.default: aten.index_put_.default}
        self._sole_owner: tuple[int, int] | None = None

        self._modules: list[str] = ["", *(name for name, _ in model.named_modules() if name)]
        index_of = {name: index for index, name in enumerate(self._modules)}
        self._module_index = {id(module): index_of[name] for name, module in model.named_modules()}
        self._blocks = {
            id(item) for module in model.modules() if isinstance(module, torch.nn.ModuleList) for item in module
        }
        self._owners = {
            id(parameter): self._module_index[id(module)]
            for module in model.modules()
            for parameter in module._parameters.values()
            if parameter is not None
        }
        self._parts = [part_of(name) for name in self._modules]

        self._operators: dict[str, int] = {}
        self._events: list[int] = []  # the allocation, or its complement where it ends
        self._bytes: list[int] = []
        self._operator: list[int] = []
        self._module: list[int] = []
        self._phase: list[int] = []
        self._category: list[int] = []
        self._unit: list[int] = []
        self._ended_within: list[bool] = []
        self._live: dict[int, tuple[int, Any]] = {}  # by address of the storage: allocation, weak reference

        self._running: list[tuple[int, int, bool]] = []  # module, unit, whether the unit is its own
        self._open_units: set[int] = set()
        self._units = OUTSIDE
        self._in_block = False
        self._starts: list[int] = []  # sequence numbers at which another module began to make nodes
        self._started: list[int] = []

        self._flops: dict[str, float] = defaultdict(float)
        self._traffic: dict[str, float] = defaultdict(float)
        self._num_operators: float = 0

    # -- use ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Operators and modules are watched in here."""
        hooks = self._torch.nn.modules.module
        handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        collects = gc.isenabled()
        gc.disable()
        try:
            self._sole_owner = self._owners_of_a_sum()
            with dispatch_mode(self._dispatch):
                yield
        finally:
            if collects:
                gc.enable()
            for handle in handles:
                handle.remove()

    def add(self, tensors: Iterable[Any], operator: str, category: Category | None = None) -> None:
        """Takes in what was made elsewhere: weights, states, inputs."""
        for tensor in tensors:
            self._allocate(tensor, operator)
            if category is not None:
                self.mark([tensor], category)

    def reserve(self, num_bytes: int, operator: str) -> None:
        """Takes in memory that no tensor holds, and that stays."""
        place = self._new(num_bytes, operator)
        self._category[place] = CATEGORIES.index("temporaries")
        self._events.append(place)

    def mark(self, tensors: Iterable[Any], category: Category) -> None:
        """Says what tensors are that are alive."""
        code = CATEGORIES.index(category)
        for tensor in tensors:
            known = self._live.get(tensor.untyped_storage()._cdata)
            if known is not None:
                self._category[known[0]] = code

    def attend(self, kernel: Kernel, call: AttentionCall) -> None:
        """Takes note of an attention call."""
        if self.phase != "backward":  # recomputed, and noted before
            use = AttentionUse(self._modules[self._module_now()], self.phase, kernel, call)
            self._attention.setdefault((self.phase, kernel, call), use)

    def log(self) -> EventLog:
        """What was seen so far."""
        events = np.array(self._events, np.int64)
        ends = events < 0
        names = {name: place for place, name in enumerate(CATEGORIES)}
        phases = np.array(self._phase, np.int8)
        forward = np.isin(phases, [PHASES.index("forward"), PHASES.index("decode")])
        in_module = np.array(self._unit, np.int64) != OUTSIDE
        kept = (forward | in_module) & ~np.array(self._ended_within, np.bool_)
        told = np.array(self._category, np.int8)
        guessed = np.where(kept, names["activations"], names["temporaries"])
        return EventLog(
            operators=tuple(self._operators),
            modules=tuple(self._modules),
            event_allocation=np.where(ends, ~events, events).astype(np.int32),
            event_is_free=ends,
            num_bytes=np.array(self._bytes, np.int64),
            operator=np.array(self._operator, np.int32),
            module=np.array(self._module, np.int32),
            phase=phases,
            category=np.where(told >= 0, told, guessed).astype(np.int8),
            attention=tuple(self._attention.values()),
            flops={part: round(value) for part, value in self._flops.items()},
            traffic_bytes={part: round(value) for part, value in self._traffic.items()},
            num_operators=round(self._num_operators),
        )

    # -- operators ---------------------------------------------------------------------------------------------------

    def _dispatch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is self._device_of:  # asked for at every step, and always the same
            return args[0].fake_device if self._hybrid.is_fake(args[0]) else func(*args, **kwargs)
        if self.phase == "backward" and func in self._in_place and self._is_in_place(func, args, kwargs):
            func = self._in_place[func]
        result = self._hybrid.run(func, args, kwargs)
        outputs = self._hybrid.tensors_in(result)
        name = func.overloadpacket.__name__
        # A new storage may lie where one ended a moment ago: lists, not a generator that stops.
        made = [self._allocate(output, name) for output in outputs]
        if (any(made) and name not in _NO_KERNEL) or func._schema.is_mutable:
            self._compute(func, name, args, kwargs, result, outputs)
        return result

    def _compute(
        self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, outputs: Sequence[Any]
    ) -> None:
        part = "optimizer" if self.phase == "optimizer" else self._parts[self._module_now()]
        moved = sum(map(_num_bytes, outputs))
        inputs = sum(map(_num_bytes, self._hybrid.tensors_in(*args, **kwargs)))
        self._traffic[part] += (moved + (min(inputs, moved) if name in _GATHERS else inputs)) * self.scale
        self._num_operators += self.scale
        count = self._flop_registry.get(func.overloadpacket)
        if count is not None:
            self._flops[part] += count(*args, **kwargs, out_val=result) * self.scale
        if self._workspaces is not None and (extra := self._workspaces(func, args, kwargs, result)):
            self._events.extend((place := self._new(extra, name), ~place))
            self._ended_within[place] = True

    # -- gradients ---------------------------------------------------------------------------------------------------

    def _is_in_place(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether autograd would do this in place, were the tensors not of a subclass, as fakes are.

        It adds a gradient to another that is dense and that nobody else refers to (torch/csrc/autograd/
        input_buffer.cpp), and puts the gradients of an index into zeros of its own (FunctionsManual.cpp,
        index_backward). Of subclasses it makes a new tensor each time, whose memory a real run does not take.
        """
        node = self._current_node()
        if node is None or self._running:
            return False
        if func is not self._torch.ops.aten.add.Tensor:
            return bool(node.name() == "IndexBackward0")
        return (
            not kwargs
            and all(map(self._hybrid.is_fake, args))
            and args[0].shape == args[1].shape
            and args[0].dtype == args[1].dtype
            and _is_dense(args[0])
            and self._counts(args[0]) == self._sole_owner
        )

    def _counts(self, tensor: Any) -> tuple[int, int]:
        return tensor._use_count(), self._torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)

    def _owners_of_a_sum(self) -> tuple[int, int]:
        """The references to a gradient that the engine alone holds, as an operator sees them."""
        seen: list[tuple[int, int]] = []

        def look(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            if func is self._torch.ops.aten.add.Tensor:
                seen.append(self._counts(args[0]))
            return self._hybrid.run(func, args, kwargs)

        weight = self._hybrid.fake(self._torch.empty(2, device="meta")).requires_grad_()
        with self._torch.enable_grad(), dispatch_mode(look):
            double = weight * 2
            (double * double).sum().backward()  # its two gradients are added
        return seen[0]

    # -- storages ----------------------------------------------------------------------------------------------------

    def _allocate(self, tensor: Any, operator: str) -> bool:
        """Notes the tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        size = storage.nbytes()
        if address in self._live or size == 0:
            return False
        place = self._new(size, operator)
        self._events.append(place)
        self._live[address] = (place, weakref.ref(storage, partial(self._end, address, place)))
        return True

    def _new(self, size: int, operator: str) -> int:
        self._bytes.append(size)
        self._operator.append(self._operators.setdefault(operator, len(self._operators)))
        self._module.append(self._module_now())
        self._phase.append(PHASES.index(self.phase))
        self._category.append(-1)
        self._unit.append(self._running[-1][1] if self._running else OUTSIDE)
        self._ended_within.append(False)
        return len(self._bytes) - 1

    def _end(self, address: int, place: int, _: Any) -> None:
        del self._live[address]
        self._events.append(~place)
        self._ended_within[place] = self._unit[place] in self._open_units

    # -- modules -----------------------------------------------------------------------------------------------------

    def _enter(self, module: Any, _: Any) -> None:
        index = self._module_index.get(id(module), self._running[-1][0] if self._running else 0)
        own = not (self._running and self._in_block)
        if own:
            self._units += 1
            self._open_units.add(self._units)
            self._in_block = id(module) in self._blocks
        self._running.append((index, self._units if own else self._running[-1][1], own))
        self._starts.append(self._next_sequence_nr())
        self._started.append(index)

    def _leave(self, module: Any, *_: Any) -> None:
        _index, unit, own = self._running.pop()
        if own:
            self._open_units.discard(unit)
            self._in_block = False
        self._starts.append(self._next_sequence_nr())
        self._started.append(self._running[-1][0] if self._running else 0)

    def _module_now(self) -> int:
        if self._running:
            return self._running[-1][0]
        node: Any = self._current_node()
        if node is None:
            return 0
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self._owners.get(id(variable), 0)
        place = bisect.bisect_right(self._starts, node._sequence_nr()) - 1
        return self._started[place] if place >= 0 else 0


def _num_bytes(tensor: Any) -> int:
    """What is read or written of it: what it holds, and of an expanded one no more than is there."""
    return int(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))


def _is_dense(tensor: Any) -> bool:
    """Whether its elements fill one piece of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
