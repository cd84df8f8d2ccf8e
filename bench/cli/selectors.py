"""`bench selectors`: the rules there are, one of them, its contract, the catalogue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from bench.cli.console import (
    AsJson,
    RunsDir,
    console,
    escape,
    fail,
    print_json,
    write_file,
)
from bench.core.files import is_stale

if TYPE_CHECKING:
    from bench.selection.contract import Finding
    from bench.selection.registry import Selector

selectors_app = App(
    name="selectors",
    help="""List the registered selectors, or show one.

    Example: `bench selectors`
    """,
)
CATALOGUE = Path("selectors/README.md")
ONLY_SHOWN = ("docstring", "parameters", "example")
"""What `bench selectors show` says of a selector and the list does not."""


@selectors_app.default
def selectors(
    *,
    objectives: Annotated[
        bool, Parameter(help="List the objectives that rules are crossed with.", negative=())
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the registered selectors with kind, needs, source and one line."""
    if objectives:
        return _list_objectives(as_json)
    from bench.selection.registry import get_selector, selector_names

    pages = [selector_page(get_selector(name)) for name in selector_names()]
    rows = [{key: page[key] for key in page if key not in ONLY_SHOWN} for page in pages]
    if as_json:
        print_json(rows)
    else:
        print_selectors(rows)


def _list_objectives(as_json: bool) -> None:
    from bench.cli.catalogue import objective_page
    from bench.core.objectives import OBJECTIVES

    pages = [objective_page(name) for name in OBJECTIVES]
    if as_json:
        print_json(pages)
        return
    table = Table("name", "parameters", "loss of a token", "source")
    for page in pages:
        named = ", ".join(f"{name}={value:g}" for name, value in page["parameters"].items())
        table.add_row(page["name"], named, escape(page["summary"]), escape(page["source"]))
    console().print(table)


@selectors_app.command
def show(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Print a selector's docstring, parameters and an example.

    Example: `bench selectors show teachability`
    """
    from bench.selection.registry import get_selector

    found = get_selector(name)
    if as_json:
        print_json(selector_page(found))
    else:
        print_selector(found)


@selectors_app.command
def check(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Try a rule, `my_rule.py:my_rule` or a name, on everything that a selector owes.

    Example: `bench selectors check ./my_rule.py:my_rule`

    Prints each promise, and how it is broken. Exit code 1 when one is.
    """
    from bench.selection import contract

    findings = list(contract.check(name))
    if as_json:
        print_json({"selector": name, "findings": [vars(finding) for finding in findings]})
    else:
        print_findings(name, findings)
    broken = sum(bool(finding.broken) for finding in findings)
    if broken:
        fail(f"selector {name!r} breaks {broken} of {len(findings)} promises", 1)


@selectors_app.command
def catalogue(
    *,
    out: Annotated[
        Path | None, Parameter(help="The file that is written (default: none, it is printed).")
    ] = None,
    check: Annotated[
        bool,
        Parameter(
            help="Write nothing; exit 1 where the file differs (default: selectors/README.md).",
            negative=(),
        ),
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """The catalogue of all rules, objectives and words of expressions, from the registry.

    Example: `bench selectors catalogue --check`
    """
    from bench.cli.catalogue import markdown

    content = markdown()
    if out is None and not check:
        print_json({"page": content}) if as_json else print(content, end="")
        return
    out = out or CATALOGUE
    stale = is_stale(out, content.encode())
    if not check:
        write_file(out, content.encode())
    if as_json:
        print_json({"file": str(out), "stale": stale})
    elif not check:
        print(f"wrote {out}")
    if check and stale:
        fail(f"stale: {out}; bench selectors catalogue --out {out} writes it again", 1)


def print_selectors(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("name", "kind", "keeps", "needs", "source")
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        table.add_row(
            escape(row["name"]), row["kind"], escape(row["summary"]), needs, escape(row["source"])
        )
    console().print(table)


def print_findings(name: str, findings: "Sequence[Finding]") -> None:
    """What a rule keeps of the contract, and how it breaks the rest."""
    table = Table("", "promise", title=escape(name), title_justify="left")
    for finding in findings:
        told = f"[bold]{escape(finding.broken)}[/bold]" if finding.broken else ""
        verdict = "[red]broken[/red]" if finding.broken else "kept"
        table.add_row(verdict, escape(finding.promise) + (f"\n{told}" if told else ""))
    console().print(table)


def selector_page(selector: "Selector") -> dict[str, Any]:
    """Everything `bench selectors show` says; all but ONLY_SHOWN is in the list as well."""
    import inspect

    parameters = selector.parameters()
    shown = f"'{selector.reference}'" if selector.parts else selector.name
    example = f"bench run --selector {shown}"
    if parameters:
        name, default = next(iter(parameters.items()))
        example += f" --selector-params {name}={default}"
    if selector.keep is None and selector.kind == "score" and not selector.sets_keep:
        example += " --keep 0.05"
    return {
        "name": selector.name,
        "kind": selector.kind,
        "needs": list(selector.needs),
        "source": selector.source,
        "summary": selector.summary,
        "docstring": inspect.getdoc(selector.rule) or "",
        "parameters": parameters,
        "reads_sampled_token": selector.reads_sampled_token,
        "abstains": selector.abstains,
        "formula": selector.formula,
        "cost": selector.cost,
        "deviations": selector.deviations,
        "example": example,
    }


def print_selector(selector: "Selector") -> None:
    page, out = selector_page(selector), console()
    out.print(f"[bold]{escape(selector.name)}[/bold]  ({selector.kind})")
    out.print(escape(page["docstring"]), highlight=False)
    out.print(f"\nneeds       {', '.join(page['needs']) or 'nothing'}", highlight=False)
    named = ", ".join(f"{name}={default!r}" for name, default in page["parameters"].items())
    out.print(f"cost        {page['cost']}", highlight=False)
    out.print(f"parameters  {escape(named) or 'none'}", highlight=False)
    out.print(f"example     {escape(page['example'])}", highlight=False)
