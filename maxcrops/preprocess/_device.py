"""Where the Preprocessor works on a GPU: what it reads there, and what it gives back."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from maxcrops.exceptions import UnsupportedError
from maxcrops.preprocess import _inputs, _triton

if TYPE_CHECKING:
    import torch


DeviceArray: TypeAlias = "torch.Tensor | npt.NDArray[np.uint8]"
"""One image, uint8 [height, width, 3] of any strides: a tensor on the device or in pinned memory, the caller's own;
otherwise an array."""


class DevicePixels(NamedTuple):
    """What Pixels is on the CPU."""

    array: DeviceArray
    is_torch: bool
    """Whether the caller gave a torch tensor."""


def is_cuda(value: object) -> bool:
    torch = sys.modules.get("torch")  # without it nobody can have given a tensor
    return torch is not None and isinstance(value, torch.Tensor) and value.is_cuda


def require_packages() -> None:
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            raise UnsupportedError(
                f"[preprocess] backend must be 'cpu' without the package {name}; install it (pip install"
                " 'maxcrops[torch]'), or give images on the CPU"
            )


def device_of(images: Sequence[object], out: object) -> torch.device:
    """The one on which all happens: that of `out`, of the first image that is on one, or the current one."""
    require_packages()
    import torch

    if _triton.is_interpreted():
        return torch.device("cpu")
    for value in (out, *images):
        if is_cuda(value):
            device: torch.device = value.device  # type: ignore[attr-defined]
            return device
    if not torch.cuda.is_available():
        raise UnsupportedError(
            "[preprocess] backend must be 'cpu' or 'reference' where torch sees no CUDA device, got 'triton'; install a"
            " torch with CUDA, or set TRITON_INTERPRET=1 before Python starts to run the kernels slowly on the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def read(image: object, device: torch.device, input_data_format: str | None) -> DevicePixels:
    """A tensor on the device or in pinned memory as it lies there; anything else as read_pixels has it.

    Raises:
        TypeError, ValueError, ImageReadError: as read_pixels; also a tensor on another device, and one with four
            channels, whose transparency is only blended on the CPU.
    """
    import torch

    if isinstance(image, torch.Tensor) and (image.device == device or image.is_cuda or image.is_pinned()):
        if image.is_cuda and image.device != device:
            raise ValueError(
                f"[preprocess] image must be on {device}, as out or the first image is, got {image.device}; give"
                f" image.to({str(device)!r})"
            )
        pixels = _inputs.tensor_pixels(image, input_data_format)
        height, width, channels = pixels.shape
        if channels != 4:
            return DevicePixels(pixels.expand(height, width, 3), True)
        if image.is_cuda:
            raise ValueError(
                "[preprocess] image must have 1 or 3 channels on a GPU, got 4; give its first three to leave"
                " transparency out, or image.cpu() to have it blended onto white"
            )
    return DevicePixels(*_inputs.read_pixels(image, input_data_format=input_data_format))


def to_device(array: torch.Tensor | npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """On the device, in the order of its current stream; the host waits for nothing but the copy to pinned memory."""
    import torch

    if isinstance(array, torch.Tensor):
        return array.to(device, non_blocking=True)
    dtype: torch.dtype = getattr(torch, array.dtype.name)
    staged = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    np.copyto(staged.numpy(), array)
    return staged.to(device, non_blocking=True)


def output(
    out: Any, shape: tuple[int, int, int], dtype: str, device: torch.device, images: Sequence[DeviceArray]
) -> torch.Tensor:
    """Where the kernels write: new memory, or `out` in its dtype, checked."""
    import torch

    wanted: torch.dtype = getattr(torch, dtype)
    if out is None:
        return _triton.empty(shape, wanted, device, f"{shape[0]} crops")
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"[preprocess] out must be a torch tensor on {device}, got {type(out).__name__}")
    if out.device != device:
        raise ValueError(f"[preprocess] out must be on {device}, as the images are, got {out.device}")
    if out.dtype not in (wanted, *([torch.uint16] if dtype != "float32" else [])):
        raise TypeError(f"[preprocess] out must be {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"[preprocess] out must have shape {list(shape)}, got {list(out.shape)}")
    if not out.is_contiguous():
        raise ValueError("[preprocess] out must be C-contiguous and writable")
    begin, end = _extent(out)
    for index, image in enumerate(images):
        if isinstance(image, torch.Tensor):
            first, behind = _extent(image)
            if first < end and begin < behind:
                raise ValueError(f"[preprocess] out must not overlap image {index} in memory")
    return out.detach().view(wanted)


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte, and behind the last."""
    if tensor.numel() == 0:
        return 0, 0
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
