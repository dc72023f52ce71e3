"""Pillow's own pixels as NumPy arrays, without a copy where they lie in one piece.

Pillow keeps a pixel of an RGB image in four bytes and one of an L image in one, row after row without gaps. Since 11.2
it shows that memory through the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html), but
only where it is one block; by default a block ends at 16 MiB, four million RGB pixels. So an image that is still to be
decoded is decoded into one block, and an image that lies in several is copied into one. Pillow's process-wide setting
for this, ``Image.core.set_use_block_allocator``, stays as it is: it would change the images of other threads too.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, _imaging

_EXPORTS = hasattr(Image.Image, "__arrow_c_array__")

_INTO_GIVEN_MEMORY = frozenset({"JPEG", "MPO", "PNG", "WEBP"})
"""Formats whose plugins decode into the memory that an image already has; others prepare their own."""


class _ArrowArray(ctypes.Structure):
    """The head of the interface's struct ArrowArray."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Memory:
    """Holds a block of Pillow's for NumPy: the capsule gives it back when the last array on it is gone."""

    def __init__(self, capsule: object, address: int, shape: tuple[int, ...]) -> None:
        self._capsule = capsule
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "data": (address, True), "shape": shape}


def load(image: Image.Image) -> None:
    """``image.load()``, into one block of memory where the format allows it.

    Raises:
        Exception: whatever Pillow raises on a broken file.
    """
    undecoded = getattr(image, "_im", image) is None
    if _EXPORTS and undecoded and image.format in _INTO_GIVEN_MEMORY and image.mode in ("RGB", "L"):
        with suppress(MemoryError):  # a block ends at 2 GiB; several need not
            image.im = _imaging.new_block(image.mode, image.size)
    image.load()


def view(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Pixels of a loaded RGB or L image, uint8 [height, width, 3], read-only; L has a stride of 0 over channels.

    They live as long as the array does, whatever becomes of the image. They are the image's own memory wherever that
    is one block: what is drawn on the image shows in the array.
    """
    shown = _exported(image)
    if shown is None:
        shown = np.asarray(image)
    if shown.ndim == 2:
        return np.broadcast_to(shown[..., None], (*shown.shape, 3))
    return shown[..., :3]


def _exported(image: Image.Image) -> npt.NDArray[np.uint8] | None:
    """Memory of the image, or of a copy in one block, as uint8 [height, width, 4] or [height, width]; None where
    Pillow cannot show it."""
    # Pillow up to 12 crashes where it has itself borrowed the memory, from a mapped file or a buffer, and forgets the
    # gaps between rows that an alignment above 1 leaves.
    if not _EXPORTS or image.readonly or _imaging.get_alignment() != 1:
        return None
    memory = image.im
    try:
        memory.__arrow_c_schema__()  # says whether it is one block
    except ValueError:
        try:
            memory = _imaging.new_block(image.mode, image.size)
        except MemoryError:
            return None
        memory.paste(image.im, (0, 0, *image.size))
    capsule = memory.__arrow_c_array__()
    array = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    pixels = array.children[0].contents if array.n_children else array
    shape = (image.height, image.width, 4) if array.n_children else (image.height, image.width)
    return np.asarray(_Memory(capsule, pixels.buffers[1], shape))
