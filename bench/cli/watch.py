"""`bench watch`: a run or a sweep as it goes, on a terminal or in plain lines."""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.cli.console import AsJson, RunsDir, console, fail, print_json, printable
from bench.core.config import Runtime
from bench.core.keep_schedule import keep_name
from bench.core.progress import LINE_EVERY_S

if TYPE_CHECKING:
    from bench.core.run_view import RunView
    from bench.sweep.sweep_view import Cell, SweepView

View = TypeVar("View")
EVERY_S = 1.0
"""Seconds between looks."""
QUIET_S = 60.0
"""Seconds without a worker after which a sweep is taken to have been stopped: a worker starts in
fewer."""
BLOCKS = "▁▂▃▄▅▆▇█"


def watch(
    what: str,
    *,
    once: Annotated[bool, Parameter(help="Look once and end.", negative=())] = False,
    storage: Annotated[
        str | None,
        Parameter(
            env_var="OPD_BENCH_STORAGE",
            help="The sweep's Optuna RDB URL or journal file, where it was given one.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        Parameter(help="The sweep's file of rows (default: rows.jsonl in the runs folder)."),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Watch a run (its id or folder) or a sweep (its TOML file) until it ends; touches nothing.

    Example: `bench watch sweeps/smoke.toml`

    --json prints what there is to see, once. Exit codes: 0 done, 1 failed, 3 stopped.
    """
    if what.endswith(".toml"):
        _watch_sweep(Path(what), storage, Runtime(runs_dir=runs_dir, rows=rows), once, as_json)
    else:
        _watch_run(what, runs_dir, once, as_json)


def _watch_run(name: str, runs_dir: Path, once: bool, as_json: bool) -> None:
    from bench.core.run_list import named_runs
    from bench.core.run_view import RunWatcher

    (entry,) = named_runs([name], runs_dir)
    watcher = RunWatcher(entry.folder)
    if as_json:
        print_json(watcher.look().to_json())
        return
    view = _follow(watcher.look, draw_run, say_run, lambda view: once or view.has_ended)
    ended = view.entry
    if ended.state in ("failed", "damaged"):
        fail(f"{ended.run_id} {ended.state}: {ended.error}", 1)
    if ended.state == "stopped" and not once:
        of = f"step {ended.step} of {ended.steps or '?'}"
        fail(f"{ended.run_id} stopped at {of}; the command that began it goes on from there", 3)


def _watch_sweep(
    path: Path, storage: str | None, runtime: Runtime, once: bool, as_json: bool
) -> None:
    from bench.sweep.sweep_view import SweepWatcher

    watcher = SweepWatcher(path, storage, runtime)
    if as_json:
        print_json(watcher.look().to_json())
        return
    last_busy, far = time.monotonic(), None

    def ends(view: "SweepView") -> bool:
        nonlocal last_busy, far
        if view.working or (view.status.done, view.tuning) != far:
            last_busy, far = time.monotonic(), (view.status.done, view.tuning)
        return once or view.is_done or time.monotonic() - last_busy > QUIET_S

    view = _follow(watcher.look, draw_sweep, say_sweep, ends)
    if once:
        return
    if view.status.left > 0:
        fail(f"{view.status.left} trials are left and no worker runs; the same sweep goes on", 3)
    if view.status.failed:
        fail(f"{len(view.status.failed)} trials failed; bench sweep --retry-failed tries again", 1)


def _follow(
    look: Callable[[], View],
    draw: Callable[[View, Console], RenderableType],
    say: Callable[[View], str],
    ends: Callable[[View], bool],
) -> View:
    """Look until it ends; the last look. A terminal is drawn anew each time, as wide as it is."""
    out = console()
    live = Live(console=out, auto_refresh=False) if out.is_terminal else None
    said, said_at = "", -LINE_EVERY_S
    with live or nullcontext():
        while True:
            view = look()
            is_last = ends(view)
            if live is not None:
                live.update(draw(view, out), refresh=True)
            elif is_last or time.monotonic() - said_at >= LINE_EVERY_S:
                if (line := printable(say(view))) != said:
                    print(line, flush=True)
                said, said_at = line, time.monotonic()
            if is_last:
                return view
            time.sleep(EVERY_S)


def say_run(view: "RunView") -> str:
    """A look at a run in one line."""
    entry = view.entry
    parts = [f"{entry.run_id}: {entry.step}/{entry.steps or '?'}", view.phase]
    if "loss" in view.numbers:
        parts.append(f"loss {view.numbers['loss'][0]:.4g}")
    if scores := _scores(view):
        parts.append(scores)
    return "  ".join([*parts, *_left(view.seconds_left)])


def _scores(view: "RunView") -> str:
    """What the student is known to be worth: at its end, or on its curve."""
    if view.entry.scores:
        return "accuracy " + ", ".join(
            f"{task} {100 * mean:.1f} %" for task, mean in view.entry.scores.items()
        )
    if not view.curve:
        return ""
    at = dict(view.curve[-1])
    step = at.pop("step")
    return "".join(
        f"{task} {100 * mean:.1f} % at step {step} " for task, mean in at.items()
    ).strip()


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{_time(seconds)} left"]


def _time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def draw_run(view: "RunView", out: Console) -> RenderableType:
    """A look at a run as wide as the terminal."""
    entry = view.entry
    said = entry.experiment
    head = Text(f"{printable(entry.run_id)}  {view.phase}", style="bold")
    facts = f"{said.get('selector')} keep {_keep(said)}  {Path(str(said.get('pair'))).name}"
    parts: list[RenderableType] = [
        head,
        Text(printable(f"{facts}  seed {said.get('seed')}")),
        _bar(entry.step, entry.steps, out.width, _left(view.seconds_left)),
    ]
    if len(view.losses) > 1 and out.encoding.lower().startswith("utf"):
        parts.append(Text(f"loss {sparkline(view.losses, max(10, min(60, out.width - 6)))}"))
    if view.numbers:
        table = Table("", "last step", "last 10", box=None, pad_edge=False)
        for name, (last, mean) in view.numbers.items():
            table.add_row(name.replace("_", " "), f"{last:.4g}", f"{mean:.4g}")
        parts.append(table)
    for point in view.curve[-5:]:
        scores = (f"{t} {100 * mean:.1f} %" for t, mean in point.items() if t != "step")
        parts.append(Text(f"step {point['step']}: {', '.join(scores)}"))
    if entry.scores:
        parts.append(Text(_scores(view), style="bold"))
    return Group(*parts)


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as blocks, so many at most; a block is the mean of its share of them."""
    count = min(width, len(values))
    ends = [round(len(values) * place / count) for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    low, high = min(means), max(means)
    if not high > low:
        return BLOCKS[0] * count
    return "".join(BLOCKS[round((m - low) / (high - low) * (len(BLOCKS) - 1))] for m in means)


def _keep(said: Any) -> str:
    keep = said.get("keep")
    return "?" if keep is None else keep_name(keep)


def _bar(done: int, total: int | None, width: int, more: Sequence[str]) -> RenderableType:
    text = "  ".join([f"{done}/{total or '?'}", *more])
    table = Table.grid(padding=(0, 1))
    table.add_row(
        ProgressBar(total=total or 1, completed=done, width=max(10, min(40, width - 30))), text
    )
    return table


def say_sweep(view: "SweepView") -> str:
    """A look at a sweep in one line."""
    status = view.status
    if view.tuning is not None:
        return f"{status.name}: tunes, {view.tuning[0]}/{view.tuning[1]} trials spent"
    running = " ".join(
        f"{w.run.entry.run_id} {w.run.entry.step}/{w.run.entry.steps}" if w.run else w.worker
        for w in view.working
    )
    parts = [f"{status.name}: {status.done}/{status.total}", f"failed {len(status.failed)}"]
    return "  ".join([*parts, f"running {running or '-'}", *_left(view.seconds_left)])


def draw_sweep(view: "SweepView", out: Console) -> RenderableType:
    """A look at a sweep as wide and as high as the terminal."""
    status = view.status
    parts: list[RenderableType] = [Text(printable(status.name), style="bold")]
    if view.tuning is not None:
        parts += [Text("tunes its rules first"), _bar(*view.tuning, out.width, [])]
        parts += [Text(printable(f"tunes {one.worker}")) for one in view.working]
        return Group(*parts)
    more = [f"{len(status.failed)} failed", *_left(view.seconds_left)]
    parts.append(_bar(status.done, status.total, out.width, more))
    if view.working:
        table = Table("worker", "run", "step", "loss", "left", box=None, pad_edge=False)
        for one in view.working:
            table.add_row(one.worker, *_running(one.run))
        parts.append(table)
    parts += [
        Text(printable(f"failed {run_id}: {error}"), style="red", no_wrap=True, overflow="ellipsis")
        for run_id, error in list(status.failed.items())[-3:]
    ]
    room = max(3, out.height - 9 - len(view.working) - min(3, len(status.failed)))
    if view.cells:
        parts.append(_cells(view.cells, room))
    return Group(*parts)


def _running(run: "RunView | None") -> tuple[str, ...]:
    if run is None:
        return "starts", "", "", ""
    loss = f"{run.numbers['loss'][0]:.4g}" if "loss" in run.numbers else "-"
    left = "".join(_left(run.seconds_left)).removesuffix(" left") or run.phase
    return printable(run.entry.run_id), f"{run.entry.step}/{run.entry.steps}", loss, left


def _cells(cells: "Sequence[Cell]", room: int) -> RenderableType:
    """The table so far, as much of it as there is room for."""
    names = [n for n in cells[0].values if len({str(cell.values[n]) for cell in cells}) > 1]
    names = names or ["selector"]
    table = Table(*names, box=None, pad_edge=False, caption_justify="left")
    for name in ("seeds", "accuracy %", "sd"):
        table.add_column(name, justify="right")
    for cell in cells[:room]:
        sd = "-" if cell.seed_sd is None else f"{100 * cell.seed_sd:.1f}"
        values = (printable(str(cell.values[name])) for name in names)
        table.add_row(*map(Text, values), str(cell.seeds), f"{100 * cell.accuracy:.1f}", sd)
    if len(cells) > room:
        table.caption = f"and {len(cells) - room} more: --json has all"
    return table
