"""`bench data`: the public data sets, here and fetched, and what becomes of a prompt file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
    print_json,
    with_preset,
)
from bench.cli.groups import GroupedApp
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError

data_app = GroupedApp(
    name="data",
    help="""The public data sets: what is here, and getting the rest.

    Example: `bench data`
    """,
)


@data_app.default
def data(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the public data sets: where each comes from, and whether its file is here."""
    from bench.tasks.data_files import data_folder, find_file
    from bench.tasks.maths_sets import MATH_SETS

    rows = [
        {
            "name": found.name,
            "role": found.role,
            "hub": found.hub,
            "licence": found.licence,
            "file": str(path) if (path := find_file(found.name)) else None,
        }
        for found in MATH_SETS.values()
    ]
    if as_json:
        print_json(rows)
    else:
        print_data(rows, str(data_folder()))


@data_app.command(name="fetch")
def data_fetch(
    *names: str,
    config: Annotated[str | None, Parameter(help="Configuration of a hub data set.")] = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "train",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Download data sets, by name or hub id, into the data folder. Nothing else downloads data.

    Example: `bench data fetch math500 aime25`
    """
    from bench.tasks.maths_sets import fetch

    if not names:
        raise ConfigError("data fetch: name a data set; `bench data` lists them")
    files = {name: str(fetch(name, config, split)) for name in names}
    if as_json:
        print_json(files)
    else:
        for name, file in files.items():
            print(f"{name}: {file}")


@data_app.command(name="check")
def data_check(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Preset = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """What becomes of a prompt file: repeats, overlap with the evaluation sets, lengths.

    Example: `bench data check --prompts dapo-math-17k --decontaminate all`
    """
    from bench.run.plan import prompt_report

    report = prompt_report(with_preset(experiment, preset), runtime)
    if as_json:
        print_json(report)
    else:
        print_prompt_report(report)


def print_data(rows: Sequence[Mapping[str, Any]], folder: str) -> None:
    table = Table("name", "for", "from", "licence", "file")
    for row in rows:
        table.add_row(
            row["name"], row["role"], escape(row["hub"]), row["licence"],
            escape(row["file"]) if row["file"] else "[dim]not here[/dim]",
        )  # fmt: skip
    console().print(table)
    console().print(
        f"Files are looked for in {escape(folder)} ($OPD_BENCH_DATA); `bench data fetch NAME` "
        "downloads one.",
        highlight=False,
    )


def print_prompt_report(report: Mapping[str, Any]) -> None:
    table = facts()
    table.add_row("rows", f"{report['rows']:,} in {escape(report['source'])}")
    table.add_row(
        "repeated",
        f"{report['repeated']:,} left out; {report['contradicted']:,} problems repeat with "
        "another answer",
    )
    for name, found in report["overlapping"].items():
        table.add_row(
            f"overlap with {name}",
            f"{found['sharing']:,} share 13 words in a row, {found['contaminated']:,} of them more "
            f"than a stock phrase, with {found['items']:,} of its items",
        )
    table.add_row("contaminated", f"{report['contaminated']:,} left out")
    table.add_row(
        "too long", f"{report['too_long']:,} left out, over {report['longest_allowed']:,} tokens"
    )
    table.add_row("kept", f"{report['kept']:,}, {report['unanswered']:,} without a gold answer")
    lengths = ", ".join(f"{name} {value:,}" for name, value in report["tokens"].items())
    table.add_row("prompt tokens", lengths)
    console().print(table)
