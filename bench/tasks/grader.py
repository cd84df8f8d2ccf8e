"""Answers -> verdicts: compared in processes that can be killed.

math-verify's comparisons can hang or eat memory: `Grader` runs this file as processes that `serve`.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

from bench.core.errors import BenchError
from bench.tasks.equality import is_equal

Verdict = Literal["right", "wrong", "no answer", "timeout", "crash"]
"""`timeout`: the comparison took too long; `crash`: it raised or its process died. Both score 0."""
SECONDS = 10.0
"""Time limit of one comparison."""
START_SECONDS = 120.0
"""A worker imports sympy first, perhaps from a cold disk."""


@dataclass(frozen=True)
class Graded:
    """What one response said and whether it is right."""

    answer: str | None
    verdict: Verdict

    @property
    def score(self) -> float:
        return float(self.verdict == "right")


@dataclass(frozen=True)
class Comparison:
    """One answer to compare with the gold one, and the tolerances of the data set."""

    gold: str
    answer: str
    absolute: float | None = None
    relative: float | None = None


class Grader:
    """Worker processes that compare answers; a comparison that hangs costs itself alone."""

    def __init__(self, workers: int | None = None, seconds: float = SECONDS):
        self.seconds = seconds
        self._workers: list[_Worker] = []
        self._size = workers or max(1, min(os.cpu_count() or 1, 8))

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict each, in order; equal comparisons are made once."""
        waiting = list(dict.fromkeys(comparisons))[::-1]
        found: dict[Comparison, Verdict] = {}
        while len(self._workers) < min(self._size, len(waiting)):
            self._workers.append(_Worker())
        free, busy = list(self._workers), {}
        with selectors.DefaultSelector() as selector:
            while waiting or busy:
                while waiting and free:
                    worker, job = free.pop(), waiting.pop()
                    worker.send(job, self.seconds)
                    selector.register(worker.output, selectors.EVENT_READ, worker)
                    busy[worker] = job
                soonest = min(worker.deadline for worker in busy)
                for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
                    key.data.read()
                for worker in list(busy):
                    verdict = worker.verdict()
                    if verdict is None:
                        continue
                    selector.unregister(worker.output)
                    found[busy.pop(worker)] = verdict
                    free.append(self._replaced(worker) if worker.is_lost else worker)
        return [found[comparison] for comparison in comparisons]

    def _replaced(self, worker: _Worker) -> _Worker:
        worker.kill()
        fresh = _Worker()
        self._workers[self._workers.index(worker)] = fresh
        return fresh

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers = []


class _Worker:
    """A process running this file, with at most one comparison under way."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.tasks.grader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.deadline = time.monotonic() + START_SECONDS
        self.is_lost = False
        self._is_ready = False
        self._seconds = 0.0
        self._text = b""

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, job: Comparison, seconds: float) -> None:
        assert self.process.stdin is not None
        self._seconds = seconds
        if self._is_ready:
            self.deadline = time.monotonic() + seconds
        try:
            line = json.dumps({**asdict(job), "seconds": seconds}) + "\n"
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            self.is_lost = True

    def read(self) -> None:
        """Take in what has arrived; the first line says that the worker is ready."""
        piece = os.read(self.output, 4096)
        self.is_lost = self.is_lost or not piece
        self._text += piece
        if not self._is_ready and b"\n" in self._text:
            self._is_ready, self._text = True, self._text.partition(b"\n")[2]
            self.deadline = time.monotonic() + self._seconds
        if self.is_lost and not self._is_ready:
            raise BenchError(
                "the process that compares answers does not start: "
                "try `python -m bench.tasks.grader`"
            )

    def verdict(self) -> Verdict | None:
        """None while the comparison goes on."""
        if self._is_ready and b"\n" in self._text:
            line, _, self._text = self._text.partition(b"\n")
            return {b"true": "right", b"false": "wrong"}.get(line, "crash")  # type: ignore[return-value]
        if self.is_lost:
            return "crash"
        if time.monotonic() >= self.deadline:
            self.is_lost = True
            return "timeout"
        return None

    def kill(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


@cache
def shared_grader() -> Grader:
    """The grader of this process; its workers start with the first comparison."""
    grader = Grader()
    atexit.register(grader.close)
    return grader


MEMORY_BYTES = 4 << 30


def serve() -> None:
    """Answer jobs, one JSON line each, until standard input ends.

    A job is {"gold", "answer", "absolute", "relative", "seconds"}; the reply is true, false, or
    null for a comparison that raised. Twice `seconds` after a job began, this process ends by
    itself, so that it outlives no parent for long.
    """
    _limit_memory()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    print("null", file=replies, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, 2 * job.pop("seconds"))
        try:
            reply = is_equal(**job)
        except Exception:  # sympy raises anything
            reply = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=replies, flush=True)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import math_verify  # noqa: F401 - imported before the first job's clock runs


if __name__ == "__main__":
    serve()
