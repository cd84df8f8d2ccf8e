"""One sweep's Optuna study: its points, its locks, and a worker's way through its trials."""

import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from bench.core.config import Experiment, Runtime, rows_file
from bench.core.errors import ConfigError, RunInUse, Stopped
from bench.core.files import canonical_json, digest8
from bench.core.records import LOOK_S
from bench.core.result_rows import find_row
from bench.core.stopping import StopRequest
from bench.sweep.launch import execute
from bench.sweep.storage import TrialFault, fail_stale_trials, history, open_study, refuse_deadly
from bench.sweep.sweep_file import Sweep
from bench.sweep.workers import POLL_S


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
        self.name = study_name(sweep)
        self.folder = study_folder(sweep, runtime)
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
        return status_of(self.study, self.name, len(self.plans))

    def retry_failed(self) -> int:
        """Put trials that failed by their own fault back in the queue; returns how many."""
        with self.gate:
            failed = self.status().failed
            for run_id in failed:
                self._add(run_id, self.plans[run_id].experiment)
            return len(failed)


def study_name(sweep: Sweep) -> str:
    """An edited sweep is a new study; the runs that both have in common are not run again."""
    return f"{sweep.file.name}-{digest8(list(dict.fromkeys(plan.run_id for plan in sweep.plans)))}"


def study_folder(sweep: Sweep, runtime: Runtime) -> Path:
    """Where the study's locks lie, and its journal where no storage is named."""
    return runtime.runs_dir / "sweeps" / study_name(sweep)


def status_of(study: optuna.Study, name: str, total: int) -> SweepStatus:
    """How a study stands, of so many points in all."""
    by_state: dict[TrialState, dict[str, str]] = {state: {} for state in TrialState}
    for trial in study.get_trials(False):
        if not trial.user_attrs.get("requeued"):
            error = trial.user_attrs.get("error", "its process died")
            by_state[trial.state][trial.user_attrs["run_id"]] = error
    done, running = by_state[TrialState.COMPLETE], by_state[TrialState.RUNNING]
    open_again = {**done, **running, **by_state[TrialState.WAITING]}
    failed = {r: e for r, e in by_state[TrialState.FAIL].items() if r not in open_again}
    return SweepStatus(name, total, len(done), len(running), failed)


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


def work(
    sweep: Sweep,
    storage: str | None,
    runtime: Runtime,
    launch: str | None = None,
    stop: StopRequest | None = None,
) -> None:
    """One worker: run trials until none waits and none may come back. Raises Stopped, inside a run
    and, where `stop` was asked, between two.
    """
    stop = stop or StopRequest()
    found = SweepStudy(sweep, storage, runtime)
    while True:
        stop.check()
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
        held.enter_context(found.trial_lock(run_id).acquire(timeout=LOOK_S))
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
