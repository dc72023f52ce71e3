"""Triton's interpreter, rounding as a GPU does. Only for a process that has TRITON_INTERPRET=1 from its start: Triton's
own functions are compiled or interpreted as it is imported."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from maxcrops.preprocess._reference import fma

_BUILDER = interpreter.InterpreterBuilder


def make_exact() -> None:
    """Of Triton 3.6 and 3.9."""
    cast = _BUILDER.cast_impl

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        """3.6 rounds the product too."""
        return interpreter.TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        """float32 to bfloat16 is truncated; tl's cast rounds half to even."""
        if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
            return cast(self, src, dst_type)
        bits = np.asarray(src.data, np.float32).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return interpreter.TensorHandle(rounded, dst_type.scalar)

    if not hasattr(interpreter._interpreter, "fma_fp32"):
        _BUILDER.create_fma = create_fma
    _BUILDER.cast_impl = cast_impl
    # 3.6 calls int() on arrays of one element, which NumPy 2.4 takes only without dimensions.
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.reshape(-1)[0])

    interpreter._patch_lang_tensor = patch_lang_tensor
    interpreter.InterpretedFunction.__call__ = _call
    # Tensors on the CPU are written where they are: copying them back would touch every page of a sparse one.
    interpreter.GridExecutor._restore_args_dev = lambda *arguments: None


def _call(self: Any, *arguments: Any, **more: Any) -> Any:
    """A function that a kernel calls. It would patch the language anew, which takes longer than most of ours, and which
    a kernel that uses the same names has done."""
    if tl not in self.fn.__globals__.values():
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*arguments, **more)
