"""Image sizes from file headers, as a model's loader will see them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from os import PathLike
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from maxcrops.exceptions import ImageReadError

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".jpx",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""What counts as an image in a folder; a file that is named itself is always tried."""

_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange height and width."""

_FILES_IN_FLIGHT = 1024


@dataclass(frozen=True)
class ImageFile:
    """One file: its size, or why it has none."""

    path: str
    size: tuple[int, int] | None
    """(height, width) in pixels, with EXIF orientation applied."""
    error: str | None = None


def read_size(path: str | PathLike[str] | bytes, *, verify: bool = False) -> tuple[int, int]:
    """(height, width) in pixels of an image file, with EXIF orientation applied as the models' loaders do.

    Reads the header only (and the pixels of a PNG file that has its metadata behind them). Pillow's limit on the number
    of pixels, ``PIL.Image.MAX_IMAGE_PIXELS``, holds as it does for a loader.

    Args:
        path: of the file; or what is in it, as bytes.
        verify: decode the pixels too, so that a truncated file is found; slow.

    Raises:
        ImageReadError: not an image, or one whose header is broken; the message gives the reason.
    """
    file, name = (BytesIO(path), f"{len(path)} bytes") if isinstance(path, bytes) else (path, path)
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Pillow turns TIFF sizes itself.
            sideways = not isinstance(image, TiffImagePlugin.TiffImageFile) and _orientation(image) in _SIDEWAYS
            if verify:
                image.load()
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise ImageReadError(f"[read_size] {name}: {reason_of(error)}") from error
    if width < 1 or height < 1:
        raise ImageReadError(f"[read_size] {name}: the header says {height} x {width} pixels")
    return (width, height) if sideways else (height, width)


def read_sizes(paths: Iterable[str | PathLike[str]], *, workers: int = 1, verify: bool = False) -> Iterator[ImageFile]:
    """Sizes of many files, in order; a file that cannot be read is an entry with its reason.

    Args:
        paths: of the files.
        workers: threads that read at once.
        verify: as for ``read_size``.
    """

    def read(path: str | PathLike[str]) -> ImageFile:
        try:
            return ImageFile(str(path), read_size(path, verify=verify))
        except ImageReadError as error:
            return ImageFile(str(path), None, str(error).removeprefix(f"[read_size] {path}: "))

    if workers <= 1:
        yield from map(read, paths)
        return
    remaining = iter(paths)
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(remaining, _FILES_IN_FLIGHT)):
            yield from pool.map(read, batch)


def find_images(arguments: Iterable[str], *, on_skip: Callable[[Path], None] | None = None) -> Iterator[str]:
    """Files behind files, folders and glob patterns, in order, folders sorted and searched to the bottom.

    A path that is neither file, folder nor a pattern with a match is given back as it is, so that reading it says what
    is wrong with it.

    Args:
        arguments: paths and patterns.
        on_skip: called with every file of a folder that has no image suffix.
    """
    for argument in arguments:
        if os.path.isdir(argument):
            yield from _walk(argument, on_skip)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            yield argument
        else:
            matches = sorted(glob.glob(argument, recursive=True))
            yield from find_images(matches, on_skip=on_skip) if matches else [argument]


def _walk(folder: str, on_skip: Callable[[Path], None] | None) -> Iterator[str]:
    """Images below a folder, sorted. Links to folders are followed once; a folder that cannot be listed is given back
    itself, so that reading it says why."""
    files: list[Path] = []
    skipped: list[Path] = []
    seen: set[str] = set()

    def unlisted(error: OSError) -> None:
        files.append(Path(error.filename))

    for place, folders, names in os.walk(folder, followlinks=True, onerror=unlisted):
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen]
        seen.update(os.path.realpath(os.path.join(place, name)) for name in folders)
        for name in names:
            path = Path(place, name)
            if path.is_file() or not path.exists():  # a link that leads nowhere is read, and says so
                (files if path.suffix.lower() in IMAGE_SUFFIXES else skipped).append(path)
    if on_skip is not None:
        for path in sorted(skipped):
            on_skip(path)
    yield from map(str, sorted(files))


def _orientation(image: Image.Image) -> int | None:
    # PngImageFile.getexif decodes all pixels in search of metadata behind them. The base class reads what the header
    # gave; only a file that has metadata behind its pixels is worth the decoding.
    in_header = not isinstance(image, PngImagePlugin.PngImageFile) or not _has_late_metadata(image)
    exif = Image.Image.getexif(image) if in_header else image.getexif()
    orientation: int | None = exif.get(ExifTags.Base.Orientation)
    return orientation


def _has_late_metadata(image: PngImagePlugin.PngImageFile) -> bool:
    """Whether a PNG file has a chunk that can hold an orientation behind its pixels; walks the chunks' heads."""
    file = image.fp
    if file is None:
        return False
    position = file.tell()
    behind = False
    try:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            behind = behind or kind == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)  # contents and checksum
        return False
    finally:
        file.seek(position)


def reason_of(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    return f"{type(error).__name__}: {error}".rstrip(": ")
