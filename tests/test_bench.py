"""Benchmarks: nothing is timed that is not the same, and a ratio is of one round. No test looks at the time itself."""

import csv
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from maxcrops import _core
from maxcrops.cli import main
from maxcrops.profiling import harness
from maxcrops.profiling.harness import (
    Case,
    Competitor,
    OutputsDifferError,
    Timing,
    Timings,
    environment,
    measure_all,
    write_csv,
)

ROOT = Path(__file__).parent.parent


class Clock:
    """Stands in for the time module: runs take as long as they say."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def run(self, *durations, output=0):
        """A run that takes these durations in turn, after one that is not timed."""
        remaining = iter((0.0, *durations))

        def run():
            self.now += next(remaining)
            return output

        return run


@pytest.fixture
def clock(monkeypatch):
    result = Clock()
    monkeypatch.setattr(harness, "time", result)
    return result


def timing(name, *seconds):
    return Timing(name, seconds, peer="peer", floor="peer", isa="", threads=1, dtype="")


# -- the harness ---------------------------------------------------------------------------------------------------


def test_differing_outputs_are_refused_before_timing():
    runs = []

    def competitor(name, output, **references):
        return Competitor(name, lambda: runs.append(name) or output, 1, **references)

    case = Case("case", "images", [competitor("peer", [1, 2]), competitor("same", [1, 2]), competitor("other", [1, 3])])
    with pytest.raises(OutputsDifferError, match="other differs from that of peer"):
        case.measure()
    assert runs == ["peer", "same", "other"]


def test_each_output_is_compared_with_its_own_reference():
    def competitor(name, output, same_as=""):
        return Competitor(name, lambda: output, 1, same_as=same_as)

    first, second = competitor("first", 1), competitor("second", 2, None)
    free = competitor("free", 9, None)
    Case("case", "images", [first, second, competitor("like second", 2, "second"), free], rounds=1).measure()
    with pytest.raises(OutputsDifferError, match="like second differs from that of second"):
        Case("case", "images", [first, second, competitor("like second", 1, "second")], rounds=1).measure()


def test_ratios_are_taken_within_rounds(clock):
    peer = Competitor("peer", clock.run(1, 10, 100), 1)
    ours = Competitor("ours", clock.run(0.5, 1, 100), 1, floor="floor")
    floor = Competitor("floor", clock.run(0.25, 1, 20), 1)
    row = {row.competitor: row for row in Case("case", "images", [peer, ours, floor], rounds=3).measure()}["ours"]
    # In the rounds 2, 10, 1; of the medians 10.
    assert (row.times_peer_median, row.times_peer_p20, row.times_peer_p80) == (2, 1, 10)
    assert row.times_floor_median == 2
    assert (row.seconds_median, row.seconds_p20, row.seconds_p80) == (1, 0.5, 100)


def test_ratio_is_to_the_named_peer_and_per_unit_of_work(clock):
    first = Competitor("first", clock.run(8), 1)
    second = Competitor("second", clock.run(6), 2)
    third = Competitor("third", clock.run(4), 4, peer="second")
    rows = Case("case", "images", [first, second, third], rounds=1).measure()
    assert [row.peer for row in rows] == ["first", "first", "second"]
    assert [row.times_peer_median for row in rows] == [1, 2.667, 3]
    assert [row.times_floor_median for row in rows] == [None] * 3


def test_set_up_and_rest_are_not_timed(clock):
    competitor = Competitor("only", clock.run(1, 1), 1, setup=lambda: clock.sleep(50))
    [row] = Case("case", "images", [competitor], rounds=2, rest=7).measure()
    assert row.seconds_median == 1


@pytest.mark.parametrize(
    "competitors",
    [
        [Competitor("one", int, 1), Competitor("one", int, 1)],
        [Competitor("one", int, 1, peer="two")],
        [Competitor("one", int, 1, floor="two")],
        [Competitor("one", int, 1, same_as="two")],
    ],
)
def test_names_that_mean_nothing(competitors):
    with pytest.raises(ValueError, match=r"\[bench\] case"):
        Case("case", "images", competitors).measure()


def test_rounds_of_several_processes_make_one_row():
    """Medians and ratios are of all rounds; medians of medians would be 4.25 and 2.5."""
    first = Timings("case", "images", (timing("peer", 6.0, 9.0), timing("ours", 2.0, 9.0)))
    later = Timings("case", "images", (timing("peer", 8.0, 3.0, 12.0), timing("ours", 4.0, 1.0, 3.0)))
    peer, ours = (pickle.loads(pickle.dumps(first)) + later).rows()
    assert (ours.seconds_median, ours.rounds, ours.times_peer_median, ours.times_floor_median) == (3.0, 5, 3.0, 0.3333)
    assert (peer.seconds_median, peer.times_peer_median) == (8.0, 1.0)
    for others in (later.competitors[:1], later.competitors[::-1]):
        with pytest.raises(ValueError, match="not of the same competitors"):
            first + Timings("case", "images", others)


def test_a_seed_has_its_own_orders():
    def order(seed):
        runs = []
        competitors = [Competitor(name, partial(runs.append, name), 1) for name in "abcd"]
        Case("case", "images", competitors, rounds=6).time(seed=seed)
        return runs

    assert order(1) == order(1) != order(2)


def test_each_round_has_an_order_of_its_own():
    ran = []
    competitors = [Competitor(name, lambda name=name: ran.append(name), 1, same_as=None) for name in "abcd"]
    Case("case", "images", competitors, rounds=6).measure()
    rounds = [tuple(ran[at : at + 4]) for at in range(4, len(ran), 4)]  # behind the runs that are compared
    assert len(rounds) == 6
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 3


def test_progress_reaches_the_end_of_each_case():
    class Maker:
        def __call__(self):
            return self

        def __enter__(self):
            return Case("case", "images", [Competitor("a", int, 1), Competitor("b", int, 1)], rounds=2)

        def __exit__(self, *_):
            pass

    seen = []
    assert len(list(measure_all([Maker(), Maker()], lambda name, done: seen.append(done)))) == 4
    assert seen == sorted(seen)
    assert {0, 1, 2} <= set(seen)


def test_rows_are_written_with_their_machine(tmp_path):
    rows = Case("case", "images", [Competitor("a", int, 1)], rounds=1).measure()
    write_csv(tmp_path / "rows.csv", rows, environment())
    with (tmp_path / "rows.csv").open(encoding="utf-8") as handle:
        [written] = csv.DictReader(handle)
    assert written["competitor"] == "a"
    assert written["times_floor_median"] == ""
    assert written["numpy"] == np.__version__


# -- the README's tables -------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path, monkeypatch):
    path = ROOT / "benchmarks" / "report.py"
    spec = importlib.util.spec_from_file_location("report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


MARKED = "before\n<!-- preprocess:begin -->\nold\n<!-- preprocess:end -->\nafter\n"


def test_no_results_no_change(report):
    assert report.with_tables(MARKED) == MARKED


def test_lost_rows_are_shown_whatever_the_case(report, clock, tmp_path):
    def rows(name):
        peer = Competitor("transformers, 1 thread", clock.run(0.02), 1)
        wins = Competitor("maxcrops, wins", clock.run(0.01), 1)
        loses = Competitor("maxcrops, loses", clock.run(0.04), 1)
        return Case(name, "images", [peer, wins, loses], rounds=1).measure()

    shown, other = "molmo2, 1080x1920, max_crops 8", "molmo2, 480x640, max_crops 24, noise"
    write_csv(tmp_path / "preprocess.csv", [*rows(shown), *rows(other)], environment())
    table = report.with_tables(MARKED)
    assert table.startswith("before\n<!-- preprocess:begin -->\n| case |")
    assert table.endswith("<!-- preprocess:end -->\nafter\n")
    assert f"| {shown} | transformers, 1 thread | 20 | 20 to 20 |  |  |" in table
    assert "|  | maxcrops, wins | 10 | 10 to 10 | 2 |  |" in table
    assert f"| {other} | maxcrops, loses | 40 | 40 to 40 | 0.5 |  |" in table
    assert table.count("wins") == 1


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the entry point in this process: (exit status, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["maxcrops", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


@pytest.fixture
def peers():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("skimage")


def python_m(*arguments, cwd, first_on_path=None):
    path = os.pathsep.join(filter(None, [first_on_path and str(first_on_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "maxcrops", *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ, timeout=300, check=False)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_missing_extra_is_named(missing, tmp_path):
    (tmp_path / "empty" / missing).mkdir(parents=True)
    (tmp_path / "empty" / missing / "__init__.py").write_text("raise ImportError('blocked')")
    done = python_m("bench", "preprocess", cwd=tmp_path, first_on_path=tmp_path / "empty")
    assert done.returncode == 2
    assert "pip install 'maxcrops[bench]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("internvl",), "has peers for molmo2, molmo, not for internvl"),
        (("molmo2", "--sizes", "480"), "--sizes must be HEIGHTxWIDTH"),
        (("molmo2", "--sizes", "0x640"), "--sizes must be HEIGHTxWIDTH"),
        (("molmo2", "--max-crops", "8;12"), "--max-crops must be integers"),
    ],
)
def test_wrong_arguments(arguments, message, run):
    status, out, err = run("bench", "preprocess", *arguments)
    assert status == 2
    assert out == ""
    assert message in err


def test_help_has_an_example(run):
    status, out, _ = run("bench", "preprocess", "--help")
    assert status == 0
    assert "maxcrops bench preprocess molmo2" in out


@pytest.mark.parametrize("key", ["molmo2", "molmo-7b-d"])
def test_quick(key, run, peers, monkeypatch):
    import torch

    monkeypatch.setenv("MAXCROPS_CPU_ISA", "scalar")
    threads = torch.get_num_threads()
    status, out, _ = run(
        "bench", "preprocess", key, "--sizes", "150x200", "-n", "2", "--rounds", "1", "--quick", "--json"
    )
    assert status == 0
    assert (torch.get_num_threads(), os.environ["MAXCROPS_CPU_ISA"]) == (threads, "scalar")
    rows = json.loads(out)["rows"]
    assert {row["case"] for row in rows} == {f"{key}, 150x200, max_crops 2"}
    by_name = {row["competitor"]: row for row in rows}
    ours = [row for row in rows if row["competitor"].startswith("maxcrops")]
    assert {row["isa"] for row in ours} == {"scalar"}
    for row in ours:
        assert not by_name[row["peer"]]["competitor"].startswith("maxcrops")
        assert by_name[row["peer"]]["threads"] == row["threads"]
        assert row["times_floor_median"] is not None


@pytest.mark.parametrize("key", ["molmo2", "molmo-7b-d"])
def test_tiny_matrix(key, peers, report, tmp_path):
    # In a process of its own, as the loaders start workers.
    arguments = ("--sizes", "150x200", "-n", "2", "--rounds", "1", "--csv", tmp_path / "preprocess.csv")
    done = python_m("bench", "preprocess", key, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "times the floor" in done.stdout
    with (tmp_path / "preprocess.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    assert len(cases) == 4
    for words in ("Python threads", "2 loader threads", "DataLoader"):
        assert sum(words in case for case in cases) == 1
    assert {row["isa"] for row in rows if row["case"] == cases[0]} == {"", *_core.available_isas()}
    assert {row["dtype"] for row in rows if row["case"] == cases[0]} == {"float32", "bfloat16"}
    against = {row["peer"] for row in rows if row["competitor"].endswith("bfloat16, against its float32")}
    assert against == {f"maxcrops, {_core.available_isas()[-1]}, {threads}" for threads in ("1 thread", "2 threads")}
    (alone,) = (row for row in rows if row["competitor"].endswith("1 thread, against " + rows[0]["competitor"]))
    assert (alone["threads"], alone["peer"]) == ("1", rows[0]["competitor"])
    assert rows[0]["threads"] == "2"
    floors = [row for row in rows if "Python threads" in row["case"] and row["competitor"].startswith("memory floor")]
    assert len(floors) == 4
    dtype_of = {(row["case"], row["competitor"]): row["dtype"] for row in rows}
    for row in rows:
        alike = dtype_of[row["case"], row["peer"]] == row["dtype"] or not row["dtype"]
        assert alike or "against" in row["competitor"], row["competitor"]
    assert "<!-- preprocess:begin -->" in report.with_tables(MARKED)


def test_different_pixels_end_the_run(peers, run, monkeypatch):
    from maxcrops.profiling import preprocessing

    real = preprocessing.Preprocessor

    class OneStepOff(real):
        def __call__(self, images, **options):
            batch = super().__call__(images, **options)
            batch["pixel_values"][-1, -1, -1] += 2 / 255
            return batch

    monkeypatch.setattr(preprocessing, "Preprocessor", OneStepOff)
    status, out, err = run("bench", "preprocess", "molmo2", "--sizes", "150x200", "-n", "2", "--rounds", "1", "--quick")
    assert status == 2
    assert out == ""
    assert "differs from that of transformers, 2 threads; nothing was timed" in err
