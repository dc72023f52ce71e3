"""A point that fails as its batch's size says. A process of its own imports this, and nothing that takes seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dry_run_models import MODELS, TEXT_TOKENS

from maxcrops.planning.dryrun._request import Point, RunRequest
from maxcrops.profiling._child import Taken
from maxcrops.profiling._probe_child import PointRequest

INTERNVL = MODELS["internvl"]
HANGS = 3
PID_FILE = "MAXCROPS_TEST_PID_FILE"


def failing(request: PointRequest, taken: Taken) -> None:
    """Fails by the batch's size; a module's own function, as the child finds it by name."""
    taken["fixed_bytes"] = 7
    batch = request.run.point.batch_size
    if batch == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if batch == HANGS:
        if PID_FILE in os.environ:
            Path(os.environ[PID_FILE]).write_text(str(os.getpid()), encoding="ascii")
        time.sleep(600)
    if batch == 4:
        raise RuntimeError("CUDA error: invalid configuration argument\nCUDA kernel errors might be asynchronous")
    if batch == 5:
        raise KeyError("pixel_values")
    if batch == 6:
        os._exit(3)
    if batch == 7:
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
        os.abort()


def request_of(batch_size: int = 1, **changes: Any) -> PointRequest:
    assert INTERNVL.spec is not None
    point = Point(batch_size=batch_size, sizes=((200, 300),), max_crops=4, text_tokens=TEXT_TOKENS)
    run = RunRequest(config=INTERNVL.config, spec=INTERNVL.spec, point=point, dtype="float32")
    return replace(PointRequest(run=run, device="cpu", repeats=2), **changes)
