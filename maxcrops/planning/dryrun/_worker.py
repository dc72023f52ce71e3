"""Processes of their own for the runs: a model that crashes, hangs or exhausts memory there takes nobody with it.

A child reads pickled calls from standard input and answers each; the imports of torch and transformers, some seconds,
are paid once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, TypeVar

from maxcrops.exceptions import ConfigError, DryRunError, UnsupportedError

# What a user did wrong comes back as it was raised; everything else is the run's own failure.
_SAME_ERRORS = (UnsupportedError, ConfigError, ValueError, TypeError)

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class WorkerTimeoutError(DryRunError):
    """A call took too long, and its child was ended."""


class WorkerEndedError(DryRunError):
    """The child ended before it answered."""

    def __init__(self, message: str, *, status: int, last_message: str) -> None:
        super().__init__(message)
        self.status = status
        """Its exit status; the negative number of the signal that ended it."""
        self.last_message = last_message
        """The last line of its standard error."""


class Worker:
    """A child process that executes calls, started at the first one.

    A context manager; leaving it ends the child. One call at a time.

    Args:
        timeout: seconds that one call may take before the child is ended.
        operation: what the errors' messages name.
        one_thread: whether torch has a single one there. More do not help fake tensors; they would wait, spinning.
    """

    def __init__(self, *, timeout: float = 600, operation: str = "dry_run", one_thread: bool = True) -> None:
        self.timeout = timeout
        self._operation = operation
        self._one_thread = one_thread
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages: IO[bytes] | None = None

    def run(self, function: Callable[[_Item], _Answer], argument: _Item) -> _Answer:
        """What `function`, of a module's own, gives in the child.

        Raises:
            UnsupportedError, ConfigError, ValueError, TypeError: what the call asks for cannot be done.
            WorkerTimeoutError: it ran out of time.
            WorkerEndedError: the child crashed, or the system ended it as memory ran out.
            DryRunError: the call raised another error.
        """
        process = self._start()
        assert process.stdin is not None
        try:
            pickle.dump((function, argument), process.stdin)
            process.stdin.flush()
            answer = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            self.close()
            raise WorkerTimeoutError(
                f"[{self._operation}] the run took more than {self.timeout:g} s and was ended"
            ) from None
        except BrokenPipeError:
            answer = None
        if answer is None:
            code = process.wait()
            messages = self._last_messages()
            self.close()
            raise WorkerEndedError(
                f"[{self._operation}] the run's process ended with status {code}: {messages}",
                status=code,
                last_message=messages,
            )
        succeeded, value = answer
        if succeeded:
            result: _Answer = value
            return result
        if isinstance(value, _SAME_ERRORS):
            raise value
        raise DryRunError(f"[{self._operation}] the model could not be run: {value}")

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
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # nothing is fetched
            if self._one_thread:
                environment["OMP_NUM_THREADS"] = "1"
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


class WorkerPool:
    """Workers that take calls as they come. A context manager; leaving it ends them.

    Args:
        size: workers; each is a process of about 1 GB once it has run a model.
        timeout: as of a Worker.
    """

    def __init__(self, size: int, *, timeout: float = 600) -> None:
        self.size = size
        self.workers = [Worker(timeout=timeout) for _ in range(size)]
        # The last one given back is the next one taken: single calls stay with the child that has its imports.
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in reversed(self.workers):
            self._idle.put(worker)

    def run(self, function: Callable[[_Item], _Answer], argument: _Item) -> _Answer:
        """As ``Worker.run``, by a worker that is idle."""
        worker = self._idle.get()
        try:
            return worker.run(function, argument)
        finally:
            self._idle.put(worker)

    def map(self, function: Callable[[_Item], _Answer], items: Iterable[_Item]) -> Iterator[_Answer]:
        """The answer for each item, in order; `function` is called here, in a thread, and calls ``run``."""
        with ThreadPoolExecutor(self.size) as threads:
            yield from threads.map(function, items)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _receive(stream: IO[bytes] | None, answers: queue.SimpleQueue[Any]) -> None:
    """Passes on what the child answers; None when it ends."""
    assert stream is not None
    try:
        while True:
            answers.put(pickle.load(stream))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        answers.put(None)


def main() -> None:
    """Answers calls until standard input ends."""
    # Most of the first call is imports. They make a million objects and little garbage; the collector would walk them
    # again and again, for a fifth of the call's time.
    gc.disable()
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with the answers
    while True:
        try:
            function, argument = pickle.load(calls)
        except EOFError:
            return
        pickle.dump(_answer(function, argument), answers)
        answers.flush()
        gc.enable()


def _answer(function: Callable[[Any], Any], argument: Any) -> tuple[bool, object]:
    try:
        return True, function(argument)
    except _SAME_ERRORS as error:
        return False, error
    except Exception as error:  # the caller gets it in words: types of other packages need not be loadable there
        return False, f"{type(error).__name__}: {error}"
