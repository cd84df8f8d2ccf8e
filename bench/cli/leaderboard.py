"""Commands on results: diagnose, leaderboard, compare, overlap, artefacts."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.console import (
    DEFAULT_EXPERIMENT,
    DEFAULT_RUNTIME,
    AsJson,
    Flat,
    RunsDir,
    check_folder,
    fail,
    is_stale,
    leftovers,
    print_json,
    read_text,
    with_preset,
    write_file,
)
from bench.core.config import ConfigError, Diagnosis, Experiment, Runtime

DEFAULT_DIAGNOSIS = Diagnosis()
RESULTS = Path("results/rows.jsonl")


def diagnose(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    diagnosis: Annotated[Diagnosis, Flat] = DEFAULT_DIAGNOSIS,
    preset: Annotated[
        str | None, Parameter(help="Named settings of the update: paper (arXiv 2605.26844).")
    ] = None,
    against: Annotated[
        tuple[Path, ...],
        Parameter(help="Files of rows: does the diagnostic predict their accuracies?"),
    ] = (),
    out: Annotated[Path, Parameter(help="Folder of the folders of records.")] = Path(
        "results/diagnostic"
    ),
    check: Annotated[
        bool,
        Parameter(help="Measure nothing; exit 1 where pages differ from records.", negative=()),
    ] = False,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Measure on fixed contexts which scores predict the KL that an update removes; resumes."""
    from bench.cli import screen
    from bench.diagnose import run_diagnostic as module

    if check:
        folders = sorted(path.parent for path in out.glob(f"*/{module.RECORD}"))
        found = [str(path) for folder in folders for path in module.stale(folder)]
        if as_json:
            print_json({"records": [str(folder) for folder in folders], "stale": found})
        else:
            print(f"{len(folders)} records in {out}, {len(found)} stale files")
        if found or not folders:
            named = ", ".join(found) or "no records"
            fail(f"stale in {out}: {named}; bench diagnose writes them again", 1)
        return
    rows = {str(path): read_text(path) for path in against}
    record = module.diagnose(with_preset(experiment, preset), diagnosis, runtime, rows or None)
    folder = out / module.folder_name(record["pair"], record["update"])
    module.write(record, folder)
    if as_json:
        print_json(record)
    else:
        screen.print_diagnostic(record, folder)


def leaderboard(
    *rows: Annotated[
        Path,
        Parameter(
            help="Files of rows (.jsonl) and results of tunings (.json). Default: "
            "results/rows.jsonl and results/tuning/*.json."
        ),
    ],
    out: Annotated[Path, Parameter(help="Folder of the tables and figures.")] = Path("results"),
    check: Annotated[
        bool, Parameter(help="Write nothing; exit 1 where files differ from rows.", negative=())
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make the tables and figures of results/ from rows.jsonl files, merged by run id."""
    from bench.tables import figures
    from bench.tables import table_sheets as sheets
    from bench.tables.leaderboard import make_tables
    from bench.tables.rows import read_rows, read_tuned

    check_folder("out", out)
    paths = rows or (RESULTS, *sorted(Path("results/tuning").glob("*.json")))
    texts = {str(path): read_text(path) for path in paths}
    tunings = [read_tuned(*item) for item in texts.items() if item[0].endswith(".json")]
    published = (Path(sheets.__file__).parent / "published.toml").read_text(encoding="utf-8")
    of_rows = {name: text for name, text in texts.items() if not name.endswith(".json")}
    found = read_rows(of_rows)
    if not found:
        raise ConfigError(
            f"rows: none in {', '.join(of_rows) or 'no file of rows'}; nothing is written"
        )
    tables = make_tables(found, tunings)
    made = sheets.documents(tables, published) | figures.draw_all(tables)
    leftover = leftovers(out, made)
    stale = [name for name in made if is_stale(out / name, made[name])] if check else []
    stale += leftover if check else []
    if not check:
        for name, content in made.items():
            write_file(out / name, content)
        for name in leftover:
            (out / name).unlink()
    if as_json:
        lines = sheets.records(tables)
        print_json({"rows": len(found), "files": list(made), "stale": stale, "lines": lines})
    else:
        print(f"{len(found)} rows, {len(tables)} tables, {len(made)} files in {out}")
    if stale:
        fail(f"stale in {out}: {', '.join(stale)}; bench leaderboard writes them again", 1)


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
    """Compare two runs' trained students on the same items: bench compare RUN_A RUN_B.

    Paired difference with its 95 % interval over items, and the exact McNemar test. It is of two
    checkpoints and not of two methods: for those, several seeds and bench leaderboard.
    """
    from bench.cli import screen
    from bench.tables.rows import read_rows
    from bench.tables.two_runs import compare_runs

    usual = (RESULTS, runs_dir / "rows.jsonl")
    paths = rows or tuple(path for path in usual if path.is_file())
    if not paths:
        named = " nor ".join(repr(str(path)) for path in usual)
        raise ConfigError(f"rows: neither {named} is there; --rows names a file of rows")
    found = compare_runs(read_rows({str(path): read_text(path) for path in paths}), run_a, run_b,
                         task)  # fmt: skip
    print_json(found) if as_json else screen.print_two_runs(found)


def overlap(
    run: str,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder of the figures (default: overlap/ in the run folder).")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Which rules keep the same tokens, and what kind: a run's shadow log as tables and figures."""
    from bench.cli import screen
    from bench.shadow import overlap_figures
    from bench.shadow.overlap import read_shadow

    folder = next((f for f in (runs_dir / run, Path(run)) if f.is_dir()), None)
    if folder is None:
        raise ConfigError(f"run: {run!r} is neither a run in {runs_dir} nor a folder")
    path = folder / "shadow.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"run: {run!r} has no shadow.jsonl; bench run --shadow all writes one while it trains "
            "(a finished run is not run again: give another --runs-dir)"
        )
    found = read_shadow(read_text(path), folder.resolve().name)
    out = out or folder / "overlap"
    for name, content in overlap_figures.draw_overlap(found).items():
        write_file(out / name, content)
    if as_json:
        print_json(found.to_json() | {"figures": str(out)})
    else:
        screen.print_overlap(found)
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
    out: Annotated[Path, Parameter(help="Folder of artefacts.json and artefacts.md.")] = Path(
        "results"
    ),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Measure what conventions of published code (ties, floors, padding, refill) do to masks."""
    from bench.shadow.artefact_page import page

    if render:
        found = json.loads(read_text(out / "artefacts.json"))
    else:
        from bench.core.progress import open_progress
        from bench.pairs.pair import embedded_pair_names
        from bench.shadow.artefacts import measure_artefacts

        if batches < 2:
            raise ConfigError(f"batches: {batches} is not accepted: 2 or more, for a spread")
        with open_progress("auto") as progress:
            found = measure_artefacts(pairs or embedded_pair_names(), batches, progress)
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        write_file(out / "artefacts.json", (text.replace("},{", "},\n{") + "\n").encode())
    write_file(out / "artefacts.md", page(found).encode())
    if as_json:
        print_json(found)
    else:
        print(f"{out / 'artefacts.md'}: {found['settings']['batches']} batches per pair")
