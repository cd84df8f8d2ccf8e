"""The run folders of one folder: how each stands, which ones a user means, and their removal.

A run is `done` (its record is there), `running` (a process holds it), `failed` (its last process
ended by an error, which its folder keeps), or `stopped` (interrupted or killed; the same command
goes on). A done run whose record cannot be read is `damaged`.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from bench.core.config import Experiment
from bench.core.errors import BenchError, ConfigError, RunInUse, unknown_name
from bench.core.failure import failure_of
from bench.core.files import read_json
from bench.core.records import RunFolder, find_run

State = Literal["done", "running", "stopped", "failed", "damaged"]


@dataclass(frozen=True)
class RunEntry:
    """One run folder, as it stands on the disk."""

    run_id: str
    folder: Path
    state: State
    step: int
    """Steps taken."""
    steps: int | None
    """Steps asked for; None where the folder no longer says."""
    error: str | None
    """Why it failed, or is damaged."""
    experiment: Mapping[str, Any]
    scores: Mapping[str, float]
    """task -> mean of the trained student; empty until the run is done."""
    changed: float
    """When something of it was written last, seconds since 1970; the end of a done run."""
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}


def list_runs(runs_dir: Path) -> list[RunEntry]:
    """Every run folder in `runs_dir`, the one that changed last at the end; no folder, no runs.

    Raises ConfigError where `runs_dir` is a file or cannot be read.
    """
    try:
        folders = [path for path in runs_dir.iterdir() if is_run(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"runs_dir: {str(runs_dir)!r} cannot be read: {error.strerror}") from None
    found = []
    for folder in folders:
        with suppress(FileNotFoundError):  # deleted since
            found.append(read_entry(folder))
    return sorted(found, key=lambda entry: (entry.changed, entry.run_id))


def is_run(path: Path) -> bool:
    """Is it a folder that a run made? Hidden ones are what a killed removal left."""
    return not path.name.startswith(".") and (path / "experiment.json").is_file()


def read_entry(path: Path) -> RunEntry:
    """How the run in this folder stands. Damage is told, never raised."""
    folder = RunFolder(path)
    experiment, error = _experiment(path)
    state, scores, changed = _standing(folder)
    if isinstance(scores, str):
        error, scores = scores, {}
    elif state == "failed":
        error = failure_of(path)
    steps = experiment.get("steps")
    steps = steps if isinstance(steps, int) else None
    step = steps if state == "done" and steps is not None else folder.steps_done()
    return RunEntry(
        run_id=path.name, folder=path, state=state, step=step, steps=steps, error=error,
        experiment=experiment, scores=scores, changed=changed, bytes=size_of(path),
    )  # fmt: skip


def _experiment(path: Path) -> tuple[Mapping[str, Any], str | None]:
    """What the folder says it is a run of, and what is wrong with that."""
    try:
        found = read_json(path / "experiment.json")["experiment"]
        return (found, None) if isinstance(found, dict) else ({}, "experiment.json is damaged")
    except (ConfigError, KeyError, TypeError) as error:
        return {}, f"experiment.json is damaged: {error}"


def _standing(folder: RunFolder) -> tuple[State, dict[str, float] | str, float]:
    """State; scores, or why they cannot be read; time of the last change."""
    changed = max(file.stat().st_mtime for file in (folder.path, *folder.logs()))
    if folder.state != "done":
        if in_use(folder.path):
            return "running", {}, changed
        return ("failed" if failure_of(folder.path) else "stopped"), {}, changed
    try:
        record = folder.read_record()
        ended = datetime.fromisoformat(record.ended).timestamp() if record.ended else changed
        return "done", {task: s["mean"] for task, s in record.scores["trained"].items()}, ended
    except (BenchError, KeyError, TypeError, ValueError) as error:
        return "damaged", str(error), changed


def in_use(path: Path) -> bool:
    """Does a process hold the run's folder now?"""
    return is_held(path / ".lock")


def is_held(file: Path) -> bool:
    """Does a process hold this lock now? A look takes a free one for an instant."""
    if not file.exists():
        return False
    held = FileLock(file, timeout=0)
    try:
        held.acquire()
    except Timeout:
        return True
    except OSError:  # another user's, or on a disk that is read-only
        return False
    held.release()
    return False


def size_of(path: Path) -> int:
    """Bytes of all files below; what goes away meanwhile counts for nothing."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def matching(entries: Iterable[RunEntry], conditions: Sequence[str]) -> list[RunEntry]:
    """Those of which every `name=value` holds: a setting of the run, `state`, or `run_id`.

    A value is compared as JSON where it is JSON, else as text; a list holds what is in it. Raises
    ConfigError for a condition without `=` and for a name that no run has.
    """
    asked = [_condition(text) for text in conditions]
    return [entry for entry in entries if all(_holds(entry, *one) for one in asked)]


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise ConfigError(f"where: {text!r} is not accepted: name=value, as in selector=entropy")
    known = (*Experiment.model_fields, "state", "run_id")
    if name not in known:
        raise unknown_name("where", name, known)
    return name, value.strip()


def _holds(entry: RunEntry, name: str, text: str) -> bool:
    there = getattr(entry, name) if name in ("state", "run_id") else _setting(entry, name)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    values = there if isinstance(there, list) else [there]
    return there == value or text in values or (value in values and value is not None)


def _setting(entry: RunEntry, name: str) -> Any:
    """As the run had it; one that the folder does not tell was at its default."""
    if name in entry.experiment:
        return entry.experiment[name]
    try:
        return Experiment.parse(dict(entry.experiment)).all_values().get(name)
    except (BenchError, ValueError):
        return None


def named_runs(names: Sequence[str], runs_dir: Path) -> list[RunEntry]:
    """The runs of these ids or folders. Raises ConfigError for one that is none."""
    found = []
    for name in names:
        folder = find_run(name, runs_dir)
        if folder is None or not is_run(folder):
            raise ConfigError(f"run: {name!r} is neither a run in {runs_dir} nor a run's folder")
        found.append(read_entry(folder))
    return found


def remove(entry: RunEntry) -> None:
    """Delete a run's folder; one that is cut off while it goes no longer counts as a run.

    Raises RunInUse where a process holds it, and BenchError where it cannot be deleted.
    """
    path = entry.folder
    if path.is_symlink():
        raise BenchError(f"{path} is a link, and what it leads to is not deleted")
    going = path.with_name(f".{path.name}.removed")
    try:
        with RunFolder(path).lock():
            shutil.rmtree(going, ignore_errors=True)
            path.rename(going)
    except RunInUse:
        raise
    except OSError as error:
        raise BenchError(f"{path} cannot be deleted: {error.strerror}") from error
    _finish(going)


def _finish(going: Path) -> None:
    """Delete what is on its way out; the file by which it is known for a run's goes last."""
    for part in going.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        elif part.name != "experiment.json":
            part.unlink(missing_ok=True)
    shutil.rmtree(going, ignore_errors=True)


def clear_removed(runs_dir: Path) -> None:
    """Finish removals that were cut off."""
    for left in runs_dir.glob(".*.removed"):
        if (left / "experiment.json").is_file():
            _finish(left)


def drop_checkpoints(entry: RunEntry) -> int:
    """Delete the checkpoints of a finished run, which nothing reads again; bytes that were freed.

    Raises RunInUse where a process holds it.
    """
    folder = RunFolder(entry.folder)
    if entry.state != "done" or not folder.checkpoints.is_dir() or entry.folder.is_symlink():
        return 0
    freed = size_of(folder.checkpoints)
    with folder.lock():
        for one in folder.checkpoints.iterdir():
            shutil.rmtree(one, ignore_errors=True)
    return freed
