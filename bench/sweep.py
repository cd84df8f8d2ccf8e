"""Sweep -> Optuna trials, run by worker processes that may die and come back at any time.

The points of a grid are enqueued once, under a lock: Optuna's own grid samplers repeat points when
several processes share a journal. A worker holds a lock for the trial it runs; a RUNNING trial
whose lock is free belonged to a dead worker, and is failed and enqueued again. Its run resumes from
its checkpoint, so no run is done twice.
"""

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

from bench import tuning
from bench.config import ConfigError, Experiment, Runtime, Stopped, rows_file
from bench.launch import execute
from bench.progress import open_progress
from bench.records import RunInUse, canonical_json, digest8, find_row
from bench.storage import TrialFault, close_study, fail_stale_trials, open_study
from bench.sweepfile import Sweep, read_sweep
from bench.workers import POLL_S, run_workers


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

    def _add(self, run_id: str, experiment: Experiment) -> None:
        values = experiment.all_values()
        attributes = {"run_id": run_id, "experiment": experiment.model_dump(mode="json")}
        params = {name: flat(values[name]) for name in self.choices}
        self.study.enqueue_trial(params, user_attrs=attributes)

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
                    self.requeue(trial)

    def requeue(self, trial: FrozenTrial) -> None:
        """End a trial whose worker is gone, and put its point back in the queue."""
        self.study._storage.set_trial_user_attr(trial._trial_id, "requeued", True)
        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._add_again(trial.user_attrs)

    def give_back(self, trial: optuna.Trial) -> None:
        """Put the point of one's own trial back in the queue; the trial itself then fails."""
        trial.set_user_attr("requeued", True)
        self._add_again(trial.user_attrs)

    def _add_again(self, attributes: Mapping[str, Any]) -> None:
        self._add(attributes["run_id"], Experiment.parse(attributes["experiment"]))

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
    """Run the trial's experiment; its lock goes to `held`, and the gate is released after that."""
    run_id = trial.user_attrs["run_id"]
    for name, values in found.choices.items():
        trial.suggest_categorical(name, values)
    trial.set_user_attr("host", socket.gethostname())
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
    try:
        experiment = Experiment.parse(trial.user_attrs["experiment"])
        record = execute(launch, experiment, found.runtime)
    except Stopped:
        found.give_back(trial)
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
    """Run a sweep to its end, whatever was done of it before. Raises ConfigError, Stopped.

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
            with tuning_view(sweep, storage, runtime) as refresh:
                run_workers(tune_here, arguments, workers, refresh)
            tuning.write_result(sweep, storage, runtime)
        sweep = tuning.tuned(sweep, runtime)
    found = SweepStudy(sweep, storage, runtime)
    found.enqueue()
    if retry_failed:
        found.retry_failed()
    try:
        with view(found) as refresh:
            run_workers(work_here, arguments, workers, refresh)
        return found.status()
    finally:
        close_study(found.study)


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
) -> Iterator[Callable[[], None]]:
    """Progress of the tuning: trials spent of all."""
    with open_progress(runtime.progress) as progress:
        spent, total = tuning.progress_of(sweep, storage, runtime)
        progress.start(f"tune {sweep.file.name}", total, spent)
        yield lambda: progress.update(tuning.progress_of(sweep, storage, runtime)[0])


@contextmanager
def view(found: SweepStudy) -> Iterator[Callable[[], None]]:
    """Progress of the whole sweep: done, failed, left, and the steps of the runs under way."""
    with open_progress(found.runtime.progress) as progress:
        first = found.status()
        progress.start(f"sweep {first.name}", first.total, first.done)

        def refresh() -> None:
            status = found.status()
            progress.update(
                status.done,
                failed=len(status.failed),
                left=status.left,
                running=" ".join(running_steps(found)) or "-",
            )

        yield refresh


def running_steps(found: SweepStudy) -> list[str]:
    """ "run 12/100" of each trial that runs on this machine."""
    shown = []
    for trial in found.study.get_trials(False, states=(TrialState.RUNNING,)):
        plan = found.plans.get(trial.user_attrs["run_id"])
        if plan is not None:
            shown.append(f"{plan.run_id} {plan.folder.steps_done()}/{plan.experiment.steps}")
    return shown


def dry_run(path: Path, runtime: Runtime, workers: int) -> dict[str, Any]:
    """What `bench sweep --dry-run` says: the trials, how many are done, and how long is left."""
    sweep = read_sweep(path, runtime)
    found = {plan.run_id: find_row(rows_file(runtime), plan.run_id) for plan in sweep.plans}
    done = {run_id: row for run_id, row in found.items() if row is not None}
    seconds = [row["seconds"]["total"] for row in done.values()]
    left = len(sweep.plans) - len(done)
    each = sum(seconds) / len(seconds) if seconds else None
    return {
        "name": sweep.file.name,
        "trials": [
            {
                "run_id": plan.run_id,
                "state": "done" if plan.run_id in done else plan.folder.state,
                **_shown(plan.experiment),
            }
            for plan in sweep.plans
        ],
        "total": len(sweep.plans),
        "done": len(done),
        "left": left,
        "seconds_each": each,
        "seconds_left": each * left / workers if each is not None else None,
    }


def _shown(experiment: Experiment) -> Mapping[str, Any]:
    return {name: getattr(experiment, name) for name in ("pair", "selector", "keep", "seed")}
