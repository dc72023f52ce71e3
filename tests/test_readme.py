"""What the README says is what happens."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import maxcrops as mc
from maxcrops.specs import FAMILIES

TESTS = Path(__file__).parent
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_it_says() -> None:
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted >= 9
    assert result.failed == 0


def test_every_model_is_named() -> None:
    models = README.partition("## Models")[2].partition("\n## ")[0]
    missing = [key for key in mc.list_specs() if f"`{key}`" not in models]
    assert missing == []


def test_number_of_families() -> None:
    assert f"It knows [{len(FAMILIES)} families of\nmodels](#models)" in README


def test_table_of_families_is_the_registry() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "maxcrops", "specs", "--markdown"], capture_output=True, text=True, check=True, cwd=TESTS
    ).stdout
    table = README.partition("<!-- families: maxcrops specs --markdown -->\n")[2].partition("<!-- /families -->")[0]
    assert table == printed


def test_rule_of_thumb_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \| (\d+) / (-?\d+) \|$", README, flags=re.MULTILINE)
    assert len(rows) == 5
    rules = {rule.max_crops: rule for rule in mc.rule_of_thumb()}
    for max_crops, estimate, tokens, left in rows:
        rule = rules[int(max_crops)]
        expected = f"{rule.tokens} / {rule.left_for_text}" if rule.left_for_text >= 0 else "over"
        assert estimate == expected
        exact = mc.worst_case(mc.get_spec("molmo"), max_crops=int(max_crops)).tokens
        assert (int(tokens), int(left)) == (exact, 4096 - exact)


def test_plan_listing() -> None:
    command = [sys.executable, "-m", "maxcrops", "plan", "molmo-7b-d", "--max-crops", "33"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS).stdout
    printed_lines = {line.rstrip() for line in printed.splitlines()}
    listing = README.partition("$ maxcrops plan molmo-7b-d --max-crops 33\n")[2].partition("```")[0]
    lines = [line.rstrip() for line in listing.splitlines() if line.strip() not in ("", "...")]
    assert len(lines) > 8
    assert [line for line in lines if line not in printed_lines] == []


WORDS = ("spec", "grid", "crop", "canvas", "patch", "token", "layout", "view", "bound", "plan")


@pytest.mark.parametrize("word", WORDS)
def test_glossary_defines(word: str) -> None:
    glossary = README.partition("## Words")[2]
    assert re.search(rf"^\| {word} \| ", glossary, flags=re.MULTILINE)


def test_layout_and_views_read_well() -> None:
    layout = mc.layout(mc.get_spec("molmo"), height=1080, width=1920)
    assert repr(layout) == "Layout(1080x1920 px: grid 3x4, 13 crops, 1196 sequence tokens)"
    assert repr(layout.views[1]) == "View(local, 12 crops on a canvas of 784x1008 px)"
