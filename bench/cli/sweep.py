"""`bench sweep`: a file of experiments, run, or what it would run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from bench.cli.console import DEFAULT_RUNTIME, AsJson, Flat, console, fail, print_json
from bench.core.config import Runtime, rows_file
from bench.core.keep_schedule import keep_name


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
    """Run a TOML file of experiments with Optuna; resumes, whatever was interrupted.

    Example: `bench sweep sweeps/smoke.toml --workers 2`
    """
    from bench.sweep import run_sweep as module

    if dry_run:
        found = module.dry_run(path, runtime, workers, storage)
        print_json(found) if as_json else print_dry_run(found)
        return
    status = module.run_sweep(
        path,
        runtime,
        workers=workers,
        storage=storage,
        retry_failed=retry_failed,
        launch=launch,
    )
    print_json(vars(status)) if as_json else print_sweep(status, runtime)
    if status.failed:
        fail(f"{len(status.failed)} trials failed; --retry-failed tries them again", 1)


def print_dry_run(found: Mapping[str, Any]) -> None:
    table = Table("run", "state", "pair", "selector", "keep", "seed")
    for trial in found["trials"]:
        table.add_row(
            trial["run_id"] or "-", trial["state"], escape(trial["pair"]),
            escape(trial["selector"]), keep_name(trial["keep"]), str(trial["seed"]),
        )  # fmt: skip
    console().print(table)
    if (of_tuning := found["tuning"]) is not None:
        if of_tuning["result"] is None:
            console().print(
                f"tuning comes first and is counted: {of_tuning['total']} trials, "
                f"{of_tuning['done']} done, {of_tuning['left']} left; the rest wait for its values"
            )
        else:
            console().print(f"tuned values are those of {escape(of_tuning['result'])}")
    left = found["seconds_left"]
    estimate = "unknown until a trial is done" if left is None else f"about {left / 60:.0f} minutes"
    console().print(
        f"{found['name']}: {found['total']} trials, {found['done']} done, {found['left']} left; "
        f"time left {estimate}"
    )


def print_sweep(status: Any, runtime: Runtime) -> None:
    out = console()
    rows = rows_file(runtime)
    out.print(f"sweep {status.name}: {status.done} of {status.total} trials done, rows in {rows}")
    for run_id, error in status.failed.items():
        out.print(f"failed  {escape(run_id)}: {escape(error)}")
