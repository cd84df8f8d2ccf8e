"""`bench runs`: the run folders, how each stands, and deleting them."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.table import Table

from bench.cli.console import AsJson, RunsDir, console, escape, fail, print_json, printable
from bench.core.errors import BenchError, ConfigError
from bench.core.keep_schedule import keep_name

if TYPE_CHECKING:
    from bench.core.run_list import RunEntry

runs_app = App(
    name="runs",
    help="""List the run folders, delete some, or drop the checkpoints of finished ones.

    Example: `bench runs --where selector=entropy --where state=done`
    """,
)
WIDE = 110
"""Columns of a terminal from which on rule and seed have columns of their own."""
Where = Annotated[
    tuple[str, ...],
    Parameter(
        help="Only runs with this setting, name=value; also state=done, running, stopped, failed "
        "or damaged. Several must all hold.",
        negative=(),
    ),
]
Yes = Annotated[bool, Parameter(help="Do not ask.", negative=())]


@runs_app.default
def runs(*, where: Where = (), runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a folder, the one that changed last at the end."""
    from bench.core.run_list import list_runs, matching

    found = matching(list_runs(runs_dir), where)
    if as_json:
        print_json([entry.to_json() for entry in found])
    else:
        print_runs(found, runs_dir)


@runs_app.command
def rm(
    *names: Annotated[str, Parameter(help="Run ids or folders.")],
    where: Where = (),
    yes: Yes = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Delete run folders, after asking. Rows of results stay, and so do runs under way.

    Example: `bench runs rm --where state=failed`
    """
    from bench.core.run_list import clear_removed, remove

    found = _chosen(names, where, runs_dir)
    busy = [entry.run_id for entry in found if entry.state == "running"]
    if busy:
        raise ConfigError(f"run: {busy[0]!r} is running, and nothing is deleted")
    size = _size(sum(entry.bytes for entry in found))
    if found and not (yes or as_json):
        print_runs(found, runs_dir)
    _ask(f"delete {len(found)} run folders, {size}", yes or not found)
    clear_removed(runs_dir)
    gone, kept = [], {}
    for entry in found:
        try:
            remove(entry)
            gone.append(entry.run_id)
        except BenchError as error:
            kept[entry.run_id] = str(error)
    if as_json:
        print_json({"deleted": gone, "kept": kept})
    else:
        print(f"deleted {len(gone)} run folders; rows of results are as they were")
    if kept:
        fail("; ".join(kept.values()), 1)


@runs_app.command
def prune(
    *names: Annotated[str, Parameter(help="Run ids or folders (default: all).")],
    where: Where = (),
    yes: Yes = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Delete the checkpoints of finished runs, after asking; models, records and logs stay.

    Example: `bench runs prune`
    """
    from bench.core.run_list import drop_checkpoints, size_of

    found = [e for e in _chosen(names, where, runs_dir, all_where_none=True) if e.state == "done"]
    size = _size(sum(size_of(entry.folder / "checkpoints") for entry in found))
    _ask(f"delete the checkpoints of {len(found)} finished runs, {size}", yes or not found)
    freed = sum(drop_checkpoints(entry) for entry in found)
    if as_json:
        print_json({"runs": [entry.run_id for entry in found], "freed_bytes": freed})
    else:
        print(f"freed {_size(freed)} of {len(found)} finished runs")


def _chosen(
    names: Sequence[str], where: Sequence[str], runs_dir: Path, *, all_where_none: bool = False
) -> "list[RunEntry]":
    from bench.core.run_list import list_runs, matching, named_runs

    if not names and not where and not all_where_none:
        raise ConfigError("run: none is named; give run ids, or --where name=value")
    return matching(named_runs(names, runs_dir) if names else list_runs(runs_dir), where)


def _ask(what: str, is_answered: bool) -> None:
    """Go on where the user says so. Without a terminal nobody can."""
    if is_answered:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"yes: not given, and nobody to ask: --yes is needed to {what}")
    print(printable(f"{what}? [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        fail("nothing is deleted", 1)


def print_runs(found: "Sequence[RunEntry]", runs_dir: Path) -> None:
    """A line a run, and under the table why those failed that did."""
    out = console()
    table = Table(box=None, pad_edge=False)
    lines = [_line(entry) for entry in found]
    if out.width < WIDE:  # both stand in the run's id
        lines = [{k: v for k, v in line.items() if k not in ("rule", "seed")} for line in lines]
    for name in lines[0] if lines else ():
        is_text = name in ("run", "state", "rule", "pair")
        table.add_column(
            name, justify="left" if is_text else "right", no_wrap=name == "run", overflow="fold"
        )
    for line in lines:
        table.add_row(*line.values())
    if found:
        out.print(table, highlight=False)
    for entry in found:
        if entry.error:
            out.print(
                f"{entry.state}  {escape(entry.run_id)}: {escape(entry.error)}", highlight=False
            )
    total = _size(sum(entry.bytes for entry in found))
    out.print(f"{len(found)} runs in {escape(str(runs_dir))}, {total}", highlight=False)


def _line(entry: "RunEntry") -> dict[str, str]:
    """Column -> what it says of the run."""
    said = entry.experiment
    return {
        "run": escape(entry.run_id),
        "state": entry.state,
        "step": f"{entry.step}/{entry.steps or '?'}",
        "rule": escape(str(said.get("selector", "?"))),
        "keep": _keep(entry),
        "pair": escape(Path(str(said.get("pair", "?"))).name),
        "seed": str(said.get("seed", "?")),
        "score %": _scores(entry),
        "age": _age(time.time() - entry.changed),
        "size": _size(entry.bytes),
    }


def _keep(entry: "RunEntry") -> str:
    keep = entry.experiment.get("keep")
    return "?" if keep is None else keep_name(keep)


def _scores(entry: "RunEntry") -> str:
    """Of each task, in the order of the experiment."""
    return " ".join(f"{100 * mean:.1f}" for mean in entry.scores.values()) or "-"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.0f} KiB"
