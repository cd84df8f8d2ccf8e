"""`bench report`: results, or runs of one's own, as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bench.cli.console import AsJson, RunsDir, fail, print_json, read_text, write_file
from bench.cli.leaderboard import RESULTS, claims_of, read_results
from bench.core.errors import ConfigError
from bench.core.files import read_json
from bench.core.records import RunFolder, find_run
from bench.core.run_list import is_run
from bench.core.sums import refuse_changed

if TYPE_CHECKING:
    from bench.report.build import Sources

PUBLISHED_ROWS = (RESULTS, Path("results/mismatch/rows.jsonl"))
RATES = Path("results/rates/rows.jsonl")
"""A grid around the other files' settings: its dials and claims are shown, not its lines."""
TOKENS = Path("results/tokens")
DIAGNOSTICS = Path("results/diagnostic")
SHOWN_OF_A_RUN = ("record.json", "evaluations.json", "metrics.jsonl", "shadow.jsonl", "token_bank/")
USUAL_OUT = Path("report.html")
BANKS_SHOWN = 4
"""Steps of a run's token bank in its page: the last ones."""


def report(
    *what: Annotated[
        str,
        Parameter(
            help="Runs (id, hash or folder), files of rows (.jsonl), steps of token banks "
            "(.parquet), diagnostic records (.json). Default: the published results."
        ),
    ],
    out: Annotated[
        Path | None,
        Parameter(
            help="The page. Default: report.html here; for the published results there is none, "
            "and --out results/report.html writes the published page."
        ),
    ] = None,
    check: Annotated[
        bool,
        Parameter(
            help="Write nothing; exit 1 where the file differs from what would be written.",
            negative=(),
        ),
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make one HTML file that needs no network: verdicts, leaderboard, curves, tokens.

    Example: `bench report RUN`

    A run's tokens are shown where it was made with --token-bank, what rules share where with
    --shadow. A file that is not such a page is never replaced.
    """
    from bench.report.build import page
    from bench.report.html import is_page

    if out is None and not what:
        raise ConfigError(
            "out: not given, and nothing to show either: name a run or a file of rows, or "
            "--out results/report.html for the published results"
        )
    place = out or USUAL_OUT
    if place.is_dir():
        raise ConfigError(f"out: {str(place)!r} is a folder; name a file, {place / USUAL_OUT} say")
    if place.is_file() and not is_page(place.read_bytes()):
        raise ConfigError(f"out: {str(place)!r} is there and no page of this command; move it")
    sources = _of(what, runs_dir) if what else _published()
    content = page(sources)
    stale = check and (not place.is_file() or place.read_bytes() != content)
    if not check:
        write_file(place, content)
    if as_json:
        print_json({"out": str(place), "bytes": len(content), "stale": bool(stale)})
    else:
        print(f"{place}, {len(content) / 2**20:.1f} MiB; open it in a browser")
    if stale:
        fail(f"stale: {place}; the same command without --check writes it again", 1)


def _published() -> "Sources":
    """The committed results of this checkout."""
    from bench.report.build import Sources
    from bench.report.tokens import read_bank
    from bench.tables.claims import answers
    from bench.tables.leaderboard import make_tables
    from bench.tables.published import PUBLISHED

    tables: list[Any] = []
    claims: list[Any] = []
    for rows in PUBLISHED_ROWS:
        # The tunings are of the first file, as in its own tables.
        found, tunings = read_results(() if rows == RESULTS else (rows,))
        own = make_tables(found, tunings)
        tables += own
        claims += answers(own, claims_of((rows,), ()))
    rates = make_tables(*read_results((RATES,)))
    claims += answers(rates, claims_of((RATES,), ()))
    overlaps = sorted(TOKENS.glob("*.overlap.json"))
    records = sorted(DIAGNOSTICS.glob("*/diagnostic.json"))
    return Sources(
        title="Selective on-policy distillation: the results of opd-bench",
        tables=tables,
        dial_tables=rates,
        claims=claims,
        banks=[read_bank(path) for path in sorted(TOKENS.glob("*.parquet"))],
        overlaps=[(file.name.partition(".overlap")[0], read_json(file)) for file in overlaps],
        diagnostics=[(file.parent.name, read_json(file)) for file in records],
        published=PUBLISHED.read_text(encoding="utf-8"),
    )


def _of(what: Sequence[str], runs_dir: Path) -> "Sources":
    """What the arguments name. Raises ConfigError for one that names nothing."""
    from bench.report.build import Sources
    from bench.report.one_run import run_data
    from bench.report.tokens import read_bank
    from bench.tables.claims import answers
    from bench.tables.leaderboard import make_tables

    runs: list[Path] = []
    files: dict[str, list[Path]] = {".jsonl": [], ".parquet": [], ".json": []}
    for name in what:
        path = Path(name)
        if path.suffix in files and not is_run(path):
            files[path.suffix].append(path)
        else:
            runs.append(_run(name, runs_dir))
    found, tunings = read_results(tuple(files[".jsonl"])) if files[".jsonl"] else ([], [])
    tables = make_tables(found, tunings)
    banks = [read_bank(path) for path in files[".parquet"]]
    for run in runs:
        for name in SHOWN_OF_A_RUN:
            refuse_changed(run, name, f"run {run.name}", "it is not what the run wrote")
        steps = sorted((run / "token_bank").glob("step-*.parquet"))
        banks += [read_bank(path) for path in steps[-BANKS_SHOWN:]]
    return Sources(
        title=f"Run {runs[0].name}" if len(runs) == 1 and len(what) == 1 else "Runs and results",
        tables=tables,
        claims=answers(tables, claims_of(files[".jsonl"], ())) if tables else (),
        runs=[run_data(RunFolder(run)) for run in runs],
        banks=banks,
        overlaps=[(run.name, found) for run in runs for found in _overlap(run)],
        diagnostics=[(file.parent.name, read_json(file)) for file in files[".json"]],
    )


def _overlap(run: Path) -> list[dict[str, Any]]:
    """What a run's shadow log amounts to, where there is one."""
    from bench.shadow.overlap import read_shadow

    path = run / "shadow.jsonl"
    if not path.is_file():
        return []
    return [read_shadow(read_text(path), run.resolve().name).to_json()]


def _run(name: str, runs_dir: Path) -> Path:
    found = find_run(name, runs_dir)
    if found is None or not is_run(found):
        raise ConfigError(
            f"{name!r} is neither a run in {runs_dir}, nor a run's folder, nor a file of rows "
            "(.jsonl), of tokens (.parquet) or of a diagnostic (.json)"
        )
    return found
