"""`bench leaderboard` and `bench compare`: rows into tables, two runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from bench.cli.console import (
    AsJson,
    RunsDir,
    check_folder,
    console,
    escape,
    fail,
    print_json,
    read_text,
)
from bench.cli.output_folder import OutputFolder
from bench.core.errors import ConfigError
from bench.core.files import canonical_json
from bench.core.records import RunFolder
from bench.core.run_list import is_run
from bench.core.run_row import row_of

if TYPE_CHECKING:
    from bench.core.claims import NamedClaims
    from bench.tables.rows import Row, Tuned

RESULTS = Path("results/rows.jsonl")
SWEEPS = Path("sweeps")
SUPERSEDED = "superseded.json"
"""Beside a file of rows: run id -> `rule@version`, for rows of a rule that was corrected since."""
MANIFEST = ".leaderboard.json"


def leaderboard(
    *rows: Annotated[
        Path,
        Parameter(
            help="Files of rows (.jsonl) and results of tunings (.json). Default: "
            "results/rows.jsonl and results/tuning/*.json."
        ),
    ],
    out: Annotated[
        Path | None,
        Parameter(
            help="Folder of the tables and figures. Default: tables/ beside the first file of "
            "rows; without files there is none, and --out results writes the published ones."
        ),
    ] = None,
    check: Annotated[
        bool,
        Parameter(
            help="Write nothing; exit 1 where files differ from rows (without files: results/).",
            negative=(),
        ),
    ] = False,
    claims: Annotated[
        tuple[Path, ...],
        Parameter(
            help="Sweep files whose [claims] the tables are asked. Default: those of sweeps/ "
            "that name these files of rows."
        ),
    ] = (),
    versions: Annotated[
        Literal["newest", "all"],
        Parameter(
            help="Of a rule that was edited: its newest version, or all; older ones go by "
            "`rule@` and six digits of their source's hash."
        ),
    ] = "newest",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make tables and figures from rows.jsonl files, merged by run id.

    Example: `bench leaderboard runs/rows.jsonl`

    Files that the command wrote before (.leaderboard.json lists them) are replaced, and removed
    when they are made no more; other files in the folder stay.
    """
    from bench.tables import figures, pages
    from bench.tables.fronts import fronts_of
    from bench.tables.leaderboard import make_tables
    from bench.tables.published import PUBLISHED
    from bench.tables.versions import count_versions, repeats

    place = out or _usual_folder(rows, check)
    check_folder("out", place)
    folder = OutputFolder(place, MANIFEST)
    found, tunings = read_results(rows)
    published = PUBLISHED.read_text(encoding="utf-8")
    tables = make_tables(found, tunings, versions)
    named = claims_of(rows or (RESULTS,), claims)
    repeated = repeats(count_versions(found, versions).rows)
    fronts = fronts_of(found, tunings)
    made = pages.documents(tables, published, named, repeated, fronts)
    made |= figures.draw_all(tables, fronts)
    stale = folder.stale(made) if check else []
    if not check:
        folder.write(made)
    if as_json:
        lines = pages.records(tables)
        print_json(
            {"rows": len(found), "out": str(place), "files": list(made), "stale": stale,
             "lines": lines}
        )  # fmt: skip
    else:
        print(f"{len(found)} rows, {len(tables)} tables, {len(made)} files in {place}")
    if stale:
        fail(f"stale in {place}: {', '.join(stale)}; --out {place} writes them again", 1)


def claims_of(rows: Sequence[Path], files: Sequence[Path]) -> "list[NamedClaims]":
    """The claims of these sweep files; without files, of those of SWEEPS that name the rows.

    Raises ConfigError for a file without claims.
    """
    from bench.sweep.sweep_file import read_claims

    if files:
        asked = {file: read_claims(file) for file in files}
        if without := [str(file) for file, claims in asked.items() if claims is None]:
            raise ConfigError(f"claims: {without[0]!r} names no [claims]")
        return [claims for claims in asked.values() if claims is not None]
    here = {path.resolve() for path in rows}
    found = map(read_claims, sorted(SWEEPS.glob("*.toml")))
    return [one for one in found if one is not None and Path(one.claims.rows).resolve() in here]


def _usual_folder(rows: Sequence[Path], check: bool) -> Path:
    """Where tables go when no folder is named: beside the rows, never over published ones."""
    if rows:
        return rows[0].parent / "tables"
    if check:
        return RESULTS.parent
    raise ConfigError(
        "out: not given, and no rows either: --out results writes the published tables again, "
        f"--check compares them with {RESULTS}, files of rows get tables of their own"
    )


def read_results(paths: Sequence[Path]) -> "tuple[list[Row], list[Tuned]]":
    """Rows and tunings of the files, or of the published ones. Raises ConfigError without rows."""
    from bench.tables.rows import read_rows, read_tuned

    paths = paths or (RESULTS, *sorted(Path("results/tuning").glob("*.json")))
    texts = {str(path): read_text(path) for path in paths}
    of_rows = {name: text for name, text in texts.items() if not name.endswith(".json")}
    found = read_rows(of_rows, _superseded(paths))
    if not found:
        raise ConfigError(
            f"rows: none in {', '.join(of_rows) or 'no file of rows'}; nothing is written"
        )
    return found, [read_tuned(*item) for item in texts.items() if item[0].endswith(".json")]


def _superseded(paths: Sequence[Path]) -> dict[str, str]:
    """Run ids of rules that were corrected since, from SUPERSEDED beside the files of rows."""
    found: dict[str, str] = {}
    for file in {path.parent / SUPERSEDED for path in paths}:
        if file.is_file():
            try:
                found |= TypeAdapter(dict[str, str]).validate_json(read_text(file))
            except ValidationError:
                raise ConfigError(f"{file}: is not accepted: run ids, each with a name") from None
    return found


def compare(
    run_a: str,
    run_b: str,
    *,
    rows: Annotated[
        tuple[Path, ...],
        Parameter(
            help="Files of rows. Default: results/rows.jsonl and rows.jsonl of the runs folder, "
            "those that exist."
        ),
    ] = (),
    task: Annotated[
        str | None, Parameter(help="A task of both runs (default: all of them).")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Compare two runs' trained students on the same items.

    Example: `bench compare RUN_A RUN_B --task tiny_math`

    A run is named by its id, by the hash that ends it, or by its folder.

    Paired difference with its 95 % interval over items, and the exact McNemar test. It is of two
    checkpoints and not of two methods: for those, several seeds and bench leaderboard.
    """
    from bench.tables.rows import read_rows
    from bench.tables.two_runs import compare_runs

    usual = (RESULTS, runs_dir / "rows.jsonl")
    paths = rows or tuple(path for path in usual if path.is_file())
    own = {name: Path(name) for name in (run_a, run_b) if is_run(Path(name))}
    if not paths and len(own) < 2:
        named = " nor ".join(repr(str(path)) for path in usual)
        raise ConfigError(f"rows: neither {named} is there; --rows names a file of rows")
    texts = {str(path): read_text(path) for path in (paths if len(own) < 2 else ())}
    texts |= {str(folder): canonical_json(row_of(RunFolder(folder))) for folder in own.values()}
    one, other = (own[n].resolve().name if n in own else n for n in (run_a, run_b))
    found = compare_runs(read_rows(texts), one, other, task)
    print_json(found) if as_json else print_two_runs(found)


def print_two_runs(found: Mapping[str, Any]) -> None:
    """How two checkpoints differ on the same items, a line a task, and what that does not show."""
    out, (one, other) = console(), found["runs"]
    table = Table(title=escape(f"A {one}\nB {other}"), title_justify="left")
    table.add_column("task", overflow="fold")
    for name in ("items", "A %", "B %", "A − B (95 % over items)", "A alone", "B alone",
                 "McNemar p"):  # fmt: skip
        table.add_column(name, justify="right")
    for task, of in found["tasks"].items():
        interval = of["ci95"] and " to ".join(f"{100 * end:+.1f}" for end in of["ci95"])
        p_value = of["mcnemar_p"]
        table.add_row(
            task,
            f"{of['items']:,}",
            *(f"{100 * mean:.1f}" for mean in of["accuracy"]),
            f"{100 * of['difference']:+.1f}" + (f" ({interval})" if interval else ""),
            *(f"{of[name]:,}" for name in ("better", "worse")),
            "—" if p_value is None else f"{p_value:.2g}",
        )
    out.print(table)
    out.print(
        "alone: items that only this one got right (higher scores, where scores are not 0 or 1); "
        "McNemar p: exact, two-sided, of right and wrong answers.",
        highlight=False,
    )
    out.print(found["note"], highlight=False)
