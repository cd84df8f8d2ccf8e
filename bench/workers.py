"""Worker processes: each with its share of the cores, asked once to stop, replaced if they die."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from bench.config import BenchError, Stopped

POLL_S = 1.0
"""Seconds between looks at what the workers do."""
RESTARTS = 20
"""How often workers that died are replaced before the rest is left to the others."""

Work = Callable[..., None]


def run_workers(
    work: Work, arguments: tuple[Any, ...], workers: int, refresh: Callable[[], None]
) -> None:
    """Run `work(*arguments)` in so many processes until all have returned.

    `work` is a function of a module. `refresh()` is called about once a second. Ctrl-C and SIGTERM
    are passed on once; raises Stopped when a worker stopped because of them.
    """
    with _crew(work, arguments, workers) as processes:
        restarts = 0
        while any(process.is_alive() for process in processes):
            refresh()
            time.sleep(POLL_S)
            for place, process in enumerate(processes):
                died = process.exitcode not in (None, 0, Stopped.exit_code)
                if died and restarts < RESTARTS:
                    restarts += 1
                    processes[place] = _start(work, arguments, workers, place)
        refresh()
    if any(process.exitcode == Stopped.exit_code for process in processes):
        raise Stopped("stopped; the same command goes on from there")


@contextmanager
def _crew(work: Work, arguments: tuple[Any, ...], workers: int) -> Iterator[list[BaseProcess]]:
    """The processes; asked to stop if the block fails, and waited for however it ends."""
    processes = [_start(work, arguments, workers, place) for place in range(workers)]

    def stop(number: int, frame: object) -> None:
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield processes
    finally:
        if sys.exc_info()[0] is not None:
            stop(0, None)
        for process in processes:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(work: Work, arguments: tuple[Any, ...], workers: int, place: int) -> BaseProcess:
    """A fresh process with its share of the cores, or fewer threads where OMP_NUM_THREADS says so;
    where there are several CUDA devices, one of its own.
    """
    import torch

    before = dict(os.environ)
    share = max(1, (os.cpu_count() or 1) // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(asked)) if asked.isdigit() else share)
    if torch.cuda.is_available() and workers > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place % torch.cuda.device_count())
    process = multiprocessing.get_context("spawn").Process(
        target=_main, args=(work, arguments, os.getpid())
    )
    process.start()
    os.environ.clear()
    os.environ.update(before)
    return process


def _main(work: Work, arguments: tuple[Any, ...], parent: int) -> None:
    os.setsid()  # Ctrl-C reaches the parent alone, which asks its workers once
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_now)
    try:
        work(*arguments)
    except Stopped:
        sys.exit(Stopped.exit_code)
    except BenchError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stop_now(number: int, frame: object) -> None:
    """Between runs there is nothing to save; inside one, the engine's own handler is in place."""
    raise Stopped("stopped between trials")


def _follow_parent(parent: int) -> None:
    """Stop, after saving, when the process that started this worker is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
