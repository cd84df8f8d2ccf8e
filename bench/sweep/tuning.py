"""Cells -> the best values of each: equal trials for every rule, on a split that is never reported.

Each point of a tuning sweep's grid, whatever its seed, is a cell with an Optuna study of its own. A
worker holds a cell's lock while it tunes it, so a sampler sees every earlier trial and no trial
runs twice.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from bench.core.config import Experiment, Runtime
from bench.core.errors import Stopped
from bench.core.files import digest8
from bench.core.keep_schedule import keep_name
from bench.core.stopping import StopRequest
from bench.run.plan import make_plan, slug
from bench.selection.registry import get_selector
from bench.sweep.launch import execute
from bench.sweep.storage import (
    Direction,
    TrialFault,
    close_study,
    find_study,
    history,
    open_study,
    refuse_deadly,
)
from bench.sweep.sweep_file import Sweep, Tuning

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
POPULATION = 8
"""Trials of a generation of NSGA-II: budgets are small."""
STARTUP = 2
"""Complete trials before the median prunes: budgets are small."""


@dataclass(frozen=True)
class Cell:
    """One rule at one setting, to be tuned: its experiment at the tuning seed."""

    name: str
    experiment: Experiment


@dataclass(frozen=True)
class TuningFolder:
    """Where a tuning sweep keeps its studies, locks and result."""

    path: Path

    @property
    def result(self) -> Path:
        """tuning.json: the budget, and of every cell the best values and all trials."""
        return self.path / "tuning.json"

    def lock(self, cell: Cell) -> FileLock:
        (self.path / "locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / "locks" / f"{cell.name}.lock", timeout=1)


def tuning_folder(sweep: Sweep, runtime: Runtime) -> TuningFolder:
    """The folder of this sweep's tuning: an edited sweep has another."""
    assert sweep.file.tuning is not None
    tuning = sweep.file.tuning
    later = set() if tuning.has_front else {"objectives"}
    identity = [[p.run_id for p in sweep.plans], tuning.model_dump(exclude=later)]
    return TuningFolder(runtime.runs_dir / "sweeps" / f"{sweep.file.name}-{digest8(identity)}")


def cells(sweep: Sweep) -> dict[str, Cell]:
    """The sweep's points without their seeds, each once, as they are tuned; by name."""
    tuning = sweep.file.tuning
    assert tuning is not None
    found: dict[str, Cell] = {}
    for plan in sweep.plans:
        cell = Cell(cell_name(plan.experiment), tuned_on(plan.experiment, tuning))
        found.setdefault(cell.name, cell)
    return found


def cell_name(experiment: Experiment) -> str:
    """The same for all seeds of a point."""
    values = {k: v for k, v in experiment.model_dump(mode="json").items() if k != "seed"}
    return f"{slug(experiment.selector)}-keep{slug(keep_name(experiment.keep))}-{digest8(values)}"


def tuned_on(experiment: Experiment, tuning: Tuning) -> Experiment:
    """The experiment at the tuning seed, scored on the tuning task alone."""
    changes: dict[str, Any] = {"seed": tuning.seed, "eval_tasks": (tuning.task,), "eval_every": 0}
    if tuning.pruner != "none":
        changes |= {"eval_every": tuning.report_every, "curve_tasks": (tuning.task,)}
    # A copy, not parsed: here the curve may share its split with the score, which is not reported.
    return experiment.model_copy(update=changes)


def tune(
    sweep: Sweep,
    storage: str | None,
    runtime: Runtime,
    launch: str | None = None,
    stop: StopRequest | None = None,
) -> None:
    """One worker: tune every cell until each has had its trials, whoever ran them. Raises Stopped,
    inside a run and, where `stop` was asked, between two.
    """
    stop = stop or StopRequest()
    tuning, folder = sweep.file.tuning, tuning_folder(sweep, runtime)
    assert tuning is not None
    todo = cells(sweep)
    while todo:
        for name, cell in list(todo.items()):
            stop.check()
            try:
                with folder.lock(cell), opened(cell, tuning, storage, folder) as study:
                    tune_cell(cell, tuning, study, runtime, launch, stop)
            except Timeout:
                continue
            del todo[name]


def study_of(cell: Cell, tuning: Tuning, storage: str | None, folder: TuningFolder) -> optuna.Study:
    pruner = make_pruner(tuning, cell.experiment.steps)
    directions: list[Direction] = [
        "maximize" if name == "accuracy" else "minimize" for name in tuning.objectives
    ]
    return open_study(_study_name(cell, folder), storage, folder.path, None, pruner, directions)


@contextmanager
def opened(
    cell: Cell, tuning: Tuning, storage: str | None, folder: TuningFolder
) -> Iterator[optuna.Study]:
    """The cell's study; its connections are closed at the end."""
    study = study_of(cell, tuning, storage, folder)
    try:
        yield study
    finally:
        close_study(study)


def _study_name(cell: Cell, folder: TuningFolder) -> str:
    return f"{folder.path.name}/{cell.name}"


def make_sampler(tuning: Tuning, spent: int) -> optuna.samplers.BaseSampler:
    """Made anew for each proposal and seeded by the trials spent: a study that was stopped and
    opened again proposes what it would have proposed, and nothing twice.

    For a grid it is never asked: every point is enqueued.
    """
    seed = tuning.seed + spent
    if tuning.sampler == "qmc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # One sequence, whose place the study keeps; the other draws until there is a trial.
            first = optuna.samplers.RandomSampler(seed=seed)
            return optuna.samplers.QMCSampler(
                seed=tuning.seed, scramble=True, independent_sampler=first
            )
    if tuning.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner(tuning: Tuning, steps: int) -> optuna.pruners.BasePruner:
    """The pruner that the file names, for runs of so many steps."""
    match tuning.pruner:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
        case "hyperband":
            every = tuning.report_every
            return optuna.pruners.HyperbandPruner(every, max_resource=max(every, steps))
    return optuna.pruners.NopPruner()


def tune_cell(
    cell: Cell,
    tuning: Tuning,
    study: optuna.Study,
    runtime: Runtime,
    launch: str | None = None,
    stop: StopRequest | None = None,
) -> None:
    """Trials until the cell has had its number of them (its lock held). Raises Stopped.

    The values of a trial that died with its worker are tried again first; its run resumes.
    """
    for dead in study.get_trials(False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(dead._trial_id, "stopped", True)
        study.tell(dead.number, state=TrialState.FAIL)
        if point := _point(dead):
            study.enqueue_trial(point, user_attrs=history(dead.user_attrs, died=True))

    def objective(trial: optuna.Trial) -> float | tuple[float, ...]:
        def report(step: int, means: Mapping[str, float]) -> None:
            trial.report(means[tuning.task], step)
            if step < experiment.steps and trial.should_prune():  # at the end nothing is saved
                raise optuna.TrialPruned

        try:
            experiment = proposed(cell, tuning, trial)
            on_curve = report if tuning.pruner != "none" else None
            # Their rows are of the split that is never reported: not into the file that is.
            inside = runtime.model_copy(update={"rows": None})
            run = make_plan(experiment, inside).folder
            refuse_deadly(trial, run.path, run.steps_done())
            record = execute(launch, experiment, inside, on_curve)
        except (optuna.TrialPruned, TrialFault):
            raise
        except Stopped:
            trial.set_user_attr("stopped", True)
            if point := _point(study._storage.get_trial(trial._trial_id)):
                study.enqueue_trial(point, user_attrs=history(trial.user_attrs, died=False))
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise TrialFault from error
        trial.set_user_attr("run_id", record.run_id)
        accuracy = record.scores["trained"][tuning.task]["mean"]
        costs = [float(record.tokens[name]) for name in tuning.objectives[1:]]
        return (accuracy, *costs) if costs else accuracy

    if tuning.sampler == "grid":
        for point in tuning.grid():
            study.enqueue_trial(point, skip_if_exists=True)
    while (spent := len(counted(study))) < tuning.trials:
        if stop is not None:
            stop.check()
        study.sampler = make_sampler(tuning, spent)
        study.optimize(objective, n_trials=1, catch=(TrialFault,))


def proposed(cell: Cell, tuning: Tuning, trial: optuna.Trial) -> Experiment:
    """The cell's experiment with the values that the sampler proposes."""
    values: dict[str, Any] = {}
    for name, span in tuning.ranges.items():
        if name == "keep" and not takes_keep(cell.experiment):
            continue
        if span.values:
            values[name] = trial.suggest_categorical(name, span.values)
        elif isinstance(Experiment.model_fields[name].default, int):
            step = int(span.step or 1)
            values[name] = trial.suggest_int(
                name, int(span.low), int(span.high), step=step, log=span.log
            )
        else:
            values[name] = trial.suggest_float(
                name, span.low, span.high, step=span.step, log=span.log
            )
    return cell.experiment.model_copy(update=values)


def takes_keep(experiment: Experiment) -> bool:
    """Whether the rule spends a budget that it is given."""
    rule = get_selector(experiment.selector, **experiment.selector_params)
    return rule.keep is None and not rule.sets_keep and rule.kind == "score"


def _point(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial, or those it was enqueued with; none if it died before it had any."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count against the budget: all that ended by themselves."""
    trials = study.get_trials(False, states=FINISHED)
    return [trial for trial in trials if not trial.user_attrs.get("stopped")]


def progress_of(sweep: Sweep, storage: str | None, runtime: Runtime) -> tuple[int, int]:
    """(trials spent, trials in all)."""
    tuning, folder = sweep.file.tuning, tuning_folder(sweep, runtime)
    assert tuning is not None
    found, spent = cells(sweep).values(), 0
    for cell in found:
        with opened(cell, tuning, storage, folder) as study:
            spent += len(counted(study))
    return spent, tuning.trials * len(found)


def trials_spent(sweep: Sweep, storage: str | None, runtime: Runtime) -> list[FrozenTrial]:
    """The trials of all cells that count; looks, and makes no study."""
    folder, trials = tuning_folder(sweep, runtime), []
    for cell in cells(sweep).values():
        study = find_study(_study_name(cell, folder), storage, folder.path)
        if study is not None:
            trials += counted(study)
            close_study(study)
    return trials
