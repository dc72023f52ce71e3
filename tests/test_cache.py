"""The disk cache: what is kept comes back, and nothing that happens to its files is an error."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

import maxcrops as mc
from maxcrops.planning.dryrun import _cache
from maxcrops.planning.dryrun._attention import AttentionCall, AttentionPlatform
from maxcrops.planning.dryrun._events import AttentionUse, EventLog
from maxcrops.planning.dryrun._request import Point, RunRequest

USE = AttentionUse(
    module="vision.layers.0",
    phase="forward",
    kernel="flash",
    call=AttentionCall(batch=70_000, heads=16, queries=144, keys=144, head_dim=64),
)


def make_log(num_bytes: int = 2**40, attention: tuple[AttentionUse, ...] = (USE,)) -> EventLog:
    return EventLog(
        operators=("aten::mm", "aten::add"),
        modules=("", "layers.0"),
        event_allocation=np.array([0, 1, 1], np.int32),
        event_is_free=np.array([False, False, True]),
        num_bytes=np.array([num_bytes, 7], np.int64),
        operator=np.array([0, 1], np.int32),
        module=np.array([1, 0], np.int32),
        phase=np.array([0, 1], np.int8),
        category=np.array([0, 5], np.int8),
        attention=attention,
        platform=AttentionPlatform((9, 0), cudnn_version=(9, 20, 0)),
        batch_size=2,
        flops={"vision": 2**60 + 1},
        traffic_bytes={"vision": 3},
        num_operators=2,
    )


def make_request(**changes: object) -> RunRequest:
    point = Point(batch_size=2, sizes=((640, 480),), max_crops=8)
    config = {"model_type": "molmo2", "layers": [1, 2], "nested": {"a": None}}
    return RunRequest(**{"config": config, "spec": mc.get_spec("molmo2-8b"), "point": point, **changes})  # type: ignore[arg-type]


def assert_same(log: EventLog | None, expected: EventLog) -> None:
    assert log is not None
    for field in dataclasses.fields(EventLog):
        value, wanted = getattr(log, field.name), getattr(expected, field.name)
        if isinstance(wanted, np.ndarray):
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted)
        else:
            assert value == wanted, field.name
    assert log.signature() == expected.signature()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAXCROPS_CACHE", str(tmp_path))
    return tmp_path / "dry_run"


class TestEntries:
    def test_log_comes_back(self) -> None:
        key = _cache.key_of("log", make_request())
        assert _cache.load_log(key) is None
        _cache.save_log(key, make_log())
        assert_same(_cache.load_log(key), make_log())

    def test_json_comes_back(self) -> None:
        value = {"peak": 2**60 + 1, "rows": [1.5, None, "a"]}
        _cache.save_json("k", value)
        assert _cache.load_json("k") == value
        assert _cache.load_log("k") is None  # another entry's fields

    def test_cached_runs_once(self) -> None:
        runs: list[RunRequest] = []

        def run(request: RunRequest) -> EventLog:
            runs.append(request)
            return make_log()

        for _ in range(2):
            assert_same(_cache.cached(make_request(), run), make_log())
        assert len(runs) == 1
        _cache.cached(make_request(mode="train"), run)
        assert len(runs) == 2

    def test_clear(self, folder: Path) -> None:
        for key in ("a", "b"):
            _cache.save_json(key, 1)
        (folder / ".left-behind.npz").touch()
        assert _cache.clear() == 3
        assert list(folder.iterdir()) == []
        assert _cache.clear() == 0


class TestKeys:
    @pytest.mark.parametrize(
        "changes",
        [
            {"mode": "train"},
            {"dtype": "float32"},
            {"config": {"model_type": "molmo2"}},
            {"point": Point(batch_size=3, sizes=((640, 480),), max_crops=8)},
            {"point": Point(batch_size=2, sizes=((480, 640),), max_crops=8)},
            {"spec": mc.get_spec("molmo2-8b", low_res_col_tokens=True)},
            {"spec": mc.get_spec("internvl")},
            {"torch_version": "2.12"},
            {"options": {"fast": True}},
        ],
        ids=lambda changes: ",".join(changes),
    )
    def test_every_part_counts(self, changes: dict[str, object]) -> None:
        assert _cache.key_of(make_request(**changes)) != _cache.key_of(make_request())

    def test_stable(self) -> None:
        reordered = {"nested": {"a": None}, "layers": (1, 2), "model_type": "molmo2"}
        assert _cache.key_of(make_request(config=reordered)) == _cache.key_of(make_request())
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_cache.key_of, (make_request(),)) == _cache.key_of(make_request())

    def test_rules_of_equal_fields_differ(self) -> None:
        @dataclasses.dataclass
        class One:
            value: int = 1

        @dataclasses.dataclass
        class Other:
            value: int = 1

        assert _cache.key_of(One()) != _cache.key_of(Other())

    @pytest.mark.parametrize("name", ["torch", "transformers", "maxcrops", "code"])
    def test_environment_counts(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = _cache.key_of(1)
        environment = {**_cache._environment(), name: "another"}
        monkeypatch.setattr(_cache, "_environment", lambda: environment)
        assert _cache.key_of(1) != before

    def test_no_unstable_parts(self) -> None:
        with pytest.raises(TypeError, match=r"^\[dry_run\] a cache key must be made of JSON values"):
            _cache.key_of(object())


class TestDirectory:
    def test_places(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert _cache.directory() == tmp_path / "dry_run"
        monkeypatch.delenv("MAXCROPS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert _cache.directory() == tmp_path / "maxcrops" / "dry_run"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert _cache.directory() == tmp_path / ".cache" / "maxcrops" / "dry_run"

    @pytest.mark.parametrize("value", ["off", "OFF", "0", ""])
    def test_switched_off(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        _cache.save_json("k", 1)
        monkeypatch.setenv("MAXCROPS_CACHE", value)
        assert _cache.directory() is None
        assert _cache.load_json("k") is None
        _cache.save_json("k", 2)
        assert _cache.clear() == 0

    def test_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("MAXCROPS_CACHE", str(tmp_path / "file"))
        _cache.save_log("k", make_log())
        assert _cache.load_log("k") is None
        assert_same(_cache.cached(make_request(), lambda _: make_log()), make_log())


class TestDamage:
    @pytest.mark.parametrize("size", [0, 1, 100, -1])
    def test_cut_short(self, size: int, folder: Path) -> None:
        _cache.save_log("k", make_log())
        path = folder / "k.npz"
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        assert _cache.load_log("k") is None
        _cache.save_log("k", make_log())
        assert_same(_cache.load_log("k"), make_log())

    def test_flipped_bytes(self, folder: Path) -> None:
        _cache.save_log("k", make_log())
        path = folder / "k.npz"
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            log = _cache.load_log("k")  # a byte that nobody reads may be any
            if log is not None:
                assert_same(log, make_log())

    @pytest.mark.parametrize("kind", ["text", "pickle", "array"])
    def test_something_else(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        path = folder / "k.npz"
        if kind == "text":
            path.write_text("hello")
        elif kind == "pickle":
            with path.open("wb") as file:
                np.savez(file, json=np.array([object()], object))
        else:
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        assert _cache.load_log("k") is None
        assert _cache.load_json("k") is None

    def test_no_temporary_files_stay(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError("the disk is full")

        _cache.save_json("k", 1)
        monkeypatch.setattr(_cache.np, "savez_compressed", fail)
        _cache.save_json("k", 2)
        assert [path.name for path in folder.iterdir()] == ["k.npz"]
        assert _cache.load_json("k") == 1


class TestSize:
    def test_oldest_are_removed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = np.random.default_rng(0).integers(0, 2**31, 4000)  # does not compress
        for age, key in enumerate("abcd"):
            _cache.save_json(key, noise.tolist())
            os.utime(folder / f"{key}.npz", (1000 + age, 1000 + age))
        size = (folder / "a.npz").stat().st_size
        monkeypatch.setattr(_cache, "MAX_BYTES", 3 * size + size // 2)
        assert _cache.load_json("a") is not None  # used, so no longer the oldest
        _cache.save_json("e", noise.tolist())
        assert sorted(path.stem for path in folder.iterdir()) == ["a", "d", "e"]


def _write_and_read(seed: int) -> int:
    """How many of the reads gave a log; each must be one that somebody wrote."""
    random = np.random.default_rng(seed)
    found = 0
    for _ in range(60):
        key = str(random.integers(3))
        if random.random() < 0.4:
            _cache.save_log(key, make_log(int(random.integers(1, 5)) * 1000))
        elif random.random() < 0.05:
            _cache.clear()
        else:
            log = _cache.load_log(key)
            if log is not None:
                assert log.num_bytes.tolist()[0] in (1000, 2000, 3000, 4000)
                assert_same(log, make_log(int(log.num_bytes[0])))
                found += 1
    return found


def test_processes_share_it() -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert sum(pool.map(_write_and_read, range(4))) > 10
