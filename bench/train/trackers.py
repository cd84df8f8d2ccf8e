"""Trackers: each line of metrics.jsonl, flattened to scalars, to TensorBoard, Weights & Biases or
Trackio.

metrics.jsonl stays the source: a tracker gets each of its steps once, also the steps that passed
before the tracker was asked for, and a resumed run sends none twice.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bench.core.errors import ConfigError
from bench.core.files import canonical_json, read_lines

PROJECT = "opd-bench"
FOLDER = "trackers"
"""Beside metrics.jsonl in the run folder; TensorBoard reads it: tensorboard --logdir runs."""
SENT = "sent.json"
"""Tracker -> the last step it has."""

Track = Callable[[Mapping[str, Any]], None]


class Tracker(Protocol):
    """The part of accelerate's GeneralTracker that is used."""

    def start(self) -> None: ...
    def store_init_configuration(self, values: dict[str, Any]) -> None: ...
    def log(self, values: dict[str, float], step: int | None) -> None: ...
    def finish(self) -> None: ...


def check_installed(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not here."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"log_with: {name!r} is not installed: pip install {name}, or all trackers with "
                'pip install "opd-bench[trackers]"'
            )


@contextmanager
def open_trackers(names: Sequence[str], run: Path, config: Mapping[str, Any]) -> Iterator[Track]:
    """track(line) of metrics, for the trackers named; they are closed however the block ends.

    `run` is the run folder, its name that of the run, its metrics.jsonl cut to the steps that hold.
    """
    if not names:
        yield lambda line: None
        return
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    sent = _read_sent(folder / SENT)
    opened: dict[str, Tracker] = {}

    def track(line: Mapping[str, Any]) -> None:
        for name, tracker in opened.items():
            if line["step"] > sent[name]:
                tracker.log(scalars(line), step=line["step"])
                sent[name] = line["step"]
        (folder / SENT).write_text(json.dumps(sent), encoding="utf-8")

    try:
        with redirect_stdout(sys.stderr):  # standard output may be the run's JSON document
            for name in dict.fromkeys(names):
                opened[name] = _started(name, make_tracker(name, run.name, folder))
                if name not in sent:
                    opened[name].store_init_configuration(plain(config))
                    sent[name] = 0
        for line in _lines(run / "metrics.jsonl"):
            track(line)
        yield track
    finally:
        with redirect_stdout(sys.stderr):
            for tracker in opened.values():
                tracker.finish()


def make_tracker(name: str, run_id: str, folder: Path) -> Tracker:
    """accelerate's tracker of that name, its files in `folder`.

    WANDB_MODE=offline is heeded. Trackio keeps all runs in one database of its own (TRACKIO_DIR).
    """
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    match name:
        case "tensorboard":
            return TensorBoardTracker(run_id, folder)
        case "wandb":
            return WandBTracker(
                PROJECT, name=run_id, id=run_id, dir=str(folder.absolute()), resume="allow"
            )

    class Trackio(TrackioTracker):
        """accelerate's finish leaves the run open, and trackio finishes it again at exit."""

        def finish(self) -> None:
            import trackio  # pyright: ignore[reportMissingImports]

            trackio.finish()

    return Trackio(PROJECT, name=run_id, resume="allow")


def _started(name: str, tracker: Tracker) -> Tracker:
    try:
        tracker.start()
    except Exception as error:  # each service has its own: no key, no network, no space
        raise ConfigError(f"log_with: {name} does not start: {error}") from error
    return tracker


def scalars(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line of metrics, nested names joined by `/`; no step, no null."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name != "step"):
            found[prefix + name] = value
    return found


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values that every tracker takes: lists and mappings as JSON, null as text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else canonical_json(value)
        for name, value in config.items()
    }


def _read_sent(path: Path) -> dict[str, int]:
    try:
        sent = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(step) for name, step in sent.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):  # a kill cut the write short
        return {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, read_lines(path))
