"""The check on a GPU, as far as it goes without one: made-up devices and times, and its competitors on the CPU."""

from __future__ import annotations

import csv
import math
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import maxcrops as mc

torch: Any = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def _path() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture
def cases() -> Any:
    import gpu_cases

    return gpu_cases


@pytest.fixture
def check() -> Any:
    import gpu_check

    return gpu_check


class Host:
    """The CPU as the device: everything runs, and takes as long as this says."""

    torch_device = torch.device("cpu")
    l2_bytes = 1 << 20
    properties = SimpleNamespace(name="No GPU", total_memory=1, major=9, minor=0, multi_processor_count=4)

    def place(self, image: Any, source: str) -> Any:
        return image.clone()

    def samples(self, run: Callable[[], Any], timing: str) -> list[float]:
        run()
        return [0.003, 0.001, 0.002]

    def copy_bandwidth(self, source: str) -> float:
        return {"device": 1e12, "pinned": 1e10}[source]


def small(cases: Any, **changes: Any) -> Any:
    return replace(cases.Case("molmo2", (150, 200), 2, 2, "device", "float32"), **changes)


def rows_of(cases: Any, case: Any, device: Any = None, has_time: Callable[[], bool] = lambda: True) -> Any:
    said: list[str] = []
    return list(cases.rows_of(case, device or Host(), 1e-3, has_time, said.append)), said


def row(cases: Any, competitor: str, timing: str, seconds: float, **changes: Any) -> Any:
    case = cases.Case("molmo2", cases.SIZES[0], 12, 64, "device", "bfloat16")
    return replace(cases._row(case, competitor, timing, [seconds], 1e-3, (0.0, 0.0)), **changes)


# -- cases ---------------------------------------------------------------------------------------------------------


def test_the_cases_of_the_bars_come_first(cases: Any) -> None:
    every = cases.cases()
    first = {(case.model, case.size, case.max_crops, case.source, case.dtype, case.batch) for case in every[:4]}
    most = ((551, 676), 12, "device", "bfloat16")
    assert first == {(model, *most, batch) for model in ("molmo2", "molmo") for batch in (64, 1)}
    assert (every[0].model, every[0].batch) == ("molmo2", 64)
    assert [case.distance for case in every] == sorted(case.distance for case in every)


def test_there_is_a_case_for_every_choice(cases: Any) -> None:
    every = cases.cases()
    assert len(set(every)) == len(every)
    halves = {(case.model, case.size, case.max_crops, case.batch, case.source) for case in every}
    assert len(halves) == 2 * 3 * 2 * 3 * 2
    assert {case.source for case in every if case.dtype == "float32"} == {"device"}


def test_the_least_work(cases: Any) -> None:
    case = cases.Case("molmo2", (551, 676), 12, 64, "device", "bfloat16")
    work = cases.work_of(case)
    assert work.bytes_read == 64 * 551 * 676 * 3
    assert work.bytes_written == 64 * 7 * 729 * 588 * 2  # 2 x 3 crops and the global one
    assert work.operations == 64 * 7 * 729 * 588 * 13
    assert cases.work_of(replace(case, dtype="float32")).bytes_written == 2 * work.bytes_written
    assert work.seconds(1e12, 1e12) == ((work.bytes_read + work.bytes_written) / 1e12, work.operations / 1e12)
    # Two taps an axis where it is enlarged. The contents are 560 x 687 and, of the global crop, 273 x 336.
    resized = 3 * 551 * (687 * 4 + 336 * 4 * 676 / 336) + 3 * (560 * 687 * 4 + 273 * 336 * 4 * 551 / 273)
    molmo = cases.work_of(replace(case, model="molmo", batch=1))
    assert molmo.operations == int(7 * 576 * 588 * 4 + resized)


# -- competitors, on the CPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["device", "pinned"])
@pytest.mark.parametrize("model", ["molmo2", "molmo"])
def test_competitors_agree(cases: Any, model: str, source: str, dtype: str) -> None:
    pytest.importorskip("transformers")
    rows, said = rows_of(cases, small(cases, model=model, source=source, dtype=dtype))
    assert said == []
    expected = {cases.OURS: {"queued", "device", "alone"}, cases.TORCHVISION: {"queued", "alone"}}
    if model == "molmo2":
        expected[cases.TRANSFORMERS] = {"queued", "alone"}
    if source == "pinned":
        expected[cases.CPU] = {"alone"}
    measured: dict[str, set[str]] = {}
    for one in rows:
        measured.setdefault(one.competitor, set()).add(one.timing)
        if one.competitor in (cases.OURS, cases.CPU):
            assert (one.largest_difference, one.share_different) == (0, 0)
        elif dtype == "float32":  # on the CPU, torch is closer to us than on another device
            bounds = {"molmo2": (2 / 255 + 1e-6, 1e-3), "molmo": (2e-6, 1)}[model]
            assert one.largest_difference <= bounds[0]
            assert one.share_different <= bounds[1]
    assert measured == expected
    assert rows[0].competitor == cases.OURS


@pytest.mark.parametrize("model", ["molmo2", "molmo"])
@pytest.mark.parametrize("size", [(551, 676), (37, 53), (300, 90)])
def test_stacked_images_are_cut_as_each_is(cases: Any, model: str, size: tuple[int, int]) -> None:
    case = small(cases, model=model, size=size, max_crops=5)
    images = [cases.noise(size, seed) for seed in range(2)]
    got = cases.Stacked(case, torch.device("cpu"))(images)
    cpu = cases.Preprocessor(mc.get_spec(model), backend="cpu", max_crops=5)
    expected = next(iter(cpu(images, input_data_format="channels_first").values()))
    largest, share = cases.difference(expected, got)
    assert got.shape == expected.shape
    assert largest <= (2 / 255 + 1e-6 if model == "molmo2" else 2e-6)
    assert share <= 1e-3 or model == "molmo"


def test_only_a_few_cases_are_compiled(cases: Any) -> None:
    def has_compiled(case: Any) -> bool:
        return any(make.__name__ == "compiled" for make in cases.competitors(case, [], torch.device("cpu")))

    compiled = [case for case in cases.cases() if has_compiled(case)]
    assert compiled[:2] == cases.cases()[:2]
    assert len(compiled) == 6


def test_what_differs_is_not_timed(cases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cases.Stacked._cut
    monkeypatch.setattr(cases.Stacked, "_cut", lambda self, images: cut(self, images) + 0.02)
    rows, said = rows_of(cases, small(cases))
    assert cases.TORCHVISION not in {one.competitor for one in rows}
    assert [words for words in said if "torchvision v2 differs by 0.02" in words]


def test_ours_must_be_the_cpu_path_s(cases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cases.Preprocessor

    class LeavesTheLastOut(real):  # type: ignore[misc]
        def __call__(self, images: Any, *, out: Any = None, **options: Any) -> Any:
            batch = super().__call__(images, out=out, **options)
            if out is not None:
                out[-1, -1, -1] = math.nan
            return batch

    monkeypatch.setattr(cases, "Preprocessor", LeavesTheLastOut)
    with pytest.raises(cases.OutputsDifferError, match="maxcrops differs by inf, 0 are allowed; it was not timed"):
        rows_of(cases, small(cases))


@pytest.mark.parametrize("error", [ImportError("no Molmo2\nhere"), torch.OutOfMemoryError("CUDA out of memory")])
def test_one_that_cannot_run_costs_its_own_rows(cases: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(cases, "Molmo2Peer", missing)
    rows, said = rows_of(cases, small(cases))
    assert {one.competitor for one in rows} == {cases.OURS, cases.TORCHVISION}
    [words] = said
    assert words.endswith(f"transformers left out: {str(error).splitlines()[0]}")


def test_differences(cases: Any) -> None:
    expected = torch.arange(8.0).view(2, 2, 2)
    assert cases.difference(expected, torch.cat([expected, expected])) == (0, 0)
    other = torch.cat([expected, expected])
    other[3, 1, 1] += 0.5
    assert cases.difference(expected, other) == (0.5, 1 / 16)
    assert cases.difference(expected, other * math.nan)[0] == math.inf
    assert cases.difference(expected, expected.double()) == (math.inf, 1)
    assert cases.difference(expected, expected[:, :1]) == (math.inf, 1)


# -- timing --------------------------------------------------------------------------------------------------------


def test_statistics(cases: Any) -> None:
    made = cases._row(small(cases), "x", "alone", [0.005, 0.001, 0.004, 0.002, 0.003], 1e-3, (0.0, 0.25))
    assert (made.seconds_median, made.seconds_p20, made.seconds_p80, made.rounds) == (0.003, 0.002, 0.004, 5)
    assert made.images_per_second == pytest.approx(2 / 0.003, rel=1e-4)
    assert made.share_of_floor == pytest.approx(1 / 3, rel=1e-4)
    assert (made.l2, made.share_different) == ("cold", 0.25)
    assert cases._row(small(cases), "x", "queued", [0.002, 0.001], 1e-3, (0.0, 0.0)).seconds_median == 0.0015


class Gpu:
    """Stands in for torch.cuda. A call takes a millisecond of it; the first `early` begin before the host is done."""

    def __init__(self, early: int = 0) -> None:
        self.now, self.early, self.pauses = 0.0, early, list[int]()

    def Event(self, enable_timing: bool) -> Any:
        gpu = self

        class Event:
            def record(self) -> None:
                self.at = gpu.now

            def query(self) -> bool:
                gpu.early -= 1
                return gpu.early >= 0

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Any) -> float:
                return float(end.at - self.at)

        return Event()

    def _sleep(self, cycles: int) -> None:
        self.pauses.append(cycles)

    def run(self) -> None:
        self.now += 1


@pytest.fixture
def timed(cases: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Gpu, str], list[float]]:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def samples(gpu: Gpu, timing: str) -> list[float]:
        monkeypatch.setattr(cases, "_cuda", gpu)
        device = object.__new__(cases.CudaDevice)
        device._flushed = torch.empty(1)
        made: list[float] = device.samples(gpu.run, timing)
        return made

    return samples


@pytest.mark.parametrize("timing", ["alone", "queued", "device"])
def test_samples_are_of_single_calls(timed: Any, timing: str) -> None:
    gpu = Gpu()
    samples = timed(gpu, timing)
    assert len(samples) >= 5
    assert samples == pytest.approx([0.001] * len(samples))
    assert len(gpu.pauses) == (len(samples) if timing == "device" else 0)


def test_a_device_that_begins_early_sleeps_longer(timed: Any) -> None:
    gpu = Gpu(early=3)
    samples = timed(gpu, "device")
    assert len(gpu.pauses) == len(samples) + 3
    assert gpu.pauses[3] == pytest.approx(8 * gpu.pauses[0], abs=8)
    with pytest.raises(RuntimeError, match="the host waits for the device"):
        timed(Gpu(early=1000), "device")


def test_kernels_are_counted_without_copies(cases: Any) -> None:
    from torch._C._autograd import DeviceType

    names = ["Memcpy HtoD (Pinned -> Device)", "rounded_crops_kernel", "Memset (Device)"]
    events = [SimpleNamespace(name=name, device_type=DeviceType.CUDA) for name in names]
    events.append(SimpleNamespace(name="aten::empty", device_type=DeviceType.CPU))
    assert cases.kernels_of(events) == ["rounded_crops_kernel"]


@pytest.mark.parametrize("model", ["molmo2", "molmo"])
def test_launches_are_of_a_ragged_batch(cases: Any, model: str) -> None:
    def count(run: Callable[[], Any]) -> int:
        return len(next(iter(run().values())))

    assert cases.ragged_launches(model, Host(), count) > 12


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [[], ["--budget", "10"]])
def test_without_cuda_it_says_so(
    check: Any, budget: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check, "ensure_built", None)
    assert check.main(budget) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "gpu_check: torch sees no CUDA device; run this on a machine with one\n")


def test_it_builds_what_cannot_be_imported(check: Any) -> None:
    def commands(*statuses: int) -> list[list[str]]:
        seen: list[list[str]] = []
        remaining = iter(statuses)

        def run(command: list[str], **options: Any) -> Any:
            seen.append(command)
            status = next(remaining)
            if options.get("check") and status:
                raise subprocess.CalledProcessError(status, command)
            return SimpleNamespace(returncode=status)

        check.ensure_built(run)
        return seen

    assert len(commands(0)) == 1
    _, install, _ = commands(1, 0, 0)
    assert install[1:] == ["-m", "pip", "install", "--no-build-isolation", "--no-deps", "."]
    with pytest.raises(subprocess.CalledProcessError):
        commands(1, 0, 1)


def test_tests_pass_fail_or_take_too_long(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(status: int | None) -> Any:
        def run(command: list[str], *, env: dict[str, str], cwd: Path, timeout: float) -> Any:
            assert (env["MAXCROPS_REQUIRE_CUDA"], (cwd / command[-1]).is_file()) == ("1", True)
            if status is None:
                raise subprocess.TimeoutExpired(command, timeout)
            return SimpleNamespace(returncode=status)

        return check.passes("tests", run=run)

    assert [outcome(0), outcome(1), outcome(None)] == [True, False, None]
    monkeypatch.setattr(check.shutil, "which", lambda _: None)
    assert check.sanitized() is None


def test_the_selection_for_the_sanitizer_is_there(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(check.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(check, "passes", lambda *arguments: asked.extend(arguments))
    check.sanitized()
    name, prefix, (option, selection) = asked
    assert (name, prefix[0], option) == ("compute-sanitizer", "/bin/compute-sanitizer", "-k")
    assert f"def test_{selection}(" in (Path(__file__).parent / "test_gpu.py").read_text(encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_a_row_is_on_disk_as_soon_as_it_is_measured(check: Any, cases: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    columns = [field.name for field in fields(cases.Row)]
    with check.Results(path, columns, {"gpu": "none"}) as results:
        assert read(path) == []
        for count in (1, 2):
            results.add(row(cases, cases.OURS, "queued", 0.002))
            assert len(read(path)) == count
    assert read(path)[0].items() >= {"gpu": "none", "competitor": "maxcrops", "seconds_median": "0.002"}.items()


def test_a_run_within_its_budget(
    check: Any, cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")
    chosen = [small(cases), small(cases, source="pinned"), small(cases, batch=1)]
    monkeypatch.setattr(cases, "cases", lambda: chosen)
    monkeypatch.setattr(check, "max_clock_hz", lambda: 1e9)
    remaining = iter([3.0] * 4 + [-1.0] * 9)  # the case, ours, and two of its timings
    rows, wrong = check.measure(Host(), tmp_path / "rows.csv", lambda: next(remaining))
    assert [one.timing for one in rows] == ["queued", "device"]
    assert wrong == []
    out = capsys.readouterr().out
    assert "2 of 3 cases skipped, from molmo2 150x200 max_crops 2 x 2 pinned float32" in out
    assert out.index("the least that a batch takes") < out.index("images/s")
    written = read(tmp_path / "rows.csv")
    assert [one["timing"] for one in written] == ["queued", "device"]
    assert {"gpu", "triton", "device_bytes_per_second", "torch", "git_sha", "date"} <= set(written[0])
    work = cases.work_of(chosen[0])
    assert float(written[0]["floor_seconds"]) == pytest.approx(sum(work.seconds(1e12, 1)[:1]), rel=1e-4)


def test_a_wrong_case_does_not_end_the_run(
    check: Any, cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")

    def fails(case: Any, *_: Any) -> Any:
        raise cases.OutputsDifferError("maxcrops differs")

    monkeypatch.setattr(cases, "cases", lambda: [small(cases), small(cases, batch=1)])
    monkeypatch.setattr(cases, "rows_of", fails)
    rows, wrong = check.measure(Host(), tmp_path / "rows.csv", lambda: 1.0)
    assert rows == []
    assert [words.partition(": ")[2] for words in wrong] == ["OutputsDifferError: maxcrops differs"] * 2


# -- bars ----------------------------------------------------------------------------------------------------------


def rows_for_bars(cases: Any) -> list[Any]:
    """Every bar met, with nothing to spare."""
    return [
        row(cases, cases.OURS, "queued", 64 / 100_000),
        row(cases, cases.TRANSFORMERS, "queued", 64 / 10_000),
        row(cases, cases.OURS, "device", 1e-3, share_of_floor=0.8),
        row(cases, cases.OURS, "alone", 1e-3, batch=1),
        row(cases, cases.TRANSFORMERS, "alone", 5e-3, batch=1),
        row(cases, cases.OURS, "queued", 64 / 50_000, model="molmo"),
        row(cases, cases.OURS, "device", 1e-3, model="molmo", share_of_floor=0.8),
    ]


LAUNCHES: dict[str, int | None] = {"molmo2": 1, "molmo": 2}


def test_bars_that_are_met(check: Any, cases: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = check.bars(rows_for_bars(cases), LAUNCHES)
    assert len(found) == 8
    assert all(bar.is_met for bar in found), [str(bar) for bar in found]
    assert check.verdict(found, [], "NVIDIA H100 80GB HBM3") == 0
    assert check.verdict(found, ["tests: failed"], "NVIDIA H100 80GB HBM3") == 1
    assert "MISSED" not in capsys.readouterr().out


def test_bars_that_are_missed(check: Any, cases: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_for_bars(cases)
    for index in range(len(rows)):
        found = check.bars([*rows[:index], *rows[index + 1 :]], LAUNCHES)
        assert sum(bar.got is None for bar in found) >= 1
        assert check.verdict(found, [], "NVIDIA H100 80GB HBM3") == 1
    assert "got not measured" in capsys.readouterr().out
    for launches in (3, None):
        found = check.bars(rows, {**LAUNCHES, "molmo": launches})
        assert [bar.what for bar in found if not bar.is_met] == ["molmo, launches of a ragged batch"]
    slower = [replace(one, images_per_second=9e4) if one.competitor == cases.OURS else one for one in rows]
    assert sum(not bar.is_met for bar in check.bars(slower, LAUNCHES)) == 1


def test_other_gpus_have_no_bars(check: Any) -> None:
    assert check.verdict(check.bars([], {}), [], "NVIDIA A10") == 0
    assert check.verdict(check.bars([], {}), ["wrong"], "NVIDIA A10") == 1
