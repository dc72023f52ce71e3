"""Logs and results of dry runs, kept on disk under a hash of everything that they depend on.

One file an entry, arrays and JSON in an ``.npz`` that is read without pickle. A cache may always be empty, so nothing
here fails: what cannot be read is missing, what cannot be written is not kept.

Environment:
    MAXCROPS_CACHE: the directory of maxcrops' caches; "off" (or "0", or nothing) switches them off. Unless it is set,
        ``maxcrops`` in XDG_CACHE_HOME, or in ``~/.cache``. Entries lie in its ``dry_run``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maxcrops.planning.dryrun._attention import AttentionCall, AttentionPlatform
from maxcrops.planning.dryrun._events import AttentionUse, EventLog
from maxcrops.planning.dryrun._request import RunRequest

MAX_BYTES = 256 * 2**20
"""Of all entries; a log takes 0.1 to 0.5 MB."""

_SUFFIX = ".npz"
_JSON = "json"
"""Name of the array whose bytes are an entry's JSON."""


def directory() -> Path | None:
    """Where entries lie, whether it exists or not; None when the cache is switched off."""
    chosen = os.environ.get("MAXCROPS_CACHE")
    if chosen is not None and chosen.strip().lower() in ("", "0", "off"):
        return None
    # The XDG specification: a path that is not absolute is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if chosen is not None:
            base = Path(chosen).expanduser()
        else:
            base = (xdg if xdg.is_absolute() else Path.home() / ".cache") / "maxcrops"
    except RuntimeError:  # no home directory
        return None
    # A folder of its own: the oldest files in it are removed.
    return base / "dry_run"


def key_of(*parts: object) -> str:
    """A hash of `parts`, of the versions of torch, transformers and maxcrops, and of the code of the dry run.

    Args:
        parts: JSON values, tuples, mappings and dataclasses (a ``RunRequest``) of such.

    Raises:
        TypeError: if a part is something else, whose text might differ from one process to the next.
    """
    text = json.dumps([_environment(), parts], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def cached(request: RunRequest, run: Callable[[RunRequest], EventLog]) -> EventLog:
    """The log of `request`: from the cache, or from `run`, whose answer is kept."""
    key = key_of("log", request)
    log = load_log(key)
    if log is None:
        log = run(request)
        save_log(key, log)
    return log


def load_log(key: str) -> EventLog | None:
    """The log kept under `key`, None if there is none that can be read."""
    entry = _read(key)
    if entry is None:
        return None
    arrays, values = entry
    try:
        platform, uses = values.pop("platform"), values.pop("attention")
        attention = [AttentionUse(**{**use, "call": AttentionCall(**_with_tuples(use["call"]))}) for use in uses]
        fields: dict[str, Any] = {
            **arrays,
            **_with_tuples(values),
            "attention": tuple(attention),
            "platform": None if platform is None else AttentionPlatform(**_with_tuples(platform)),
        }
        return EventLog(**fields)
    except (TypeError, KeyError, AttributeError):  # another entry's fields
        return None


def save_log(key: str, log: EventLog) -> None:
    """Keep a log under `key`."""
    fields = {field.name: getattr(log, field.name) for field in dataclasses.fields(log)}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in fields.items() if name not in arrays}
    values["attention"] = [dataclasses.asdict(use) for use in log.attention]
    values["platform"] = None if log.platform is None else dataclasses.asdict(log.platform)
    _write(key, arrays, values)


def load_json(key: str) -> Any:
    """The JSON value kept under `key`, None if there is none that can be read."""
    entry = _read(key)
    return None if entry is None else entry[1]


def save_json(key: str, value: Any) -> None:
    """Keep a JSON value under `key`; tuples and mappings come back as lists and dicts."""
    _write(key, {}, value)


def clear() -> int:
    """Remove all entries; returns how many there were."""
    return _remove(_entries(), -1)


@cache
def _environment() -> dict[str, str]:
    """What an answer depends on beside the question."""
    versions = {}
    for name in ("torch", "transformers", "maxcrops"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return {**versions, "code": code.hexdigest()}


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """With tuples again for the lists that JSON made of them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # With its type: two rules of a spec may have equal fields.
        return [type(value).__qualname__, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.integer):
        return int(value)
    raise TypeError(
        f"[dry_run] a cache key must be made of JSON values, tuples, mappings and dataclasses, got {type(value)}"
    )


def _read(key: str) -> tuple[dict[str, npt.NDArray[Any]], Any] | None:
    base = directory()
    if base is None:
        return None
    path = base / (key + _SUFFIX)
    try:
        # By way of memory, as NumPy leaves damaged files open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        value = json.loads(arrays.pop(_JSON).tobytes())
    except Exception:  # a damaged file may raise anything
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # entries that are used are not the oldest
    return arrays, value


def _write(key: str, arrays: Mapping[str, npt.NDArray[Any]], value: Any) -> None:
    base = directory()
    if base is None:
        return
    text = np.frombuffer(json.dumps(value, default=_plain).encode(), np.uint8)
    temporary = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: others only ever see a finished file under the entry's name.
        with tempfile.NamedTemporaryFile(dir=base, prefix=".", suffix=_SUFFIX, delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, **{_JSON: text, **arrays})  # type: ignore[arg-type]
        temporary.replace(base / (key + _SUFFIX))
        temporary = None
    except OSError:
        return
    finally:
        if temporary is not None:
            _remove([temporary], -1)
    _remove(_entries(), MAX_BYTES)


def _entries() -> list[Path]:
    """All files of the cache, those left behind by a process that was killed among them."""
    base = directory()
    return [] if base is None else list(base.glob("*" + _SUFFIX))


def _remove(paths: list[Path], max_bytes: int) -> int:
    """Remove the oldest of `paths` until the rest take at most `max_bytes` (-1: all); returns how many are gone."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # another process was faster
            continue
        found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    removed = 0
    for _, size, path in sorted(found):
        if total <= max_bytes:
            break
        try:
            path.unlink()
        except OSError:
            continue
        total -= size
        removed += 1
    return removed
