"""Ctrl-C and SIGTERM: what they ask for, and when it is done."""

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from bench.core.errors import Stopped


class StopNow(BaseException):
    """What a signal raises where it lands: no `except Exception` on its way takes it for a fault.

    `StopRequest.installed` makes Stopped of it.
    """


class StopRequest:
    """Ctrl-C and SIGTERM: what is deferred is finished and saved first; a second stops at once.

    Outside, where there is nothing to save (loading, evaluation), the first stops at once.
    """

    def __init__(self, *, leaves: bool = False) -> None:
        """`leaves`: where there is nothing to save, the process ends in the handler itself: an
        exception could land in the C++ of a library that is being imported, which aborts.
        """
        self.requested = False
        self._is_deferred = False
        self._leaves = leaves

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`; the block looks at it when it can stop."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def check(self) -> None:
        """Raise Stopped if it was asked for."""
        if self.requested:
            raise Stopped("stopped; the same command goes on from there")

    @contextmanager
    def installed(self, *, for_good: bool = False) -> Iterator["StopRequest"]:
        """Handles the two signals; only the main thread can, elsewhere this does nothing.

        `for_good`: also when the block has ended, as for a process that is about to.

        A request inside another's: what was asked of the outer one before holds here, and what is
        asked here and not done holds there afterwards. Raises Stopped.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        outer = getattr(before[signal.SIGTERM], "__self__", None)
        outer = outer if isinstance(outer, StopRequest) else None
        self._leaves = self._leaves or (outer is not None and outer._leaves)
        try:
            if outer is not None:
                outer.check()
            yield self
        except StopNow as stop:
            raise Stopped(str(stop)) from None
        finally:
            if for_good:
                atexit.register(_ignore_signals)
            else:
                for number, handler in before.items():
                    signal.signal(number, handler)
            if outer is not None and self.requested:
                outer.requested = True

    def _handle(self, number: int, frame: object) -> None:
        if self.requested or not self._is_deferred:
            if self._leaves:
                _leave()
            raise StopNow("stopped at once; the same command goes on from there")
        self.requested = True


def _ignore_signals() -> None:
    """At a process's end, when all is written: Python itself would put back what kills it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _leave() -> None:
    """End this process now, with the line that Stopped ends with; every file is whole or not there,
    and locks are the system's.
    """
    if os.environ.get("RANK", "0") == "0":
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar had hidden the cursor
        os.write(2, b"bench: stopped at once; the same command goes on from there\n")
    os._exit(Stopped.exit_code)


def end_at_once(work: Callable[[], None]) -> NoReturn:
    """Do the work of a process among several, then end it without the interpreter's own way out.

    There a thread that a library has left running may abort the process (C++ ends it where Python
    takes a thread down), after all is written, and its launcher then reports a failure. What is
    registered for the end of a process is done first.
    """
    code: object = 0
    try:
        work()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever reads may be gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
