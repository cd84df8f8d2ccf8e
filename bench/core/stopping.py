"""Ctrl-C and SIGTERM during a run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.core.errors import Stopped


class StopRequest:
    """Ctrl-C and SIGTERM: a training step is finished and saved first; a second stops at once.

    Outside training (loading, evaluation) there is nothing to save, and the first stops at once.
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

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Handles the two signals; only the main thread can, elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested or not self._is_deferred:
            raise Stopped("stopped at once; the same command goes on from there")
        self.requested = True
