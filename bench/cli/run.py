"""`bench run`, `eval`, `merge`, `doctor`: one experiment, one checkpoint, one pair."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from bench.cli.console import (
    DEFAULT_EXPERIMENT,
    DEFAULT_RUNTIME,
    AsJson,
    Flat,
    Preset,
    RunsDir,
    console,
    escape,
    facts,
    fail,
    print_json,
    with_preset,
)
from bench.core.config import Experiment, Runtime
from bench.core.keep_schedule import keep_name

if TYPE_CHECKING:
    from bench.core.records import RunRecord

WHO = ("untrained", "trained", "teacher")
PHASES = {
    "rollout": "rollout",
    "teacher": "teacher",
    "score": "student scoring",
    "loss": "loss",
    "shadow": "shadow panel",
    "evaluate": "evaluation",
    "total": "total",
}
"""The record's phases as the table calls them."""


def run(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Preset = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Distil a student on selected tokens and score it; resumes, or prints a finished run.

    Example: `bench run --selector teachability --keep 0.05`
    """
    from bench.core.processes import leave_group
    from bench.core.progress import speaks
    from bench.run.run_experiment import run_experiment

    record = run_experiment(with_preset(experiment, preset), runtime)
    leave_group()
    if not speaks():
        return
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_record(record)


def evaluate(
    path: str,
    *,
    tasks: Annotated[
        tuple[str, ...], Parameter(help="Tasks of this project (default: the run's own).")
    ] = (),
    max_new_tokens: Annotated[
        int | None, Parameter(help="Cap on the length of a response (default: the run's own).")
    ] = None,
    items: Annotated[
        int | None, Parameter(help="Only the first items of each task (default: the run's own).")
    ] = None,
    samples: Annotated[
        int | None, Parameter(help="Samples of each item (default: the run's or the task's own).")
    ] = None,
    temperature: Annotated[
        float | None, Parameter(help="0 for greedy (default: the run's or the task's own).")
    ] = None,
    top_p: Annotated[
        float | None, Parameter(help="Nucleus (default: the run's or the task's own).")
    ] = None,
    chat: Annotated[
        Literal["template", "plain"] | None, Parameter(help="How problems are put.")
    ] = None,
    thinking: Annotated[
        Literal["on", "off"] | None, Parameter(help="Thinking mode of the chat template.")
    ] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint: a run (its id or folder), a local model folder, or a hub id.

    Example: `bench eval RUN --items 100`
    """
    from bench.core.processes import leave_group
    from bench.core.progress import speaks
    from bench.run.trained_model import evaluate_checkpoint, scores_of

    found = evaluate_checkpoint(
        path, runtime, tasks, eval_max_new_tokens=max_new_tokens, eval_items=items,
        eval_samples=samples, eval_temperature=temperature, eval_top_p=top_p,
        chat=chat, thinking=thinking,
    )  # fmt: skip
    leave_group()
    scores = scores_of(found)
    if not speaks():
        return
    if as_json:
        print_json({"path": path, "scores": scores})
    else:
        print_scores({path: scores})


def merge(
    path: str,
    *,
    out: Annotated[Path, Parameter(help="Folder of the merged model; a new one.")],
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapter (--lora) into its base: a model that needs no peft.

    Example: `bench merge RUN --out merged`
    """
    from bench.run.trained_model import merge_checkpoint

    merge_checkpoint(path, out, Runtime(runs_dir=runs_dir))
    print_json({"path": path, "model": str(out)}) if as_json else print(f"wrote {out}")


def doctor(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Preset = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Check a pair and its settings before a GPU is burnt; exits 1 if a run would be refused.

    Example: `bench doctor --pair qwen3-1.7b-from-4b --prompts dapo-math-17k`
    """
    from bench.run.doctor import check_pair

    checks = [vars(check) for check in check_pair(with_preset(experiment, preset), runtime)]
    print_json(checks) if as_json else print_checks(checks)
    if failed := [check["name"] for check in checks if check["state"] == "fail"]:
        fail(f"failed: {', '.join(failed)}", 1)


def print_record(record: "RunRecord") -> None:
    """The run's verdict: accuracies, tokens, seconds, memory and where everything is."""
    out, experiment, seconds = console(), record.experiment, record.seconds
    title = (
        f"{experiment['selector']} at keep {keep_name(experiment['keep'])} on "
        f"{experiment['pair']}, seed {experiment['seed']}, {experiment['steps']} steps"
    )
    out.print(score_table(title, {who: record.scores[who] for who in WHO}))
    told = facts()
    tokens = record.tokens
    told.add_row(
        "tokens",
        f"{tokens['sampled']:,} sampled, {tokens['scored']:,} scored by the teacher, "
        f"{tokens['trained']:,} trained on",
    )
    told.add_row("realised keep", f"{record.realised_keep:.4f}")
    if record.effective_sample_size is not None:
        told.add_row("effective sample size", f"{record.effective_sample_size:,.0f} tokens")
    phases = [f"{v} {seconds[k]:.1f}" for k, v in PHASES.items() if k in seconds]
    told.add_row("seconds", ", ".join(phases))
    told.add_row("peak memory", f"{record.peak_memory_bytes / 2**20:,.0f} MiB")
    told.add_row("run folder", escape(record.folder))
    out.print(told)
    for task, change in record.change.items():
        out.print(f"[bold]verdict[/bold]  {task}: {verdict(change)}")
    # Where it lies, so that the line can be typed as it stands.
    out.print(f"a page of it: bench report {escape(shlex.quote(record.folder))}", highlight=False)


def verdict(change: Mapping[str, Any]) -> str:
    """One sentence: the paired change on the same items, and what it does and does not show."""
    low, high = change["ci95"]
    word = "better than" if low > 0 else "worse than" if high < 0 else "tied with"
    return (
        f"trained is {word} untrained, {100 * change['mean']:+.1f} points "
        f"(95 % {100 * low:+.1f} to {100 * high:+.1f}, {change['n']:,} paired items, one seed)"
    )


def print_scores(scores: Mapping[str, Mapping[str, Any]]) -> None:
    console().print(score_table("evaluation", scores))


def score_table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per model and task."""
    table = Table(title=escape(title), title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy %", "95 % interval", "n", "no answer %", "cut off %", "tokens"):
        table.add_column(name, justify="right")
    every = [score for by_task in scores.values() for score in by_task.values()]
    if is_sampled := any(score.get("samples", 1) > 1 for score in every):
        table.add_column("pass@k %", justify="right")
    for who, by_task in scores.items():
        for task, score in by_task.items():
            low, high = score["ci95"]
            table.add_row(
                escape(who),
                task,
                f"{100 * score['mean']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{score['n']:,}"
                + (f" × {score['samples']}" if score.get("samples", 1) > 1 else ""),
                f"{100 * score['parse_failure_rate']:.1f}",
                f"{100 * score['truncation_rate']:.1f}",
                f"{score['mean_response_tokens']:.1f}",
                *([f"{100 * score['pass_at_k']:.1f}" if "pass_at_k" in score else ""] * is_sampled),
            )
    return table


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    colour = {"pass": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", "found", "what to do")
    for check in checks:
        state = check["state"]
        table.add_row(
            check["name"], f"[{colour[state]}]{state}[/{colour[state]}]", escape(check["said"]),
            escape(check["advice"]),
        )  # fmt: skip
    console().print(table)
