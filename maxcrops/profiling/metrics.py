"""How right an answer is, 0 to 1, beside the answers that people gave.

METRICS holds the field's own: "vqa", the soft accuracy of VQA v2; "exact"; and "anls", for text in images. A dataset's
score is the mean over its questions.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TypeAlias

Metric: TypeAlias = Callable[[str, Sequence[str]], float]
"""Called with a model's answer and the annotators' answers, at least one; returns 0 (wrong) to 1 (right)."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The original's pattern begins with (?!<=\d), meant to look behind; it looks ahead, where a period is never "<=".
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = int(re.UNICODE)  # the original gives sub() this flag as the number of replacements: 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# The original's, without those that change nothing and those with capitals, which no lower-case word matches.
_CONTRACTIONS = {
    "aint": "ain't", "arent": "aren't", "cant": "can't", "couldve": "could've", "couldnt": "couldn't",
    "couldn'tve": "couldn't've", "couldnt've": "couldn't've", "didnt": "didn't", "doesnt": "doesn't", "dont": "don't",
    "hadnt": "hadn't", "hadnt've": "hadn't've", "hadn'tve": "hadn't've", "hasnt": "hasn't", "havent": "haven't",
    "hed": "he'd", "hed've": "he'd've", "he'dve": "he'd've", "hes": "he's", "howd": "how'd", "howll": "how'll",
    "hows": "how's", "isnt": "isn't", "itd": "it'd", "itd've": "it'd've", "it'dve": "it'd've", "itll": "it'll",
    "maam": "ma'am", "mightnt": "mightn't", "mightnt've": "mightn't've", "mightn'tve": "mightn't've",
    "mightve": "might've", "mustnt": "mustn't", "mustve": "must've", "neednt": "needn't", "notve": "not've",
    "oclock": "o'clock", "oughtnt": "oughtn't", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
    "shant": "shan't", "shed've": "she'd've", "she'dve": "she'd've", "shouldve": "should've", "shouldnt": "shouldn't",
    "shouldnt've": "shouldn't've", "shouldn'tve": "shouldn't've", "somebody'd": "somebodyd",
    "somebodyd've": "somebody'd've", "somebody'dve": "somebody'd've", "somebodyll": "somebody'll",
    "somebodys": "somebody's", "someoned": "someone'd", "someoned've": "someone'd've", "someone'dve": "someone'd've",
    "someonell": "someone'll", "someones": "someone's", "somethingd": "something'd", "somethingd've": "something'd've",
    "something'dve": "something'd've", "somethingll": "something'll", "thats": "that's", "thered": "there'd",
    "thered've": "there'd've", "there'dve": "there'd've", "therere": "there're", "theres": "there's", "theyd": "they'd",
    "theyd've": "they'd've", "they'dve": "they'd've", "theyll": "they'll", "theyre": "they're", "theyve": "they've",
    "twas": "'twas", "wasnt": "wasn't", "wed've": "we'd've", "we'dve": "we'd've", "weve": "we've", "werent": "weren't",
    "whatll": "what'll", "whatre": "what're", "whats": "what's", "whatve": "what've", "whens": "when's",
    "whered": "where'd", "wheres": "where's", "whereve": "where've", "whod": "who'd", "whod've": "who'd've",
    "who'dve": "who'd've", "wholl": "who'll", "whos": "who's", "whove": "who've", "whyll": "why'll", "whyre": "why're",
    "whys": "why's", "wont": "won't", "wouldve": "would've", "wouldnt": "wouldn't", "wouldnt've": "wouldn't've",
    "wouldn'tve": "wouldn't've", "yall": "y'all", "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've", "youd": "you'd",
    "youd've": "you'd've", "you'dve": "you'd've", "youll": "you'll", "youre": "you're", "youve": "you've",
}  # fmt: skip


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Soft accuracy of VQA v2: right if three annotators say so, by parts below that.

    The mean over the annotators of min(1, matches / 3), with the matches among the *other* annotators. Of ten answers
    0, 1, 2, 3, and 4 or more that match make 0, 0.3, 0.6, 0.9, and 1.

    White space at the ends does not count. If the annotators differ, all answers are normalised before they are
    compared, as ``normalise_vqa_answer`` does it; if they all say the same, none is: mostly it is text in the image.

    Of up to four answers the score is the share that matches. This is what the formula makes of four; with fewer, it
    could not reach 1 (and one answer would always make 0), because there are no three others.

    Source: Goyal et al., "Making the V in VQA Matter", CVPR 2017; evaluate() of GT-Vision-Lab/VQA at a013f004,
    PythonEvaluationTools/vqaEvaluation/vqaEval.py, whose results these are for four answers and more.

    Raises:
        TypeError: ``answers`` is a string.
        ValueError: there are no answers.

    >>> vqa_accuracy("Two cats.", ["2 cats"] * 2 + ["cats"] * 8)
    0.6
    """
    answer, *given = map(_trimmed, (answer, *_checked(answers)))
    if len(set(given)) > 1:
        answer, *given = map(normalise_vqa_answer, (answer, *given))
    count, matches = len(given), given.count(answer)
    if count <= 4:
        return matches / count
    return (matches * min(3, matches - 1) + (count - matches) * min(3, matches)) / (3 * count)


def normalise_vqa_answer(text: str) -> str:
    r"""Text as VQA's evaluation compares it: "The 2 dogs, dont they?" is "2 dogs don't they".

    1. Each of ; / [ ] " { } ( ) = + \ _ - > < @ ` , ? ! is removed everywhere if it is next to a space anywhere or if a
       comma is between digits anywhere, and becomes a space otherwise: "1,000" is "1000", "t-shirt" is "t shirt".
    2. Periods that no digit follows are removed, the first 32 of them.
    3. Words are put in lower case with one space between them; "none" and the words for 0 to 10 become digits; "a",
       "an" and "the" are removed; contractions get their apostrophes.

    Source: processPunctuation and processDigitArticle of the same file as for ``vqa_accuracy``.
    """
    in_number = _COMMA_IN_NUMBER.search(text)
    removed = {mark: in_number or f"{mark} " in text or f" {mark}" in text for mark in _PUNCTUATION}
    text = text.translate({ord(mark): "" if is_removed else " " for mark, is_removed in removed.items()})
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", text, count=_MAX_PERIODS).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def exact_match(answer: str, answers: Sequence[str]) -> float:
    """1 if one of the answers is the same but for case and white space (a run of it is one space, and none is at the
    ends), else 0. Punctuation, articles and numbers count as they are written.

    Raises:
        TypeError: ``answers`` is a string.
        ValueError: there are no answers.

    >>> exact_match(" new  york", ["New York", "NYC"])
    1.0
    """
    return float(_folded(answer) in map(_folded, _checked(answers)))


def anls(answer: str, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the closest of the answers, 0 where it is below 0.5; the mean of it is ANLS.

    1 - distance / length, with the length of the longer text, both in lower case and with white space as for
    ``exact_match``. Two empty texts are the same.

    Source: Biten et al., "Scene Text Visual Question Answering", ICCV 2019, as the Robust Reading Competition evaluates
    DocVQA and InfographicVQA: a similarity of exactly 0.5 counts, where the paper says 0. That evaluation takes lengths
    before it removes white space, so that an answer gains by what is removed; here it does not.

    Raises:
        TypeError: ``answers`` is a string.
        ValueError: there are no answers.

    >>> anls("CocaCola", ["Coca Cola", "Coca Cola Company"])  # 1 - 1 / 9
    0.8888888888888888
    """
    similarity = max(_similarity(_folded(answer), _folded(given)) for given in _checked(answers))
    return similarity if similarity >= 0.5 else 0.0


METRICS: Mapping[str, Metric] = MappingProxyType({"vqa": vqa_accuracy, "exact": exact_match, "anls": anls})


def get_metric(metric: str | Metric) -> Metric:
    """The metric of a name, or a function of one's own.

    Args:
        metric: a key of METRICS; "package.module:function", imported from Python's path; "path/to/file.py:function"; or
            a function, which is given back.

    Raises:
        ValueError: no metric is known by that name, or there is no such function in the module or file.
        ImportError: the module or file cannot be imported; the message says why.
        TypeError: not a string, and nothing that can be called.
    """
    function: object = metric
    if isinstance(metric, str):
        if metric in METRICS:
            return METRICS[metric]
        source, _, name = metric.rpartition(":")
        if not (source and name):
            raise ValueError(
                f"[get_metric] no metric is known as {metric!r}; known are {', '.join(METRICS)}, and your own are named"
                " as package.module:function or file.py:function"
            )
        function = getattr(_load(source), name, None)
        if function is None:
            raise ValueError(f"[get_metric] {source} has no {name!r}")
    if not callable(function):
        raise TypeError(f"[get_metric] metric must be a function of an answer and the answers given, got {metric!r}")
    return function


def _load(source: str) -> ModuleType:
    """A module by its name or its file."""
    try:
        return _run(str(Path(source).resolve())) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:  # the module's own code may raise anything
        raise ImportError(f"[get_metric] {source} cannot be imported: {type(error).__name__}: {error}") from error


def _run(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path, path)  # under a name that no other module has
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path] = importlib.util.module_from_spec(spec)  # dataclasses look for theirs there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module


def _checked(answers: Sequence[str]) -> Sequence[str]:
    if isinstance(answers, str):
        raise TypeError(f"[metric] answers must be a sequence of strings, got a string; give [{answers!r}]")
    if len(answers) == 0:
        raise ValueError("[metric] answers must have at least one answer, got none")
    return answers


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    return 1 - _levenshtein(a, b) / max(len(a), len(b), 1)


def _levenshtein(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters between two texts (Wagner and Fischer, 1974)."""
    above = list(range(len(b) + 1))  # from a[:row - 1] to b[:column]
    for row, x in enumerate(a, 1):
        line = [row]
        for column, y in enumerate(b, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (x != y)))
        above = line
    return above[-1]
