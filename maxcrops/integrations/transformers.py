"""Processors of transformers whose image work is done here, and everything else by themselves.

``accelerate`` changes the class of a copied image processor to a subclass made on the spot, which replaces one method:
the one that has the images as they were given and all settings resolved and validated. The instance keeps the
original's attributes and nothing else, so what it saves, prints and loads is the original's.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from maxcrops.exceptions import UnsupportedError
from maxcrops.specs import Spec, get_spec, knob_of

if TYPE_CHECKING:
    import torch

    from maxcrops.preprocess import Preprocessor

__all__ = ["accelerate", "set_max_crops", "spec_of"]

_logger = logging.getLogger(__name__)

Processor = TypeVar("Processor")


def accelerate(
    processor: Processor,
    *,
    num_threads: int | None = None,
    strict: bool = True,
    device: str | torch.device | None = None,
) -> Processor:
    """A copy of a processor that gives the same results, its image work done here.

    Known are transformers' ``Molmo2ImageProcessor`` and the ``MolmoImageProcessor`` that Molmo's checkpoints bring
    with them, bare or inside a processor. Keys, order, shapes, dtypes and values are the original's. So are the bits:
    for Molmo2 those that torch computes with two threads or more (with one, a few pixels in a million differ by one
    step between the original and itself), for Molmo within the bounds of its spec's pixel rule. The originals are those
    of transformers 5.23 and of Molmo's checkpoints of 2024; a class of either name in another version is taken for the
    same as long as it has the same methods.

    Args:
        processor: an image processor, or a processor with one in ``image_processor``. It stays unchanged; a copied
            processor shares its other parts, such as the tokenizer, with it.
        num_threads: as for :class:`maxcrops.preprocess.Preprocessor`.
        strict: whether what cannot be done here is refused, when this is called or when the result is. If not, that
            processor or that call is left to the original, and a warning is logged once for each reason.
        device: "cuda" or "cuda:N" has the crops cut there by Triton's kernels, of Molmo2 alone: images may be tensors
            there, and all of the image processor's results are, as the original's are where it is called with
            ``device=``. A processor waits for them, as it reads ``image_grids`` to write the image tokens. None: the
            CPU.

    Returns:
        A processor of the same class, whose image processor is of a subclass of the original's. It can be pickled,
        copied, changed (``image_processor.max_crops = 24``) and saved; a saved one loads as the original. A processor
        that is left to the original is returned as it is.

    Raises:
        UnsupportedError: an unknown class, a subclass that changes the image work, a setting that the pixel path does
            not know, or a device where torch sees no CUDA or Triton is missing; the message names it and the fix.
        TypeError, ValueError: num_threads or device is wrong.
    """
    image_processor = getattr(processor, "image_processor", processor)
    place = None if device is None else _cuda_name(device)
    try:
        kind = _kind(type(image_processor))
        if place is not None:
            _require_device(kind, place)
        _require_untouched(
            type(image_processor).__name__, [name for name in kind._replaces if name in vars(image_processor)]
        )
        accelerated = _accelerated(image_processor, num_threads, strict, place)
        _preprocessor(spec_of(accelerated), num_threads, place)
    except UnsupportedError as error:
        if strict:
            raise
        _log_once(str(error))
        return processor
    if image_processor is processor:
        return cast(Processor, accelerated)
    result = copy.copy(processor)
    cast(Any, result).image_processor = accelerated
    return result


def spec_of(image_processor: Any, **knobs: Any) -> Spec:
    """The spec that an image processor's attributes and the knobs of a call stand for.

    Args:
        image_processor: of a class that :func:`accelerate` knows, accelerated or not.
        knobs: keyword arguments as the image processor's own call takes them.

    Raises:
        UnsupportedError: as :func:`accelerate`.
    """
    return _kind(type(image_processor))._spec(image_processor, knobs)


def set_max_crops(processor: Any, spec: Spec, max_crops: int) -> None:
    """Sets the knob of a processor of transformers, by its own name and in its own unit, to what max_crops means.

    Args:
        processor: an image processor, or a processor with one in ``image_processor``; it is changed.
        spec: how its images are cut; ``load_spec`` of its folder.
        max_crops: local crops.

    Raises:
        UnsupportedError: the family's processors have no such setting.
        ValueError: max_crops below the smallest that the spec knows.
    """
    image_processor = getattr(processor, "image_processor", processor)
    name, part = knob_of(spec)
    if name is None or not hasattr(image_processor, name):
        raise UnsupportedError(
            f"[set_max_crops] {type(image_processor).__name__} has no setting for max_crops; what bounds its crops is"
            f" {spec.knob}, which must be set by hand"
        )
    setattr(image_processor, name, _with_knob(getattr(image_processor, name), part, spec.knob_at(max_crops)))


def _with_knob(old: Any, part: str, value: Any) -> Any:
    if part:  # as longest_edge of a size
        changed = copy.copy(old)
        changed[part] = value
        return changed
    # Pairs of a list of resolutions; processors have them as lists, as JSON does.
    return [list(pair) for pair in value] if isinstance(value, tuple) else value


class _Accelerated:
    """Stands before the original's class among the bases. Settings are the class's, to stay out of what is saved."""

    _maxcrops_num_threads: ClassVar[int | None]
    _maxcrops_strict: ClassVar[bool]
    _maxcrops_device: ClassVar[str | None] = None
    _takes_device: ClassVar[bool] = False
    """Whether the original's results may be on one."""
    _replaces: ClassVar[tuple[str, ...]]
    """Methods of the original that do not run any more."""

    @staticmethod
    def _recognises(cls: type) -> bool:
        """Whether this is the original's class, not one derived from it."""
        raise NotImplementedError

    @staticmethod
    def _spec(image_processor: Any, knobs: dict[str, Any]) -> Spec:
        raise NotImplementedError

    def _maxcrops_preprocessor(self, knobs: dict[str, Any]) -> Preprocessor:
        return _preprocessor(spec_of(self, **knobs), self._maxcrops_num_threads, self._maxcrops_device)

    def _maxcrops_leave(self, error: UnsupportedError) -> None:
        """Logs the reason for leaving a call to the original, or raises it."""
        if self._maxcrops_strict:
            raise error
        _log_once(str(error))

    def __reduce__(self) -> tuple[Any, ...]:
        original = _instance(_original_class(type(self)), vars(self))
        return _accelerated, (original, self._maxcrops_num_threads, self._maxcrops_strict, self._maxcrops_device)


class _AcceleratedMolmo2(_Accelerated):
    _takes_device = True
    _replaces = (
        "_preprocess_image_like_inputs",
        "_prepare_image_like_inputs",
        "process_image",
        "convert_to_rgb",
        "_preprocess",
        "_image_batch_to_patches_and_grids",
        "_build_overlapping_crops",
        "resize",
        "rescale_and_normalize",
        "rescale",
        "normalize",
    )

    @staticmethod
    def _recognises(cls: type) -> bool:
        home = "transformers.models.molmo2.image_processing_molmo2"
        return (cls.__module__, cls.__qualname__) == (home, "Molmo2ImageProcessor")

    @staticmethod
    def _spec(image_processor: Any, knobs: dict[str, Any]) -> Spec:
        # do_resize, do_pad, do_center_crop and what belongs to them are ignored by the original too.
        def setting(name: str) -> Any:
            return knobs[name] if name in knobs else getattr(image_processor, name)

        for name in ("do_rescale", "do_normalize"):
            if not setting(name):
                _refuse(f"{name}={setting(name)!r}", f"pass {name}=True")
        if setting("rescale_factor") != 1 / 255:
            _refuse(f"rescale_factor={setting('rescale_factor')!r}", "pass 1 / 255")
        resample = setting("resample")  # Pillow's, torchvision's or None, which means the same
        if getattr(resample, "value", resample) not in (None, Image.Resampling.BILINEAR, "bilinear"):
            _refuse(f"resample={resample!r}", "pass PIL.Image.Resampling.BILINEAR")
        place = getattr(type(image_processor), "_maxcrops_device", None)
        asked = setting("device")
        if asked is not None and str(asked) != place and (place or str(asked).partition(":")[0] != "cpu"):
            fix = f"pass device={place!r}" if place else "pass device=None and move the results"
            _refuse(f"device={asked!r}", f"{fix}, or accelerate with the device")
        size = image_processor._standardize_kwargs(size=setting("size"), default_to_square=True)["size"]
        if size.height is None or size.height != size.width:
            _refuse(f"size={dict(size)}", "give a height and a width that are equal")
        return _changed(
            "molmo2",
            max_crops=setting("max_crops"),
            overlap_margins=tuple(setting("overlap_margins")),
            crop_size=size.height,
            patch_size=setting("patch_size"),
            pooling=tuple(setting("pooling_size")),
            image_mean=_per_channel(setting("image_mean")),
            image_std=_per_channel(setting("image_std")),
        )

    def _preprocess_image_like_inputs(self, images: Any, **kwargs: Any) -> Any:
        """As the original's: images in any form, all settings given."""
        from transformers.image_processing_base import BatchFeature

        original = cast(Any, super())
        try:
            preprocessor = self._maxcrops_preprocessor(kwargs)
            place = self._maxcrops_device
            given = [_given(image, kwargs, place) for image in original._prepare_images_structure(images)]
            if not given:
                _refuse("an empty list of images", "give at least one")
            if place and kwargs.get("return_tensors") not in (None, "pt"):
                _refuse(f"return_tensors={kwargs['return_tensors']!r} with device={place!r}", "pass 'pt'")
        except UnsupportedError as error:
            self._maxcrops_leave(error)
            return original._preprocess_image_like_inputs(images, **kwargs)
        with _current(place):
            batch = preprocessor(given, return_tensors="pt", input_data_format="channels_last")
        return BatchFeature(dict(batch), tensor_type=kwargs.get("return_tensors"))


def _given(image: Any, settings: dict[str, Any], place: str | None) -> Any:
    """An image as the Preprocessor reads it like the original: PIL, or uint8 [height, width] or [..., channels].

    A view of what was given. Where the channels are is settled here: the original guesses otherwise than we do.

    Raises:
        UnsupportedError: values that are not uint8, memory of another device, or other channels than RGB left as they
            are.
    """
    from transformers.image_utils import infer_channel_dimension_format

    convert, layout = settings["do_convert_rgb"], settings["input_data_format"]
    if isinstance(image, Image.Image):
        if convert:
            return image
        image, layout = np.asarray(image), "channels_last"
    dtype = str(image.dtype).removeprefix("torch.")
    if dtype != "uint8":
        _refuse(f"an image of {dtype}", "give uint8")
    on_device = not isinstance(image, np.ndarray) and image.device.type != "cpu"
    if on_device and (place is None or not f"{image.device}:".startswith(f"{place}:")):
        _refuse(f"an image on {image.device}", f"give one on {place}" if place else "give one in the CPU's memory")
    # A tensor stays one where it may be in pinned memory.
    array = image if place else np.asarray(image)
    if array.ndim == 3 and (layout or infer_channel_dimension_format(image, num_channels=(1, 3, 4))) != "channels_last":
        array = array.transpose(1, 2, 0) if isinstance(array, np.ndarray) else array.permute(1, 2, 0)
    if on_device and array.ndim == 3 and array.shape[2] == 4:
        _refuse(f"an image of four channels on {image.device}", "give its first three, or image.cpu()")
    if not convert and (array.ndim != 3 or array.shape[2] != 3):
        _refuse("an image of other than three channels with do_convert_rgb=False", "pass do_convert_rgb=True")
    return array


_MOLMO_PARAMETERS = (
    "self", "image",
    "image_patch_token_id", "image_col_token_id", "image_start_token_id", "image_end_token_id",
    "max_crops", "overlap_margins", "base_image_input_size",
    "image_token_length_w", "image_token_length_h", "image_patch_size",
)  # fmt: skip


class _AcceleratedMolmo(_Accelerated):
    _replaces = ("preprocess", "image_to_patches_and_tokens", "build_image_input_idx", "_normalize")

    @staticmethod
    def _recognises(cls: type) -> bool:
        # Its module is a copy in a cache, so only name and methods tell.
        methods = [vars(cls).get(name) for name in ("multimodal_preprocess", *_AcceleratedMolmo._replaces)]
        return (
            cls.__name__ == "MolmoImageProcessor"
            and all(map(callable, methods))
            and tuple(inspect.signature(vars(cls)["preprocess"]).parameters)[:12] == _MOLMO_PARAMETERS
        )

    @staticmethod
    def _spec(image_processor: Any, knobs: dict[str, Any]) -> Spec:
        def setting(name: str) -> Any:
            return knobs.get(name) or getattr(image_processor, name)

        # The original ignores these in a call.
        for name in ("do_normalize", "image_mean", "image_std"):
            if getattr(image_processor, name) is None or not image_processor.do_normalize:
                _refuse(f"{name}={getattr(image_processor, name)!r}", f"set {name} of the image processor")
        size = setting("base_image_input_size")
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            _refuse(f"base_image_input_size={size!r}", "give a square size")
        [crop_size] = sides
        spec = _changed(
            "molmo",
            max_crops=setting("max_crops"),
            overlap_margins=tuple(setting("overlap_margins")),
            crop_size=crop_size,
            patch_size=setting("image_patch_size"),
            image_mean=_per_channel(image_processor.image_mean),
            image_std=_per_channel(image_processor.image_std),
        )
        for axis in "hw":
            length = setting(f"image_token_length_{axis}")
            features = -(-spec.crop_size // spec.patch_size // 2)
            if length != features:
                _refuse(f"image_token_length_{axis}={length!r}", f"for this crop size it is {features}")
        return spec

    def preprocess(
        self,
        image: Any,
        image_patch_token_id: int,
        image_col_token_id: int,
        image_start_token_id: int,
        image_end_token_id: int,
        max_crops: int | None = None,
        overlap_margins: Sequence[int] | None = None,
        base_image_input_size: int | Sequence[int] | None = None,
        image_token_length_w: int | None = None,
        image_token_length_h: int | None = None,
        image_patch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[npt.NDArray[Any], ...]:
        """As the original's, of one uint8 [height, width, 3] image.

        Returns:
            crops float32 [crops, patches, values], tokens int64 [tokens], the place of each crop's features among the
            tokens int32 [crops, features], the share of each patch that is image float32 [crops, patches].
        """
        ids = (image_patch_token_id, image_col_token_id, image_start_token_id, image_end_token_id)
        knobs = {
            "max_crops": max_crops,
            "overlap_margins": overlap_margins,
            "base_image_input_size": base_image_input_size,
            "image_token_length_w": image_token_length_w,
            "image_token_length_h": image_token_length_h,
            "image_patch_size": image_patch_size,
        }
        try:
            preprocessor = self._maxcrops_preprocessor(knobs)
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                _refuse(f"an image of {got}", "give a uint8 array [height, width, 3]")
        except UnsupportedError as error:
            self._maxcrops_leave(error)
            return cast(Any, super()).preprocess(image, *ids, **knobs, **kwargs)  # type: ignore[no-any-return]
        batch = preprocessor([image], return_tensors="np", input_data_format="channels_last")
        # The Preprocessor's own ids are the kinds, in this order.
        tokens = np.array(ids, np.int64)[batch["image_tokens"]]
        return batch["images"], tokens, batch["image_input_idx"], batch["image_masks"]


_KINDS: tuple[type[_Accelerated], ...] = (_AcceleratedMolmo2, _AcceleratedMolmo)


def _kind(cls: type) -> type[_Accelerated]:
    """Which of ours replaces what in a class.

    Raises:
        UnsupportedError: none does, or the class changes what would be replaced.
    """
    if issubclass(cls, _Accelerated):
        return next(kind for kind in _KINDS if issubclass(cls, kind))
    for kind in _KINDS:
        original = next((base for base in cls.__mro__ if kind._recognises(base)), None)
        if original is not None:
            _require_untouched(
                cls.__name__,
                [name for name in kind._replaces if getattr(cls, name, None) is not getattr(original, name, None)],
            )
            return kind
    _refuse(
        f"{cls.__module__}.{cls.__qualname__}",
        "give a Molmo2ImageProcessor of transformers or the MolmoImageProcessor of Molmo's checkpoints",
    )


def _require_untouched(name: str, changed: Sequence[str]) -> None:
    if changed:
        _refuse(
            f"{name} with its own {', '.join(changed)}",
            "accelerate an instance of the original's class",
        )


def _original_class(cls: type[_Accelerated]) -> type:
    return cls.__bases__[1]


@cache
def _accelerated_class(original: type, num_threads: int | None, strict: bool, place: str | None) -> type:
    """A subclass that looks like the original to whoever writes down its name."""
    namespace = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_maxcrops_num_threads": num_threads,
        "_maxcrops_strict": strict,
        "_maxcrops_device": place,
    }
    return type(original.__name__, (_kind(original), original), namespace)


def _instance(cls: type, attributes: dict[str, Any]) -> Any:
    instance: Any = object.__new__(cls)
    vars(instance).update(attributes)
    return instance


def _accelerated(image_processor: Any, num_threads: int | None, strict: bool, place: str | None) -> Any:
    """An accelerated copy of an image processor, whatever its settings are."""
    cls = type(image_processor)
    original = _original_class(cls) if issubclass(cls, _Accelerated) else cls
    return _instance(_accelerated_class(original, num_threads, strict, place), copy.deepcopy(vars(image_processor)))


@lru_cache(maxsize=256)
def _changed(key: str, **changes: Any) -> Spec:
    try:
        return get_spec(key).replace(**changes)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"[accelerate] {error}") from error


@lru_cache(maxsize=32)
def _preprocessor(spec: Spec, num_threads: int | None, place: str | None) -> Preprocessor:
    from maxcrops.preprocess import Preprocessor

    return Preprocessor(spec, backend="triton" if place else "cpu", num_threads=num_threads)


def _cuda_name(device: str | torch.device) -> str:
    name = str(device)
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(f"[accelerate] device must be 'cuda', 'cuda:N' or None, got {name!r}")
    return name


def _require_device(kind: type[_Accelerated], place: str) -> None:
    from maxcrops.preprocess import _device

    if not kind._takes_device:
        _refuse(f"a processor of NumPy arrays with device={place!r}", "leave device out")
    try:
        found = _device.device_of([], None)
    except UnsupportedError as error:
        reason = str(error).partition("] ")[2]
        raise UnsupportedError(f"[accelerate] device must be None here, got {place!r}: {reason}") from error
    import torch

    index = torch.device(place).index
    if found.type == "cuda" and index is not None and index >= torch.cuda.device_count():
        raise ValueError(f"[accelerate] device must be one of {torch.cuda.device_count()} here, got {place!r}")


def _current(place: str | None) -> AbstractContextManager[Any]:
    """Makes a device the one to which images from the CPU go."""
    if place is None:
        return nullcontext()
    import torch

    return torch.cuda.device(place) if torch.cuda.is_available() else nullcontext()  # there is none when interpreted


def _per_channel(value: Any) -> tuple[float, ...]:
    """A number, or a sequence of one or three, as the original broadcasts it over three channels."""
    values = tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value,)
    return tuple(map(float, values * 3 if len(values) == 1 else values))


def _refuse(what: str, fix: str) -> NoReturn:
    raise UnsupportedError(f"[accelerate] {what} cannot be accelerated; {fix}, or let strict=False leave it as it is")


@cache
def _log_once(reason: str) -> None:
    _logger.warning("left to the original: %s", reason)
