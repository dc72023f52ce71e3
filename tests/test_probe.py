"""A probe: real runs, each in a process of its own, and every way in which one can fail is a row."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dry_run_models import MODELS, TEXT_TOKENS
from PIL import Image
from probe_failures import HANGS, PID_FILE, failing, request_of

import maxcrops as mc
from maxcrops.cli import main
from maxcrops.profiling import probe as module
from maxcrops.profiling._child import Place, find_device, label_of
from maxcrops.profiling._memory import CudaMemory
from maxcrops.profiling.batch_search import LABELS, Trial
from maxcrops.profiling.probe import COLUMNS, Probe, ProbeRow, _Points, _predict

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

INTERNVL, MOLMO2 = MODELS["internvl"], MODELS["molmo2"]
MIB = 2**20


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the children, whose threads would wait for each other beside other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An InternVL without weights."""
    config = dict(INTERNVL.config)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


# -- what fails ----------------------------------------------------------------------------------------------------


def test_every_failure_is_a_row_and_the_next_point_runs() -> None:
    rows: list[ProbeRow] = []
    for batch in (1, 2, HANGS, 4, 5, 6, 7, 1):
        _Points(timeout=4 if batch == HANGS else 120, measure=failing, on_row=rows.append).run(request_of(batch))
    labels = ["ok", "crashed", "timeout", "launch_failure", "error", "crashed", "out_of_memory", "ok"]
    assert [row.label for row in rows] == labels
    messages = [row.message for row in rows]
    assert messages[0] == ""
    assert "SIGSEGV" in messages[1]
    assert messages[2] == "it took more than 4 s"
    assert messages[3] == "RuntimeError: CUDA error: invalid configuration argument"
    assert messages[4] == "KeyError: 'pixel_values'"
    assert "status 3" in messages[5]
    assert [row.fixed_bytes for row in rows] == [7, None, None, 7, 7, None, None, 7]  # what was known is kept
    assert all(row.sequence_length > TEXT_TOKENS and row.seconds > 0 for row in rows)


def test_memory_that_is_out_is_a_row() -> None:
    points = _Points(timeout=300)
    points.run(request_of(512, memory_limit=400 * MIB))
    (row,) = points.rows
    assert row.label == "out_of_memory", row
    assert "allocate memory" in row.message
    assert row.capacity_bytes == 400 * MIB
    assert row.fixed_bytes is not None
    assert 0 < row.fixed_bytes < 100 * MIB  # the weights are no part of what failed
    assert row.warm_seconds is None


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("HIP"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out_of_memory"),
        (RuntimeError("CUDA error: invalid configuration argument"), "launch_failure"),
        (RuntimeError("CUDA error: too many resources requested for launch"), "launch_failure"),
        (RuntimeError("Triton Error [CUDA]: invalid argument"), "launch_failure"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "crashed"),
        (ValueError("invalid argument"), "error"),
    ],
)
def test_labels(error: Exception, label: str) -> None:
    assert label_of(error) == label
    assert label in LABELS


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_child_is_left_behind(stop: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        # What a shell runs in the background ignores SIGINT, and so would this process.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " import probe_failures as f; from maxcrops.profiling.probe import _Points;"
        " _Points(timeout=600, measure=f.failing).run(f.request_of(f.HANGS))"
    )
    environment = {**os.environ, PID_FILE: str(file), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text(encoding="ascii")) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(file.read_text(encoding="ascii"))
        assert _alive(child)
        process.send_signal(stop)  # to the parent alone, as no terminal would
        assert process.wait(timeout=30) != 0
        deadline = time.monotonic() + 10
        while _alive(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(child)
    finally:
        process.kill()


# -- what works ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """A Molmo2 with weights, trained."""
    folder = tmp_path_factory.mktemp("molmo2")
    (folder / "config.json").write_text(json.dumps(dict(MOLMO2.config)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield mc.probe(
            folder, MOLMO2.spec, max_crops=3, batch_size=2, text_tokens=TEXT_TOKENS, device="cpu", mode="train"
        )


def test_a_training_step(trained: Probe) -> None:
    (row,) = trained.rows
    assert row.label == "ok", row.message
    assert (row.max_crops, row.batch_size) == (3, 2)
    assert row.first_seconds is not None
    assert row.warm_seconds is not None
    assert row.warm_seconds_p20 is not None
    assert row.warm_seconds_p80 is not None
    assert row.warm_seconds_p20 <= row.warm_seconds <= row.warm_seconds_p80
    assert row.tokens_per_second == pytest.approx(2 * row.sequence_length / row.warm_seconds)
    assert row.sequence_length == mc.worst_case(MOLMO2.spec, max_crops=3).tokens + TEXT_TOKENS
    assert (row.preprocess_seconds or 0) > 0
    assert (row.allocated_bytes, row.reserved_bytes) == (None, None)
    assert (row.peak_rss_bytes or 0) > 50 * MIB
    assert (trained.mode, trained.weights, trained.dtype, trained.device) == ("train", "random", "float32", "CPU")
    assert any("random weights" in note for note in trained.notes)
    assert trained.succeeded
    assert repr(trained) == "Probe(molmo2 train on CPU: 1 of 1 points succeeded)"


def test_results_are_written(trained: Probe, tmp_path: Path) -> None:
    failed = replace(trained.rows[0], label="out_of_memory", message='a, "b"', warm_seconds=None)
    result = replace(trained, rows=(*trained.rows, failed))
    result.write_csv(tmp_path / "rows.csv")
    result.write_jsonl(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == result.records()
    assert set(COLUMNS) <= set(rows[0])
    assert rows[1]["message"] == 'a, "b"'
    assert rows[1]["warm_seconds"] == ""
    assert rows[0]["spec_key"] == "molmo2-8b"
    data = json.loads(json.dumps(result.to_dict()))
    assert data["rows"][0] == asdict(trained.rows[0])
    assert data["succeeded"]


def test_weights_are_loaded_and_the_largest_batch_is_found(folder: Path) -> None:
    """Under a limit on memory that is met for real."""
    from maxcrops.planning.dryrun._models import build_real
    from maxcrops.profiling._torchvision import declare_missing

    declare_missing()
    build_real(INTERNVL.config, dtype="float32", attention="sdpa", device="cpu").save_pretrained(folder)
    image = folder / "photo.png"
    Image.new("RGB", (300, 200)).save(image)
    result = mc.probe(
        folder, INTERNVL.spec, max_crops=4, batch_size=24, auto_adjust_batch_size=True, max_trials=3, images=[image],
        text_tokens=TEXT_TOKENS, device="cpu", repeats=1, memory_limit=100 * MIB,
    )  # fmt: skip
    assert result.weights == "loaded"
    search = result.batches[4]
    labels = {row.batch_size: row.label for row in result.rows}
    assert set(labels.values()) <= {"ok", "out_of_memory"}, result.rows
    assert labels[search.batch_size] == "ok"
    assert search.batch_size == max(batch for batch, label in labels.items() if label == "ok")
    assert 1 < len(labels) <= 3
    used = {row.batch_size: row.used_bytes for row in result.rows if row.label == "ok"}
    assert used[search.batch_size] is not None
    assert 0.8 * 100 * MIB < (used[search.batch_size] or 0) <= 100 * MIB


# -- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``maxcrops probe`` with runs that fail by the batch's size: (status, standard output, standard error)."""
    monkeypatch.setattr(module, "_Points", lambda **settings: _Points(measure=failing, **settings))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maxcrops", "probe", *map(str, arguments), "--device", "cpu"])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


def test_the_table(command: Any, folder: Path, tmp_path: Path) -> None:
    files = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    status, out, err = command(folder, "-n", "2,4", "-b", "1,5", "--csv", files[0], "--jsonl", files[1])
    assert status == 0
    assert out.count("KeyError: 'pixel_values'") == 2
    assert "random weights" in out
    assert "wrote 4 rows" in err
    assert len(files[1].read_text(encoding="utf-8").splitlines()) == 4


def test_no_point_that_succeeds_is_status_1(command: Any, folder: Path) -> None:
    status, out, _ = command(folder, "-n", "2", "-b", "4,5")
    assert status == 1
    assert "launch_failure" in out


def test_a_search_is_told(command: Any, folder: Path) -> None:
    """Batches of 2 crash."""
    search = "--auto-adjust-batch-size", "--max-batch-size", "2", "--memory-limit", "256MiB"
    status, out, _ = command(folder, "-n", "4", "-b", "2", *search)
    assert status == 0
    assert "max_crops 4: batches of 1 work" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "--max-crops must be integers of at least 1"),
        (["-b", "two"], "--batch-size must be integers of at least 1"),
        (["--mode", "sleep"], "mode must be one of prefill, generate, train"),
        (["--memory-limit", "much"], "--memory-limit must be a size"),
        (["--set", "crop_size=-1"], "crop_size"),
    ],
)
def test_wrong_arguments_are_one_line(command: Any, folder: Path, arguments: list[str], message: str) -> None:
    status, out, err = command(folder, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# -- what is refused -----------------------------------------------------------------------------------------------


def test_families_whose_inputs_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}), encoding="utf-8")
    with pytest.raises(mc.UnsupportedError, match=r"\[probe\] model_type must be one of molmo, .*got 'gemma3'"):
        mc.probe(tmp_path)


def test_a_spec_of_another_family(folder: Path) -> None:
    with pytest.raises(mc.ConfigError, match=r"\[probe\] spec must be of the model's family, internvl, got 'molmo2'"):
        mc.probe(folder, mc.get_spec("molmo2"))


def test_without_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(mc.UnsupportedError, match=r"pip install 'maxcrops\[transformers\]'"):
        mc.probe(folder)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": []}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"max_crops": True}, TypeError),
        ({"repeats": 0}, ValueError),
        ({"memory_limit": 0}, ValueError),
        ({"dtype": "int8"}, ValueError),
        ({"images": [(0, 5)]}, ValueError),
        ({"images": ["nowhere.png"]}, mc.ImageReadError),
        ({"images": []}, ValueError),
        ({"images": ["a.png", (5, 5)]}, TypeError),
        ({"auto_adjust_batch_size": True}, ValueError),
    ],
)
def test_wrong_arguments(folder: Path, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"\["):
        mc.probe(folder, device="cpu", **arguments)


def test_devices() -> None:
    if torch.cuda.is_available():
        assert find_device("cuda", operation="probe")[0] == "cuda:0"
        return
    assert find_device("auto", operation="probe") == ("cpu", "CPU", None, None)
    for device in ("cuda", "cuda:7", "tpu"):
        with pytest.raises(mc.UnsupportedError, match=rf"\[probe\] device must be one that torch sees, got '{device}'"):
            find_device(device, operation="probe")


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of torch.cuda, which need not be there."""
    fractions: list[float] = []
    nothing = lambda *_: None  # noqa: E731
    cuda = SimpleNamespace(
        set_device=nothing,
        synchronize=nothing,
        empty_cache=nothing,
        reset_peak_memory_stats=nothing,
        mem_get_info=lambda device: (70, 80),
        set_per_process_memory_fraction=lambda part, device: fractions.append(part),
        memory_allocated=lambda device: 5,
        max_memory_allocated=lambda device: 30,
        max_memory_reserved=lambda device: 40,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    free = CudaMemory(None, "cuda:0")
    free.enforce()
    assert (free.capacity, fractions) == (70, [])
    memory = CudaMemory(20, "cuda:0")
    memory.enforce()
    assert (memory.capacity, fractions) == (20, [0.25])
    memory.begin()
    assert memory.in_use() == 5
    assert memory.peaks() == {"allocated_bytes": 30, "reserved_bytes": 40, "used_bytes": 30}


# -- predictions ---------------------------------------------------------------------------------------------------


def test_a_dry_run_predicts_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest batch, and the launch limit where that is what binds."""
    from maxcrops.planning.dryrun import LargestBatch

    asked: dict[str, Any] = {}

    class Runs:
        def __init__(self, config: Any, spec: Any, **settings: Any) -> None:
            asked.update(settings)

        def __enter__(self) -> Runs:
            return self

        def __exit__(self, *_: object) -> None: ...

        def frontier(self, values: Any, *, most: int) -> dict[int, LargestBatch]:
            assert (list(values), most) == ([4, 8, 9], 64)
            found: Any = {4: (30, "memory"), 8: (12, "launch"), 9: (0, "launch")}
            return {value: LargestBatch(*largest, run=None) for value, largest in found.items()}

    monkeypatch.setattr(module, "DryRuns", Runs)
    place = Place("cuda", "a GPU", 80 * 2**30, (9, 0))
    notes: list[str] = []
    requests = dict.fromkeys((4, 8, 9), request_of(memory_limit=2**30))
    assert _predict(requests, place, 64, 16, notes) == {4: (30, None), 8: (12, 12), 9: (1, 0)}
    assert (asked["device"].memory_bytes, asked["device"].compute_capability) == (2**30, (9, 0))
    assert notes == []


def test_without_a_prediction_the_batch_that_is_given_begins() -> None:
    notes: list[str] = []
    assert _predict({4: request_of()}, Place("cpu", "CPU"), 64, 16, notes) == {4: (16, None)}
    assert len(notes) == 1


def test_trials_are_rows() -> None:
    points = _Points(timeout=30, measure=failing)
    assert points.trial(request_of(), 4) == Trial(4, "launch_failure", None, 7, None)
