"""The command line: parses and prints, decides nothing."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from bench.config import (
    BenchError,
    ConfigError,
    Diagnosis,
    Experiment,
    Runtime,
    experiment_from,
    one_line,
)

app = App(
    name="bench",
    help="The benchmark for selective on-policy distillation.",
    version_flags=["--version"],
)
pairs_app = App(name="pairs", help="List the teacher-student pairs, or build an embedded one.")
selectors_app = App(name="selectors", help="List the registered selectors, or show one.")
data_app = App(name="data", help="The public data sets: what is here, and getting the rest.")
app.command(pairs_app)
app.command(data_app)
app.command(selectors_app)

Flat = Parameter(name="*")
DEFAULT_EXPERIMENT, DEFAULT_RUNTIME = Experiment(), Runtime()
DEFAULT_DIAGNOSIS = Diagnosis()
RunsDir = Annotated[Path, Parameter(help="Folder of the run folders.")]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document.")]


@app.command
def run(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Annotated[
        str | None, Parameter(help="Named settings under the flags: paper (arXiv 2605.26844).")
    ] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Distil a student on selected tokens and score it; resumes, or prints a finished run."""
    from bench import screen
    from bench.progress import speaks
    from bench.run import run_experiment

    given = {name: getattr(experiment, name) for name in experiment.model_fields_set}
    record = run_experiment(experiment_from(given, preset), runtime)
    if not speaks():
        return
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        screen.print_record(record)


@app.command(name="eval")
def evaluate(
    path: str,
    *,
    tasks: Annotated[
        tuple[str, ...], Parameter(help="Tasks of this project (default: the run's own).")
    ] = (),
    max_new_tokens: Annotated[
        int | None, Parameter(help="Cap on the length of a response (default: the run's own).")
    ] = None,
    items: Annotated[
        int | None, Parameter(help="Only the first items of each task (default: the run's own).")
    ] = None,
    samples: Annotated[
        int | None, Parameter(help="Samples of each item (default: the run's or the task's own).")
    ] = None,
    temperature: Annotated[
        float | None, Parameter(help="0 for greedy (default: the run's or the task's own).")
    ] = None,
    top_p: Annotated[
        float | None, Parameter(help="Nucleus (default: the run's or the task's own).")
    ] = None,
    chat: Annotated[
        Literal["template", "plain"] | None, Parameter(help="How problems are put.")
    ] = None,
    thinking: Annotated[
        Literal["on", "off"] | None, Parameter(help="Thinking mode of the chat template.")
    ] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint: a run (its id or folder), a local model folder, or a hub id."""
    from bench import screen
    from bench.progress import speaks
    from bench.run import evaluate_checkpoint, scores_of

    found = evaluate_checkpoint(
        path, runtime, tasks, eval_max_new_tokens=max_new_tokens, eval_items=items,
        eval_samples=samples, eval_temperature=temperature, eval_top_p=top_p,
        chat=chat, thinking=thinking,
    )  # fmt: skip
    scores = scores_of(found)
    if not speaks():
        return
    if as_json:
        print_json({"path": path, "scores": scores})
    else:
        screen.print_scores({path: scores})


@app.command
def merge(
    path: str,
    *,
    out: Annotated[Path, Parameter(help="Folder of the merged model; a new one.")],
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapter (--lora) into its base: a model that needs no peft."""
    from bench.run import merge_checkpoint

    merge_checkpoint(path, out, Runtime(runs_dir=runs_dir))
    print_json({"path": path, "model": str(out)}) if as_json else print(f"wrote {out}")


@app.command
def doctor(
    *,
    experiment: Annotated[Experiment, Flat] = DEFAULT_EXPERIMENT,
    preset: Annotated[str | None, Parameter(help="Named settings under the flags.")] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """Check a pair and its settings before a GPU is burnt; exits 1 if a run would be refused."""
    from bench import screen
    from bench.doctor import diagnose

    given = {name: getattr(experiment, name) for name in experiment.model_fields_set}
    checks = [vars(check) for check in diagnose(experiment_from(given, preset), runtime)]
    print_json(checks) if as_json else screen.print_checks(checks)
    if failed := [check["name"] for check in checks if check["state"] == "fail"]:
        fail(f"failed: {', '.join(failed)}", 1)


@app.command
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
    """Run a TOML file of experiments with Optuna; resumes, whatever was interrupted."""
    from bench import screen
    from bench import sweep as module

    if dry_run:
        found = module.dry_run(path, runtime, workers)
        print_json(found) if as_json else screen.print_dry_run(found)
        return
    status = module.run_sweep(
        path,
        runtime,
        workers=workers,
        storage=storage,
        retry_failed=retry_failed,
        launch=launch,
    )
    print_json(vars(status)) if as_json else screen.print_sweep(status, runtime)
    if status.failed:
        fail(f"{len(status.failed)} trials failed; --retry-failed tries them again", 1)


@app.command
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
    from bench import diagnose as module
    from bench import screen

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
    given = {name: getattr(experiment, name) for name in experiment.model_fields_set}
    rows = {str(path): read_text(path) for path in against}
    record = module.diagnose(experiment_from(given, preset), diagnosis, runtime, rows or None)
    folder = out / module.folder_name(record["pair"], record["update"])
    module.write(record, folder)
    if as_json:
        print_json(record)
    else:
        screen.print_diagnostic(record, folder)


@selectors_app.default
def selectors(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the registered selectors with kind, needs, source and one line."""
    from bench import screen
    from bench.registry import get_selector, selector_names

    rows = [
        {
            "name": found.name,
            "kind": found.kind,
            "needs": list(found.needs),
            "source": found.source,
            "summary": found.summary,
            "reads_sampled_token": found.reads_sampled_token,
            "abstains": found.abstains,
            "formula": found.formula,
            "cost": found.cost,
            "deviations": found.deviations,
        }
        for found in map(get_selector, selector_names())
    ]
    if as_json:
        print_json(rows)
    else:
        screen.print_selectors(rows)


@selectors_app.command
def show(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Print a selector's docstring, parameters and an example."""
    from bench import screen
    from bench.registry import get_selector

    found = get_selector(name)
    if as_json:
        print_json(screen.selector_page(found))
    else:
        screen.print_selector(found)


@selectors_app.command
def check(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Try a rule, `my_rule.py:my_rule` or a name, on everything that a selector owes.

    Prints each promise, and how it is broken. Exit code 1 when one is.
    """
    from bench import contract, screen

    findings = list(contract.check(name))
    if as_json:
        print_json({"selector": name, "findings": [vars(finding) for finding in findings]})
    else:
        screen.print_findings(name, findings)
    broken = sum(bool(finding.broken) for finding in findings)
    if broken:
        fail(f"selector {name!r} breaks {broken} of {len(findings)} promises", 1)


@selectors_app.command
def catalogue(
    *,
    out: Annotated[Path, Parameter(help="The file that is written.")] = Path("selectors/README.md"),
    check: Annotated[
        bool, Parameter(help="Write nothing; exit 1 where the file differs.", negative=())
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write the catalogue of all rules, objectives and words of expressions, from the registry."""
    from bench.catalogue import markdown

    content = markdown()
    stale = is_stale(out, content.encode())
    if not check:
        out.write_text(content, encoding="utf-8")
    if as_json:
        print_json({"file": str(out), "stale": stale})
    elif not check:
        print(f"wrote {out}")
    if check and stale:
        fail(f"stale: {out}; bench selectors catalogue writes it again", 1)


@pairs_app.default
def pairs(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the teacher-student pairs."""
    from bench import screen
    from bench.pairs import get_pair, pair_names

    rows = [screen.pair_page(get_pair(name)) for name in pair_names()]
    if as_json:
        print_json(rows)
    else:
        screen.print_pairs(rows)


@pairs_app.command(name="show")
def pairs_show(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Print a pair: models, revisions, chat, stop tokens, recommended settings, source."""
    from bench import screen
    from bench.pairs import get_pair

    page = screen.pair_page(get_pair(name))
    if as_json:
        print_json(page)
    else:
        screen.print_pair(page)


@pairs_app.command
def build(
    name: str,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder of the new pair (default: pairs/NAME).")
    ] = None,
    style_share: Annotated[
        float | None, Parameter(help="Share of steps that the teacher words its own way.")
    ] = None,
    seed: Annotated[int, Parameter(help="Seed of weights and problems.")] = 0,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train an embedded pair from scratch; resumes. Use it with `bench run --pair FOLDER`."""
    from bench.tiny import build_pair

    folder = build_pair(name, out or Path("pairs") / name, style_share=style_share, seed=seed)
    if as_json:
        print_json({"pair": str(folder)})
    else:
        print(f"built {folder}; use it with: bench run --pair {folder}")


@pairs_app.command
def retune(
    name: str,
    *,
    style_share: Annotated[
        float, Parameter(help="Share of steps that the teacher words its own way.")
    ],
    out: Annotated[
        Path | None, Parameter(help="Folder of the new pair (default: pairs/NAME-styleSHARE).")
    ] = None,
    steps: Annotated[int, Parameter(help="Fine-tuning steps.")] = 200,
    seed: Annotated[int, Parameter(help="Seed of the problems.")] = 0,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Fine-tune the teacher of an embedded pair to word its steps otherwise; resumes."""
    from bench.pairs import get_pair
    from bench.tiny import retune_teacher

    origin = Path(get_pair(name).teacher).parent
    folder = out or Path("pairs") / f"{Path(name).name}-style{style_share:g}"
    retune_teacher(origin, folder, style_share, steps, seed)
    if as_json:
        print_json({"pair": str(folder)})
    else:
        print(f"built {folder}; use it with: bench run --pair {folder}")


@data_app.default
def data(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the public data sets: where each comes from, and whether its file is here."""
    from bench import screen
    from bench.mathsets import MATH_SETS, data_folder, find_file

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
        screen.print_data(rows, str(data_folder()))


@data_app.command(name="fetch")
def data_fetch(
    *names: str,
    config: Annotated[str | None, Parameter(help="Configuration of a hub data set.")] = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "train",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Download data sets, by name or hub id, into the data folder. Nothing else downloads data."""
    from bench.prompts import fetch

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
    preset: Annotated[str | None, Parameter(help="Named settings under the flags.")] = None,
    runtime: Annotated[Runtime, Flat] = DEFAULT_RUNTIME,
    as_json: AsJson = False,
) -> None:
    """What becomes of a prompt file: repeats, overlap with the evaluation sets, lengths."""
    from bench import screen
    from bench.run import prompt_report

    given = {name: getattr(experiment, name) for name in experiment.model_fields_set}
    report = prompt_report(experiment_from(given, preset), runtime)
    if as_json:
        print_json(report)
    else:
        screen.print_prompt_report(report)


@app.command
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
    from bench import figures, sheets
    from bench.leaderboard import make_tables
    from bench.rows import read_rows, read_tuned

    paths = rows or (Path("results/rows.jsonl"), *sorted(Path("results/tuning").glob("*.json")))
    texts = {str(path): read_text(path) for path in paths}
    tunings = [read_tuned(*item) for item in texts.items() if item[0].endswith(".json")]
    published = (Path(__file__).parent / "published.toml").read_text(encoding="utf-8")
    found = read_rows({name: text for name, text in texts.items() if not name.endswith(".json")})
    tables = make_tables(found, tunings)
    made = sheets.documents(tables, published) | figures.draw_all(tables)
    leftover = leftovers(out, made)
    stale = [name for name in made if is_stale(out / name, made[name])] if check else []
    stale += leftover if check else []
    if not check:
        for name in leftover:
            (out / name).unlink()
        for name, content in made.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
    if as_json:
        lines = sheets.records(tables)
        print_json({"rows": len(found), "files": list(made), "stale": stale, "lines": lines})
    else:
        print(f"{len(found)} rows, {len(tables)} tables, {len(made)} files in {out}")
    if stale:
        fail(f"stale in {out}: {', '.join(stale)}; bench leaderboard writes them again", 1)


@app.command
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
    from bench import overlap_figures, screen
    from bench.overlap import read_shadow

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


@app.command
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
    from bench.artefact_sheet import page

    if render:
        found = json.loads(read_text(out / "artefacts.json"))
    else:
        from bench.artefacts import measure_artefacts
        from bench.pairs import embedded_pair_names
        from bench.progress import open_progress

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


def write_file(path: Path, content: bytes) -> None:
    """A file in a folder that need not be there. Raises ConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def read_text(path: Path) -> str:
    """The text of a file given by the user."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error


def is_stale(path: Path, content: bytes) -> bool:
    """Missing, or other bytes. A PNG need only be there: its bytes depend on the machine's zlib."""
    if not path.is_file():
        return True
    return path.suffix != ".png" and path.read_bytes() != content


def leftovers(out: Path, made: Mapping[str, bytes]) -> list[str]:
    """Pictures in the folder of figures, which holds generated ones only, that are made no more."""
    there = sorted((out / "figures").glob("*.*"))
    names = [f"figures/{path.name}" for path in there if path.suffix in (".svg", ".png")]
    return [name for name in names if name not in made]


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 bad input, 3 stopped and resumable, 1 anything else."""
    try:
        app(
            sys.argv[1:] if arguments is None else arguments,
            exit_on_error=False,
            print_error=False,
        )
    except CycloptsError as error:
        cause = error.__cause__
        fail(one_line(cause) if isinstance(cause, ValidationError) else str(error), 2)
    except ValidationError as error:
        fail(one_line(error), 2)
    except BenchError as error:
        fail(str(error), error.exit_code, error.process)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint", 3)


def fail(message: str, code: int, process: int | None = None) -> None:
    """One line on standard error, and the exit code; a caret keeps the two lines it stands in.

    Of several processes only the first prints, and another what befell it alone.
    """
    from bench.progress import rank

    prefix = "bench: " if code == 3 else "bench: error: "
    if rank():
        prefix += f"process {rank()}: "
    lines = message.rstrip().split("\n")
    shown = lines[-2:] if len(lines) > 2 and lines[-1].strip() == "^" else []
    if rank() != (process or 0):
        raise SystemExit(code)
    told = " ".join(" ".join(lines[: len(lines) - len(shown)]).split())
    print("\n".join([prefix + told, *shown]), file=sys.stderr)
    raise SystemExit(code)


__all__ = ["ConfigError", "app", "main"]
