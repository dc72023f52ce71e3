"""Whatever people hand to an image preprocessor, as the uint8 pixels that the kernels read."""

from __future__ import annotations

import sys
from io import BytesIO
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from maxcrops.data.image_sizes import reason_of
from maxcrops.exceptions import ImageReadError
from maxcrops.preprocess import _pillow_memory

_KNOWN = (
    "a NumPy array, a torch tensor, a PIL image, a path (str or Path) or the bytes of an image file"
    " (bytes, bytearray or memoryview)"
)
_CHANNELS = (1, 3, 4)
_MAX_SIDE = 2**31 - 1
_UINT8 = np.dtype(np.uint8)

# EXIF orientation -> (step over rows, step over columns, whether rows become columns after that).
_TO_UPRIGHT = {
    2: (1, -1, False),
    3: (-1, -1, False),
    4: (-1, 1, False),
    5: (1, 1, True),
    6: (-1, 1, True),
    7: (-1, -1, True),
    8: (1, -1, True),
}

# torchvision's conversion of uint8 to float32 and back (to_dtype with scale=True); the second truncates.
_TO_FLOAT = np.float32(1 / 255)
_TO_UINT8 = np.float32(256 - 1e-3)
_PIXELS_AT_ONCE = 2**14


class Pixels(NamedTuple):
    """One image as the kernels read it."""

    array: npt.NDArray[np.uint8]
    """[height, width, 3]; any strides, those of 0 and below among them; read-only. Where possible it is the caller's
    own memory, which it keeps alive."""
    is_torch: bool
    """Whether the caller gave a torch tensor."""


def read_pixels(image: object, *, input_data_format: str | None = None, do_convert_rgb: bool = True) -> Pixels:
    """Pixels of one image, as the image processors of transformers 5.23 with torchvision read it; copied only where
    they have to be converted.

    =============================  ===================================================================================
    given                          read as
    =============================  ===================================================================================
    NumPy array, torch tensor      uint8, on the CPU, [height, width] or with a channels axis of 1, 3 or 4. One channel
                                   is repeated; four are RGBA, blended onto white in float32 as the processors do it
    PIL image, any mode            as it is, its EXIF orientation left alone. Transparency (an alpha channel, or
                                   ``info["transparency"]``) is blended onto white by Pillow, the rest is
                                   ``convert("RGB")``
    path; bytes of an image file   turned upright by the EXIF orientation, then ``convert("RGB")``, which *drops*
                                   transparency: what transformers' ``load_image`` does
    =============================  ===================================================================================

    For a path the processors themselves call ``load_image_as_tensor``, whose decoder is torchvision's or torchcodec's:
    upright and without transparency too, but a JPEG's pixels can differ by rounding. Files are read by Pillow here, as
    ``load_image`` reads them. Neither URLs nor base64 text are taken. A file with more pixels than
    ``PIL.Image.MAX_IMAGE_PIXELS`` is refused, where Pillow alone only warns up to twice as many.

    Where the channels of a three-dimensional array are: a NumPy array's are last, unless the last axis is none of 1, 3
    and 4 and the first is one of them; a tensor's are first, unless the first axis is none of them and the last is. The
    processors say "first" of both whenever the first axis is one of them, so a NumPy image of height 1, 3 or 4 is
    another one to them unless they are given ``input_data_format``.

    Args:
        image: one of the above; not changed, nor may it be while the result is in use.
        input_data_format: "channels_first" or "channels_last", for arrays and tensors of three dimensions; the rule
            above otherwise.
        do_convert_rgb: convert to RGB. If not, arrays, tensors and PIL images must have three channels, which are taken
            as they are (a YCbCr image stays one); files are converted all the same, as ``load_image`` does it.

    Raises:
        TypeError: not one of the known types, or not uint8.
        ValueError: a wrong number of dimensions or channels, a side of 0 or above 2**31 - 1, a tensor that is not a
            dense one on the CPU, a PIL mode that Pillow cannot convert, an unknown ``input_data_format``.
        ImageReadError: a file that is missing, broken, cut off or too large for Pillow's limit.
    """
    array, is_torch = unguarded_pixels(image, input_data_format=input_data_format, do_convert_rgb=do_convert_rgb)
    return Pixels(_read_only(array), is_torch)


def unguarded_pixels(
    image: object, *, input_data_format: str | None = None, do_convert_rgb: bool = True
) -> tuple[npt.NDArray[np.uint8], bool]:
    """read_pixels for those who do not write: the array can be written where the caller's can."""
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(
            "[preprocess] image must have an input_data_format of 'channels_first' or 'channels_last', or None, got"
            f" {input_data_format!r}"
        )
    # Most images are such arrays, and calls of functions whose code is in no cache cost more than what they check.
    if type(image) is np.ndarray and image.dtype == _UINT8 and image.ndim == 3 and input_data_format is None:
        height, width, channels = image.shape
        if channels == 3 and 1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE:
            return image, False
    torch = sys.modules.get("torch")  # without it nobody can have given a tensor
    is_torch = torch is not None and isinstance(image, torch.Tensor)
    if is_torch or isinstance(image, np.ndarray):
        array = _check_tensor(image) if is_torch else _check_array(image)
        array = _to_rgb(_channels_last(array, input_data_format, is_torch), do_convert_rgb)
    elif isinstance(image, Image.Image):
        array = _read_pillow(image, do_convert_rgb)
    elif isinstance(image, (str, PathLike)):
        array = _read_path(image)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        array = _read_file(BytesIO(image), f"{len(image)} bytes")
    else:
        raise TypeError(f"[preprocess] image must be {_KNOWN}, got {type(image).__name__}")
    return array, is_torch


def _read_only(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    view: npt.NDArray[np.uint8] = array.view()
    view.setflags(write=False)
    return view


def tensor_pixels(image: Any, input_data_format: str | None) -> Any:
    """A uint8 tensor on any device as [height, width, channels], sharing its memory; raises as read_pixels does."""
    _check_tensor_type(image, sys.modules["torch"])
    return _channels_last(image.detach(), input_data_format, True)


# -- arrays and tensors --------------------------------------------------------------------------------------------


def _check_array(image: Any) -> npt.NDArray[np.uint8]:
    if image.dtype != np.uint8:
        cast = ".astype('uint8')"
        raise TypeError(_wrong_dtype(str(image.dtype), image.dtype.kind == "f", image.dtype.kind == "b", cast))
    return np.asarray(image)  # a subclass may index differently


def _check_tensor(image: Any) -> npt.NDArray[np.uint8]:
    """The tensor's memory."""
    torch = sys.modules["torch"]
    if not image.is_cpu:
        raise ValueError(f"[preprocess] image must be on the CPU, got a tensor on {image.device}; give image.cpu()")
    _check_tensor_type(image, torch)
    array: npt.NDArray[np.uint8] = image.numpy()
    return array


def _check_tensor_type(image: Any, torch: Any) -> None:
    if image.layout != torch.strided:
        raise ValueError(f"[preprocess] image must be a dense tensor, got {image.layout}; give image.to_dense()")
    if image.dtype != torch.uint8:
        is_bool = image.dtype == torch.bool
        cast = ".to(torch.uint8)"
        raise TypeError(_wrong_dtype(str(image.dtype), image.dtype.is_floating_point, is_bool, cast))


def _wrong_dtype(dtype: str, is_float: bool, is_bool: bool, cast: str) -> str:
    fix = f"if its values are 0 to 255, give image{cast}"
    if is_float:
        fix = f"if its values are 0 to 1, give (image * 255).round(){cast}, if they are 0 to 255, image.round(){cast}"
    elif is_bool:
        fix = f"give image{cast} * 255"
    return f"[preprocess] image must be uint8, got {dtype}; {fix}"


def _channels_last(array: Any, input_data_format: str | None, usually_first: bool) -> Any:
    """[height, width, channels] of an array or a tensor, checked."""
    if array.ndim not in (2, 3):
        raise ValueError(
            f"[preprocess] image must have 2 or 3 dimensions, got {array.ndim}: shape {tuple(array.shape)}; give a"
            " batch image by image"
        )
    if array.ndim == 2:
        array = array.reshape(*array.shape, 1)
    elif (input_data_format or _guess_format(array.shape, usually_first)) == "channels_first":
        array = array.swapaxes(0, 1).swapaxes(1, 2)  # what arrays and tensors both have
    height, width, channels = array.shape
    if channels not in _CHANNELS:
        raise ValueError(
            f"[preprocess] image must have 1, 3 or 4 channels, got {channels} in {height} x {width} pixels; say with"
            " input_data_format where they are"
        )
    _check_sides(height, width)
    return array


def _guess_format(shape: tuple[int, ...], usually_first: bool) -> str:
    """Where the channels usually are, unless they can only be at the other end."""
    usual, other = (shape[0], shape[-1]) if usually_first else (shape[-1], shape[0])
    swapped = usual not in _CHANNELS and other in _CHANNELS
    return "channels_first" if usually_first != swapped else "channels_last"


def _check_sides(height: int, width: int) -> None:
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise ValueError(f"[preprocess] image must have sides of 1 to {_MAX_SIDE} pixels, got {height} x {width}")


def _check_unconverted(channels: int) -> None:
    if channels != 3:
        raise ValueError(
            f"[preprocess] image must have 3 channels where do_convert_rgb is False, got {channels}; convert it to RGB,"
            " or leave do_convert_rgb on"
        )


def _to_rgb(array: npt.NDArray[np.uint8], do_convert_rgb: bool) -> npt.NDArray[np.uint8]:
    height, width, channels = array.shape
    if not do_convert_rgb:
        _check_unconverted(channels)
    if channels == 1:
        return np.broadcast_to(array, (height, width, 3))
    return _on_white(array) if channels == 4 else array


def _on_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[height, width, 4] -> [height, width, 3]: TorchvisionBackend.convert_to_rgb, operation by operation in float32,
    a few rows at a time to stay in cache."""
    height, width, _ = rgba.shape
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // width)
    for row in range(0, height, rows):
        scaled = rgba[row : row + rows].astype(np.float32) * _TO_FLOAT
        alpha = scaled[..., 3:]
        blended = scaled[..., :3] * alpha + (1 - alpha)
        rgb[row : row + rows] = (blended * _TO_UINT8).astype(np.uint8)
    return rgb


# -- PIL images and files ------------------------------------------------------------------------------------------


def _read_pillow(image: Image.Image, do_convert_rgb: bool) -> npt.NDArray[np.uint8]:
    """image_transforms.convert_to_rgb."""
    transparent = "A" in image.getbands() or image.info.get("transparency") is not None
    try:
        _pillow_memory.load(image)
    except Exception as error:  # decoders raise whatever they like on broken bytes
        name = getattr(image, "filename", "") or f"a PIL image of mode {image.mode}"
        raise _unreadable(name, error) from error
    _check_sides(image.height, image.width)
    if not do_convert_rgb:
        _check_unconverted(len(image.getbands()))
        return _pillow_memory.view(image) if image.mode == "RGB" else np.asarray(image)
    if not transparent and image.mode in ("RGB", "L"):
        return _pillow_memory.view(image)
    mode = image.mode
    try:
        if transparent:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        return _pillow_memory.view(image.convert("RGB"))
    except ValueError as error:
        raise ValueError(
            f"[preprocess] image must have a mode that Pillow converts to RGB, got {mode}: {error}"
        ) from error


def _read_path(path: str | PathLike[str]) -> npt.NDArray[np.uint8]:
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:")):
        raise ValueError(
            f"[preprocess] image must be a path or the bytes of a file, got a URL: {path[:60]}; fetch it and give its"
            " bytes"
        )
    return _read_file(path, str(path))


def _read_file(file: str | PathLike[str] | BytesIO, name: str) -> npt.NDArray[np.uint8]:
    """image_utils.load_image; only that the image is turned upright by strides."""
    try:
        with Image.open(file) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.height} x {image.width} are more than {limit} pixels")
            _pillow_memory.load(image)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # a PNG file's may be behind its pixels
            # Dropped by the conversion in any case, which would warn of it.
            image.info.pop("transparency", None)
            array = _pillow_memory.view(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    except Exception as error:
        raise _unreadable(name, error) from error
    rows, columns, sideways = _TO_UPRIGHT.get(orientation, (1, 1, False))
    array = array[::rows, ::columns]
    return array.swapaxes(0, 1) if sideways else array


def _unreadable(name: object, error: Exception) -> ImageReadError:
    reason = reason_of(error)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        reason += "; if you trust it, set PIL.Image.MAX_IMAGE_PIXELS higher"
    return ImageReadError(f"[preprocess] image must be readable, got {name}: {reason}")
