"""Sweep -> Optuna trials, run by worker processes that may die and come back at any time.

The points of a grid are enqueued once, under a lock: Optuna's own grid samplers repeat points when
several processes share a journal. A worker holds a lock for the trial it runs; a RUNNING trial
whose lock is free belonged to a dead worker, and is failed and enqueued again. Its run resumes from
its checkpoint, so no run is done twice. A point whose process dies again and again without a step
more has failed.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from bench.core.config import BenchError, ConfigError, Experiment, Runtime, Stopped, rows_file
from bench.core.progress import open_progress
from bench.core.records import RunInUse, canonical_json, digest8, find_row
from bench.sweep import tuning
from bench.sweep.launch import execute
from bench.sweep.storage import (
    TrialFault,
    close_study,
    fail_stale_trials,
    history,
    open_study,
    refuse_deadly,
)
from bench.sweep.sweep_file import Sweep, read_sweep
from bench.sweep.workers import POLL_S, Work, run_workers


@dataclass(frozen=True)
class SweepStatus:
    """How a sweep stands."""

    name: str
    total: int
    done: int
    running: int
    failed: dict[str, str]
    """run id -> error, for trials that failed by their own fault."""

    @property
    def left(self) -> int:
        return self.total - self.done - len(self.failed)


class SweepStudy:
    """One sweep's Optuna study and the locks beside it."""

    def __init__(self, sweep: Sweep, storage: str | None, runtime: Runtime):
        self.sweep, self.runtime = sweep, runtime
        self.plans = {plan.run_id: plan for plan in sweep.plans}
        # An edited sweep is a new study; the runs that both have in common are not run again.
        self.name = f"{sweep.file.name}-{digest8(list(self.plans))}"
        self.folder = runtime.runs_dir / "sweeps" / self.name
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {str(runtime.runs_dir)!r} cannot be written: {error.strerror}"
            ) from error
        self.gate = FileLock(self.folder / "gate.lock")
        with self.gate:
            self.study = open_study(self.name, storage, self.folder)
        self.choices = varying_fields([plan.experiment for plan in sweep.plans])

    def enqueue(self) -> None:
        """Put every point in the queue that is not there yet; finished runs count at once."""
        with self.gate:
            known = {trial.user_attrs.get("run_id") for trial in self.study.get_trials(False)}
            for run_id, plan in self.plans.items():
                if run_id not in known:
                    self._add(run_id, plan.experiment)

    def _add(
        self, run_id: str, experiment: Experiment, past: Mapping[str, Any] | None = None
    ) -> None:
        values = experiment.all_values()
        attributes = {"run_id": run_id, "experiment": experiment.model_dump(mode="json")}
        params = {name: flat(values[name]) for name in self.choices}
        self.study.enqueue_trial(params, user_attrs={**attributes, **(past or {})})

    def trial_lock(self, run_id: str) -> FileLock:
        return FileLock(self.folder / "locks" / f"{run_id}.lock", timeout=0)

    def recover(self) -> None:
        """Fail and enqueue again the trials of this machine whose worker is gone (gate held)."""
        for trial in self.study.get_trials(False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("host") not in (None, socket.gethostname()):
                continue
            with suppress(Timeout), self.trial_lock(trial.user_attrs["run_id"]):
                # Its worker may have ended it between the look at the list and the lock.
                now = self.study._storage.get_trial(trial._trial_id)
                if not now.state.is_finished():
                    self.requeue(now)

    def requeue(self, trial: FrozenTrial) -> None:
        """End a trial whose worker died, and put its point back in the queue."""
        self.study._storage.set_trial_user_attr(trial._trial_id, "requeued", True)
        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._add_again(trial.user_attrs, died=True)

    def give_back(self, trial: optuna.Trial) -> None:
        """Put the point of one's own trial back in the queue; the trial itself then fails."""
        trial.set_user_attr("requeued", True)
        self._add_again(trial.user_attrs, died=False)

    def _add_again(self, attributes: Mapping[str, Any], *, died: bool) -> None:
        past = history(attributes, died=died)
        self._add(attributes["run_id"], Experiment.parse(attributes["experiment"]), past)

    def status(self) -> SweepStatus:
        by_state: dict[TrialState, dict[str, str]] = {state: {} for state in TrialState}
        for trial in self.study.get_trials(False):
            if not trial.user_attrs.get("requeued"):
                error = trial.user_attrs.get("error", "its process died")
                by_state[trial.state][trial.user_attrs["run_id"]] = error
        done, running = by_state[TrialState.COMPLETE], by_state[TrialState.RUNNING]
        open_again = {**done, **running, **by_state[TrialState.WAITING]}
        failed = {r: e for r, e in by_state[TrialState.FAIL].items() if r not in open_again}
        return SweepStatus(self.name, len(self.plans), len(done), len(running), failed)

    def retry_failed(self) -> int:
        """Put trials that failed by their own fault back in the queue; returns how many."""
        with self.gate:
            failed = self.status().failed
            for run_id in failed:
                self._add(run_id, self.plans[run_id].experiment)
            return len(failed)


def flat(value: Any) -> Any:
    """A field's value as Optuna stores it: a scalar, or its JSON."""
    return value if isinstance(value, bool | int | float | str | None) else canonical_json(value)


def varying_fields(experiments: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The fields that tell the points apart, with their values: a trial's parameters."""
    dumps = [experiment.all_values() for experiment in experiments]
    found = {}
    for name in Experiment.model_fields:
        values = list(dict.fromkeys(flat(dump[name]) for dump in dumps))
        if len(values) > 1 or name == "selector":
            found[name] = values
    return found


def work(sweep: Sweep, storage: str | None, runtime: Runtime, launch: str | None = None) -> None:
    """One worker: run trials until none waits and none may come back. Raises Stopped."""
    found = SweepStudy(sweep, storage, runtime)
    while True:
        found.gate.acquire()
        try:
            found.recover()
            fail_stale_trials(found.study)
            states = Counter(trial.state for trial in found.study.get_trials(False))
            if states[TrialState.WAITING]:
                with ExitStack() as held:  # until Optuna has the trial's end, not only its value
                    found.study.optimize(
                        lambda trial: run_trial(found, trial, held, launch),
                        n_trials=1,
                        catch=(TrialFault,),
                    )
                continue
        finally:
            found.gate.release(force=True)
        if not states[TrialState.RUNNING]:
            return
        time.sleep(POLL_S)


def run_trial(
    found: SweepStudy, trial: optuna.Trial, held: ExitStack, launch: str | None = None
) -> float:
    """Run the trial's experiment; its lock goes to `held`, and the gate is released after that.

    A stop on request gives it back, wherever it comes.
    """
    try:
        return _run_trial(found, trial, held, launch)
    except Stopped:
        found.give_back(trial)
        raise


def _run_trial(
    found: SweepStudy, trial: optuna.Trial, held: ExitStack, launch: str | None
) -> float:
    run_id = trial.user_attrs["run_id"]
    for name, values in found.choices.items():
        trial.suggest_categorical(name, values)
    trial.set_user_attr("host", socket.gethostname())
    trial.set_user_attr("pid", os.getpid())
    try:
        held.enter_context(found.trial_lock(run_id))
    except Timeout as error:  # a worker taken for dead, whose heart only paused
        found.give_back(trial)
        found.gate.release(force=True)
        time.sleep(POLL_S)
        raise TrialFault from error
    found.gate.release(force=True)
    if (row := find_row(rows_file(found.runtime), run_id)) is not None:
        return _value(row["scores"])  # run before, perhaps on another machine
    run = found.plans[run_id].folder
    refuse_deadly(trial, run.path, run.steps_done())
    try:
        experiment = Experiment.parse(trial.user_attrs["experiment"])
        record = execute(launch, experiment, found.runtime)
    except Stopped:
        raise
    except RunInUse as error:
        found.give_back(trial)
        time.sleep(POLL_S)
        raise TrialFault from error
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise TrialFault from error
    if record.run_id != run_id:
        trial.set_user_attr("error", f"ran as {record.run_id}: a file it names has changed")
        raise TrialFault
    return _value(record.scores)


def _value(scores: Mapping[str, Any]) -> float:
    """What a trial is worth: the trained student's accuracy on the first task."""
    return next(iter(scores["trained"].values()))["mean"]


def run_sweep(
    path: Path,
    runtime: Runtime,
    *,
    workers: int = 1,
    storage: str | None = None,
    retry_failed: bool = False,
    launch: str | None = None,
) -> SweepStatus:
    """Run a sweep to its end, whatever was done of it before. Raises ConfigError, Stopped, and
    BenchError where trials are left that no worker took.

    `launch` is the command that starts each run in processes of its own (`accelerate launch …`).
    """
    if workers < 1:
        raise ConfigError(f"workers: {workers} is not accepted: 1 or more")
    sweep = read_sweep(path, runtime)
    arguments = (path, storage, runtime.model_copy(update={"progress": "off"}), launch)
    if sweep.file.tuning is not None:
        if launch is not None and sweep.file.tuning.pruner != "none":
            raise ConfigError(
                f"{path}: tuning.pruner {sweep.file.tuning.pruner!r} is not accepted with launch: "
                "a run in other processes does not report its curve; use 'none'"
            )
        if not tuning.tuning_folder(sweep, runtime).result.exists():
            untuned = sweep

            def tuning_left() -> int:
                spent, total = tuning.progress_of(untuned, storage, runtime)
                return total - spent

            with tuning_view(sweep, storage, runtime) as refresh:
                _work_off(tune_here, arguments, workers, refresh, tuning_left)
            tuning.write_result(sweep, storage, runtime)
        sweep = tuning.tuned(sweep, runtime)
    found = SweepStudy(sweep, storage, runtime)
    found.enqueue()
    if retry_failed:
        found.retry_failed()
    try:
        with view(found) as refresh:
            _work_off(work_here, arguments, workers, refresh, lambda: found.status().left)
        return found.status()
    finally:
        close_study(found.study)


def _work_off(
    work: Work,
    arguments: tuple[Any, ...],
    workers: int,
    refresh: Callable[[], object],
    left: Callable[[], int],
) -> None:
    """Workers to their end. What befell one of them is an error where it left trials undone."""
    reason, kind = "no worker took them; the same command goes on from there", BenchError
    try:
        run_workers(work, arguments, workers, refresh)
    except Stopped:
        raise
    except BenchError as error:
        reason, kind = str(error), type(error)
    if count := left():
        raise kind(f"{count} trials are left undone: {reason}")


def work_here(path: Path, storage: str | None, runtime: Runtime, launch: str | None) -> None:
    """What a worker process does: the sweep's trials."""
    sweep = read_sweep(path, runtime)
    points = tuning.tuned(sweep, runtime) if sweep.file.tuning else sweep
    work(points, storage, runtime, launch)


def tune_here(path: Path, storage: str | None, runtime: Runtime, launch: str | None) -> None:
    """What a worker process does first, where rules are tuned."""
    tuning.tune(read_sweep(path, runtime), storage, runtime, launch)


@contextmanager
def tuning_view(
    sweep: Sweep, storage: str | None, runtime: Runtime
) -> Iterator[Callable[[], object]]:
    """Progress of the tuning: trials spent of all."""
    with open_progress(runtime.progress) as progress:
        spent, total = tuning.progress_of(sweep, storage, runtime)
        progress.start(f"tune {sweep.file.name}", total, spent)

        def refresh() -> int:
            spent = tuning.progress_of(sweep, storage, runtime)[0]
            progress.update(spent)
            return spent

        yield refresh


@contextmanager
def view(found: SweepStudy) -> Iterator[Callable[[], object]]:
    """Progress of the whole sweep: done, failed, left, and the steps of the runs under way."""
    with open_progress(found.runtime.progress) as progress:
        first = found.status()
        progress.start(f"sweep {first.name}", first.total, first.done)

        def refresh() -> tuple[int, int]:
            status = found.status()
            progress.update(
                status.done,
                failed=len(status.failed),
                left=status.left,
                running=" ".join(running_steps(found)) or "-",
            )
            return status.left, len(found.study.get_trials(False))

        yield refresh


def running_steps(found: SweepStudy) -> list[str]:
    """ "run 12/100" of each trial that runs on this machine."""
    shown = []
    for trial in found.study.get_trials(False, states=(TrialState.RUNNING,)):
        plan = found.plans.get(trial.user_attrs["run_id"])
        if plan is not None:
            shown.append(f"{plan.run_id} {plan.folder.steps_done()}/{plan.experiment.steps}")
    return shown


def dry_run(
    path: Path, runtime: Runtime, workers: int, storage: str | None = None
) -> dict[str, Any]:
    """What `bench sweep --dry-run` says: the trials, how many are done, and how long is left.

    While a tuning has no result, its trials count too, and the points wait for their values.
    """
    sweep = read_sweep(path, runtime)
    of_tuning, seconds = _tuning_state(sweep, storage, runtime)
    waits = of_tuning is not None and of_tuning["result"] is None
    if of_tuning is not None and not waits:
        sweep = tuning.tuned(sweep, runtime)
    trials, done = [], 0
    for plan in sweep.plans:
        row = None if waits else find_row(rows_file(runtime), plan.run_id)
        if row is not None:
            done += 1
            seconds.append(row["seconds"]["total"])
        state = "waits for tuning" if waits else "done" if row else plan.folder.state
        run_id = None if waits else plan.run_id
        trials.append({"run_id": run_id, "state": state, **_shown(plan.experiment)})
    total = len(trials)
    if of_tuning is not None and waits:
        total, done = total + of_tuning["total"], done + of_tuning["done"]
    each = sum(seconds) / len(seconds) if seconds else None
    return {
        "name": sweep.file.name,
        "trials": trials,
        "tuning": of_tuning,
        "total": total,
        "done": done,
        "left": total - done,
        "seconds_each": each,
        "seconds_left": each * (total - done) / workers if each is not None else None,
    }


def _tuning_state(
    sweep: Sweep, storage: str | None, runtime: Runtime
) -> tuple[dict[str, Any] | None, list[float]]:
    """How the tuning stands, None for a sweep without; and the seconds of its trials, until it has
    a result.
    """
    if sweep.file.tuning is None:
        return None, []
    result = tuning.tuning_folder(sweep, runtime).result
    total = sweep.file.tuning.trials * len(tuning.cells(sweep))
    if result.exists():
        return {"result": str(result), "total": total, "done": total, "left": 0}, []
    spent = tuning.trials_spent(sweep, storage, runtime)
    inside = rows_file(runtime.model_copy(update={"rows": None}))
    rows = [find_row(inside, t.user_attrs["run_id"]) for t in spent if "run_id" in t.user_attrs]
    counts = {"result": None, "total": total, "done": len(spent), "left": total - len(spent)}
    return counts, [row["seconds"]["total"] for row in rows if row is not None]


def _shown(experiment: Experiment) -> Mapping[str, Any]:
    return {name: getattr(experiment, name) for name in ("pair", "selector", "keep", "seed")}
