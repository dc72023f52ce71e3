"""Questions about images, and what people answered: from JSON lines, Parquet, or a folder that `datasets` saved."""

from __future__ import annotations

import base64
import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from maxcrops.data.image_sizes import read_size
from maxcrops.exceptions import ImageReadError

_JSON_LINES = (".jsonl", ".ndjson")
_KNOWN = (*_JSON_LINES, ".parquet", ".arrow")
_LONGEST_REASON = 300

Record: TypeAlias = Callable[[], dict[str, Any]]
"""Reads the cells of a row, by column."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image inside a data file, read when it is asked for; can be pickled."""

    file: str
    """An absolute path."""
    column: str
    group: int
    """Row group, of Parquet; else 0."""
    place: int
    """Row in the group; of JSON lines, the byte at which the line begins."""

    def read(self) -> bytes:
        """The encoded image.

        The row group of Parquet that was read last stays in memory, so read images in the order of their rows.

        Raises:
            ImageReadError: the file is gone or another one now.
            ImportError: pyarrow is needed and missing.
        """
        try:
            if self.file.lower().endswith(_JSON_LINES):
                with open(self.file, "rb") as lines:
                    lines.seek(self.place)
                    cell = json.loads(lines.readline())[self.column]
            else:
                cell = _last_group(self.file, self.group, self.column)[self.place].as_py()
            image = _image(cell)
            if isinstance(image, str):
                raise ValueError(f"a path is there, {image}")
        except (OSError, LookupError, TypeError, ValueError) as error:
            where = f"group {self.group}, place {self.place}"
            raise ImageReadError(f"[read_questions] {self.file} no longer has the image at {where}: {error}") from error
        return image


@dataclass(frozen=True, slots=True)
class Question:
    """One row."""

    row: int
    """From 0; of JSON lines, the line."""
    image: str | StoredImage
    """An absolute path, or where the encoded image lies. Its header has been read, its pixels have not."""
    question: str
    answers: tuple[str, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that was left out."""

    row: int
    reason: str


@dataclass(frozen=True)
class Questions:
    """A dataset; its images stay where they are."""

    rows: tuple[Question, ...]
    """At least one."""
    bad: tuple[BadRow, ...]
    fingerprint: str
    """A hash of the rows: their numbers, questions, answers and images. Of an image in a file of its own it takes the
    path as the row has it and the size of the file, of any other the bytes."""


def read_questions(
    path: str | PathLike[str],
    *,
    image: str = "image",
    question: str = "question",
    answers: str = "answers",
    limit: int | None = None,
) -> Questions:
    """Reads questions and answers, and the headers of the images.

    ====================  ============================================================================================
    path                  what is read
    ====================  ============================================================================================
    .jsonl, .ndjson       a JSON object a line; blank lines are passed over
    .parquet              a file, or all in a folder, as the Hugging Face hub has them, if they are of one split
    folder, .arrow file   what ``save_to_disk`` of `datasets` writes of one split
    pattern               files that match it, sorted: ``"data/validation-*.parquet"``
    ====================  ============================================================================================

    What a row has:

    - image: a path, absolute or relative to the folder of the row's file; the bytes of an image file; a ``data:`` URI;
      or ``{"bytes": ..., "path": ...}``, as `datasets` writes it, whose path counts where there are no bytes. In JSON,
      bytes are base64.
    - question: a string.
    - answers: a string, a list of them, or VQA's ``{"answer": ...}`` for any of them. Integers become their digits. No
      other number is taken: 3.0 may have been meant as "3".

    A row where one of these is missing, empty or something else, or whose image has no header that can be read, is a
    BadRow. With ten answers a row takes about 1 kB of memory, whatever its image. Encoded images are in memory one at a
    time, of Parquet one row group at a time; Arrow files are mapped.

    Args:
        path: as above.
        image, question, answers: names of the columns.
        limit: rows to read from the start, bad ones included; all if None.

    Raises:
        FileNotFoundError: nothing is there, or nothing matches.
        ValueError: a file of another kind, or a broken one; a folder of several splits; a column that is in no row (the
            message names those that are); no good row.
        ImportError: Parquet or Arrow without pyarrow, which the extra ``data`` has.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"[read_questions] limit must be at least 1, or None for all rows, got {limit}")
    columns = (image, question, answers)
    rows: list[Question] = []
    bad: list[BadRow] = []
    names: dict[str, None] = {}
    fingerprint = hashlib.blake2b(digest_size=16)
    records = chain.from_iterable(_records(file, columns) for file in _files(path))
    for row, (stored, record) in enumerate(islice(records, limit)):
        if record is None:
            continue
        try:
            cells = record()
            names |= dict.fromkeys(cells)
            if absent := [column for column in columns if cells.get(column) is None]:
                raise ValueError(f"has no {' and no '.join(absent)}")
            where, identity = _check_image(cells[image], stored)
            read = Question(row, where, _text(cells[question]), _answers(cells[answers]))
        except (OSError, ValueError, RecursionError) as error:
            bad.append(BadRow(row, _reason(error)))
            continue
        rows.append(read)
        fingerprint.update(json.dumps([row, identity, read.question, read.answers]).encode())
    if not rows:
        if names:
            _check_columns(columns, names, path)
        reason = f" that can be used; row {bad[0].row}: {bad[0].reason}" if bad else ""
        raise ValueError(f"[read_questions] {path} has no question{reason}")
    return Questions(tuple(rows), tuple(bad), fingerprint.hexdigest())


def open_image(question: Question) -> Image.Image:
    """The image of a question, RGB and upright, as the models' loaders have it: what transformers' ``load_image`` makes
    of the file.

    Raises:
        ImageReadError: the file is gone, broken, cut off or too large for Pillow's limit.
    """
    from maxcrops.preprocess._inputs import read_pixels  # which needs this package

    source = question.image.read() if isinstance(question.image, StoredImage) else question.image
    return Image.fromarray(np.ascontiguousarray(read_pixels(source).array))


# -- files ---------------------------------------------------------------------------------------------------------


def _files(path: str | PathLike[str]) -> list[str]:
    """Absolute paths, in order."""
    name = os.fspath(path)
    if os.path.isdir(name):
        files = _folder(Path(name))
    elif os.path.exists(name):
        files = [name]
    else:
        files = sorted(glob.glob(name, recursive=True))
        if not files:
            raise FileNotFoundError(f"[read_questions] {path}: no such file or folder")
    for file in files:
        if not file.lower().endswith(_KNOWN):
            raise ValueError(f"[read_questions] {file} must be one of {', '.join(_KNOWN)}, or a folder of one split")
    return [os.path.abspath(file) for file in files]


def _folder(folder: Path) -> list[str]:
    if (splits := folder / "dataset_dict.json").is_file():
        names = json.loads(splits.read_text(encoding="utf-8"))["splits"]
        raise ValueError(f"[read_questions] {folder} holds several splits: give one's folder ({', '.join(names)})")
    if (state := folder / "state.json").is_file():
        files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        return [str(folder / file["filename"]) for file in files]
    found = sorted(folder.rglob("*.parquet"))
    # data/train-00000-of-00002.parquet and train/0000.parquet are of data/train-*.parquet and train/*.parquet.
    stems = {file.with_name(re.sub(r"\d+(-of-\d+)?$", "*", file.stem)) for file in found}
    if len(stems) > 1:
        patterns = ", ".join(sorted(f"{stem.relative_to(folder)}.parquet" for stem in stems))
        raise ValueError(f"[read_questions] {folder} holds several splits: give it with one of {patterns}")
    if not found:
        raise FileNotFoundError(
            f"[read_questions] {folder} holds no .parquet file, and no dataset saved by save_to_disk"
        )
    return [str(file) for file in found]


def _records(file: str, columns: tuple[str, str, str]) -> Iterator[tuple[StoredImage, Record | None]]:
    """Where each row's image is, if the row holds it, and what reads the row; nothing does a blank line."""
    if not file.lower().endswith(_JSON_LINES):
        for group in range(_count_groups(file)):
            yield from _group_records(file, group, columns)
        return
    start = 0
    with open(file, "rb") as lines:
        for line in lines:
            yield StoredImage(file, columns[0], 0, start), partial(_object, line) if line.strip() else None
            start += len(line)


def _group_records(file: str, group: int, columns: tuple[str, str, str]) -> Iterator[tuple[StoredImage, Record]]:
    table = _read_group(file, group, columns)
    cells = {name: table[name] for name in columns}
    for place in range(len(table)):
        yield StoredImage(file, columns[0], group, place), partial(_cells_at, cells, place)


def _object(line: bytes) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(cells, dict):
        raise ValueError(f"not a JSON object: {cells!r}")
    return cells


def _cells_at(columns: dict[str, Any], place: int) -> dict[str, Any]:
    return {name: column[place].as_py() for name, column in columns.items()}


def _is_parquet(file: str) -> bool:
    return file.lower().endswith(".parquet")


def _count_groups(file: str) -> int:
    with _pyarrow(file) as pyarrow:
        return int(pyarrow.parquet.read_metadata(file).num_row_groups) if _is_parquet(file) else 1


def _read_group(file: str, group: int, columns: tuple[str, ...]) -> Any:
    """A table of these columns. All of an Arrow file is one group, mapped into memory."""
    with _pyarrow(file) as pyarrow:
        if _is_parquet(file):
            with pyarrow.parquet.ParquetFile(file) as parquet:
                _check_columns(columns, parquet.schema_arrow.names, file)
                return parquet.read_row_group(group, columns=list(columns))
        table = pyarrow.ipc.open_stream(pyarrow.memory_map(file)).read_all()
        _check_columns(columns, table.column_names, file)
        return table


@lru_cache(maxsize=1)
def _last_group(file: str, group: int, column: str) -> Any:
    return _read_group(file, group, (column,))[column]


@contextmanager
def _pyarrow(file: str) -> Iterator[Any]:
    """The package, whose errors then name the file."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"[read_questions] {file} is read with pyarrow: pip install 'maxcrops[data]'") from error
    try:
        yield pyarrow
    except pyarrow.ArrowException as error:
        raise ValueError(f"[read_questions] {file} cannot be read: {error}") from error


def _check_columns(columns: Iterable[str], names: Iterable[str], where: object) -> None:
    absent = [column for column in columns if column not in names]
    if absent:
        raise ValueError(f"[read_questions] {where} has no column {absent[0]!r}; it has {', '.join(names)}")


# -- cells ---------------------------------------------------------------------------------------------------------


def _check_image(cell: object, stored: StoredImage) -> tuple[str | StoredImage, object]:
    """Where the image is, and what stands for it in the fingerprint."""
    image = _image(cell)
    if isinstance(image, bytes):
        read_size(image)
        return stored, hashlib.blake2b(image, digest_size=16).hexdigest()
    path = os.path.join(os.path.dirname(stored.file), image)
    read_size(path)
    return path, [image, os.path.getsize(path)]


def _image(cell: object) -> str | bytes:
    """A path, or the bytes of an image file."""
    if isinstance(cell, dict):
        content = cell.get("bytes")
        if isinstance(content, str):
            return base64.b64decode(content, validate=True)
        cell = cell.get("path") if content is None else content
    if isinstance(cell, str) and cell.startswith("data:"):
        kind, _, content = cell.partition(",")
        if not kind.endswith(";base64"):
            raise ValueError(f"image must be a data: URI with base64, got {cell:.40}")
        return base64.b64decode(content, validate=True)
    if isinstance(cell, str) and re.match("https?://", cell):
        raise ValueError(f"image must be a path or the bytes of a file, got a URL: {cell}")
    if not isinstance(cell, (str, bytes)) or not cell:
        raise ValueError(f"image must be a path or the bytes of a file, got {cell!r}")
    return cell


def _text(cell: object) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError(f"question must be a string that is not empty, got {cell!r}")
    return cell


def _answers(cell: object) -> tuple[str, ...]:
    answers = tuple(_each_answer(cell))
    if not any(answer.strip() for answer in answers):
        raise ValueError(f"answers must have one that is not empty, got {cell!r}")
    return answers


def _each_answer(cell: object) -> Iterator[str]:
    if isinstance(cell, str):
        yield cell
    elif isinstance(cell, int) and not isinstance(cell, bool):
        yield str(cell)
    elif isinstance(cell, dict):
        yield from _each_answer(cell.get("answer"))
    elif isinstance(cell, list):
        for item in cell:
            yield from _each_answer(item)
    else:
        raise ValueError(f"answers must be strings, whole numbers or {{'answer': ...}}, got {cell!r}")


def _reason(error: Exception) -> str:
    reason = str(error).removeprefix("[read_size] ")
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
