"""`bench sweep`: a file of experiments, run, or what it would run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from bench.cli.console import DEFAULT_RUNTIME, AsJson, Flat, console, escape, fail, print_json
from bench.core.config import Runtime, rows_file
from bench.core.errors import ConfigError
from bench.core.keep_schedule import keep_name


def sweep(
    path: Path,
    *,
    workers: Annotated[int, Parameter(help="Processes; each gets its share of the cores.")] = 1,
    storage: Annotated[
        str | None,
        Parameter(
            env_var="OPD_BENCH_STORAGE",
            help="Optuna RDB URL or journal file (default: in the runs folder).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Parameter(help="Print the trials and a time estimate; run nothing.", negative=())
    ] = False,
    plan: Annotated[
        bool,
        Parameter(help="Print how many seeds the file's [claims] need; run nothing.", negative=()),
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

    --dry-run and --plan run nothing.
    """
    from bench.sweep import run_sweep as module

    if plan:
        found = plan_of(path)
        print_json(found) if as_json else print_plan(found)
        return
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


def plan_of(path: Path) -> dict[str, Any]:
    """What `bench sweep --plan` says. Raises ConfigError for a file that claims nothing."""
    from bench.sweep.sweep_file import read_claims
    from bench.tables import power

    named = read_claims(path)
    if named is None:
        raise ConfigError(
            f"{path}: names no [claims]; --plan says how many seeds those of a file need"
        )
    return {
        "name": named.sweep,
        "named": named.claims.named.isoformat(),
        "noise_points": power.power_table()["noise_points"],
        "claims": power.plan(named),
    }


def print_plan(found: Mapping[str, Any]) -> None:
    """Seeds by claim; a number for quiet seeds, and one for noisy ones."""

    def both(numbers: Mapping[str, Any], text: str) -> str:
        return " / ".join("-" if n is None else format(n, text) for n in numbers.values())

    effects = list(dict.fromkeys(e for claim in found["claims"] for e in claim["seeds_needed"]))
    by_row: dict[tuple[str, ...], list[str]] = {}
    for claim in found["claims"]:
        needed = claim["seeds_needed"]
        margin = f", margin {100 * claim['margin']:g}" if claim["margin"] else ""
        row = (
            f"{claim['rule']} − {claim['reference']}{margin}",
            f"{claim['kind']}, {claim['comparisons']}", claim["regime"], str(claim["seeds"]),
            both(claim["smallest_points"], ".1f"),
            *(both(needed[effect], "d") if effect in needed else "" for effect in effects),
        )  # fmt: skip
        by_row.setdefault(row, []).append(claim["pair"])
    table = Table("pairs", title_justify="left")
    for name in ("claim", "family", "regime", "seeds", "finds, points",
                 *(f"seeds for {effect}" for effect in effects)):  # fmt: skip
        table.add_column(name, overflow="fold", no_wrap=name == "claim")
    for row, pairs in by_row.items():
        table.add_row(str(len(pairs)), *map(escape, row))
    console().print(table)
    console().print(
        f"{found['name']}: claims of {found['named']}. 80 % power at 5 % over the family (of "
        "this file alone), by the "
        "simulation of results/statistics.md; the first number is for seeds that vary as much as "
        f"the items alone make them ({found['noise_points']:g} points for 1,000 items; with fewer "
        "items more), the second for twice as much; - is more than 20 seeds. A claim with a margin "
        "needs, where the two are alike, the seeds of that many points.",
        highlight=False,
    )


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
