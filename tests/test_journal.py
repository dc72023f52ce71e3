"""A journal that is cut off anywhere goes on with what is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maxcrops as mc
from maxcrops.profiling._journal import Journal

SETTINGS = {"model": "a", "sizes": (1, 2)}  # JSON has no tuples
RECORDS = [{"n": 0}, {"n": 1, "text": "zwölf\nKästen"}, {"n": 2}]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SETTINGS, operation="sweep") as journal:
        for record in RECORDS:
            journal.append(record)
        assert journal.records == RECORDS
    return path


def test_it_goes_on(written: Path) -> None:
    with Journal(written, SETTINGS, operation="sweep") as journal:
        assert journal.records == RECORDS
        journal.append({"n": 3})
    with Journal(written, SETTINGS, operation="sweep") as journal:
        assert journal.records == [*RECORDS, {"n": 3}]


def test_cut_off_at_any_byte(written: Path) -> None:
    whole = written.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        with Journal(written, SETTINGS, operation="sweep") as journal:
            assert journal.records == RECORDS[: max(0, sum(end <= length for end in ends) - 1)]
            journal.append({"n": 9})
        lines = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
        assert lines[0] == {"settings": {"model": "a", "sizes": [1, 2]}}
        assert lines[-1] == {"n": 9}


def test_other_settings_are_refused(written: Path) -> None:
    before = written.read_bytes()
    expected = r"\[sweep\] .*journal.jsonl belongs to a run with other settings \(model was 'a' and is 'b'"
    with pytest.raises(mc.ConfigError, match=expected):
        Journal(written, {**SETTINGS, "model": "b"}, operation="sweep")
    with pytest.raises(mc.ConfigError, match="dtype was None and is 'float32'"):
        Journal(written, {**SETTINGS, "dtype": "float32"}, operation="sweep")
    assert written.read_bytes() == before


@pytest.mark.parametrize("text", ["{}\n", "{}", "[1]\n", "no journal\n", '{"settings": {}}\nbroken\n'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(mc.ConfigError, match="is no journal of a run"):
        Journal(path, {}, operation="sweep")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_one_process_at_a_time(written: Path) -> None:
    code = (
        "import sys, maxcrops as mc; from maxcrops.profiling._journal import Journal\n"
        f"try:\n    Journal(sys.argv[1], {SETTINGS!r}, operation='sweep')\n"
        "except mc.ConfigError as error:\n    print(error)\n"
    )
    with Journal(written, SETTINGS, operation="sweep"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(written)],
            cwd=written.parent,  # a clone's own folder has no extension
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
        )
    assert "is being written by another process" in done.stdout, done.stderr
