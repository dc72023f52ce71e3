"""A file that grows by a line for each thing that was done, so that a run killed at any moment goes on from there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from maxcrops.exceptions import ConfigError

with contextlib.suppress(ImportError):  # systems that are not POSIX have no such locks
    import fcntl

_FIRST = b'{"settings": '


class Journal:
    """Records of one run, one JSON object a line, behind a first line with the settings that they depend on.

    A line that a kill cut off is dropped: what it told is done again. A context manager; leaving it closes the file.

    Args:
        path: of the file, made where it is not there.
        settings: plain data; a file with others is not gone on with.
        operation: what the errors' messages name.

    Raises:
        ConfigError: the file belongs to a run with other settings, is being written by another process, or is no
            journal.
    """

    def __init__(self, path: str | PathLike[str], settings: Mapping[str, Any], *, operation: str) -> None:
        self.path = Path(path)
        self.records: list[dict[str, Any]] = []
        """What is there, those of earlier runs first."""
        self._operation = operation
        self._file = self.path.open("a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(settings)))
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record; it is on the disk when this returns."""
        self._write(record)
        self.records.append(dict(record))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except NameError:
            return
        except OSError as error:
            raise ConfigError(
                f"[{self._operation}] {self.path} is being written by another process; wait for it, or give another"
                " folder"
            ) from error

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        cut_off = lines.pop()  # nothing, where the last line is whole
        if cut_off and (lines or _FIRST.startswith(cut_off[: len(_FIRST)])):
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(cut_off))
        elif cut_off:
            raise ConfigError(f"[{self._operation}] {self.path} is no journal of a run, it begins with {cut_off[:9]!r}")
        if not lines:
            self._write({"settings": settings})
            return
        try:
            first, *self.records = [json.loads(line) for line in lines]
            before = dict(first["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"[{self._operation}] {self.path} is no journal of a run: {error}") from error
        differ = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if differ:
            changes = ", ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in differ)
            raise ConfigError(
                f"[{self._operation}] {self.path} belongs to a run with other settings ({changes}); give another"
                " folder, or remove this one"
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
