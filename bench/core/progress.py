"""Progress: a live rich bar on a terminal, plain lines elsewhere. Writes to standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Mode = Literal["auto", "bar", "lines", "off"]
LINE_EVERY_S = 5.0
"""Seconds between plain lines."""


def launched() -> int:
    """How many processes a launcher started, as it tells each of them; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of the processes launched together this is."""
    return int(os.environ.get("RANK", "0"))


def speaks() -> bool:
    """Is this the process, of those launched together, that prints?"""
    return rank() == 0


class Progress:
    """One phase at a time: `start` names it, `update` moves it."""

    def __init__(self, mode: Mode):
        if not speaks():
            mode = "off"
        elif mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self._mode = mode
        self._bar: RichProgress | None = None
        self._task = None
        self._phase, self._total, self._began, self._first, self._shown = "", 0, 0.0, 0, 0.0

    def open(self) -> None:
        if self._mode == "bar":
            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, phase: str, total: int, done: int = 0) -> None:
        """Begin a phase of `total` pieces, `done` of which are there already."""
        self._phase, self._total, self._began = phase, total, monotonic()
        self._first, self._shown = done, 0.0
        if self._bar is not None:
            self._task = self._bar.add_task(phase, total=total, completed=done, numbers="")

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._mode == "lines":
            print(text, file=sys.stderr, flush=True)

    def update(self, done: int, **numbers: float | str) -> None:
        """`done` pieces are there; `numbers` are shown beside them."""
        text = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in numbers.items()
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, numbers=text)
        elif self._mode == "lines":
            now = monotonic()
            if done < self._total and now - self._shown < LINE_EVERY_S:
                return
            self._shown = now
            left = "time left unknown"
            if done > self._first:
                pace = (now - self._began) / (done - self._first)
                left = f"{pace * (self._total - done):.0f} s left"
            line = f"{self._phase}: {done}/{self._total}  {text}  {left}"
            print(line, file=sys.stderr, flush=True)


@contextmanager
def open_progress(mode: Mode) -> Iterator[Progress]:
    """A Progress that gives the terminal back whatever happens."""
    progress = Progress(mode)
    progress.open()
    try:
        yield progress
    finally:
        progress.close()
