"""What the processes of a sweep do in tests: fail as max_crops says, or read what there is to be read.

A process of its own imports this.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maxcrops.data.questions import Question
from maxcrops.profiling import _sweep_child
from maxcrops.profiling._child import Taken
from maxcrops.profiling._memory import CpuMemory
from maxcrops.profiling._sweep_child import SweepSetup

OUT_OF_MEMORY, CRASHES, HANGS, REFUSED, FAILS = 3, 4, 6, 8, 9
"""max_crops that fail at their second batch."""
LIMIT = 64 * 2**20
"""Bytes that the process has where memory runs out; the system's own limit."""

_answer = _sweep_child.answer
_batches = 0


def failing(questions: Sequence[Question], taken: Taken) -> None:
    """Answers a batch for real, and fails at the second one."""
    global _batches
    _batches += 1
    assert _sweep_child._loaded is not None
    max_crops = _sweep_child._loaded.setup.max_crops
    if _batches == 2:
        if max_crops == OUT_OF_MEMORY:
            import torch

            CpuMemory(LIMIT).enforce()
            torch.empty(2 * LIMIT, dtype=torch.uint8)
        if max_crops == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if max_crops == HANGS:
            time.sleep(600)
        if max_crops == REFUSED:
            raise RuntimeError("CUDA error: invalid configuration argument\nCUDA kernel errors might be asynchronous")
        if max_crops == FAILS:
            raise KeyError("a bug of the model's")
    _answer(questions, taken)


def refusing(questions: Sequence[Question], taken: Taken) -> None:
    """A processor that raises for every image at one max_crops."""
    assert _sweep_child._loaded is not None
    if _sweep_child._loaded.setup.max_crops == REFUSED:

        def process(*_: Any) -> Any:
            raise ValueError("too many crops")

        _sweep_child._process = process
    _answer(questions, taken)


def reading(questions: Sequence[Question], taken: Taken) -> None:
    """A model that sees all that the processor gives: right where a crop is not flat, blind elsewhere."""
    real = _sweep_child._generate

    def read(inputs: Any, setup: SweepSetup) -> tuple[list[str], int]:
        crops = inputs["pixel_values"].unflatten(2, (-1, 3)).flatten(1, 2).std(1).amax(1) > 0.02
        bounds = inputs["image_num_crops"].cumsum(0).tolist()
        seen = [bool(crops[start:end].any()) for start, end in zip([0, *bounds], bounds, strict=False)]
        return [q.answers[0] if sees else "?" for q, sees in zip(questions, seen, strict=True)], len(questions)

    _sweep_child._generate = read
    try:
        _answer(questions, taken)
    finally:
        _sweep_child._generate = real


def shouting(answer: str, answers: Sequence[str]) -> float:
    """A user's own metric."""
    return float(any(answer.upper() == one.upper() for one in answers))


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def greedy(questions: Sequence[Question], taken: Taken) -> None:
    """Takes more memory than there is, but for small batches."""
    if len(questions) > 8:
        raise MemoryError
    _answer(questions, taken)
