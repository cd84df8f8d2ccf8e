"""Experiment -> RunRecord: baselines, training, evaluation, record and result row."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.config import BenchError, ConfigError, Experiment, Runtime, rows_file
from bench.core.processes import Processes, make_accelerator
from bench.core.progress import Progress, open_progress
from bench.core.records import (
    RunRecord,
    append_row,
    provenance,
    reset_peak_memory,
    sync,
    write_json,
)
from bench.core.stats import mean_estimate, paired_difference
from bench.core.stopping import StopRequest
from bench.pairs.adapters import is_adapter
from bench.pairs.models import commit_of, load_model, load_pair, load_tokenizer, pair_chat, stop_ids
from bench.pairs.pair import alone, pair_of
from bench.run.evaluations import Baseline, Examiner, Results
from bench.run.plan import Plan, make_plan
from bench.run.preflight import preflight, refuse_failures
from bench.tasks.prompt_file import FilePrompts
from bench.tasks.protocol import asking_of, check_tasks, task_settings
from bench.train.loop import Totals, Trainer, train
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
    processes = Processes(make_accelerator(experiment, runtime))
    with ExitStack() as held:
        processes.lead(lambda: held.enter_context(plan.folder.lock()) and None)
        progress = held.enter_context(open_progress(runtime.progress))
        if processes.lead(lambda: plan.folder.state) != "done":
            with StopRequest().installed() as stop, processes.blamed():
                _run(plan, runtime, progress, stop, on_curve)

        def finish() -> RunRecord:
            record = plan.folder.read_record()
            append_row(rows_file(runtime), _row(plan, record))
            return record

        return processes.lead(finish)


def _run(
    plan: Plan,
    runtime: Runtime,
    progress: Progress,
    stop: StopRequest,
    on_curve: OnCurve | None,
) -> None:
    experiment, folder = plan.experiment, plan.folder
    loaded = load_pair(plan.pair, one_model=plan.is_one_model)
    commits = {"teacher": commit_of(loaded.teacher), "student": commit_of(loaded.student)}
    trainer = Trainer(plan, loaded, runtime)
    processes = trainer.processes

    def open_folder() -> None:
        folder.check_commits(commits)
        refuse_failures(preflight(plan, loaded, trainer.prompts, runtime))
        folder.create(experiment.model_dump(mode="json"), plan.points_to, commits)
        if isinstance(trainer.prompts, FilePrompts):
            write_json(folder.path / "prompts.json", trainer.prompts.report.to_json())

    processes.lead(open_folder)
    reset_peak_memory(trainer.accelerator.device.type)
    examiner = Examiner(
        runtime, asking_of(experiment, loaded.chat), folder.log, progress, processes
    )
    items = experiment.eval_items
    student = Baseline(
        "untrained", trainer.student, loaded.tokenizer, loaded.student_stop_ids,
        plan.baseline_key("student", commits),
    )  # fmt: skip
    teacher = Baseline(
        "teacher", trainer.teacher, loaded.tokenizer, loaded.teacher_stop_ids,
        plan.baseline_key("teacher", commits),
    )  # fmt: skip
    results = examiner.baselines((student, teacher), experiment.eval_tasks, items)

    def curve(step: int) -> dict[str, float]:
        found = examiner.examine(
            trainer.student, loaded.tokenizer, experiment.curve_tasks, loaded.student_stop_ids,
            "curve", experiment.curve_items,
        )  # fmt: skip
        means = {task: result.mean for task, result in found.items()}
        if (hear := on_curve) is not None:
            processes.lead(lambda: hear(step, means))
        return means

    totals = train(trainer, progress, stop, curve)
    state = trainer.full_state()
    processes.lead(lambda: save_model(loaded.student, loaded.tokenizer, folder.model, state))
    results["trained"] = examiner.examine(
        trainer.student, loaded.tokenizer, experiment.eval_tasks, loaded.student_stop_ids,
        "trained", items,
    )  # fmt: skip
    peak = trainer.peak_memory_bytes()

    def write() -> None:
        values = {
            who: {task: r.to_json() for task, r in found.items()} for who, found in results.items()
        }
        write_json(folder.path / "evaluations.json", values)
        folder.write_record(_record(plan, totals, results, examiner, trainer, peak))

    processes.lead(write)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: dict[str, Any] | None = None,
) -> None:
    """The final checkpoint, which transformers loads by itself; whole or not there at all.

    Of a model with adapters, only they are saved, and the base's name with them. `state` are the
    weights where the model itself holds a part of them.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():
            sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise BenchError(f"the model could not be saved in {folder}: {error}") from error


def prompt_report(experiment: Experiment, runtime: Runtime) -> dict[str, Any]:
    """What becomes of the experiment's prompt file, through the student's tokenizer and template.

    Raises ConfigError for prompts that come from no file.
    """
    plan = make_plan(experiment, runtime)
    tokenizer = load_tokenizer(plan.pair.student, plan.pair.student_revision)
    prompts = plan.prompts.prepare(tokenizer, pair_chat(plan.pair, tokenizer))
    if not isinstance(prompts, FilePrompts):
        raise ConfigError(f"prompts: {experiment.prompts!r} is generated and needs no check")
    return prompts.report.to_json()


def evaluate_checkpoint(
    path: str, runtime: Runtime, tasks: Sequence[str] = (), **changes: Any
) -> Results:
    """Score a run (its id or folder), a local model folder, or a hub id.

    What is not given is the run's own; for other models, the defaults of Experiment. `changes` are
    Experiment fields: eval_items, eval_samples, eval_temperature, eval_top_p, eval_max_new_tokens,
    chat, thinking.
    Raises ConfigError for a path that holds no model.
    """
    where, settings = find_checkpoint(path, runtime)
    check_tasks(list(tasks))
    given = {name: value for name, value in changes.items() if value is not None}
    experiment = Experiment.parse({**settings, **given})
    pair = pair_of(experiment) if settings else alone(where, experiment)
    model, tokenizer = load_model(where, merge=False), load_tokenizer(where)
    stops = pair.stop_ids.get("student") or stop_ids(model, tokenizer)
    accelerator = make_accelerator(experiment, runtime)
    model = model.to(accelerator.device)
    with open_progress(runtime.progress) as progress:
        asking = asking_of(experiment, pair_chat(pair, tokenizer))
        examiner = Examiner(runtime, asking, None, progress, Processes(accelerator))
        return examiner.examine(
            model, tokenizer, tasks or experiment.eval_tasks, stops, Path(path).name,
            experiment.eval_items,
        )  # fmt: skip


def find_checkpoint(path: str, runtime: Runtime) -> tuple[str, dict[str, Any]]:
    """(model folder or hub id, settings of the run) of a run, a local folder, or a hub id.

    Raises ConfigError for a path that is neither, and for a run that is not finished.
    """
    folder = next((f for f in (runtime.runs_dir / path, Path(path)) if f.is_dir()), None)
    if folder is None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
            raise ConfigError(f"path: {path!r} is no run, no folder, and no hub id (owner/name)")
        return path, {}
    if not (folder / "experiment.json").is_file():
        return str(folder), {}
    if not (folder / "model").is_dir():
        raise ConfigError(f"run {path!r} has no trained model yet; finish it first")
    settings = json.loads((folder / "experiment.json").read_text())["experiment"]
    return str(folder / "model"), settings


def merge_checkpoint(path: str, out: Path, runtime: Runtime) -> None:
    """Write a run's adapter, merged into its base, as a model that transformers alone loads.

    Raises ConfigError for a checkpoint without an adapter, and for a folder that is there already.
    """
    where, _ = find_checkpoint(path, runtime)
    if not is_adapter(where):
        raise ConfigError(f"path: {path!r} holds no adapter; it is a whole model as it is")
    if out.exists():
        raise ConfigError(f"out: {str(out)!r} is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(load_model(where), load_tokenizer(where), out)


def scores_of(results: Results) -> dict[str, dict[str, Any]]:
    """task -> mean, n, ci95 and the rates that qualify it."""
    scores = {}
    for task, result in results.items():
        estimate = mean_estimate(result.score_I)
        scores[task] = {
            "mean": estimate.mean,
            "n": estimate.n,
            "ci95": list(estimate.ci95),
            "metric": result.metric,
            "parse_failure_rate": result.parse_failure_rate,
            "truncation_rate": result.truncation_rate,
            "mean_response_tokens": result.mean_response_tokens,
        }
        if task_settings(task).data or result.temperature:
            scores[task] |= {
                "samples": result.k,
                "pass_at_k": result.pass_at_k,
                "temperature": result.temperature,
                "top_p": result.top_p,
                "comparison_failure_rate": result.comparison_failure_rate,
            }
    return scores


def _record(
    plan: Plan,
    totals: Totals,
    results: Mapping[str, Results],
    examiner: Examiner,
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
            "evaluate": examiner.seconds,
            "total": totals.wall + examiner.seconds - examiner.curve_seconds,
        },
        peak_memory_bytes=peak,
        signals=plan.folder.signals(),
        pair_facts=dict(plan.pair.facts),
        provenance={**provenance(device), "processes": trainer.processes.size},
        folder=str(plan.folder.path),
    )  # fmt: skip


def _compact(score_I: Sequence[float]) -> list[float | int]:
    """Whole scores as integers: half the bytes of a row."""
    return [int(score) if score == int(score) else score for score in score_I]


def _row(plan: Plan, record: RunRecord) -> dict[str, Any]:
    """The record with per-item scores, as rows.jsonl holds it."""
    evaluations = json.loads((plan.folder.path / "evaluations.json").read_text())
    row = record.model_dump(mode="json", exclude={"folder"})
    row["items"] = {
        who: {task: _compact(result["score_I"]) for task, result in found.items()}
        for who, found in evaluations.items()
    }
    return row
