"""Metrics: what VQA's and DocVQA's evaluations say, worked out by hand, and what must hold of any metric."""

from __future__ import annotations

import dataclasses
import doctest
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import maxcrops.profiling.metrics as module
from maxcrops.profiling.metrics import (
    METRICS,
    Metric,
    anls,
    exact_match,
    get_metric,
    normalise_vqa_answer,
    vqa_accuracy,
)

ALL = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)

# Whatever the rules look at, closely mixed.
PIECES = [
    "cat",
    "Cat",
    "dont",
    "a",
    "the",
    "two",
    "none",
    "1,000",
    "10.5",
    ".",
    ",",
    ";",
    "-",
    "'",
    " ",
    "\n",
    "\t",
    "é",
]
TEXTS = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
ANSWERS = st.lists(TEXTS, min_size=1, max_size=12)


def test_docstrings() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 2


# -- VQA: normalisation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Articles go wherever they stand, and leave one space.
        ("the cat", "cat"),
        ("A cat and AN owl", "cat and owl"),
        ("the", ""),
        ("other theatre", "other theatre"),  # whole words only
        # Words for numbers, whole words only; "none" is 0 too.
        ("Two", "2"),
        ("none", "0"),
        ("zero one two three four five six seven eight nine ten", "0 1 2 3 4 5 6 7 8 9 10"),
        ("eleven twenty-one", "eleven twenty 1"),  # "-" without a space beside it becomes a space
        # Contractions. The apostrophe is no punctuation here.
        ("dont", "don't"),
        ("Dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),  # the table has couldn'tve and couldnt've
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),  # the original's own slip
        ("im", "im"),  # the original's "Im" is looked up in lower case, so never found
        # Punctuation becomes a space ...
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("yes!", "yes"),  # "yes " split into words
        # ... or nothing, if it has a space on either side: then everywhere in the text.
        ("yes, it is", "yes it is"),
        ("yes ,it is", "yes it is"),
        ("t-shirt - blue", "tshirt blue"),
        ("black/white, t-shirt", "black white t shirt"),  # only the comma has a space beside it
        ("yes,no", "yes no"),
        # A comma between digits removes *all* marks of the text instead of spacing them.
        ("1,000", "1000"),
        ("1,000,000", "1000000"),
        ("1,000 t-shirts/tops", "1000 tshirtstops"),
        ("1,a t-shirt", "1 t shirt"),  # no comma between digits, so spaces; then "a" is an article
        ("٣,٤", "٣٤"),  # \d is any digit of Unicode
        # Periods go, but not before a digit.
        ("10.5", "10.5"),
        ("yes.", "yes"),
        ("u.s.a.", "usa"),
        (".5", ".5"),
        ("3. 5", "3 5"),
        ("version 2.", "version 2"),  # the look-behind that was to protect this one does not work
        ("1,000.5", "1000.5"),
        # At most 32 of them, since the original gives re.UNICODE (32) as the count: 40 - 32 = 8 are left.
        ("x" + "." * 40, "x" + "." * 8),
        ("x" + "." * 32, "x"),
        # What is no mark stays.
        ("50%", "50%"),
        ("5:30", "5:30"),
        ("$5 & #1", "$5 & #1"),
        # Order: marks, then numbers, then articles. "a-one" -> "a one" -> "a 1" -> "1".
        ("a-one", "1"),
        ("[two]", "2"),
        # Case and white space, Unicode too.
        ("  New\u00a0 York ", "new york"),
        ("CAFÉ", "café"),
        ("", ""),
        (" ", ""),
        ("?!", ""),
    ],
)
def test_vqa_normalisation(text: str, expected: str) -> None:
    assert normalise_vqa_answer(text) == expected


def test_every_mark_becomes_a_space_or_nothing() -> None:
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        assert normalise_vqa_answer(f"x{mark}y") == "x y"
        assert normalise_vqa_answer(f"x{mark} y") == "x y"
        assert normalise_vqa_answer(f"x {mark}y{mark}z") == "x yz"


@pytest.mark.parametrize(("typed", "meant"), module._CONTRACTIONS.items())
def test_contractions_differ_by_apostrophes(typed: str, meant: str) -> None:
    assert typed.replace("'", "") == meant.replace("'", "")
    assert normalise_vqa_answer(typed.upper()) == meant


def test_contraction_count() -> None:
    # The original has 120. Out are Id've, I'dve, Im and Ive, never found, and let's and she's, which mean themselves.
    assert len(module._CONTRACTIONS) == 120 - 4 - 2


# -- VQA: accuracy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        # Each of ten annotators is left out in turn.
        (0, 0.0),
        (1, 0.3),  # the matching one out: 0 of the others match; else 1: (1 * 0 + 9 * 1/3) / 10
        (2, 0.6),  # (2 * 1/3 + 8 * 2/3) / 10 = (2 + 16) / 30
        (3, 0.9),  # (3 * 2/3 + 7 * 1) / 10 = (6 + 21) / 30
        (4, 1.0),  # (4 * 3/3 + 6 * 1) / 10
        (5, 1.0),
        (10, 1.0),
    ],
)
def test_ten_answers(matches: int, expected: float) -> None:
    answers = ["cat"] * matches + [f"dog {index}" for index in range(10 - matches)]
    assert vqa_accuracy("cat", answers) == expected


def test_answers_that_differ_are_normalised() -> None:
    answers = ["2 dogs", "Two dogs", "the 2 dogs", "two dogs!"] + ["cats"] * 6
    assert vqa_accuracy("2 dogs.", answers) == 1.0  # all four are "2 dogs"
    assert vqa_accuracy("dont", ["don't", "dont"] + ["no"] * 8) == 0.6  # two matches
    assert vqa_accuracy("", ["the", "a", "?"] + ["no"] * 7) == 0.9  # three are empty
    assert vqa_accuracy("CAFÉ", ["café", "Café"] + ["tea"] * 8) == 0.6


def test_answers_that_agree_are_not_normalised() -> None:
    assert vqa_accuracy("The Who", ["The Who"] * 10) == 1.0
    assert vqa_accuracy("Who", ["The Who"] * 10) == 0.0
    assert vqa_accuracy("the who", ["The Who"] * 10) == 0.0  # case too
    assert vqa_accuracy("yes!", ["yes"] * 10) == 0.0
    assert vqa_accuracy("yes!", ["yes"] * 9 + ["Yes"]) == 1.0  # once they differ, if by case alone


def test_white_space_at_the_ends_is_no_difference() -> None:
    # All the same once trimmed, so the article counts.
    answers = [" The Who", "The Who\n", "\tThe Who"] + ["The Who"] * 7
    assert vqa_accuracy("The Who ", answers) == 1.0
    assert vqa_accuracy("Who", answers) == 0.0
    assert vqa_accuracy("The\nWho", ["The Who"] * 10) == 1.0  # newlines and tabs are spaces
    assert vqa_accuracy("The\tWho", ["The Who"] * 10) == 1.0
    assert vqa_accuracy("The  Who", ["The Who"] * 10) == 0.0  # two spaces are two


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_answers_score_the_share_that_matches(count: int) -> None:
    # For four it is what leaving one out gives: m (m - 1) / 3 + (4 - m) m / 3 = m, over 4.
    for matches in range(count + 1):
        answers = ["cat"] * matches + ["dog"] * (count - matches)
        assert vqa_accuracy("cat", answers) == matches / count


def leave_one_out(answer: str, answers: list[str]) -> float:
    """The formula as it is written, of answers that need no normalising."""
    scores = []
    for index in range(len(answers)):
        others = answers[:index] + answers[index + 1 :]
        scores.append(min(1, others.count(answer) / 3))
    return sum(scores) / len(scores)


@given(st.lists(st.sampled_from(["cat", "dog", "owl"]), min_size=4, max_size=20))
def test_leaving_each_annotator_out(answers: list[str]) -> None:
    assert vqa_accuracy("cat", answers) == pytest.approx(leave_one_out("cat", answers), abs=1e-12)


# -- exact match ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("cat", ["cat"], 1.0),
        ("cat", ["dog", "Cat"], 1.0),
        (" New \n York\u00a0City ", ["new york city"], 1.0),
        ("cat.", ["cat"], 0.0),
        ("the cat", ["cat"], 0.0),
        ("2", ["two"], 0.0),
        ("newyork", ["new york"], 0.0),
        ("ÉTÉ", ["été"], 1.0),
        ("", ["cat"], 0.0),
        ("", [" "], 1.0),
    ],
)
def test_exact_match(answer: str, answers: list[str], expected: float) -> None:
    assert exact_match(answer, answers) == expected


# -- ANLS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        # The competition's own examples, answers "Coca Cola" (9 characters) and "Coca Cola Company" (17).
        ("The Coca", ["Coca Cola", "Coca Cola Company"], 0.0),
        ("CocaCola", ["Coca Cola", "Coca Cola Company"], 1 - 1 / 9),  # one space is missing
        ("Coca cola", ["Coca Cola", "Coca Cola Company"], 1.0),
        ("Cola", ["Coca Cola", "Coca Cola Company"], 0.0),  # 1 - 5 / 9 = 0.44 is below 0.5
        ("Cat", ["Coca Cola", "Coca Cola Company"], 0.0),
        # At the threshold and around it.
        ("ab", ["abcd"], 0.5),  # 1 - 2 / 4 counts
        ("abc", ["abcdef"], 0.5),
        ("abcd", ["abcdefg"], 1 - 3 / 7),
        ("abc", ["abcdefg"], 0.0),  # 1 - 4 / 7 = 0.43
        ("ax", ["ab"], 0.5),
        ("kitten", ["sitting"], 1 - 3 / 7),  # k -> s, e -> i, + g
        # The best of several, each beside its own length: 1 - 1 / 4 and 1 - 1 / 3.
        ("cat", ["cart", "car"], 1 - 1 / 4),
        ("cat", ["dog", "cat"], 1.0),
        # Empty texts.
        ("", [""], 1.0),
        ("", [" \n"], 1.0),
        ("", ["a"], 0.0),
        ("a", [""], 0.0),
        # Case and white space.
        ("  12 / 15\n", ["12 / 15"], 1.0),
        ("cat" + " " * 9, ["cow"], 0.0),  # 1 - 2 / 3 below 0.5; spaces that do not count do not lengthen it
        ("ÉTÉ", ["été"], 1.0),
        ("日本", ["日本語"], 1 - 1 / 3),  # characters, not bytes
    ],
)
def test_anls(answer: str, answers: list[str], expected: float) -> None:
    assert anls(answer, answers) == expected


@cache
def distance(a: str, b: str) -> int:
    """Levenshtein distance as it is defined."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance(a[1:], b) + 1,
        distance(a, b[1:]) + 1,
        distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


SHORT = st.text(alphabet="abc", max_size=8)


@given(SHORT, SHORT)
def test_levenshtein_distance(a: str, b: str) -> None:
    assert module._levenshtein(a, b) == distance(a, b)


# -- any metric ----------------------------------------------------------------------------------------------------


@ALL
@given(TEXTS, ANSWERS)
def test_scores_are_0_to_1(metric: Metric, answer: str, answers: list[str]) -> None:
    score = metric(answer, answers)
    assert isinstance(score, float)
    assert 0 <= score <= 1


@ALL
@given(TEXTS, st.integers(1, 12))
def test_what_everyone_says_is_right(metric: Metric, answer: str, count: int) -> None:
    assert metric(answer, [answer] * count) == 1


@ALL
@given(TEXTS, ANSWERS, st.randoms())
def test_order_of_answers_is_nothing(metric: Metric, answer: str, answers: list[str], random: object) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert metric(answer, shuffled) == metric(answer, answers)


@ALL
@given(TEXTS, ANSWERS)
def test_white_space_at_the_ends_of_an_answer_is_nothing(metric: Metric, answer: str, answers: list[str]) -> None:
    assert metric(f" \n{answer}\t ", tuple(answers)) == metric(answer, answers)


@given(TEXTS, ANSWERS)
def test_an_exact_match_is_an_anls_of_1(answer: str, answers: list[str]) -> None:
    assert (anls(answer, answers) == 1) == (exact_match(answer, answers) == 1)


@ALL
def test_no_answers(metric: Metric) -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        metric("cat", [])


@ALL
def test_a_string_is_not_a_sequence_of_answers(metric: Metric) -> None:
    with pytest.raises(TypeError, match=r"give \['cat'\]"):
        metric("cat", "cat")


# -- metrics by name -----------------------------------------------------------------------------------------------


@ALL
def test_a_function_is_given_back(metric: Metric) -> None:
    assert get_metric(metric) is metric


def test_names() -> None:
    assert {name: get_metric(name) for name in METRICS} == {"vqa": vqa_accuracy, "exact": exact_match, "anls": anls}


@pytest.mark.parametrize("name", ["bleu", "", "VQA", ":", "module:", ":function"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="known are vqa, exact, anls") as error:
        get_metric(name)
    assert repr(name) in str(error.value)


OWN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Result:  # looks its own module up
    score: float

def first(answer, answers):
    return Result(float(answer == answers[0])).score

NUMBER = 3
"""


def test_own_function_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "json.py"  # the name of a module that is another one
    path.write_text(OWN, encoding="utf-8")
    metric = get_metric(f"{path}:first")
    assert metric("cat", ["cat", "dog"]) == 1.0
    assert metric("dog", ["cat", "dog"]) == 0.0
    assert sys.modules["json"].__file__ != str(path)


def test_own_function_of_a_file_beside_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert get_metric("own.py:first")("cat", ["cat"]) == 1.0


def test_own_function_of_a_module() -> None:
    assert get_metric("maxcrops.profiling.metrics:anls") is anls
    assert get_metric("dataclasses:dataclass") is dataclasses.dataclass


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    with pytest.raises(ValueError, match="has no 'second'"):
        get_metric(f"{path}:second")


def test_something_that_is_no_function(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    with pytest.raises(TypeError, match="must be a function"):
        get_metric(f"{path}:NUMBER")
    with pytest.raises(TypeError, match="got 3"):
        get_metric(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("own.py", "def first(:", "SyntaxError"),
        ("own.py", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("own.py", "1 / 0", "ZeroDivisionError"),
        ("absent.py", "", "FileNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    before = dict(sys.modules)
    with pytest.raises(ImportError, match=reason) as error:
        get_metric(f"{tmp_path / name}:first")
    assert str(tmp_path / name) in str(error.value)
    assert sys.modules == before


def test_a_module_that_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="no_such_package cannot be imported: ModuleNotFoundError"):
        get_metric("no_such_package:first")
