"""The image files that commands read and write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maxcrops.cli._options import note, plural

if TYPE_CHECKING:
    from PIL.Image import Image

    from maxcrops.data import ImageFile

_PROGRESS_FROM = 200  # files; fewer are done before a bar could be read


def read_images(images: list[str], workers: int, *, verify: bool = False) -> list[ImageFile]:
    """Sizes of the files, with a progress bar where there are many."""
    from PIL import Image

    from maxcrops.data import find_images, read_sizes

    skipped: list[Path] = []
    paths = list(find_images(images, on_skip=skipped.append))
    if skipped:
        note(f"left out {plural(len(skipped), 'file')} without the suffix of an image, such as {skipped[0]}")
    if not paths:
        raise ValueError(f"no images found in {', '.join(images)}")
    reading = read_sizes(paths, workers=workers, verify=verify)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if not verify:
            Image.MAX_IMAGE_PIXELS = None  # a limit on decoding, and headers alone are read here
        if len(paths) < _PROGRESS_FROM:
            return list(reading)
        from maxcrops.cli import _format

        with _format.progress() as bar:
            return list(bar.track(reading, total=len(paths), description="reading headers"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def require_image_suffix(output: Path) -> None:
    """Raises ValueError for a file that no image can be written to."""
    from PIL import Image

    if output.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{output} must have the suffix of an image format, such as .png")


def open_upright(path: Path) -> Image:
    """An image's pixels, with EXIF orientation applied."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be drawn ({error}); maxcrops count reads its header alone") from error


def print_unreadable(files: list[ImageFile]) -> None:
    """Every file that was left out, beside the output."""
    from maxcrops.cli import _format

    for line in _format.unreadable_lines(files):
        note(line)
