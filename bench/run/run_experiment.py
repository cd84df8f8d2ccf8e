"""Experiment -> RunRecord: baselines, training, evaluation, record and result row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import torch

from bench.core.config import Experiment, Runtime, rows_file
from bench.core.errors import Stopped
from bench.core.failure import forget_failure, keep_failure
from bench.core.files import write_json
from bench.core.processes import Processes, make_accelerator
from bench.core.progress import Progress, open_progress
from bench.core.provenance import ENGINE_VERSION, provenance, reset_peak_memory
from bench.core.records import RunRecord
from bench.core.result_rows import append_row, check_rows
from bench.core.run_row import row_of
from bench.core.stats import paired_difference
from bench.core.stopping import StopRequest
from bench.pairs.models import LoadedPair, commit_of
from bench.run.evaluations import Baseline, Evaluations, Results
from bench.run.plan import Plan, make_plan, of_pair_text
from bench.run.preflight import preflight, refuse_failures
from bench.run.trained_model import save_model, scores_of
from bench.selection.registry import get_selector
from bench.shadow.shadow import Shadow
from bench.tasks.prompt_file import FilePrompts
from bench.tasks.protocol import asking_of, task_settings
from bench.train.checkpoints import full_state, last_checkpoint
from bench.train.loop import train
from bench.train.metrics import Timer, Totals
from bench.train.trainer import Trainer
from bench.train.vllm_rollout import require_vllm

OnCurve = Callable[[int, dict[str, float]], None]


def run_experiment(
    experiment: Experiment, runtime: Runtime | None = None, on_curve: OnCurve | None = None
) -> RunRecord:
    """Run an experiment to its record, from wherever it stands: absent, incomplete or done.

    `on_curve(step, task -> mean)` hears of each evaluation during training, and may raise to end
    the run there.

    Raises ConfigError for bad input, Stopped when interrupted after saving, BenchError otherwise.
    """
    runtime = runtime or Runtime()
    plan = make_plan(experiment, runtime)
    plan.check_packages(runtime)
    if plan.experiment.rollout == "vllm":
        require_vllm()
    plan.check_data()
    processes = Processes(make_accelerator(plan.experiment, runtime))
    with ExitStack() as held:
        processes.lead(lambda: held.enter_context(plan.folder.lock()) and None)
        processes.lead(lambda: check_rows(rows_file(runtime)))
        progress = held.enter_context(open_progress(runtime.progress))
        if told := of_pair_text(plan.of_pair):
            processes.lead(lambda: progress.note(f"of the pair {plan.pair.name}: {told}"))
        if processes.lead(lambda: plan.folder.state) != "done":
            heard = _Heard(on_curve)
            with (
                StopRequest().installed() as stop,
                processes.blamed(),
                _failure_kept(plan, processes, heard),
            ):
                _run(plan, runtime, progress, stop, heard if on_curve else None)

        def finish() -> RunRecord:
            record = plan.folder.read_record()
            append_row(rows_file(runtime), row_of(plan.folder, record))
            return record

        return processes.lead(finish)


def open_trainer(plan: Plan, loaded: LoadedPair, runtime: Runtime) -> Trainer:
    """The trainer of a plan on its loaded models, and the shadow panel where it is asked for."""
    prompts = plan.prompts.prepare(loaded.tokenizer, loaded.chat)
    shadow = None
    if runtime.shadow or runtime.token_bank:
        shadow = Shadow(plan.panel, plan.experiment, runtime, loaded, plan.folder, prompts)
    return Trainer(plan.experiment, runtime, loaded, prompts, plan.folder, shadow)


class _Heard:
    """A listener to the curve, and what it raised to end the run."""

    def __init__(self, on_curve: OnCurve | None):
        self._on_curve = on_curve
        self.ended_by: Exception | None = None

    def __call__(self, step: int, means: dict[str, float]) -> None:
        assert self._on_curve is not None
        try:
            self._on_curve(step, means)
        except Exception as error:
            self.ended_by = error
            raise


@contextmanager
def _failure_kept(plan: Plan, processes: Processes, heard: _Heard) -> Iterator[None]:
    """What ends the run by a fault, as `bench runs` tells it, stays in its folder; a listener that
    ends it is none.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if processes.is_main and error is not heard.ended_by:
            keep_failure(plan.folder, error)
        raise


def _run(
    plan: Plan,
    runtime: Runtime,
    progress: Progress,
    stop: StopRequest,
    on_curve: OnCurve | None,
) -> None:
    experiment, folder = plan.experiment, plan.folder
    plan.check_rule()
    loaded = plan.load_pair()
    commits = {"teacher": commit_of(loaded.teacher), "student": commit_of(loaded.student)}
    trainer = open_trainer(plan, loaded, runtime)
    processes = trainer.processes
    processes.lead(lambda: _open_folder(plan, trainer, commits, progress))
    reset_peak_memory(trainer.accelerator.device.type)
    _try_rule(trainer)
    asking = asking_of(experiment, loaded.chat)
    evaluations = Evaluations(runtime, asking, folder.log, progress, processes)
    results = evaluations.baselines(
        _baselines(plan, trainer, commits), experiment.eval_tasks, experiment.eval_items
    )
    totals = train(trainer, progress, stop, _curve(trainer, evaluations, on_curve))
    state = full_state(trainer.accelerator, trainer.student)
    processes.lead(lambda: save_model(loaded.student, loaded.tokenizer, folder.model, state))
    results["trained"] = evaluations.examine(
        trainer.student, loaded.tokenizer, experiment.eval_tasks, loaded.student_stop_ids,
        "trained", experiment.eval_items,
    )  # fmt: skip
    peak = trainer.setup.peak_memory_bytes()

    def write() -> None:
        values = {
            who: {task: r.to_json() for task, r in found.items()} for who, found in results.items()
        }
        folder.write_record(_record(plan, totals, results, evaluations, trainer, peak), values)

    processes.lead(write)


def _try_rule(trainer: Trainer) -> None:
    """A rule that does not ship scores the first step's tokens before anything dear is done.

    It is one of its own, whose memory takes no step; nothing of the run is changed by it.
    Raises SelectorError.
    """
    experiment, setup = trainer.experiment, trainer.setup
    rule = get_selector(experiment.selector, **experiment.selector_params)
    begun = last_checkpoint(trainer.folder.checkpoints) is not None
    if begun or setup.vllm is not None or rule.ships:
        return
    totals, trainer.totals = trainer.totals, Totals()
    with trainer.accelerator.autocast():
        rollout = trainer.rollout(0)
        signals, _ = trainer.signals(rollout, 0, Timer({}, trainer.accelerator.device))
        with torch.autocast(trainer.accelerator.device.type, enabled=False):
            rule(signals)
    trainer.totals = totals


def _open_folder(
    plan: Plan, trainer: Trainer, commits: Mapping[str, str | None], progress: Progress
) -> None:
    """The run's folder, once every check that needs no forward pass has passed."""
    plan.folder.check_commits(commits)
    checks = preflight(plan, trainer.pair, trainer.prompts, trainer.runtime)
    refuse_failures(checks)
    for check in checks:
        if check.name == "settings" and check.state == "warn":
            progress.note(f"warning: settings {check.said}")
    plan.folder.create(plan.experiment.model_dump(mode="json"), plan.points_to, commits)
    forget_failure(plan.folder.path)
    if isinstance(trainer.prompts, FilePrompts):
        write_json(plan.folder.path / "prompts.json", trainer.prompts.report.to_json())


def _baselines(
    plan: Plan, trainer: Trainer, commits: Mapping[str, str | None]
) -> tuple[Baseline, Baseline]:
    """The untrained student and the teacher."""
    pair = trainer.pair
    student = Baseline(
        "untrained", trainer.student, pair.tokenizer, pair.student_stop_ids,
        plan.baseline_key("student", commits), plan.pair.baselines,
    )  # fmt: skip
    teacher = Baseline(
        "teacher", trainer.teacher, pair.tokenizer, pair.teacher_stop_ids,
        plan.baseline_key("teacher", commits), plan.pair.baselines,
    )  # fmt: skip
    return student, teacher


def _curve(
    trainer: Trainer, evaluations: Evaluations, on_curve: OnCurve | None
) -> Callable[[int], dict[str, float]]:
    """step -> task -> mean of the student as it is then, heard by `on_curve`."""
    experiment, pair = trainer.experiment, trainer.pair

    def evaluate(step: int) -> dict[str, float]:
        found = evaluations.examine(
            trainer.student, pair.tokenizer, experiment.curve_tasks, pair.student_stop_ids,
            "curve", experiment.curve_items,
        )  # fmt: skip
        means = {task: result.mean for task, result in found.items()}
        if (hear := on_curve) is not None:
            trainer.processes.lead(lambda: hear(step, means))
        return means

    return evaluate


def _record(
    plan: Plan,
    totals: Totals,
    results: Mapping[str, Results],
    evaluations: Evaluations,
    trainer: Trainer,
    peak: int,
) -> RunRecord:
    change = {}
    for task, after in results["trained"].items():
        found = paired_difference(after.score_I, results["untrained"][task].score_I)
        change[task] = {"mean": found.mean, "n": found.n, "ci95": list(found.ci95)}
    device = trainer.accelerator.device.type
    weighted = plan.selector.kind == "weight"
    return RunRecord(
        run_id=plan.run_id,
        experiment=plan.experiment.model_dump(mode="json"),
        scores={who: scores_of(found) for who, found in results.items()},
        change=change,
        curve=plan.folder.curve(),
        tokens={
            "sampled": totals.sampled, "scored": totals.scored, "trained": totals.trained,
        },
        realised_keep=totals.trained / totals.sampled,
        effective_sample_size=totals.effective if weighted else None,
        clipped_step_share=totals.clipped_steps / plan.experiment.steps,
        seconds={
            **totals.seconds,
            "evaluate": evaluations.seconds,
            "total": totals.wall + evaluations.seconds - evaluations.curve_seconds,
        },
        peak_memory_bytes=peak,
        training=plan.folder.training(),
        signals=plan.folder.signals(),
        pair_facts=dict(plan.pair.facts),
        points_to=plan.points_to,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        engine_version=ENGINE_VERSION,
        task_versions={task: task_settings(task).version for task in results["trained"]},
        provenance={**provenance(device), "processes": trainer.processes.size},
        folder=str(plan.folder.path),
    )  # fmt: skip
