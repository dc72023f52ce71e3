"""Runs in a process of their own: a model that crashes, hangs or exhausts memory there takes nobody with it.

The child reads pickled requests from standard input and answers each; the imports of torch and transformers, some
seconds, are paid once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Any

from maxcrops.exceptions import ConfigError, DryRunError, UnsupportedError
from maxcrops.planning.dryrun._events import EventLog
from maxcrops.planning.dryrun._request import RunRequest

# What a user did wrong comes back as it was raised; everything else is the run's own failure.
_SAME_ERRORS = (UnsupportedError, ConfigError, ValueError, TypeError)


class Worker:
    """A child process that executes requests, started at the first one.

    A context manager; leaving it ends the child. One request at a time.

    Args:
        timeout: seconds that one request may take before the child is ended.
    """

    def __init__(self, *, timeout: float = 600) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages: IO[bytes] | None = None

    def observe(self, request: RunRequest) -> EventLog:
        """The log of one run.

        Raises:
            UnsupportedError, ConfigError, ValueError, TypeError: what the request asks for cannot be done.
            DryRunError: the run failed: the child crashed, ran out of memory or of time.
        """
        process = self._start()
        assert process.stdin is not None
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            answer = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            self.close()
            raise DryRunError(f"[dry_run] the run took more than {self.timeout:g} s and was ended") from None
        except BrokenPipeError:
            answer = None
        if answer is None:
            code = process.wait()
            messages = self._last_messages()
            self.close()
            raise DryRunError(f"[dry_run] the run's process ended with status {code}: {messages}")
        if isinstance(answer, EventLog):
            return answer
        if isinstance(answer, _SAME_ERRORS):
            raise answer
        raise DryRunError(f"[dry_run] the model could not be run: {answer}")

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._messages):
                if stream is not None:
                    with contextlib.suppress(OSError):  # what was not yet written to the child
                        stream.close()
            self._process = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._messages = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
            # Nothing may be fetched, and threads do not help fake tensors.
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            self._process = subprocess.Popen(
                # The caller's search path: Python would put the current folder before it, which may hold a clone.
                [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env=environment,
            )
            self._answers = queue.SimpleQueue()
            threading.Thread(target=_receive, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def _last_messages(self) -> str:
        if self._messages is None:
            return ""
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing; it may have run out of memory"


def _receive(stream: IO[bytes] | None, answers: queue.SimpleQueue[Any]) -> None:
    """Passes on what the child answers; None when it ends."""
    assert stream is not None
    try:
        while True:
            answers.put(pickle.load(stream))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        answers.put(None)


def main() -> None:
    """Answers requests until standard input ends."""
    from maxcrops.profiling._torchvision import declare_missing

    with contextlib.suppress(ImportError):  # a model that needs torchvision will say so itself
        declare_missing()  # models import torchvision's Python code; in this process nobody runs its operators
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with the answers
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(_answer(request), answers)
        answers.flush()


def _answer(request: RunRequest) -> object:
    from maxcrops.planning.dryrun._engine import observe

    try:
        return observe(request)
    except _SAME_ERRORS as error:
        return error
    except Exception as error:  # the caller gets it in words: types of other packages need not be loadable there
        return f"{type(error).__name__}: {error}"
