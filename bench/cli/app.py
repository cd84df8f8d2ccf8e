"""The command line: parses and prints, decides nothing."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from bench.cli.console import (
    DEFAULT_EXPERIMENT,
    DEFAULT_RUNTIME,
    AsJson,
    Flat,
    RunsDir,
    fail,
    print_json,
    with_preset,
)
from bench.cli.leaderboard import artefacts, compare, diagnose, leaderboard, overlap
from bench.cli.selectors import data_app, pairs_app, selectors_app
from bench.core.config import BenchError, ConfigError, Experiment, Runtime, one_line

app = App(
    name="bench",
    help="The benchmark for selective on-policy distillation.",
    version_flags=["--version"],
)
for command in (pairs_app, data_app, selectors_app):
    app.command(command)
for command in (diagnose, leaderboard, compare, overlap, artefacts):
    app.command(command)


@app.command
def run(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Annotated[
        str | None, Parameter(help="Named settings under the flags: paper (arXiv 2605.26844).")
    ] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Distil a student on selected tokens and score it; resumes, or prints a finished run."""
    from bench.cli import screen
    from bench.core.progress import speaks
    from bench.run.run_experiment import run_experiment

    record = run_experiment(with_preset(experiment, preset), runtime)
    if not speaks():
        return
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        screen.print_record(record)


@app.command(name="eval")
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
    """Score a checkpoint: a run (its id or folder), a local model folder, or a hub id."""
    from bench.cli import screen
    from bench.core.progress import speaks
    from bench.run.run_experiment import evaluate_checkpoint, scores_of

    found = evaluate_checkpoint(
        path, runtime, tasks, eval_max_new_tokens=max_new_tokens, eval_items=items,
        eval_samples=samples, eval_temperature=temperature, eval_top_p=top_p,
        chat=chat, thinking=thinking,
    )  # fmt: skip
    scores = scores_of(found)
    if not speaks():
        return
    if as_json:
        print_json({"path": path, "scores": scores})
    else:
        screen.print_scores({path: scores})


@app.command
def merge(
    path: str,
    *,
    out: Annotated[Path, Parameter(help="Folder of the merged model; a new one.")],
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapter (--lora) into its base: a model that needs no peft."""
    from bench.run.run_experiment import merge_checkpoint

    merge_checkpoint(path, out, Runtime(runs_dir=runs_dir))
    print_json({"path": path, "model": str(out)}) if as_json else print(f"wrote {out}")


@app.command
def doctor(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Annotated[str | None, Parameter(help="Named settings under the flags.")] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Check a pair and its settings before a GPU is burnt; exits 1 if a run would be refused."""
    from bench.cli import screen
    from bench.run.doctor import diagnose

    checks = [vars(check) for check in diagnose(with_preset(experiment, preset), runtime)]
    print_json(checks) if as_json else screen.print_checks(checks)
    if failed := [check["name"] for check in checks if check["state"] == "fail"]:
        fail(f"failed: {', '.join(failed)}", 1)


@app.command
def sweep(
    path: Path,
    *,
    workers: Annotated[int, Parameter(help="Processes; each gets its share of the cores.")] = 1,
    storage: Annotated[
        str | None, Parameter(help="Optuna RDB URL or journal file (default: in the runs folder).")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Print the trials and a time estimate; run nothing.", negative=())
    ] = False,
    retry_failed: Annotated[
        bool, Parameter(help="Try the trials again that failed by their own fault.", negative=())
    ] = False,
    launch: Annotated[
        str | None,
        Parameter(help="Start each run with this command, e.g. 'accelerate launch'."),
    ] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Run a TOML file of experiments with Optuna; resumes, whatever was interrupted."""
    from bench.cli import screen
    from bench.sweep import run_sweep as module

    if dry_run:
        found = module.dry_run(path, runtime, workers, storage)
        print_json(found) if as_json else screen.print_dry_run(found)
        return
    status = module.run_sweep(
        path,
        runtime,
        workers=workers,
        storage=storage,
        retry_failed=retry_failed,
        launch=launch,
    )
    print_json(vars(status)) if as_json else screen.print_sweep(status, runtime)
    if status.failed:
        fail(f"{len(status.failed)} trials failed; --retry-failed tries them again", 1)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 anything else."""
    try:
        app(
            sys.argv[1:] if arguments is None else arguments,
            exit_on_error=False,
            print_error=False,
        )
    except CycloptsError as error:
        cause = error.__cause__
        fail(one_line(cause) if isinstance(cause, ValidationError) else str(error), 2)
    except ValidationError as error:
        fail(one_line(error), 2)
    except BenchError as error:
        fail(str(error), error.exit_code, error.process)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 3)


__all__ = ["ConfigError", "app", "main"]
