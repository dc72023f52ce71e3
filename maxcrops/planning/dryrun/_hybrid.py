"""Fakeness starts at the weights: which operators run for real, and which on shapes alone.

Parameters are FakeTensors on the CPU; ids, masks, grids, indices, position tables and pixels are real. An operator
with a fake argument gives fake results, so all that costs memory or time is fake, and all that decides which way the
model's code goes (``padding_mask.all()``, ``grid.tolist()``, ``ids == image_token_id``) is real. Fakes of a CUDA device
would need a CUDA build, and fakes that are everywhere fail at the first ``.item()`` or take the wrong way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BIG = 4 << 20
"""Elements beyond which a real result that only fills memory is made fake."""

Handler = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]


def dispatch_mode(handle: Handler) -> Any:
    """A TorchDispatchMode that hands every operator, with its arguments, to a function."""
    from torch.utils import _python_dispatch

    base: Any = _python_dispatch.TorchDispatchMode

    class _Mode(base):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return handle(func, args, kwargs or {})

    return _Mode()


class Hybrid:
    """Runs an operator whose arguments are real, fake, or some of both.

    1. Without a fake argument it runs for real, except a factory of more than ``BIG`` elements and a pointwise operator
       that broadcasts to more than that and more than twice what its inputs hold (masks of S x S): these give fakes.
       The factor keeps ``pixel_values == 0`` real, from which some models count their images.
    2. A fake indexed by a real mask has as many rows as the mask has Trues: the mask becomes fake indices of that
       length. So does CUDA (nonzero, then gather), and the shape depends on no fake.
    3. Fake values written into a real tensor are zeros.
    4. Where a result's shape or value depends on fakes all the same, they are ones: every condition holds, every item
       is selected, the worst case for memory. A condition on fake integers holds at once, and its result is real: from
       counts of their pixels some models tell which crops are padding.
    """

    def __init__(self) -> None:
        import torch
        from torch._subclasses.fake_tensor import (
            DataDependentOutputException,
            DynamicOutputShapeException,
            FakeTensor,
            FakeTensorMode,
        )
        from torch.utils._pytree import arg_tree_leaves, tree_map

        aten = torch.ops.aten
        self._torch: Any = torch
        self._leaves, self._map = arg_tree_leaves, tree_map
        self._fake_type = FakeTensor
        self._data_dependent = (DataDependentOutputException, DynamicOutputShapeException)
        self._indexing = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
        self._makes_any_size = {
            aten.new_zeros,
            aten.new_ones,
            aten.new_full,
            aten.new_empty,
            aten.new_empty_strided,
        }
        self._keeps_size = {aten._to_copy}
        self._conditions = {aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge}
        self._device = torch.device("cpu")
        self._written: dict[Any, tuple[int, ...]] = {}
        self.fake_mode: Any = FakeTensorMode(allow_non_fake_inputs=True)

    def is_fake(self, value: Any) -> bool:
        return isinstance(value, self._fake_type)

    def fake(self, tensor: Any) -> Any:
        """A fake of the shape, strides and dtype of a meta tensor, with a storage of its own."""
        return self._fake_type(self.fake_mode, tensor, self._device, requires_grad=False)

    def tensors_in(self, *values: Any, **named: Any) -> list[Any]:
        """The tensors in arguments or results, in lists too."""
        return [leaf for leaf in self._leaves(*values, **named) if isinstance(leaf, self._torch.Tensor)]

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tensors = self.tensors_in(*args, **kwargs)
        num_fakes = sum(isinstance(tensor, self._fake_type) for tensor in tensors)
        if num_fakes:
            return self._run_with_fakes(func, args, kwargs, mixed=num_fakes < len(tensors))
        if self._grows(func, args, kwargs, tensors):
            with self.fake_mode:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    # -- rule 1 ------------------------------------------------------------------------------------------------------

    def _grows(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Any]) -> bool:
        """Whether it makes a large result out of next to nothing."""
        packet = func.overloadpacket
        if not tensors or packet in self._makes_any_size:
            with self.fake_mode:  # its size, for nothing
                shapes = self.tensors_in(func(*args, **kwargs))
            return sum(int(shape.numel()) for shape in shapes) > BIG
        if packet not in self._keeps_size and self._torch.Tag.pointwise not in func.tags:
            return False
        elements = math.prod(self._torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
        return bool(elements > BIG and elements > 2 * max(map(_held, tensors)))

    # -- rules 2 to 4 ------------------------------------------------------------------------------------------------

    def _run_with_fakes(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, mixed: bool) -> Any:
        torch = self._torch
        packet = func.overloadpacket
        if packet is torch.ops.aten.masked_select and not self.is_fake(args[1]):
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
            func, args = torch.ops.aten.index.Tensor, (args[0].expand(shape), [args[1].expand(shape)])
            packet = func.overloadpacket
        if packet in self._indexing:
            args = (args[0], self._counted(args[1]), *args[2:])
        if self._writes_only_real(func, args):
            written = {id(leaf) for place in self._written[func] for leaf in self.tensors_in(args[place])}
            return func(*self._filled(args, 0, written), **self._filled(kwargs, 0, written))
        # torch keeps the shapes of results, but not beside real arguments, and not of _unsafe_view, a view as any here.
        shapes = self._map(self._shape_of, (args, kwargs)) if mixed else (args, kwargs)
        if packet is torch.ops.aten._unsafe_view:
            func = torch.ops.aten.view.default
        try:
            # What the dispatcher would call if the mode was entered, without entering it for each operator.
            result = self.fake_mode.__torch_dispatch__(func, (), *shapes)
            if packet in self._conditions and _is_integer(args[0]) and result.numel() <= BIG:
                return torch.ones(result.shape, dtype=torch.bool)
            return result
        except self._data_dependent:
            with torch.no_grad():
                result = func(*self._filled(args, 1), **self._filled(kwargs, 1))
            return self._map(self._fake_again, result)

    def _counted(self, indices: Sequence[Any]) -> list[Any]:
        """Indices in which each real mask is replaced by fake integers, one a True."""
        counted: list[Any] = []
        for index in indices:
            masks = index is not None and index.dtype in (self._torch.bool, self._torch.uint8)
            if not masks or self.is_fake(index):
                counted.append(index)
                continue
            count = count_true(index)
            place = self._torch.empty(count, dtype=self._torch.int64, device="meta")
            counted.extend(self.fake(place.clone()) for _ in range(index.dim()))
        return counted

    def _writes_only_real(self, func: Any, args: Sequence[Any]) -> bool:
        if func not in self._written:
            self._written[func] = tuple(
                place
                for place, argument in enumerate(func._schema.arguments)
                if argument.alias_info is not None and argument.alias_info.is_write and not argument.kwarg_only
            )
        written = [args[place] for place in self._written[func] if place < len(args)]
        return bool(written) and not any(map(self.is_fake, self.tensors_in(written)))

    def _filled(self, values: Any, fill: int, kept: set[int] | frozenset[int] = frozenset()) -> Any:
        """The same with a real tensor in place of each fake, all of whose elements are one number in memory."""

        def real(leaf: Any) -> Any:
            if not self.is_fake(leaf) or id(leaf) in kept:
                return leaf
            return self._torch.full((), fill, dtype=leaf.dtype).expand(leaf.shape)

        return self._map(real, values)

    def _shape_of(self, leaf: Any) -> Any:
        """A fake in place of a real tensor."""
        if not isinstance(leaf, self._torch.Tensor) or self.is_fake(leaf):
            return leaf
        return self.fake(self._torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta"))

    def _fake_again(self, leaf: Any) -> Any:
        """Real integers and flags may be asked for; other numbers were made up."""
        is_number = isinstance(leaf, self._torch.Tensor) and leaf.is_floating_point()
        return self.fake(leaf.to("meta")) if is_number else leaf


def _is_integer(value: Any) -> bool:
    """Whether it is a tensor of integers; flags are none."""
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not (dtype.is_floating_point or dtype.is_complex or str(dtype) == "torch.bool")


def count_true(mask: Any) -> int:
    """How many elements of a real mask are true; an expanded one is not spread out for it."""
    strides = mask.stride()
    repeated = math.prod(size for size, stride in zip(mask.shape, strides, strict=True) if not stride)
    distinct = mask[tuple(slice(None) if stride else slice(0, 1) for stride in strides)]
    return int(distinct.count_nonzero()) * int(repeated)


def _held(tensor: Any) -> int:
    """Elements in memory: an expanded tensor holds fewer than it shows."""
    return int(min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size()))
