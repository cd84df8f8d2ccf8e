"""Commands about what there is to choose from: selectors, pairs, data sets."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.cli.console import (
    DEFAULT_EXPERIMENT,
    DEFAULT_RUNTIME,
    AsJson,
    Flat,
    RunsDir,
    fail,
    is_stale,
    print_json,
    with_preset,
)
from bench.core.config import ConfigError, Experiment, Runtime

pairs_app = App(name="pairs", help="List the teacher-student pairs, or build an embedded one.")
selectors_app = App(name="selectors", help="List the registered selectors, or show one.")
data_app = App(name="data", help="The public data sets: what is here, and getting the rest.")


@selectors_app.default
def selectors(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the registered selectors with kind, needs, source and one line."""
    from bench.cli import screen
    from bench.selection.registry import get_selector, selector_names

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
    from bench.cli import screen
    from bench.selection.registry import get_selector

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
    from bench.cli import screen
    from bench.selection import contract

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
    from bench.cli.catalogue import markdown

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
    from bench.cli import screen
    from bench.pairs.pair import get_pair, pair_names

    rows = [screen.pair_page(get_pair(name)) for name in pair_names()]
    if as_json:
        print_json(rows)
    else:
        screen.print_pairs(rows)


@pairs_app.command(name="show")
def pairs_show(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Print a pair: models, revisions, chat, stop tokens, recommended settings, source."""
    from bench.cli import screen
    from bench.pairs.pair import get_pair

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
    from bench.pairs.tiny.build import build_pair

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
    from bench.pairs.pair import get_pair
    from bench.pairs.tiny.build import retune_teacher

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
    from bench.cli import screen
    from bench.tasks.maths_sets import MATH_SETS, data_folder, find_file

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
    from bench.tasks.prompt_file import fetch

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
    from bench.cli import screen
    from bench.run.run_experiment import prompt_report

    report = prompt_report(with_preset(experiment, preset), runtime)
    if as_json:
        print_json(report)
    else:
        screen.print_prompt_report(report)
