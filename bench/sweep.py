"""Sweep -> Optuna trials, run by worker processes that may die and come back at any time.

The points of a grid are enqueued once, under a lock: Optuna's own grid samplers repeat points when
several processes share a journal. A worker holds a lock for the trial it runs; a RUNNING trial
whose lock is free belonged to a dead worker, and is failed and enqueued again. Its run resumes from
its checkpoint, so no run is done twice. (The only file that imports optuna.)
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bench.config import BenchError, ConfigError, Experiment, Runtime, Stopped
from bench.progress import Progress
from bench.records import RunInUse, canonical_json, digest8
from bench.run import run_experiment
from bench.sweepfile import Sweep, read_sweep

POLL_S = 1.0
"""Seconds between looks at what other workers do."""
HEARTBEAT_S = 30
"""Seconds between heartbeats on an RDB; a trial silent for three of them is taken for dead."""
RESTARTS = 20
"""How often the parent replaces workers that died before it gives up."""


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
        optuna.logging.set_verbosity(optuna.logging.WARNING)
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
            self.study = optuna.create_study(
                study_name=self.name,
                storage=open_storage(storage, self.folder),
                direction="maximize",
                load_if_exists=True,
            )
        self.choices = varying_fields([plan.experiment for plan in sweep.plans])

    def enqueue(self) -> None:
        """Put every point in the queue that is not there yet; finished runs count at once."""
        with self.gate:
            known = {trial.user_attrs.get("run_id") for trial in self.study.get_trials(False)}
            for run_id, plan in self.plans.items():
                if run_id not in known:
                    self._add(run_id, plan.experiment)

    def _add(self, run_id: str, experiment: Experiment) -> None:
        values = experiment.model_dump(mode="json")
        attributes = {"run_id": run_id, "experiment": values}
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


def open_storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """A journal in the sweep's folder, or any RDB URL. Raises ConfigError for a bad URL."""
    if url is None:
        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    if "://" not in url:
        return JournalStorage(JournalFileBackend(url))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            return RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=3 * HEARTBEAT_S)
    except Exception as error:
        raise ConfigError(
            f"storage: {url!r} cannot be opened: {str(error).splitlines()[0]}"
        ) from error


def flat(value: Any) -> Any:
    """A field's value as Optuna stores it: a scalar, or its JSON."""
    return value if isinstance(value, bool | int | float | str | None) else canonical_json(value)


def varying_fields(experiments: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The fields that tell the points apart, with their values: a trial's parameters."""
    dumps = [experiment.model_dump(mode="json") for experiment in experiments]
    found = {}
    for name in Experiment.model_fields:
        values = list(dict.fromkeys(flat(dump[name]) for dump in dumps))
        if len(values) > 1 or name == "selector":
            found[name] = values
    return found


def work(sweep: Sweep, storage: str | None, runtime: Runtime) -> None:
    """One worker: run trials until none waits and none may come back. Raises Stopped."""
    found = SweepStudy(sweep, storage, runtime)
    while True:
        found.gate.acquire()
        try:
            found.recover()
            if isinstance(found.study._storage, RDBStorage):
                optuna.storages.fail_stale_trials(found.study)
            states = Counter(trial.state for trial in found.study.get_trials(False))
            if states[TrialState.WAITING]:
                found.study.optimize(
                    lambda trial: run_trial(found, trial), n_trials=1, catch=(TrialFault,)
                )
                continue
        finally:
            found.gate.release(force=True)
        if not states[TrialState.RUNNING]:
            return
        time.sleep(POLL_S)


class TrialFault(Exception):
    """A trial that failed by its own fault: recorded, and the sweep goes on."""


def run_trial(found: SweepStudy, trial: optuna.Trial) -> float:
    """Run the trial's experiment under its lock; the gate, held on entry, is released first."""
    run_id = trial.user_attrs["run_id"]
    for name, values in found.choices.items():
        trial.suggest_categorical(name, values)
    trial.set_user_attr("host", socket.gethostname())
    with found.trial_lock(run_id):
        found.gate.release(force=True)
        try:
            record = run_experiment(Experiment.parse(trial.user_attrs["experiment"]), found.runtime)
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
    task = next(iter(record.scores["trained"]))
    return record.scores["trained"][task]["mean"]


def run_sweep(
    path: Path,
    runtime: Runtime,
    *,
    workers: int = 1,
    storage: str | None = None,
    retry_failed: bool = False,
) -> SweepStatus:
    """Run a sweep to its end, whatever was done of it before. Raises ConfigError, Stopped."""
    if workers < 1:
        raise ConfigError(f"workers: {workers} is not accepted: 1 or more")
    sweep = read_sweep(path, runtime)
    found = SweepStudy(sweep, storage, runtime)
    found.enqueue()
    if retry_failed:
        found.retry_failed()
    with crew(path, storage, runtime, workers) as processes, view(found) as refresh:
        restarts = 0
        while any(process.is_alive() for process in processes):
            refresh()
            time.sleep(POLL_S)
            for place, process in enumerate(processes):
                died = process.exitcode not in (None, 0, Stopped.exit_code)
                if died and restarts < RESTARTS:
                    restarts += 1
                    processes[place] = start_worker(path, storage, runtime, workers, place)
        refresh()
    status = found.status()
    if any(process.exitcode == Stopped.exit_code for process in processes):
        raise Stopped(
            f"stopped with {status.done} of {status.total} trials done; "
            "the same command goes on from there"
        )
    return status


def start_worker(
    path: Path, storage: str | None, runtime: Runtime, workers: int, place: int
) -> BaseProcess:
    """A fresh process with its share of the cores, and its own device where there are several."""
    import torch

    before = dict(os.environ)
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    os.environ.update(OMP_NUM_THREADS=threads)
    if torch.cuda.is_available() and workers > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place % torch.cuda.device_count())
    quiet = runtime.model_copy(update={"progress": "off"})
    process = multiprocessing.get_context("spawn").Process(
        target=_worker_main, args=(path, storage, quiet, os.getpid())
    )
    process.start()
    os.environ.clear()
    os.environ.update(before)
    return process


def _worker_main(path: Path, storage: str | None, runtime: Runtime, parent: int) -> None:
    os.setsid()  # Ctrl-C reaches the parent alone, which asks its workers once
    threading.Thread(target=_follow_parent, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGTERM, _stop_now)
    signal.signal(signal.SIGINT, _stop_now)
    try:
        work(read_sweep(path, runtime), storage, runtime)
    except Stopped:
        sys.exit(Stopped.exit_code)
    except BenchError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stop_now(number: int, frame: object) -> None:
    """Between runs there is nothing to save; inside one, the engine's own handler is in place."""
    raise Stopped("stopped between trials")


def _follow_parent(parent: int) -> None:
    """Stop, after saving, when the process that started this worker is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def crew(
    path: Path, storage: str | None, runtime: Runtime, workers: int
) -> Iterator[list[BaseProcess]]:
    """The workers; asked to stop, and waited for, however the block ends."""
    processes = [start_worker(path, storage, runtime, workers, i) for i in range(workers)]

    def stop(number: int, frame: object) -> None:
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield processes
    finally:
        if sys.exc_info()[0] is not None:
            stop(0, None)
        for process in processes:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def view(found: SweepStudy) -> Iterator[Any]:
    """Progress of the whole sweep: done, failed, left, and the steps of the runs under way."""
    progress = Progress(found.runtime.progress)
    progress.open()
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

    try:
        yield refresh
    finally:
        progress.close()


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
    done = [plan for plan in sweep.plans if plan.folder.state == "done"]
    seconds = [plan.folder.read_record().seconds["total"] for plan in done]
    left = len(sweep.plans) - len(done)
    each = sum(seconds) / len(seconds) if seconds else None
    return {
        "name": sweep.file.name,
        "trials": [
            {"run_id": plan.run_id, "state": plan.folder.state, **_shown(plan.experiment)}
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
