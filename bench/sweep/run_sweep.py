"""Sweep -> Optuna trials, run by worker processes that may die and come back at any time.

The points of a grid are enqueued once, under a lock: Optuna's own grid samplers repeat points when
several processes share a journal. A worker holds a lock for the trial it runs; a RUNNING trial
whose lock is free belonged to a dead worker, and is failed and enqueued again. Its run resumes from
its checkpoint, so no run is done twice. A point whose process dies again and again without a step
more has failed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from bench.core.config import Experiment, Runtime, rows_file
from bench.core.errors import BenchError, ConfigError, Stopped
from bench.core.failure import failure_of
from bench.core.progress import open_progress
from bench.core.records import RunFolder
from bench.core.result_rows import check_rows, find_row, rows_of
from bench.core.stopping import StopRequest
from bench.sweep import tuning, tuning_result
from bench.sweep.storage import (
    close_study,
)
from bench.sweep.study import SweepStatus, SweepStudy, work
from bench.sweep.sweep_file import Sweep, read_sweep
from bench.sweep.workers import Work, run_workers


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
    check_rows(rows_file(runtime))
    arguments = (path, storage, runtime.model_copy(update={"progress": "off"}), launch)
    if sweep.file.tuning is not None:
        if launch is not None and sweep.file.tuning.pruner != "none":
            raise ConfigError(
                f"{path}: tuning.pruner {sweep.file.tuning.pruner!r} is not accepted with launch: "
                "a run in other processes does not report its curve; use 'none'"
            )
        if not tuning_result.has_result(sweep, runtime):
            untuned = sweep
            tuning_result.check_replaces(sweep, runtime)

            def tuning_left() -> int:
                spent, total = tuning.progress_of(untuned, storage, runtime)
                return total - spent

            with tuning_view(sweep, storage, runtime) as refresh:
                _work_off(tune_here, arguments, workers, refresh, tuning_left)
            tuning_result.write_result(sweep, storage, runtime)
        sweep = tuning_result.tuned(sweep, runtime)
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


def work_here(
    stop: StopRequest, path: Path, storage: str | None, runtime: Runtime, launch: str | None
) -> None:
    """What a worker process does: the sweep's trials."""
    sweep = read_sweep(path, runtime)
    points = tuning_result.tuned(sweep, runtime) if sweep.file.tuning else sweep
    work(points, storage, runtime, launch, stop)


def tune_here(
    stop: StopRequest, path: Path, storage: str | None, runtime: Runtime, launch: str | None
) -> None:
    """What a worker process does first, where rules are tuned."""
    tuning.tune(read_sweep(path, runtime), storage, runtime, launch, stop)


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
        sweep = tuning_result.tuned(sweep, runtime)
    trials, done = [], 0
    asked = () if waits else {plan.run_id for plan in sweep.plans}
    rows = rows_of(rows_file(runtime), asked)
    for plan in sweep.plans:
        row = rows.get(plan.run_id)
        if row is not None:
            done += 1
            seconds.append(row["seconds"]["total"])
        state = "waits for tuning" if waits else "done" if row else _state(plan.folder)
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


def _state(folder: RunFolder) -> str:
    """absent, failed, incomplete, or done without its row."""
    is_failed = folder.state == "incomplete" and failure_of(folder.path) is not None
    return "failed" if is_failed else folder.state


def _shown(experiment: Experiment) -> Mapping[str, Any]:
    return {name: getattr(experiment, name) for name in ("pair", "selector", "keep", "seed")}
