"""The command line: exit statuses, streams, and that its numbers are the library's."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sizes import within
from typer.testing import CliRunner

import maxcrops as mc
from maxcrops.cli._app import app
from maxcrops.specs import FAMILIES

SIZES = {"a.png": (480, 640), "b.jpg": (1080, 1920), "deep/c.webp": (900, 50), "deep/er/d.bmp": (100, 100)}


@pytest.fixture
def folder(tmp_path):
    """Four images in nested folders."""
    root = tmp_path / "photos"
    for name, (height, width) in SIZES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (90, 120, 150)).save(root / name)
    return root


def _python_m(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "maxcrops", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=120
    )


def _tokens(spec, **options):
    return {
        name: mc.layout(spec, height=height, width=width, **options).sequence_tokens
        for name, (height, width) in SIZES.items()
    }


# -- as a program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("plan", "molmo-7b-d"), 0),
        (("plan", "molmo-7b-d", "-n", "40"), 1),
        (("plan", "molmo-7b-x"), 2),
        (("plan", "molmo-7b-d", "--text-tokens", "-5"), 2),
        (("plan", "molmo-7b-d", "--text-tokens", "many"), 2),
    ],
)
def test_exit_status(arguments, status, tmp_path):
    done = _python_m(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if status == 2:
        assert done.stdout == ""
        assert done.stderr
    else:
        assert done.stderr == ""
        assert "Largest safe max_crops: 32." in done.stdout


def test_error_is_one_line(tmp_path):
    done = _python_m("plan", "molmo-7b-x", cwd=tmp_path)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("maxcrops: ")
    assert "'molmo-7b-x'" in done.stderr
    assert "molmo-7b-d" in done.stderr


def test_version(tmp_path):
    done = _python_m("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"maxcrops {mc.__version__}\n")


def test_plot_without_matplotlib(tmp_path):
    (tmp_path / "empty" / "matplotlib").mkdir(parents=True)
    (tmp_path / "empty" / "matplotlib" / "__init__.py").write_text("raise ImportError('blocked')")
    done = _python_m("plan", "molmo2", "--plot", "plan.png", cwd=tmp_path, PYTHONPATH=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "maxcrops[plot]" in done.stderr
    assert "Traceback" not in done.stderr


# -- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "count", "compare", "show", "specs"])
def test_help_has_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"maxcrops {command}" in result.output


def test_help_names_all_commands():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("plan", "count", "compare", "show", "specs"):
        assert re.search(rf"\b{command}\b", result.output)


# -- plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", mc.list_specs())
def test_plan_json_is_the_plan(key, run):
    limit = within(mc.get_spec(key))
    flags = [part for name, value in limit.items() for part in (f"--{name.replace('_', '-')}", value)]
    status, out, err = run("plan", key, "--json", "--max-sequence-length", 5000, "--text-tokens", 100, *flags)
    plan = mc.plan(mc.get_spec(key), max_sequence_length=5000, text_tokens=100, **limit)
    assert err.count("\n") == bool(plan.spec.unverified)
    assert json.loads(out) == {**json.loads(json.dumps(plan.to_dict())), "unreadable": []}
    assert status == (0 if plan.fits else 1)


def test_plan_passes_every_option_on(run):
    options = {"max_crops": 6, "max_sequence_length": 9000, "text_tokens": 77, "images_per_sample": 3}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    _, out, _ = run("plan", "molmo2-8b", "--json", "--tight-margin", 5, *flags)
    plan = mc.plan(mc.get_spec("molmo2-8b"), tight_margin=5, **options)
    assert json.loads(out) == {**json.loads(json.dumps(plan.to_dict())), "unreadable": []}


@pytest.mark.parametrize("key", mc.list_specs())
def test_plan_says_the_answer(key, run):
    limit = within(mc.get_spec(key))
    flags = [part for name, value in limit.items() for part in (f"--{name.replace('_', '-')}", value)]
    plan = mc.plan(mc.get_spec(key), **limit)
    status, out, err = run("plan", key, *flags)
    own_unit = plan.knob_value != plan.largest_max_crops
    setting = f" ({plan.spec.knob}={plan.knob_value})" if own_unit else ""
    if plan.largest_max_crops is None:
        assert "No max_crops is safe" in out
    else:
        assert f"Largest safe max_crops: {plan.largest_max_crops}{setting}." in out
    assert f"max_crops {plan.max_crops} is {plan.row.verdict}" in out
    assert str(plan.row.tokens) in out
    assert ("The knob ends there" in out) == plan.knob_ends
    assert err.count("\n") == bool(plan.spec.unverified)
    assert status == (0 if plan.fits else 1)


@pytest.mark.parametrize("command", ["plan", "count", "compare", "show"])
def test_settings_that_nobody_compared_are_told(command, run, folder, tmp_path):
    """In one line, which ones and what to do; not those that the caller sets."""
    image = folder / "a.png"
    rest = [image, "-o", tmp_path / "cut.png"] if command == "show" else [image]

    def told(**settings):
        if command == "compare":
            model = [":".join(["gemma-3-4b-it", *(f"{name}={value}" for name, value in settings.items())])]
        else:
            model = ["gemma-3-4b-it", *(part for item in settings.items() for part in ("--set", "=".join(item)))]
        status, _, err = run(command, *model, *rest)
        assert status == 0
        return err

    assert told().count("\n") == 1
    assert told().startswith("gemma-3-4b-it: crop_size, patch_size are unverified (crops of 896 px in patches of 14 ")
    assert "--set crop_size=..." in told()
    assert told(crop_size="896").startswith("gemma-3-4b-it: patch_size is unverified")
    assert told(crop_size="896", patch_size="14") == ""


def test_json_says_what_nobody_compared(run, folder):
    def of(*arguments):
        _, out, _ = run(*arguments, "--json")
        return json.loads(out)

    for key in ("gemma-3-4b-it", "molmo-7b-d"):
        unverified = ["crop_size", "patch_size"] if key == "gemma-3-4b-it" else []
        assert of("plan", key)["model"]["unverified"] == unverified
        assert of("count", key, folder)["unverified"] == unverified
        assert of("compare", key)["models"][0]["unverified"] == unverified
        assert of("specs", key)[0]["unverified"] == unverified


def test_plan_where_nothing_fits(run):
    status, out, _ = run("plan", "molmo-7b-d", "--max-sequence-length", 200)
    assert status == 1
    assert "No max_crops is safe: 1 already needs 828 of 200 tokens" in out


def test_plan_names_no_limit_that_it_does_not_know(run, folder):
    for arguments in ([], ["--json"], [folder]):
        _, out, _ = run("plan", "molmo-7b-d", *arguments)
        assert not re.search(r"memory|launch|grid ?dim|flops|\bcompute\b|out of", out, re.IGNORECASE)


def test_rule_of_thumb_beside_the_exact(run):
    status, out, _ = run("plan", "molmo-7b-d", "--max-sequence-length", 4096, "--rule-of-thumb")
    assert status == 0
    table = out[out.index("Rule of thumb") :]
    spec = mc.get_spec("molmo-7b-d")
    expected = {
        12: ("1728 / 2368", "safe"),
        20: ("2880 / 1216", "tight"),
        25: ("3600 / 496", "very tight"),
        28: ("4032 / 64", "hardly feasible"),
        30: ("> 4096 / < 0", "over the limit"),
    }
    for crops, (tokens, verdict) in expected.items():
        exact = mc.worst_case(spec, max_crops=crops).tokens
        line = re.search(rf"^ +{crops} .*$", table, re.MULTILINE).group()
        cells = re.split(r" {2,}", line.strip())
        assert cells == [str(crops), tokens, verdict, str(150 * crops), f"{exact} / {4096 - exact}", "safe"]


def test_rule_of_thumb_json(run):
    _, out, _ = run("plan", "molmo-7b-d", "--rule-of-thumb", "--json")
    assert json.loads(out)["rule_of_thumb"] == [rule.to_dict() for rule in mc.rule_of_thumb()]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot(suffix, run, folder, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"plan.{suffix}"
    status, _, err = run("plan", "molmo-7b-d", folder, "--plot", picture)
    assert status == 0
    assert str(picture) in err
    assert picture.stat().st_size > 3000
    if suffix == "png":
        with Image.open(picture) as image:
            assert image.width > 600
            assert image.height > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_plot_of_an_unknown_format(run, tmp_path):
    pytest.importorskip("matplotlib")
    status, _, err = run("plan", "molmo-7b-d", "--plot", tmp_path / "plan.xyz")
    assert status == 2
    assert "xyz" in err


def test_images_as_folder_glob_and_file(run, folder):
    spec = mc.get_spec("molmo-7b-d")
    for arguments, names in [
        ([folder], list(SIZES)),
        ([folder / "*.*"], ["a.png", "b.jpg"]),
        ([folder / "**" / "*.webp"], ["deep/c.webp"]),
        ([folder / "a.png"], ["a.png"]),
        ([folder / "a.png", folder / "deep"], ["a.png", "deep/c.webp", "deep/er/d.bmp"]),
    ]:
        status, out, _ = run("plan", "molmo-7b-d", "--json", *arguments)
        plan = mc.plan(spec, sizes=[SIZES[name] for name in names])
        assert status == 0
        data = json.loads(out)
        assert data["num_images"] == len(names)
        assert data["knee"] == plan.knee
        assert data["rows"] == json.loads(json.dumps(plan.to_dict()))["rows"]


def test_a_plan_reports_unreadable_images(run, folder):
    """Its status is the verdict's."""
    (folder / "broken.png").write_bytes(b"not a picture")
    status, out, err = run("plan", "molmo-7b-d", folder)
    assert status == 0
    assert "The 4 images" in out
    assert "1 file could not be read:" in err
    assert re.search(r"broken\.png: not an image", err)


def test_a_long_table_is_cut_around_the_answer(run):
    arguments = ("plan", "molmo-7b-d", "--max-sequence-length", 32768)
    _, out, _ = run(*arguments)
    _, everything, _ = run(*arguments, "--all")
    answer = mc.plan(mc.get_spec("molmo-7b-d"), max_sequence_length=32768).largest_max_crops
    numbers = [int(n) for n in re.findall(r"^ *(\d+)\*? +\d+ +\d+x\d+", out, flags=re.MULTILINE)]
    assert {1, 12, answer, answer + 1} <= set(numbers)
    assert len(numbers) < 40
    assert len(re.findall(r"^ *(\d+)\*? +\d+ +\d+x\d+", everything, flags=re.MULTILINE)) == answer + 4


@pytest.mark.parametrize("command", ["count", "plan"])
def test_nothing_found(command, run, tmp_path):
    status, _, err = run(command, "molmo2", tmp_path)
    assert status == 2
    assert f"no images found in {tmp_path}" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_unreadable_folders_are_reported(run, folder):
    (folder / "locked").mkdir(mode=0)
    status, _, err = run("count", "molmo2", folder)
    assert status == 1
    assert "locked: no permission" in err


def test_names_too_long_and_broken_links_stop_nothing(run, folder):
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    status, out, err = run("count", "molmo2", folder, "n" * 300)
    assert status == 1
    assert "4 images" in out
    assert "link.png: no such file" in err
    assert "2 files could not be read" in err


def test_a_reader_that_has_enough(tmp_path):
    command = f"{sys.executable} -m maxcrops plan molmo-7b-d | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith("molmo-7b-d")


def test_a_closed_pipe_is_no_signal_that_kills(run):
    """A dry run's child may end while it is written to; that must be an error, as it is in Python."""
    run("specs")
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN


# -- count ---------------------------------------------------------------------------------------------------------


def test_count_csv(run, folder, tmp_path):
    table = tmp_path / "counts.csv"
    status, out, err = run("count", "molmo2-8b", folder, "--csv", table)
    assert status == 0
    assert "wrote 4 rows" in err
    spec = mc.get_spec("molmo2-8b")
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [Path(row["path"]).relative_to(folder).as_posix() for row in rows] == sorted(SIZES)
    for row in rows:
        height, width = SIZES[Path(row["path"]).relative_to(folder).as_posix()]
        cut = mc.layout(spec, height=height, width=width)
        assert (int(row["height"]), int(row["width"])) == (height, width)
        assert (int(row["rows"]), int(row["cols"])) == cut.grid
        for name in ("num_crops", "sequence_tokens", "connector_outputs", "vit_patches"):
            assert int(row[name]) == getattr(cut, name)
        assert float(row["scale"]) == pytest.approx(cut.scale, abs=1e-6)
    assert f"4 images, {sum(_tokens(spec).values())} sequence tokens" in out


@pytest.mark.parametrize("key", mc.list_specs())
def test_count_json(key, run, folder):
    status, out, err = run("count", key, folder, "--json")
    data = json.loads(out)
    expected = _tokens(mc.get_spec(key))
    counted = {Path(row["path"]).relative_to(folder).as_posix(): row["sequence_tokens"] for row in data["images"]}
    assert counted == expected
    assert (status, data["model"], data["unreadable"]) == (0, key, [])
    assert err.count("\n") == bool(mc.get_spec(key).unverified)


def test_images_that_the_processor_refuses_are_told(run, tmp_path):
    """Their numbers go on, as the other images' do."""
    Image.new("RGB", (400, 300)).save(tmp_path / "fine.png")
    Image.new("RGB", (2048, 1)).save(tmp_path / "thin.png")
    status, out, err = run("count", "deepseek-ocr-2", tmp_path, "--json")
    rows = {Path(row["path"]).name: row["refused"] for row in json.loads(out)["images"]}
    assert (status, rows) == (1, {"fine.png": False, "thin.png": True})
    assert re.fullmatch(r"1 image for which the processor of deepseek-ocr-2 raises, such as \S+thin.png\n", err)
    assert run("count", "deepseek-ocr-2", tmp_path / "fine.png")[::2] == (0, "")
    assert run("count", "internvl", tmp_path / "thin.png")[::2] == (0, "")
    _, _, err = run("show", "deepseek-ocr-2", tmp_path / "thin.png", "-o", tmp_path / "cut.png")
    assert err == "the processor of deepseek-ocr-2 raises for an image of this size\n"


def test_count_at_another_max_crops(run, folder):
    _, out, _ = run("count", "molmo-7b-d", folder, "--max-crops", 3)
    assert f"{sum(_tokens(mc.get_spec('molmo-7b-d'), max_crops=3).values())} sequence tokens" in out
    for name in SIZES:
        assert name.split("/")[-1] in out


def test_count_goes_on_after_unreadable_files(run, folder):
    (folder / "empty.png").touch()
    (folder / "words.jpg").write_text("words")
    (folder / "notes.txt").write_text("not tried")
    status, out, err = run("count", "molmo-7b-d", folder, folder / "missing.png")
    assert status == 1
    assert f"4 images, {sum(_tokens(mc.get_spec('molmo-7b-d')).values())} sequence tokens" in out
    assert "3 files could not be read:" in err
    for name in ("empty", "words", "missing"):
        assert re.search(rf"{name}\.(png|jpg): \w+", err)
    assert "missing.png: no such file" in err
    assert "left out 1 file " in err
    assert "Traceback" not in err


def test_count_json_lists_unreadable_files(run, folder):
    (folder / "words.jpg").write_text("words")
    status, out, _ = run("count", "molmo-7b-d", folder, "--json")
    data = json.loads(out)
    assert status == 1
    assert len(data["images"]) == 4
    ((entry),) = data["unreadable"]
    assert entry["path"].endswith("words.jpg")
    assert entry["size"] is None
    assert entry["error"]


def test_count_verify_finds_truncated_images(run, folder):
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    assert run("count", "molmo-7b-d", folder)[0] == 0
    status, _, err = run("count", "molmo-7b-d", folder, "--verify")
    assert status == 1
    assert re.search(r"b\.jpg: .*truncated", err)


MARKUP_NAMES = [
    pytest.param("plain [1].png", id="number"),
    pytest.param("[red].png", id="tag"),
    pytest.param("a[/b].png", id="closing tag"),
    pytest.param("a:cat:.png", id="emoji"),
]


@pytest.mark.parametrize("name", MARKUP_NAMES)
def test_names_are_printed_as_they_are(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(tmp_path / name)
    status, out, _ = run("count", "molmo2", name)
    assert status == 0
    assert name in out


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode elsewhere")
@pytest.mark.parametrize("options", [["--csv", "counts.csv"], []])
def test_names_that_are_not_unicode(options, folder, tmp_path):
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    done = _python_m("count", "molmo2", folder, *options, cwd=tmp_path, PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0


# -- show ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["molmo-7b-d", "molmo2", "internvl3-8b", "llava_next", "smolvlm2-2.2b-instruct"])
def test_show(key, run, folder, tmp_path):
    picture = tmp_path / "cut.png"
    status, out, err = run("show", key, folder / "b.jpg", "-o", picture)
    cut = mc.layout(mc.get_spec(key), height=1080, width=1920)
    assert (status, err) == (0, "")
    assert f"{cut.grid[0]} x {cut.grid[1]} crops" in out
    assert f"{cut.sequence_tokens} sequence tokens" in out
    with Image.open(picture) as image:
        assert image.mode == "RGB"
        assert 400 <= image.width <= 4000
        assert 200 <= image.height <= 4000
        assert len(image.getcolors(1 << 24)) > 10


def test_show_turns_upright(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 200)).save(tmp_path / "turned.jpg", exif=exif)
    _, out, _ = run("show", "molmo-7b-d", tmp_path / "turned.jpg", "-o", tmp_path / "cut.png")
    cut = mc.layout(mc.get_spec("molmo-7b-d"), height=640, width=200)
    assert f"{cut.grid[0]} x {cut.grid[1]} crops" in out
    assert cut.grid != mc.layout(mc.get_spec("molmo-7b-d"), height=200, width=640).grid


def test_show_of_no_image(run, tmp_path):
    (tmp_path / "words.png").write_text("words")
    for name in ("words.png", "missing.png"):
        status, _, err = run("show", "molmo2", tmp_path / name, "-o", tmp_path / "cut.png")
        assert status == 2
        assert name in err
        assert err.count("\n") == 1


# -- specs ---------------------------------------------------------------------------------------------------------


def test_specs_lists_all(run):
    status, out, err = run("specs")
    assert (status, err) == (0, "")
    listed = [line.split()[0] for line in out.splitlines() if line.strip()][1:]
    assert listed == list(mc.list_specs())


@pytest.mark.parametrize("key", mc.list_specs())
def test_specs_in_full(key, run):
    status, out, _ = run("specs", key)
    spec = mc.get_spec(key)
    assert status == 0
    for source in spec.sources:
        assert f"{source.where} ({source.checked})" in out
    for caveat in spec.caveats:
        assert caveat in out
    for name in spec.fields():
        assert re.search(rf"^ +(without effect: .*\b{name}\b|{name} = )", out, re.MULTILINE)
    assert spec.knob in out


def test_specs_json(run):
    _, out, _ = run("specs", "--json")
    assert [entry["key"] for entry in json.loads(out)] == list(mc.list_specs())
    _, out, _ = run("specs", "molmo2-8b", "--json")
    assert json.loads(out) == [json.loads(json.dumps(mc.get_spec("molmo2-8b").to_dict()))]


def test_specs_sheet(run, folder, tmp_path):
    sheet = tmp_path / "sheet.png"
    status, out, err = run("specs", "--sheet", sheet)
    assert (status, err) == (0, "")
    assert f"wrote {sheet}: {len(FAMILIES)} models" in out
    with Image.open(sheet) as picture:
        assert picture.width > 1500
        assert picture.height > 3000
    _, out, _ = run("specs", "molmo2", "--sheet", sheet, "--image", folder / "a.png")
    assert out == f"wrote {sheet}: 1 model\n"
    with Image.open(sheet) as picture:
        assert picture.height < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet", "sheet.xyz"], "must have the suffix of an image format"),
        (["--image", "a.png"], "give --sheet FILE too"),
        (["--sheet", "sheet.png", "--image", "missing.png"], "missing.png"),
    ],
)
def test_no_sheet(arguments, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("specs", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_published_names_are_known(run):
    for key in mc.list_specs():
        for repository in mc.get_spec(key).checkpoints:
            _, out, _ = run("specs", repository, "--json")
            assert json.loads(out)[0]["key"] == key


# -- models and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "settings", "changes"),
    [
        ("molmo2", ["variant=training"], {"variant": "training"}),
        ("molmo2", ["low_res_col_tokens=false"], {"low_res_col_tokens": False}),
        ("molmo2", ["variant=training", "max_crops=24"], {"variant": "training", "max_crops": 24}),
        ("molmo", ["crop_mode=resize"], {"crop_mode": "resize"}),
        ("molmo", ["overlap_margins=[2, 2]"], {"overlap_margins": (2, 2)}),
        ("internvl", ["crop_to_patches=false"], {"crop_to_patches": False}),
        ("internvl", ["max_patches = 6", "size=448"], {"max_crops": 6, "crop_size": 448}),
    ],
)
def test_set(key, settings, changes, run, folder):
    flags = [part for setting in settings for part in ("--set", setting)]
    status, out, _ = run("count", key, folder, "--json", *flags)
    spec = mc.get_spec(key, **changes)
    assert status == 0
    assert [row["sequence_tokens"] for row in json.loads(out)["images"]] == [
        tokens for _, tokens in sorted(_tokens(spec).items())
    ]
    _, out, _ = run("plan", key, "--json", *flags)
    assert json.loads(out)["largest_max_crops"] == mc.plan(spec).largest_max_crops


def test_variant_matters(run, tmp_path):
    Image.new("L", (2000, 100)).save(tmp_path / "thin.png")
    totals = []
    for variant in ("transformers", "training"):
        _, out, _ = run("count", "molmo2-8b", tmp_path / "thin.png", "--json", "--set", f"variant={variant}")
        (row,) = json.loads(out)["images"]
        totals.append((row["num_crops"], row["sequence_tokens"]))
    spec = mc.get_spec("molmo2-8b")
    assert totals[0] == (2, mc.layout(spec, height=100, width=2000).sequence_tokens)
    assert totals[1][0] == 9


def test_set_an_unknown_field(run):
    status, out, err = run("plan", "molmo2", "--set", "max_crop=3")
    assert (status, out) == (2, "")
    assert "no field 'max_crop'" in err
    for name in ("max_crops", "variant", "low_res_col_tokens", "overlap_margins"):
        assert name in err


def test_set_an_unknown_choice(run):
    status, _, err = run("plan", "molmo2", "--set", "variant=other")
    assert status == 2
    assert "variant of molmo2 must be one of transformers, training, got 'other'" in err


def test_set_without_equals(run):
    status, _, err = run("plan", "molmo2", "--set", "variant")
    assert status == 2
    assert "--set must be FIELD=VALUE, got 'variant'" in err


@pytest.mark.parametrize(
    "setting",
    [
        "max_crops=0",
        "patch_size=0",
        "pooling=[0, 0]",
        "overlap_margins=[20, 20]",
        "max_crops=abc",
        "max_crops=1.5",
        "max_crops=true",
        "pooling=2",
        "overlap_margins=[4]",
        "low_res_col_tokens=maybe",
        pytest.param("grid=5"),
    ],
)
def test_set_a_bad_value(setting, run):
    status, _, err = run("plan", "molmo2", "--set", setting)
    assert status == 2
    assert setting.split("=")[0] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("molmo-7b", "molmo-7b-d"), ("allenai/Molmo3-8B", "molmo2-8b"), ("interVL", "internvl"), ("smolvm", "smolvlm")],
)
@pytest.mark.parametrize("command", ["plan", "count", "show", "specs"])
def test_unknown_model_names_the_nearest(name, nearest, command, run, folder, tmp_path):
    more = {"count": [folder], "show": [folder / "a.png", "-o", tmp_path / "cut.png"]}.get(command, [])
    status, out, err = run(command, name, *more)
    assert (status, out) == (2, "")
    assert nearest in err


def test_model_folder(run, tmp_path):
    model = tmp_path / "run-7"
    model.mkdir()
    (model / "preprocessor_config.json").write_text(json.dumps({"max_crops": 20, "processor_class": "MolmoProcessor"}))
    _, out, _ = run("plan", model, "--json")
    data = json.loads(out)
    assert data["max_crops"] == 20
    assert data["model"]["taken"] == [
        {"field": "max_crops", "value": 20, "file": "preprocessor_config.json", "key": "max_crops"}
    ]
    _, out, _ = run("specs", model)
    assert "taken: max_crops = 20 from preprocessor_config.json: max_crops" in out


@pytest.mark.parametrize("path", ["./no-folder", "/no/such/folder/at/all"])
def test_missing_model_folder(path, run):
    status, _, err = run("plan", path)
    assert status == 2
    assert "no such folder" in err


def test_model_folder_with_brackets(run, tmp_path):
    model = tmp_path / "run[/b]"
    model.mkdir(parents=True)
    (model / "preprocessor_config.json").write_text(json.dumps({"processor_class": "MolmoProcessor"}))
    status, out, _ = run("plan", model)
    assert status == 0
    assert str(model) in out
