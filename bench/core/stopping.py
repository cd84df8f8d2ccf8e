"""Ctrl-C and SIGTERM: what they ask for, and when it is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core.errors import Stopped


class StopNow(BaseException):
    """What a signal raises where it lands: no `except Exception` on its way takes it for a fault.

    `StopRequest.installed` makes Stopped of it.
    """


class StopRequest:
    """Ctrl-C and SIGTERM: what is deferred is finished and saved first; a second stops at once.

    Outside, where there is nothing to save (loading, evaluation), the first stops at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._is_deferred = False

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
    def installed(self) -> Iterator["StopRequest"]:
        """Handles the two signals; only the main thread can, elsewhere this does nothing.

        A request inside another's: what was asked of the outer one before holds here, and what is
        asked here and not done holds there afterwards. Raises Stopped.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        outer = getattr(before[signal.SIGTERM], "__self__", None)
        outer = outer if isinstance(outer, StopRequest) else None
        try:
            if outer is not None:
                outer.check()
            yield self
        except StopNow as stop:
            raise Stopped(str(stop)) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if outer is not None and self.requested:
                outer.requested = True

    def _handle(self, number: int, frame: object) -> None:
        if self.requested or not self._is_deferred:
            raise StopNow("stopped at once; the same command goes on from there")
        self.requested = True
