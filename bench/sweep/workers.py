"""Worker processes: each with its share of the cores, asked once to stop, replaced if they die."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from bench.core.errors import BenchError, ConfigError, Stopped
from bench.core.parent import stop_with
from bench.core.stopping import StopRequest

POLL_S = 1.0
"""Seconds between looks at what the workers do."""
RESTARTS = 20
"""How often, for each worker, processes that died are replaced while nothing else happens."""

Work = Callable[..., None]


class _Worker:
    """One worker: a process, and after its death another."""

    def __init__(self, work: Work, arguments: tuple[Any, ...], workers: int, place: int):
        self._asked = work, arguments, workers, place
        self.error: BenchError | None = None
        """Why it is not replaced."""
        self.start()

    def start(self) -> None:
        self.process, self._ear = _start(*self._asked)

    @property
    def has_died(self) -> bool:
        return self.process.exitcode not in (None, 0, Stopped.exit_code)

    def told(self) -> BenchError | None:
        """The error that its process ended with, if it could tell: another would meet it too."""
        with suppress(EOFError):
            if self._ear.poll():
                return self._ear.recv()
        return None


class _Crew:
    """All workers, and whether they were asked to stop."""

    def __init__(self, workers: list[_Worker]):
        self.workers = workers
        self.is_stopping = False

    def stop(self, number: int = 0, frame: object = None) -> None:
        self.is_stopping = True
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.terminate()

    def is_busy(self) -> bool:
        """Does a process live, or wait to be replaced?"""
        return any(
            worker.process.is_alive()
            or (worker.has_died and worker.error is None and not self.is_stopping)
            for worker in self.workers
        )


def run_workers(
    work: Work, arguments: tuple[Any, ...], workers: int, refresh: Callable[[], object]
) -> None:
    """Run `work(stop, *arguments)` in so many processes until all have returned.

    `work` is a function of a module; it calls `stop.check()` where it can stop. `refresh()` is
    called about once a second and says how far things are. Ctrl-C and SIGTERM are passed on once;
    raises Stopped when a worker stopped because of them. Processes that die are replaced; raises
    the BenchError that ended a worker, or one that says that they die in vain, when the others have
    returned.
    """
    with _crew(work, arguments, workers) as crew:
        deaths, far = 0, refresh()
        while crew.is_busy():
            time.sleep(POLL_S)
            if (now := refresh()) != far:
                deaths, far = 0, now
            for worker in crew.workers:
                if not worker.has_died or worker.error is not None or crew.is_stopping:
                    continue
                code, worker.error = worker.process.exitcode, worker.told()
                deaths += 1
                if worker.error is None and deaths > RESTARTS * workers:
                    worker.error = BenchError(
                        f"worker processes died {deaths} times and nothing was done in between; "
                        f"the last with exit code {code}"
                    )
                if worker.error is None:
                    worker.start()
                    if crew.is_stopping:  # asked while it started
                        worker.process.terminate()
        refresh()
    codes = [worker.process.exitcode for worker in crew.workers]
    if Stopped.exit_code in codes or (crew.is_stopping and any(codes)):
        raise Stopped("stopped; the same command goes on from there")
    for worker in crew.workers:
        if worker.error is not None:
            raise worker.error


@contextmanager
def _crew(work: Work, arguments: tuple[Any, ...], workers: int) -> Iterator[_Crew]:
    """The workers; asked to stop if the block fails, and waited for however it ends."""
    crew = _Crew([_Worker(work, arguments, workers, place) for place in range(workers)])
    before = {s: signal.signal(s, crew.stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield crew
    finally:
        if sys.exc_info()[0] is not None:
            crew.stop()
        for worker in crew.workers:
            worker.process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    work: Work, arguments: tuple[Any, ...], workers: int, place: int
) -> tuple[BaseProcess, Connection]:
    """A fresh process with its share of the cores, or fewer threads where OMP_NUM_THREADS says so;
    where there are several CUDA devices, one of its own. And what hears of the error that ends it.
    """
    import torch

    before = dict(os.environ)
    share = max(1, (os.cpu_count() or 1) // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(asked)) if asked.isdigit() else share)
    if torch.cuda.is_available() and workers > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place % torch.cuda.device_count())
    context = multiprocessing.get_context("spawn")
    ear, mouth = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(work, arguments, os.getpid(), mouth))
    process.start()
    mouth.close()
    os.environ.clear()
    os.environ.update(before)
    return process, ear


def _main(work: Work, arguments: tuple[Any, ...], parent: int, mouth: Connection) -> None:
    os.setsid()  # Ctrl-C reaches the parent alone, which asks its workers once
    stop_with(parent, is_parent=True)
    code = 0
    try:
        # Between runs a signal is a request: an exception could land in a transaction of the
        # database, or in a library's start of a thread. Inside a run its own handler is in place.
        with StopRequest().installed() as stop, stop.deferred():
            work(stop, *arguments)
    except Stopped:
        code = Stopped.exit_code
    except BenchError as error:
        code = error.exit_code
        kind = ConfigError if isinstance(error, ConfigError) else BenchError
        mouth.send(kind(str(error)))
    except BaseException:
        code = 1
        traceback.print_exc()
    _leave(code, mouth)


def _leave(code: int, mouth: Connection) -> None:
    """End this process now, whatever threads a library has left running in it.

    What a process of multiprocessing does at its end is done, but for waiting for threads.
    """
    mouth.close()
    with suppress(Exception):
        util._exit_function()  # type: ignore[attr-defined]  # gives semaphores back
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever reads may be gone
            stream.flush()
    os._exit(code)
