"""The public face of preprocessing: images in, the model's own arrays out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from maxcrops import _core
from maxcrops._arguments import require_arguments, require_threads
from maxcrops.exceptions import MaxCropsError, UnsupportedError
from maxcrops.preprocess import _device, _packing, _reference, _triton
from maxcrops.preprocess._inputs import unguarded_pixels
from maxcrops.specs import Spec

DType: TypeAlias = Literal["float32", "bfloat16", "float16"]
Backend: TypeAlias = Literal["auto", "cpu", "triton", "reference"]
Tensors: TypeAlias = Literal["np", "pt"]

_Array = TypeVar("_Array", "npt.NDArray[np.uint8]", "_device.DeviceArray")
_Result = TypeVar("_Result")

_DTYPES = ("float32", "bfloat16", "float16")
_BACKENDS = ("auto", "cpu", "triton", "reference")
_ENCODED = (str, os.PathLike, bytes, bytearray, memoryview)
_KEPT_BYTES = 256 << 20
_FLOAT32, _UINT16 = np.dtype(np.float32), np.dtype(np.uint16)


@dataclass(frozen=True)
class ImageFailure:
    """An image that was left out."""

    index: int
    """Its place among the images given."""
    reason: str


class Batch(dict[str, Any]):
    """The arrays of a batch by the model's own names, the images that are not in it, and what made it."""

    failures: tuple[ImageFailure, ...] = ()
    backend: Backend = "auto"
    """"cpu", "triton" or "reference"; what "auto" chose, where that was asked for."""

    def __repr__(self) -> str:
        arrays = ", ".join(f"{key}: {tuple(value.shape)} {value.dtype}" for key, value in self.items())
        left_out = f"; {len(self.failures)} images left out" if self.failures else ""
        return f"Batch({arrays}{left_out}; by {self.backend})"


class Preprocessor:
    """Makes what a model's own image processor makes, without the GIL and in one pass.

    The crops of all images, in the order of the images, and the index tensors that the model wants with them:

    ``pack="token_pooling"`` (Molmo2)
        ``pixel_values`` [crops, patches, 3 * patch_size^2]; ``image_token_pooling`` int32 [features, pooled patches],
        the patches of the batch that each feature pools, -1 for none; ``image_grids`` int64 [images, 4], (rows, cols)
        of features of the global crop and of the local ones; ``image_num_crops`` int64 [images].
    ``pack="feature_positions"`` (Molmo)
        ``images`` [crops, patches, 3 * patch_size^2]; ``image_input_idx`` int32 [crops, features a crop], the place of
        each feature among the image tokens, -100 where a neighbour has it; ``image_masks`` float32 [crops, patches],
        the share of a patch that is image, with the global crop's row of -1 last, as the original has it;
        ``image_tokens`` int32 [tokens]. Several images are placed as if their tokens followed each other.

    A Preprocessor may be shared by threads, copied, pickled, and used in the children of a fork.

    Memory: beyond the output, a thread holds 64 patches and up to 192 values of each crop as bytes, and copies of the
    source rows of a band of patches where an image's pixels are not packed; with antialias, a band of patches of each
    canvas, as floats, and as many horizontally resized rows as the longest window of the vertical pass and 16. Row
    buffers are kept by the thread. Outputs that are not given come from a pool that keeps up to 256 MB for reuse once
    nothing refers to them.

    On a CUDA device the crops are cut in one launch, with antialias in two, on the current stream, and the host does
    not wait for it. Images may be tensors there, whose memory is read as it lies, or on the CPU, from where they are
    copied (through pinned memory, unless they are in it). All arrays are tensors there; the arithmetic is the CPU's.
    With antialias, the horizontally resized rows of all images are on the device at once: 12 bytes for each row of an
    image and column of a canvas.

    Args:
        spec: from ``get_spec`` or ``load_spec``; a family with a pixel rule.
        dtype: of the crops: "float32", or "bfloat16" or "float16" rounded from it, ties to even. NumPy has no bfloat16:
            it needs the package ml_dtypes, or torch tensors.
        backend: "cpu"; "triton", on a CUDA device; "reference", slow and in NumPy alone; or "auto": "triton" where an
            image or `out` is a CUDA tensor, else "cpu".
        num_threads: threads over crops and images; the bytes are the same for any number. None: the CPUs this process
            may use, but one inside a worker of a torch DataLoader.
        max_crops: sets the model's own knob, whatever its name, in local crops; the spec's setting where None.
        token_ids: ids of the "patch", "col", "start" and "end" tokens in ``image_tokens``; 0, 1, 2, 3 where None.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.
        UnsupportedError: a family whose pixels are not made yet; "triton" without the packages torch and triton.

    >>> import numpy as np
    >>> from maxcrops import get_spec
    >>> batch = Preprocessor(get_spec("molmo2"), num_threads=2)(np.zeros((480, 640, 3), np.uint8))
    >>> {key: array.shape for key, array in batch.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'pixel_values': (5, 729, 588), 'image_token_pooling': (725, 4), 'image_grids': (1, 4), 'image_num_crops': (1,)}
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dtype: DType = "float32",
        backend: Backend = "auto",
        num_threads: int | None = None,
        max_crops: int | None = None,
        token_ids: Mapping[str, int] | None = None,
    ) -> None:
        require_arguments("preprocess", spec, max_crops=max_crops)
        if spec.pixels is None:
            raise UnsupportedError(
                f"[preprocess] the pixels of {spec.family} are not made yet; Molmo's and Molmo2's are"
            )
        if dtype not in _DTYPES:
            raise ValueError(f"[preprocess] dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        if backend not in _BACKENDS:
            raise ValueError(f"[preprocess] backend must be one of {', '.join(_BACKENDS)}, got {backend!r}")
        if num_threads is not None:
            require_threads("preprocess", num_threads)
        self.spec = spec
        self._rule = spec.pixels
        self._crop_shape = (spec.crop.crop_size // spec.crop.patch_size) ** 2, 3 * spec.crop.patch_size**2
        self.dtype = dtype
        if backend == "triton":
            _device.require_packages()
        self.backend = backend
        self.num_threads = num_threads
        self.max_crops = max_crops
        self.token_ids = _checked_ids(token_ids)
        self._process = os.getpid()
        self._native  # noqa: B018  # validates: ValueError that names the field
        _core.layout(spec._core, 1, 1, max_crops)

    def __call__(
        self,
        images: object,
        *,
        out: Any = None,
        return_tensors: Tensors | None = None,
        errors: Literal["raise", "skip"] = "raise",
        input_data_format: str | None = None,
    ) -> Batch:
        """The arrays of one image or of a list of them.

        Args:
            images: one image or a list: uint8 arrays (NumPy [height, width, 3] of any strides, torch [3, height, width]
                or [height, width, 3]), PIL images of any mode, paths, bytes of image files; see ``read_pixels``. On a
                device also uint8 tensors of one or three channels there, each of less than 2**31 bytes.
            out: where the crops are written: a C-contiguous array or tensor of exactly [crops, patches, values], in the
                dtype (or uint16, as the bits of a 16-bit one); the slice of a larger one, pinned or shared memory. It
                must not overlap an image. ``output_shape`` tells the shape. On a device, a tensor there.
            return_tensors: "np" or "pt"; None gives tensors if any image is one (or if `out` is), arrays otherwise.
            errors: "raise" at the first image that cannot be used; "skip" leaves those out of the batch and lists them
                in ``Batch.failures``.
            input_data_format: "channels_first" or "channels_last" where shapes do not tell.

        Raises:
            TypeError, ValueError: something that is no image, or an `out` that does not fit; before any work.
            ImageReadError: a file that cannot be read.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f"[preprocess] errors must be 'raise' or 'skip', got {errors!r}")
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f"[preprocess] return_tensors must be 'np', 'pt' or None, got {return_tensors!r}")
        if input_data_format not in (None, "channels_first", "channels_last"):
            raise ValueError(
                "[preprocess] input_data_format must be 'channels_first', 'channels_last' or None, got"
                f" {input_data_format!r}"
            )
        if self._process != os.getpid():
            self._leave_locks_to_the_parent()
        items = _as_list(images)
        if self.backend == "triton" or (self.backend == "auto" and any(map(_device.is_cuda, (out, *items)))):
            return self._on_device(items, out, return_tensors, errors, input_data_format)
        arrays, any_torch, layouts, failures = self._read(
            items, errors, lambda item: unguarded_pixels(item, input_data_format=input_data_format)
        )
        tensors = return_tensors or ("pt" if any_torch or _is_tensor(out) else "np")
        crops = self._output(out, layouts, tensors)
        self._write(arrays, layouts, crops)
        batch = Batch({_packing.pixel_key(self._rule): self._typed(crops, tensors) if out is None else out})
        index_arrays = _reference.index_arrays if self.backend == "reference" else _packing.index_arrays
        for key, array in index_arrays(self.spec, self._rule, layouts, self.token_ids).items():
            batch[key] = _to_torch(array) if tensors == "pt" else array
        batch.failures = failures
        batch.backend = "reference" if self.backend == "reference" else "cpu"
        return batch

    def _on_device(
        self,
        items: Sequence[object],
        out: Any,
        return_tensors: Tensors | None,
        errors: str,
        input_data_format: str | None,
    ) -> Batch:
        if return_tensors == "np":
            raise ValueError(
                "[preprocess] return_tensors must be 'pt' or None on a device, got 'np'; give images on the CPU"
            )
        device = _device.device_of(items, out)
        arrays, _, layouts, failures = self._read(
            items, errors, lambda item: _device.read(item, device, input_data_format)
        )
        shape = (sum(layout.num_crops for layout in layouts), *self._crop_shape)
        crops = _device.output(out, shape, self.dtype, device, arrays)
        # On this thread: the current stream is a thread's own.
        _triton.write_crops(self._native, [_device.to_device(array, device) for array in arrays], layouts, crops)
        batch = Batch({_packing.pixel_key(self._rule): crops if out is None else out})
        for key, array in _packing.index_arrays(self.spec, self._rule, layouts, self.token_ids).items():
            batch[key] = _device.to_device(array, device)
        batch.failures = failures
        batch.backend = "triton"
        return batch

    def output_shape(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
        """[crops, patches, values] of images of these (height, width): the shape that `out` must have."""
        crops = 0
        for height, width in sizes:
            require_arguments("preprocess", self.spec, height=height, width=width)
            crops += self._layout(height, width).num_crops
        return (crops, *self._crop_shape)

    def __repr__(self) -> str:
        return f"Preprocessor({self.spec.key!r}, dtype={self.dtype!r}, backend={self.backend!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_native", "_pool")}

    # -- steps ---------------------------------------------------------------------------------------------------

    @cached_property
    def _native(self) -> _core.Preprocessor:
        rule = _core.PixelRule(_core.Resize[self._rule.resize.upper()], self._rule.image_mean, self._rule.image_std)
        return _core.Preprocessor(rule, _core.PixelType[self.dtype.upper()])

    @cached_property
    def _pool(self) -> _core.BufferPool:
        return _core.BufferPool(_KEPT_BYTES)

    def _leave_locks_to_the_parent(self) -> None:
        """In the child of a fork: another thread of the parent's may have held a lock, and is not here to let go."""
        for name in ("_native", "_pool"):
            self.__dict__.pop(name, None)
        self._process = os.getpid()

    def _read(
        self, items: Sequence[object], errors: str, read_one: Callable[[object], tuple[_Array, bool]]
    ) -> tuple[list[_Array], bool, list[_core.Layout], tuple[ImageFailure, ...]]:
        """Pixels of the images that can be used, whether a tensor is among them, their layouts, and the other images.

        Files are decoded on several threads. `read_one` returns pixels, and whether they were a tensor.
        """

        def read(item: object) -> tuple[_Array, bool, _core.Layout] | Exception:
            try:
                array, is_torch = read_one(item)
                height, width, _ = array.shape
                return array, is_torch, self._layout(height, width)
            except (MaxCropsError, ValueError, TypeError) as error:
                return error

        arrays: list[_Array] = []
        any_torch = False
        layouts: list[_core.Layout] = []
        failures: list[ImageFailure] = []
        threads = 1
        if len(items) > 1:
            threads = min(_threads(self.num_threads), sum(isinstance(item, _ENCODED) for item in items))
        for index, result in enumerate(_mapped(read, items, threads)):
            if not isinstance(result, Exception):
                array, is_torch, layout = result
                arrays.append(array)
                any_torch |= is_torch
                layouts.append(layout)
            elif errors == "raise":
                raise result if len(items) == 1 else _naming(result, index)
            else:
                failures.append(ImageFailure(index, str(result)))
        return arrays, any_torch, layouts, tuple(failures)

    def _layout(self, height: int, width: int) -> _core.Layout:
        return self._native.layout(self.spec._core, height, width, self.max_crops)

    def _output(self, out: Any, layouts: list[_core.Layout], tensors: Tensors) -> npt.NDArray[Any]:
        """[crops, patches, values] as float32, or as the uint16 bits of a 16-bit type."""
        crops = sum(layout.num_crops for layout in layouts)
        shape = (crops, *self._crop_shape)
        storage = _FLOAT32 if self.dtype == "float32" else _UINT16
        if out is None:
            if tensors == "np" and self.dtype == "bfloat16":
                _bfloat16()  # before any work
            num_bytes = shape[0] * shape[1] * shape[2] * storage.itemsize
            fresh: npt.NDArray[Any] = self._pool.empty(num_bytes).view(storage).reshape(shape)
            return fresh
        is_bits = type(out) is np.ndarray and out.dtype == storage and tensors == "np"
        array = out if is_bits else self._bits_of(out, tensors)
        if array.shape != shape:
            raise ValueError(f"[preprocess] out must have shape {list(shape)}, got {list(array.shape)}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError("[preprocess] out must be C-contiguous and writable")
        return array

    def _bits_of(self, out: Any, tensors: Tensors) -> npt.NDArray[Any]:
        """The memory of an output that was given."""
        if _is_tensor(out):
            torch = sys.modules["torch"]
            if tensors == "np":
                raise TypeError("[preprocess] out must be a NumPy array where return_tensors is 'np', got a tensor")
            if not out.is_cpu:
                raise ValueError(f"[preprocess] out must be on the CPU, got {out.device}")
            wanted = getattr(torch, self.dtype)
            if out.dtype not in (wanted, *([torch.uint16] if self.dtype != "float32" else [])):
                raise TypeError(f"[preprocess] out must be {self.dtype}, got {out.dtype}")
            bits = out.detach() if out.requires_grad else out
            return np.asarray((bits if self.dtype == "float32" else bits.view(torch.uint16)).numpy())
        if not isinstance(out, np.ndarray):
            raise TypeError(f"[preprocess] out must be a NumPy array or a torch tensor, got {type(out).__name__}")
        if tensors == "pt":
            raise TypeError("[preprocess] out must be a torch tensor where the result is tensors, got a NumPy array")
        if str(out.dtype) not in (self.dtype, *(["uint16"] if self.dtype != "float32" else [])):
            raise TypeError(f"[preprocess] out must be {self.dtype}, got {out.dtype}")
        return out if self.dtype == "float32" else out.view(np.uint16)

    def _write(self, images: list[npt.NDArray[np.uint8]], layouts: list[_core.Layout], out: npt.NDArray[Any]) -> None:
        if self.backend != "reference":
            self._native.run(images, layouts, out, _threads(self.num_threads))
            return
        crop = 0
        for index, image in enumerate(images):
            if np.may_share_memory(out, image):
                raise ValueError(f"[preprocess] out must not overlap image {index} in memory")
        for image, layout in zip(images, layouts, strict=True):
            crops = _reference.crops_of(self._rule, layout, image)
            out[crop : crop + layout.num_crops] = _rounded(crops, self.dtype)
            crop += layout.num_crops

    def _typed(self, crops: npt.NDArray[Any], tensors: Tensors) -> Any:
        """The crops in their dtype."""
        if tensors == "pt":
            import torch

            tensor = torch.from_numpy(crops)
            return tensor if self.dtype == "float32" else tensor.view(getattr(torch, self.dtype))
        if self.dtype == "bfloat16":
            return crops.view(_bfloat16())
        return crops.view(np.float16) if self.dtype == "float16" else crops


def _mapped(function: Callable[[object], _Result], items: Sequence[object], threads: int) -> Iterable[_Result]:
    if threads < 2:
        return map(function, items)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _as_list(images: object) -> Sequence[object]:
    if isinstance(images, (list, tuple)):
        return images
    if getattr(images, "ndim", 0) == 4:  # a batch array or tensor
        return list(images)  # type: ignore[call-overload, no-any-return]
    return [images]


def _naming(error: Exception, index: int) -> Exception:
    """The same error, with the image's place among those given."""
    error.args = (f"{error} (image {index} of those given)",)
    return error


def _checked_ids(token_ids: Mapping[str, int] | None) -> tuple[int, ...]:
    if token_ids is None:
        return tuple(range(len(_packing.KINDS)))
    if set(token_ids) != set(_packing.KINDS):
        raise ValueError(
            f"[preprocess] token_ids must have the keys {', '.join(_packing.KINDS)}, got {sorted(token_ids)}"
        )
    for kind, value in token_ids.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"[preprocess] token_ids[{kind!r}] must be an integer, got {value!r}")
        if not -(2**31) <= int(value.__index__()) < 2**31:
            raise ValueError(f"[preprocess] token_ids[{kind!r}] must fit in int32, got {value}")
    return tuple(int(token_ids[kind]) for kind in _packing.KINDS)


def _threads(num_threads: int | None) -> int:
    if num_threads is not None:
        return num_threads
    data = sys.modules.get("torch.utils.data")
    if data is not None and data.get_worker_info() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # without it nobody can have given a tensor
    return torch is not None and isinstance(value, torch.Tensor)


def _to_torch(array: npt.NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(array)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise UnsupportedError(
            "[preprocess] NumPy has no bfloat16; install ml_dtypes, give torch images, or ask for return_tensors='pt'"
        ) from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def _rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """float32 as it is, or the uint16 bits of a 16-bit type, ties to even."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
