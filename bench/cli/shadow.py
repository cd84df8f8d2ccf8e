"""`bench overlap` and `bench artefacts`: which tokens rules keep, what conventions do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from bench.cli.console import (
    AsJson,
    RunsDir,
    check_folder,
    console,
    escape,
    print_json,
    read_text,
    write_file,
)
from bench.cli.output_folder import OutputFolder
from bench.core.errors import ConfigError
from bench.core.files import read_json
from bench.core.records import find_run
from bench.core.result_rows import SUM, row_sum
from bench.core.sums import refuse_changed

if TYPE_CHECKING:
    from bench.shadow.overlap import Overlap

WHOLE_MATRIX = 12
"""Rules of which a terminal holds every pair."""


def overlap(
    run: str,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder of the figures (default: overlap/ in the run folder).")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Which rules keep the same tokens, and what kind: a run's shadow log as tables and figures.

    Example: `bench overlap RUN`
    """
    from bench.shadow import overlap_figures
    from bench.shadow.overlap import read_shadow

    folder = find_run(run, runs_dir)
    if folder is None:
        raise ConfigError(f"run: {run!r} is neither a run in {runs_dir} nor a folder")
    path = folder / "shadow.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"run: {run!r} has no shadow.jsonl; bench run --shadow all writes one while it trains "
            "(a finished run is not run again: give another --runs-dir)"
        )
    refuse_changed(folder, path.name, f"run {run}", "it is not what the run logged")
    found = read_shadow(read_text(path), folder.resolve().name)
    out = out or folder / "overlap"
    check_folder("out", out)
    OutputFolder(out, ".overlap.json").write(overlap_figures.draw_overlap(found))
    if as_json:
        print_json(found.to_json() | {"figures": str(out)})
    else:
        print_overlap(found)
        print(f"figures in {out}")


def artefacts(
    *,
    pairs: Annotated[
        tuple[str, ...], Parameter(help="Pairs to measure (default: the embedded ones).")
    ] = (),
    batches: Annotated[int, Parameter(help="Rollouts per pair, one a seed.")] = 20,
    render: Annotated[
        bool, Parameter(help="Measure nothing; write the page from its JSON again.", negative=())
    ] = False,
    out: Annotated[
        Path | None,
        Parameter(
            help="Folder of artefacts.json and artefacts.md. Default: artefacts/ in the runs "
            "folder; --out results writes the published ones."
        ),
    ] = None,
    replace: Annotated[
        bool,
        Parameter(help="Also replace measurements of more batches or pairs.", negative=()),
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Measure what conventions of published code (ties, floors, padding, refill) do to masks.

    Example: `bench artefacts --batches 5`
    """
    from bench.shadow.artefact_page import page

    out = out or runs_dir / "artefacts"
    check_folder("out", out)
    if render:
        found = read_json(out / "artefacts.json")
        if not isinstance(found, dict) or found.get(SUM, row_sum(found)) != row_sum(found):
            raise ConfigError(
                f"out: {str(out / 'artefacts.json')!r} changed since it was written; measure again"
            )
    else:
        from bench.core.progress import open_progress
        from bench.pairs.pair import embedded_pair_names
        from bench.shadow.artefacts import measure_artefacts

        if batches < 2:
            raise ConfigError(f"batches: {batches} is not accepted: 2 or more, for a spread")
        pairs = pairs or tuple(embedded_pair_names())
        if not replace:
            _check_replaces(out / "artefacts.json", pairs, batches)
        with open_progress("auto") as progress:
            found = measure_artefacts(pairs, batches, progress)
        found[SUM] = row_sum(found)
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        write_file(out / "artefacts.json", (text.replace("},{", "},\n{") + "\n").encode())
    write_file(out / "artefacts.md", page(found).encode())
    if as_json:
        print_json(found)
    else:
        print(f"{out / 'artefacts.md'}: {found['settings']['batches']} batches per pair")


def _check_replaces(path: Path, pairs: Sequence[str], batches: int) -> None:
    """Raise ConfigError where the file holds more batches, or a pair that is not measured now."""
    if not path.is_file():
        return
    try:
        there = json.loads(read_text(path))
        of_there, lost = there["settings"]["batches"], [n for n in there["pairs"] if n not in pairs]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"out: {str(path)!r} holds no artefacts; name another folder") from None
    found = [f"batches: {batches} are fewer than {of_there}"] if batches < of_there else []
    found += [f"pairs: {', '.join(pairs)} leave out {', '.join(lost)}"] if lost else []
    if found:
        raise ConfigError(
            f"{'; '.join(found)} of {str(path)!r}: --replace writes over it, --out names another "
            "folder"
        )


def print_overlap(found: "Overlap") -> None:
    """A line a rule, in clustered order; all pairs too where they are few."""
    out = console()
    steps = f"{len(found.steps)} steps" if len(found.steps) != 1 else "1 step"
    table = Table(
        title=f"{escape(found.run_id)}, {steps}, {found.tokens:,} tokens, keep {found.keep:g}",
        title_justify="left",
    )
    table.add_column("rule", no_wrap=True, max_width=36)
    for name in ("with own", "gradient %", "by ties %", "first tenth x", "top entropy x"):
        table.add_column(name, justify="right")
    table.add_column("most alike (Jaccard)", overflow="fold")
    position_RG, entropy_RG = (found.profiles[name].lift_RG for name in ("position", "entropy"))
    for place in found.order():
        name = escape(found.rules[place])
        table.add_row(
            name if place else f"[bold]{name}[/bold]",
            _number(found.jaccard_RR[0, place], 2),
            _number(100 * found.gradient_R[place], 1),
            _number(100 * found.tied_R[place], 1),
            _number(position_RG[place, 0], 1),
            _number(entropy_RG[place, -1], 1),
            ", ".join(f"{escape(other)} {value:.2f}" for other, value in found.nearest(place, 1)),
        )
    out.print(table)
    if len(found.rules) <= WHOLE_MATRIX:
        out.print(_jaccard_table(found))
    out.print(
        f"with own: Jaccard with the run's rule, {found.by_chance:.3f} by chance. gradient: share "
        f"of the norm of {found.gradient_of}'s gradient at the student's logits. by ties: share of "
        "the kept tokens that the tie rule chose among equal scores. x: times as many kept tokens "
        "as by chance.",
        highlight=False,
    )
    for name, reason in found.skipped.items():
        out.print(f"not shown  {escape(name)}: {escape(reason)}", highlight=False)


def _jaccard_table(found: "Overlap") -> Table:
    order = found.order()
    names = [found.rules[place] for place in order]
    table = Table("Jaccard", *map(escape, names))
    for place, name in zip(order, names, strict=True):
        table.add_row(escape(name), *(_number(found.jaccard_RR[place, o], 2) for o in order))
    return table


def _number(value: float, digits: int) -> str:
    return "—" if value != value else f"{value:.{digits}f}"
