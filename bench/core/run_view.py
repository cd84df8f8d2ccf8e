"""What there is to see of a run while it goes: read off its folder, by whoever looks."""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.run_list import RunEntry, read_entry

RECENT = 10
"""Steps whose mean is shown beside the last."""
SHOWN = ("loss", "grad_norm", "entropy", "response_length", "realised_keep", "stop_rate")
"""Numbers of a step that a view shows, as metrics.jsonl names them."""


@dataclass(frozen=True)
class RunView:
    """One look at a run."""

    entry: RunEntry
    phase: str
    numbers: dict[str, tuple[float, float]]
    """name of SHOWN -> its value at the last step, and its mean over the last RECENT."""
    losses: tuple[float, ...]
    """Of every step so far."""
    curve: tuple[dict[str, Any], ...]
    """Evaluations during training: step, and task -> mean."""
    seconds_left: float | None
    """Of the steps that are left, at the pace of the last; None before the first."""

    @property
    def has_ended(self) -> bool:
        return self.entry.state != "running"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.entry.to_json(), "phase": self.phase, "curve": list(self.curve),
            "seconds_left": self.seconds_left,
            "numbers": {n: {"last": v, "recent": mean} for n, (v, mean) in self.numbers.items()},
        }  # fmt: skip


class RunWatcher:
    """Looks at one run again and again; a step's line is read once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._start()

    def _start(self) -> None:
        self._read = 0
        self._losses: list[float] = []
        self._curve: list[dict[str, Any]] = []
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def look(self) -> RunView:
        """The run as it is now."""
        entry = read_entry(self._folder)
        self._read_on(self._folder / "metrics.jsonl")
        lines = list(self._recent)
        numbers = {}
        for name in SHOWN:
            values = [float(line[name]) for line in lines if line.get(name) is not None]
            if values:
                numbers[name] = (values[-1], sum(values) / len(values))
        pace = [sum(line["seconds"].values()) for line in lines if line.get("seconds")]
        left = None
        if entry.state == "running" and entry.steps is not None and pace:
            left = sum(pace) / len(pace) * (entry.steps - entry.step)
        return RunView(entry, _phase(entry), numbers, tuple(self._losses), tuple(self._curve), left)

    def _read_on(self, log: Path) -> None:
        """The lines that were added; from the start where a resumed run has cut its log."""
        try:
            if log.stat().st_size < self._read:
                self._start()
            with log.open("rb") as file:
                file.seek(self._read)
                added = file.read()
        except OSError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        for text in whole.split(b"\n"):
            try:
                line = json.loads(text) if text else None
                if line is not None:
                    self._take(line)
            except (ValueError, KeyError, TypeError):
                continue  # a torn line, as a power cut leaves it: the run drops it when it goes on
        self._read += len(whole)

    def _take(self, line: dict[str, Any]) -> None:
        self._losses.append(float(line["loss"]))
        self._recent.append(line)
        if "evaluation" in line:
            self._curve.append({"step": line["step"], **line["evaluation"]})


def _phase(entry: RunEntry) -> str:
    """What the run does, as far as its folder shows it."""
    if entry.state != "running":
        return entry.state
    if entry.step == 0:
        return "loads, and scores both models before training"
    if entry.steps is not None and entry.step >= entry.steps:
        return "scores the trained student"
    return "trains"
