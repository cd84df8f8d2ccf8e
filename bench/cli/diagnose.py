"""`bench diagnose`: the fixed-context diagnostic, measured, written, checked."""

from collections.abc import Mapping
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
    check_folder,
    console,
    escape,
    fail,
    print_json,
    read_text,
    with_preset,
)
from bench.cli.groups import GROUPS
from bench.core.config import Experiment, Runtime
from bench.diagnose.diagnosis import Diagnosis

DEFAULT_DIAGNOSIS = Diagnosis()
PUBLISHED = Path("results/diagnostic")


def diagnose(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    diagnosis: Annotated[Diagnosis, Flat] = DEFAULT_DIAGNOSIS,
    preset: Preset = None,
    against: Annotated[
        tuple[Path, ...],
        Parameter(
            group=GROUPS["Diagnostic"],
            help="Files of rows: does the diagnostic predict their accuracies?",
        ),
    ] = (),
    out: Annotated[
        Path | None,
        Parameter(
            group=GROUPS["Output"],
            help="Folder of the folders of records. Default: diagnostic/ in the runs folder.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        Parameter(
            group=GROUPS["Output"],
            help="Also replace a record of more prompts or seeds, or of another pair or update.",
            negative=(),
        ),
    ] = False,
    check: Annotated[
        bool,
        Parameter(
            group=GROUPS["Output"],
            help="Measure nothing; exit 1 where pages differ from records (without --out: those "
            "in results/diagnostic).",
            negative=(),
        ),
    ] = False,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Measure on fixed contexts which scores predict the KL that an update removes; resumes.

    Example: `bench diagnose --pair tiny-qwen3 --update one_step`
    """
    from bench.diagnose import record_files
    from bench.diagnose.run_diagnostic import diagnose as measure

    if check:
        check_records(out or PUBLISHED, as_json)
        return
    out = out or runtime.runs_dir / "diagnostic"
    check_folder("out", out)
    experiment = with_preset(experiment, preset)
    folder = out / record_files.folder_name(experiment.pair, diagnosis.update)
    if not replace:
        record_files.check_replaces(folder, experiment.pair, diagnosis)
    rows = {str(path): read_text(path) for path in against}
    record = measure(experiment, diagnosis, runtime, rows or None)
    record_files.write(record, folder)
    if as_json:
        print_json(record)
    else:
        print_diagnostic(record, folder)


def check_records(out: Path, as_json: bool) -> None:
    """Are the pages and figures in `out` those of their records? Exit code 1 where one is not."""
    from bench.diagnose import record_files

    folders = sorted(path.parent for path in out.glob(f"*/{record_files.RECORD}"))
    found = [str(path) for folder in folders for path in record_files.stale(folder)]
    if as_json:
        print_json({"records": [str(folder) for folder in folders], "stale": found})
    else:
        print(f"{len(folders)} records in {out}, {len(found)} stale files")
    if found or not folders:
        named = ", ".join(found) or "no records"
        fail(f"stale in {out}: {named}; bench diagnose --out {out} writes them again", 1)


def print_diagnostic(record: Mapping[str, Any], folder: Any) -> None:
    """Every score in one table, the verdict on the claim, and where the record is."""
    from bench.tables.sheet import headline_keep

    out = console()
    table = Table(
        title=escape(f"{record['pair']}, update {record['update']}"), title_justify="left"
    )
    table.add_column("score", overflow="fold")
    keep = headline_keep(record["matched_top"])
    for name in ("Spearman with G", "AUROC(G > 0)", f"gain per kept token at {keep} (nats)"):
        table.add_column(name, justify="right")
    top = record["matched_top"][keep]
    for score in sorted(top, key=lambda s: (top[s]["gain"] is None, -(top[s]["gain"] or 0.0))):
        measured = (record["spearman"].get(score), record["auroc"].get(score))
        cells = [estimate_text(found) for found in measured]
        table.add_row(escape(score), *cells, estimate_text(top[score], "gain"))
    out.print(table)
    for verdict in record["verdicts"][:1]:
        out.print(f"[bold]verdict[/bold]  {escape(verdict['line'])}")
    out.print(f"record, page and figures in {escape(str(folder))}")


def estimate_text(found: Mapping[str, Any] | None, name: str = "value") -> str:
    """A value with its interval, with an ASCII minus; a dash where it is not defined."""
    from bench.diagnose.estimates import estimate

    return estimate(found, name, write="{:.{}f}".format)
