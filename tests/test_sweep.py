"""A sweep on a small Molmo2: what it finds, and what happens when points, rows and the run itself fail."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sweep_failures
from PIL import Image
from sweep_failures import CRASHES, FAILS, HANGS, OUT_OF_MEMORY, REFUSED, lines

import maxcrops as mc
from maxcrops.cli import main
from maxcrops.cli._sweep import parse_values
from maxcrops.data.questions import open_image, read_questions
from maxcrops.integrations.transformers import set_max_crops
from maxcrops.profiling import _sweep_child
from maxcrops.profiling._sweep_child import SweepSetup
from maxcrops.profiling.report import write_report
from maxcrops.profiling.sweep import SweepProgress, sweep
from maxcrops.profiling.sweep_result import COLUMNS, SweepRow

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TIMES = {"first_seconds", "warm_seconds", "warm_seconds_p20", "warm_seconds_p80", "preprocess_seconds"}
TIMES |= {"generate_seconds", "tokens_per_second"}
MEMORY = {"peak_rss_bytes", "used_bytes", "fixed_bytes", "capacity_bytes"}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the children, whose threads would wait for each other beside other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def task() -> Iterator[Any]:
    """The benchmark that makes a model and images whose need of crops is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import legible_task

        yield legible_task


@pytest.fixture(scope="module")
def folder(task: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, untrained, and forty images."""
    path: Path = tmp_path_factory.mktemp("task")
    task.build(path, steps=1, batch_size=2, groups=1)
    return path


def run(folder: Path, out: Path, values: list[int], **changes: Any) -> mc.Sweep:
    arguments: dict[str, Any] = {"metric": "exact", "new_tokens": 2, "batch_size": 16, "device": "cpu", "report": False}
    return sweep(folder / "model", folder / "dataset.jsonl", max_crops=values, out=out, **{**arguments, **changes})


def command(monkeypatch: pytest.MonkeyPatch, arguments: str) -> object:
    """Runs ``maxcrops sweep`` on the CPU: its exit status."""
    monkeypatch.setattr(sys, "argv", ["maxcrops", "sweep", *arguments.split(), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


# -- what it finds -------------------------------------------------------------------------------------------------


def test_the_knee_is_where_construction_put_it(
    folder: Path, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, by a model that sees everything: right exactly where the image is cut as it is."""
    monkeypatch.setattr(_sweep_child, "answer", sweep_failures.reading)
    out, values = tmp_path / "out", [1, 2, 4, 6, 8, 10]
    status = command(
        monkeypatch,
        f"{folder}/model --data {folder}/dataset.jsonl --max-crops-list 1,2,4..4,6,8,10 --batch-size 16 --metric exact"
        f" --new-tokens 2 --json --out {out}",
    )
    assert status == 0
    printed = capsys.readouterr()
    assert f"wrote {out / 'report.html'}" in printed.err
    summary = json.loads(printed.out)
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    knee = summary["knee"]
    assert (knee["max_crops"], knee["reached"]) == (task.KNEE, True)
    assert knee["confidence"] > 0.99

    rows: list[Any] = lines(out / "rows.jsonl")
    assert rows == summary["rows"]
    assert [row["max_crops"] for row in rows] == values
    assert [row["label"] for row in rows] == ["ok"] * 6
    assert [row["accuracy"] for row in rows] == [task.legible_share(value) for value in values]
    assert [row["gain"] for row in rows] == [None, 0.25, 0.25, 0.25, 0.25, 0.0]
    assert all(row["gain_low"] > 0 for row in rows[1:5])
    assert rows[-1]["gain_low"] == rows[-1]["gain_high"] == 0  # paired: the same questions, the same answers
    spec = mc.load_spec(folder / "model")
    for row in rows:
        assert row["answered"] == 40
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["image_tokens_mean"] == row["predicted_image_tokens_mean"]
        assert row["mispredicted"] == 0
        assert row["worst_case_tokens"] == mc.worst_case(spec, max_crops=row["max_crops"]).tokens
        assert all(row[name] is not None for name in TIMES | MEMORY)
    with (out / "rows.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert tuple(table[0]) == COLUMNS
    assert [float(row["accuracy"]) for row in table] == [row["accuracy"] for row in rows]
    answers: list[Any] = lines(out / "answers.jsonl")
    assert len(answers) == 40
    for row in rows:
        assert row["accuracy"] == pytest.approx(np.mean([answer["score"][str(row["max_crops"])] for answer in answers]))

    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "What more crops change" in page
    # Self-contained: nothing is fetched.
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert not re.search(r"@import|url\((?!#)", page)
    with Image.open(out / "report.png") as picture:
        picture.verify()


def test_a_page_is_the_same_twice(folder: Path, tmp_path: Path) -> None:
    """And the answers of the model's own are the same where they are asked for again."""
    first = run(folder, tmp_path / "a", [2], report=True, limit=12)
    again = run(folder, tmp_path / "a", [2], report=True, limit=12)
    assert first.rows == again.rows
    assert first.answers == again.answers
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "b").mkdir()
    write_report(again, tmp_path / "b")
    assert (tmp_path / "b" / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("first", ["by the template", "by the tokenizer too", "none, so the processor sets another"])
def test_prompts_are_those_of_transformers(
    first: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with one first token, whoever sets it, and that is no token of the image."""
    model = shutil.copytree(folder / "model", tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    parts = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    if first.endswith("too"):
        bos = settings["bos_token"]
        (number,) = (token["id"] for token in parts["added_tokens"] if token["content"] == bos)
        parts["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
        }
        (model / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    elif first.startswith("none"):
        del settings["bos_token"]
        (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setattr(_sweep_child, "_loaded", None)
    monkeypatch.setattr(_sweep_child, "_generate", lambda inputs, setup: ([""] * len(inputs["input_ids"]), 0))
    setup = SweepSetup(
        model=str(model), spec=mc.load_spec(model), max_crops=4, device="cpu", dtype="float32", attention="sdpa",
        prompt="{question}", new_tokens=1,
    )  # fmt: skip
    _sweep_child.load(setup, {})
    loaded = _sweep_child._loaded
    assert loaded is not None
    questions = read_questions(folder / "dataset.jsonl").rows[::13]
    images = {question.row: open_image(question) for question in questions}
    talks = [
        [{"role": "user", "content": [{"type": "image", "image": images[one.row]}, {"type": "text", "text": "Which?"}]}]
        for one in questions
    ]
    wanted = loaded.processor.apply_chat_template(
        talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    asked = [replace(question, question="Which?") for question in questions]
    found = _sweep_child._process(asked, images)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    taken: Any = {}
    _sweep_child.answer(asked, taken)
    sizes = list(taken["sizes"].values())
    assert list(taken["image_tokens"].values()) == mc.count_tokens(setup.spec, sizes, max_crops=4).tolist()


def test_a_users_own_metric(folder: Path, tmp_path: Path) -> None:
    found = run(folder, tmp_path, [2], metric="sweep_failures:shouting", limit=3)
    assert found.metric == "sweep_failures:shouting"
    again = run(folder, tmp_path, [2], metric=lambda answer, answers: 0.5, limit=3)  # from the journal
    assert [row.accuracy for row in again.rows] == [0.5]
    with pytest.raises(ValueError, match=r"\[sweep\] metric must give a number from 0 to 1, got 2 for row 0"):
        run(folder, tmp_path, [2], metric=lambda answer, answers: 2, limit=3)


# -- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits")
def test_every_failure_is_a_row_and_the_others_are_complete(
    folder: Path, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sweep_child, "answer", sweep_failures.failing)
    data = tmp_path / "data"
    data.mkdir()
    rows = lines(folder / "dataset.jsonl")
    for line in rows:
        line["image"] = str(folder / line["image"])
    broken = data / "broken.png"
    broken.write_bytes(Path(str(rows[5]["image"])).read_bytes()[:-40])  # a header, and not all of its pixels
    rows[5]["image"] = str(broken)
    text = [json.dumps(row) for row in rows]
    text[2] = text[2][:30]
    (data / "dataset.jsonl").write_text("\n".join(text), encoding="utf-8")
    told: list[SweepProgress] = []
    values = [2, OUT_OF_MEMORY, CRASHES, HANGS, REFUSED, FAILS, 10]
    found = sweep(
        folder / "model",
        data / "dataset.jsonl",
        max_crops=values,
        out=tmp_path / "out",
        metric="exact",
        new_tokens=2,
        batch_size=16,
        device="cpu",
        timeout=60,
        on_progress=told.append,
    )
    labels = {row.max_crops: row.label for row in found.rows}
    assert labels == {
        2: "ok",
        OUT_OF_MEMORY: "out_of_memory",
        CRASHES: "crashed",
        HANGS: "timeout",
        REFUSED: "launch_failure",
        FAILS: "error",
        10: "ok",
    }
    for row in found.rows:
        if row.label == "ok":
            assert row.answered == 38
            assert row.accuracy is not None
            assert row.message == ""
        else:
            assert row.answered == 15  # of the first batch
            assert row.accuracy is None
            assert re.match(r"at rows 17 to 32 of the data: ", row.message), row.message
    messages = {row.max_crops: row.message for row in found.rows}
    assert "SIGSEGV" in messages[CRASHES]
    assert "more than 60 s" in messages[HANGS]
    assert "invalid configuration argument" in messages[REFUSED]
    assert "a bug of the model's" in messages[FAILS]
    assert [row.row for row in found.quarantined] == [2, 5]
    assert [row["row"] for row in lines(tmp_path / "out" / "quarantine.jsonl")] == [2, 5]
    assert found.knee is not None
    assert (told[-1].done, told[-1].total) == (7 * 39, 7 * 39)
    assert [at.done for at in told] == sorted(at.done for at in told)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("Points that failed", "SIGSEGV", "count at no point", "broken.png"))

    # What failed is a result, and stays one until it is asked for again.
    monkeypatch.setattr(_sweep_child, "answer", sweep_failures._answer)
    arguments: dict[str, Any] = {"metric": "exact", "new_tokens": 2, "batch_size": 16, "device": "cpu", "report": False}
    again = sweep(
        folder / "model", data / "dataset.jsonl", max_crops=values, out=tmp_path / "out", timeout=60, **arguments
    )
    assert {row.max_crops: row.label for row in again.rows} == labels
    mended = sweep(
        folder / "model",
        data / "dataset.jsonl",
        max_crops=[CRASHES],
        out=tmp_path / "out",
        timeout=600,
        retry_failed=True,
        **arguments,
    )
    assert [(row.label, row.answered) for row in mended.rows] == [("ok", 38)]


def test_no_question_can_be_prepared(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (60, 60)).save(picture)
    picture.write_bytes(picture.read_bytes()[:-30])
    (tmp_path / "data.jsonl").write_text('{"image": "a.png", "question": "?", "answers": "1"}', encoding="utf-8")
    found = sweep(
        folder / "model", tmp_path / "data.jsonl", max_crops=[2], out=tmp_path / "out", device="cpu", report=False
    )
    assert [row.label for row in found.rows] == ["error"]
    assert not found.succeeded
    assert found.knee is None
    assert [row.row for row in found.quarantined] == [0]


def test_no_question_can_be_prepared_at_one_point(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no question from the others."""
    monkeypatch.setattr(_sweep_child, "answer", sweep_failures.refusing)
    found = run(folder, tmp_path, [2, REFUSED], limit=6)
    assert [row.label for row in found.rows] == ["ok", "error"]
    assert found.rows[0].accuracy is not None
    assert found.rows[1].message == "no question could be prepared; row 0 of the data: ValueError: too many crops"
    assert found.quarantined == ()


def test_one_image_that_the_processor_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is left out of its batch."""
    questions = [SimpleNamespace(row=row) for row in range(5)]

    def process(batch: list[Any], images: dict[int, Any]) -> list[int]:
        rows = [question.row for question in batch]
        if 3 in rows:
            raise ValueError("aspect ratio\nand more")
        return rows

    monkeypatch.setattr(_sweep_child, "_process", process)
    bad: dict[str, str] = {}
    rows, inputs = _sweep_child._prepare(questions, {}, bad)
    assert [question.row for question in rows] == inputs == [0, 1, 2, 4]
    assert bad == {"3": "ValueError: aspect ratio"}


@pytest.mark.parametrize("label", ["out_of_memory", "ok"])
def test_a_page_of_a_single_point(label: Any, tmp_path: Path) -> None:
    """Complete or not: what is missing is left out, and text is text."""
    row = SweepRow(max_crops=4, batch_size=0, label=label, message="<b>no memory</b>", answered=0)
    found = mc.Sweep(
        model="m", spec_key="molmo2", data="d", metric="vqa", device="CPU", dtype="float32", attention="sdpa",
        prompt="<script>{question}", new_tokens=4, questions=7, level=0.9, rows=(row,), knee=None, quarantined=(),
        answers=(), notes=("a < b",), environment={}, images={}.__getitem__,
    )  # fmt: skip
    found.write(tmp_path)
    write_report(found, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Fewer than two points are complete, so there is no knee." in page
    assert ("&lt;b&gt;no memory&lt;/b&gt;" in page) == (label != "ok")
    assert "a &lt; b" in page
    assert "<script>" not in page
    assert found.succeeded == (label == "ok")


# -- what is killed ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_and_gone_on(folder: Path, tmp_path: Path) -> None:
    """At several moments; the answers are those of a run without a stop, byte for byte."""
    command = [
        sys.executable, "-m", "maxcrops", "sweep", f"{folder}/model", "--data", f"{folder}/dataset.jsonl",
        "--max-crops-list", "2,8", "--batch-size", "8", "--metric", "exact", "--new-tokens", "2", "--device", "cpu",
        "--no-report", "--out",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, str(out)], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole).wait(timeout=300) == 0
    journal = stopped / "journal.jsonl"
    for most in (5, 12):  # lines of the journal; a run without a stop has 17
        process = start(stopped)
        try:
            deadline = time.monotonic() + 120
            while not (journal.exists() and len(journal.read_bytes().splitlines()) >= most):
                assert time.monotonic() < deadline
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
    assert start(stopped).wait(timeout=300) == 0
    assert (stopped / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    for before, after in zip(lines(whole / "rows.jsonl"), lines(stopped / "rows.jsonl"), strict=True):
        same = set(COLUMNS) - TIMES - MEMORY
        assert {name: before[name] for name in same} == {name: after[name] for name in same}
    batches = [record["taken"]["answers"] for record in lines(journal)[1:] if record["event"] == "answered"]
    assert [len(batch) for batch in batches] == [8] * 10  # nothing twice, and in the same batches


def test_other_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, [2], limit=2)
    with pytest.raises(mc.ConfigError, match=re.escape("prompt was '{question}' and is 'Now: {question}'")):
        run(folder, tmp_path, [2], limit=2, prompt="Now: {question}")
    assert run(folder, tmp_path, [2, 3], limit=2, tolerance=0.1).rows[1].label == "ok"  # more values are welcome


# -- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits")
def test_the_batch_is_looked_for(folder: Path, tmp_path: Path) -> None:
    """Under a real limit; the point then runs with a batch that worked on the worst image."""
    found = run(
        folder, tmp_path, [8], batch_size=64, auto_adjust_batch_size=True, max_batch_size=512, memory_limit=500 * 2**20
    )
    (row,) = found.rows
    assert row.label == "ok", row
    assert row.batch_size > 1
    assert row.capacity_bytes == 500 * 2**20
    assert row.used_bytes is not None
    assert row.used_bytes <= row.capacity_bytes
    assert lines(tmp_path / "journal.jsonl")[1]["event"] == "batch_size"


def test_out_of_memory_halves_the_batch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search promised too much; what was answered is kept."""
    from maxcrops.profiling import sweep as module

    monkeypatch.setattr(module, "probe", lambda *_, **given: SimpleNamespace(
        batches={given["max_crops"]: SimpleNamespace(batch_size=32)}, rows=[]
    ))  # fmt: skip
    monkeypatch.setattr(_sweep_child, "answer", sweep_failures.greedy)
    found = run(folder, tmp_path, [2], auto_adjust_batch_size=True, memory_limit=2**30)
    (row,) = found.rows
    assert (row.label, row.batch_size, row.answered) == ("ok", 8, 40)


# -- knobs ---------------------------------------------------------------------------------------------------------


def test_knobs_of_processors() -> None:
    from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
    from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

    molmo2, idefics3, llava = Molmo2ImageProcessor(), Idefics3ImageProcessor(), LlavaNextImageProcessor()
    set_max_crops(molmo2, mc.get_spec("molmo2"), 5)
    assert molmo2.max_crops == 5
    set_max_crops(SimpleNamespace(image_processor=idefics3), mc.get_spec("idefics3"), 6)
    assert idefics3.size["longest_edge"] == mc.get_spec("idefics3").knob_at(6) == 728
    assert Idefics3ImageProcessor().size["longest_edge"] == 1456  # of the class, which is not changed
    set_max_crops(llava, mc.get_spec("llava_next"), 6)  # crops of 224 px cover a side of 336 in twos
    assert llava.image_grid_pinpoints == [[336, 672], [672, 336]]
    with pytest.raises(mc.UnsupportedError, match=r"\[set_max_crops\] Molmo2ImageProcessor has no setting"):
        set_max_crops(molmo2, mc.get_spec("aria"), 2)


# -- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [("2..13", list(range(2, 14))), ("8,12, 20", [8, 12, 20]), ("4..6,5,2", [2, 4, 5, 6]), ("7", [7])],
)
def test_lists_of_values(text: str, values: list[int]) -> None:
    assert parse_values("--max-crops-list", text) == values


@pytest.mark.parametrize("text", ["", "a", "2-13", "2..", "..3", "5..4", "0", "0..3", "1,,2", "1.5"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--max-crops-list must"):
        parse_values("--max-crops-list", text)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_crops": []}, ValueError, "max_crops must be at least one integer, got none"),
        ({"max_crops": "2..3"}, TypeError, "max_crops must be several integers, got '2..3'"),
        ({"max_crops": [2.5]}, TypeError, "max_crops must be an integer, got 2.5"),
        ({"max_crops": [0]}, ValueError, "max_crops"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"prompt": "Look!"}, ValueError, "prompt must have {question} in it, got 'Look!'"),
        ({"level": 1.0}, ValueError, "level must be from 0 to below 1, got 1.0"),
        ({"metric": "accuracy"}, ValueError, "accuracy"),
        ({"auto_adjust_batch_size": True}, ValueError, "memory_limit must be given"),
        ({"max_trials": 0}, ValueError, "max_trials must be at least 1, got 0"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"timeout": 0}, ValueError, "timeout must be above 0 seconds, got 0"),
        ({"dtype": "float8"}, ValueError, "dtype must be one of bfloat16, float16, float32, None, got 'float8'"),
        ({"attention": "flash"}, ValueError, "attention must be one of sdpa, eager, flash_attention_2, got 'flash'"),
        ({"spec": mc.get_spec("gemma3", do_pan_and_scan=True)}, mc.UnsupportedError, "crops is pan_and_scan_max_num_"),
    ],
)
def test_arguments(folder: Path, tmp_path: Path, changes: Any, error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"max_crops": [2], "out": tmp_path / "out", "device": "cpu", **changes}
    with pytest.raises(error, match=re.escape(message)):
        sweep(folder / "model", folder / "dataset.jsonl", **arguments)
    assert not (tmp_path / "out").exists()


def test_no_search_for_a_family_without_known_inputs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maxcrops.profiling import sweep as module

    monkeypatch.setattr(module, "FAMILIES", {})
    with pytest.raises(mc.UnsupportedError, match="auto_adjust_batch_size must be left out for model_type 'molmo2'"):
        run(folder, tmp_path / "out", [2], auto_adjust_batch_size=True, memory_limit=2**30)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "model").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(mc.ConfigError, match="model must be a folder with weights"):
        sweep(tmp_path, folder / "dataset.jsonl", max_crops=[2], out=tmp_path / "out")


def test_the_questions_are_those_of_the_task(folder: Path) -> None:
    assert len(read_questions(folder / "dataset.jsonl").rows) == 40


# -- a trained model -----------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_a_trained_model(task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: trained on the CPU for minutes, swept through the command line."""
    expected = task.build(tmp_path, seed=1)
    status = command(
        monkeypatch,
        f"{tmp_path}/model --data {tmp_path}/dataset.jsonl --max-crops-list 1..4,6,8,10,12 --batch-size 32"
        f" --metric exact --new-tokens 4 --out {tmp_path}/out",
    )
    assert status == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["knee"]["max_crops"] == expected["knee"]
    assert summary["knee"]["reached"]
    assert summary["knee"]["confidence"] > 0.95
    for row in summary["rows"]:
        assert row["accuracy_low"] - 0.05 <= expected["accuracy"][row["max_crops"]] <= row["accuracy_high"] + 0.05
