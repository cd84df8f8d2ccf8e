"""What there is to see of a sweep while it goes: its study, its run folders, its rows so far.

Looking makes and changes nothing: it may be done from another terminal, or another machine that
sees the same files.
"""

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bench.core.config import Runtime, rows_file
from bench.core.result_rows import rows_of
from bench.core.run_list import is_held
from bench.core.run_view import RunView, RunWatcher
from bench.run.plan import Plan
from bench.sweep import tuning, tuning_result
from bench.sweep.storage import close_study, find_study
from bench.sweep.study import SweepStatus, flat, status_of, study_folder, study_name, varying_fields
from bench.sweep.sweep_file import read_sweep


@dataclass(frozen=True)
class Working:
    """A trial that a worker has taken; while rules are tuned, a cell."""

    worker: str
    """host:pid, as the trial says; the name of a cell."""
    run: RunView | None
    """None until its folder is there, or where the folder is another machine's."""


@dataclass(frozen=True)
class Cell:
    """The finished seeds of one point of the grid."""

    values: Mapping[str, Any]
    """Of the settings that tell the points apart, without the seed."""
    seeds: int
    accuracy: float
    """Mean over seeds of the trained student's, on the first task."""
    seed_sd: float | None


@dataclass(frozen=True)
class SweepView:
    """One look at a sweep."""

    status: SweepStatus
    tuning: tuple[int, int] | None
    """Trials spent of all, while rules are tuned; then the points have not begun."""
    working: tuple[Working, ...]
    cells: tuple[Cell, ...]
    """By accuracy, the best first."""
    seconds_left: float | None
    """At the mean of the finished runs and with as many workers as there are now."""

    @property
    def is_done(self) -> bool:
        return self.tuning is None and self.status.left <= 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.status.name, "total": self.status.total, "done": self.status.done,
            "left": self.status.left, "failed": self.status.failed,
            "tuning": self.tuning and {"spent": self.tuning[0], "total": self.tuning[1]},
            "working": [
                {"worker": w.worker, "run": w.run and w.run.to_json()} for w in self.working
            ],
            "table": [vars(cell) for cell in self.cells],
            "seconds_left": self.seconds_left,
        }  # fmt: skip


class SweepWatcher:
    """Looks at one sweep again and again."""

    def __init__(self, path: Path, storage: str | None, runtime: Runtime):
        self._path, self._storage, self._runtime = path, storage, runtime
        self._sweep = read_sweep(path, runtime)
        self._is_tuned = self._sweep.file.tuning is None
        self._runs: dict[str, RunWatcher] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._rows_as_of: tuple[int, int] | None = None

    def look(self) -> SweepView:
        """The sweep as it is now. Raises ConfigError for a damaged row."""
        if not self._is_tuned and tuning_result.has_result(self._sweep, self._runtime):
            self._sweep = tuning_result.tuned(self._sweep, self._runtime)
            self._is_tuned = True
        plans = {plan.run_id: plan for plan in self._sweep.plans}
        name = study_name(self._sweep)
        if not self._is_tuned:
            spent = len(tuning.trials_spent(self._sweep, self._storage, self._runtime))
            cells = tuning.cells(self._sweep)
            assert self._sweep.file.tuning is not None
            total = self._sweep.file.tuning.trials * len(cells)
            waiting = SweepStatus(name, len(plans), 0, 0, {})
            return SweepView(waiting, (spent, total), self._tuned_now(cells), (), None)
        self._read_rows(plans)
        study = find_study(name, self._storage, study_folder(self._sweep, self._runtime))
        if study is None:
            status, working = SweepStatus(name, len(plans), len(self._rows), 0, {}), ()
        else:
            status, working = status_of(study, name, len(plans)), self._working(study, plans)
            close_study(study)
        seconds = [row["seconds"]["total"] for row in self._rows.values()]
        left = fmean(seconds) * status.left / len(working) if seconds and working else None
        return SweepView(status, None, working, cells_of(plans, self._rows), left)

    def _tuned_now(self, cells: Mapping[str, tuning.Cell]) -> tuple[Working, ...]:
        """The cells that a worker holds."""
        locks = tuning.tuning_folder(self._sweep, self._runtime).path / "locks"
        return tuple(Working(name, None) for name in cells if is_held(locks / f"{name}.lock"))

    def _read_rows(self, plans: Mapping[str, Plan]) -> None:
        """The rows again, where their file has changed."""
        file = rows_file(self._runtime)
        with suppress(FileNotFoundError):
            now = file.stat().st_mtime_ns, file.stat().st_size
            if now != self._rows_as_of:
                self._rows, self._rows_as_of = rows_of(file, plans.keys()), now

    def _working(self, study: optuna.Study, plans: Mapping[str, Plan]) -> tuple[Working, ...]:
        """Trials that run, but for those whose worker on this machine is gone."""
        locks = study_folder(self._sweep, self._runtime) / "locks"
        found = []
        for trial in study.get_trials(False, states=(TrialState.RUNNING,)):
            run_id = str(trial.user_attrs.get("run_id"))
            if run_id not in plans or not _is_held(trial, locks / f"{run_id}.lock"):
                continue
            path = plans[run_id].folder.path
            view = None
            if (path / "experiment.json").is_file():
                view = self._runs.setdefault(run_id, RunWatcher(path)).look()
            host, pid = (trial.user_attrs.get(name, "?") for name in ("host", "pid"))
            found.append(Working(f"{host}:{pid}", view))
        self._runs = {run_id: seen for run_id, seen in self._runs.items() if run_id in plans}
        return tuple(found)


def _is_held(trial: FrozenTrial, lock: Path) -> bool:
    """Does its worker live? Of another machine's only its own heartbeat says so."""
    if trial.user_attrs.get("host") not in (None, socket.gethostname()):
        return True
    return is_held(lock)


def cells_of(plans: Mapping[str, Plan], rows: Mapping[str, Mapping[str, Any]]) -> tuple[Cell, ...]:
    """The table so far: finished seeds by point, the best first."""
    choices = varying_fields([plan.experiment for plan in plans.values()])
    names = ["pair", "selector", "keep"]
    names += [name for name in choices if name not in (*names, "seed")]
    by_point: dict[tuple[Any, ...], list[float]] = {}
    for run_id, row in rows.items():
        values = plans[run_id].experiment.all_values()
        means = [score["mean"] for score in row["scores"]["trained"].values()]
        by_point.setdefault(tuple(flat(values[name]) for name in names), []).append(means[0])
    cells = [
        Cell(dict(zip(names, point, strict=True)), len(scores), fmean(scores), _sd(scores))
        for point, scores in by_point.items()
    ]
    return tuple(sorted(cells, key=lambda cell: (str(cell.values["pair"]), -cell.accuracy)))


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
