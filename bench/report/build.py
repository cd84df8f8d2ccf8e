"""What a page is made of, and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.diagnosed import diagnosed_data
from bench.report.html import render
from bench.report.reported import reported_data
from bench.report.results import claims_data, curves_data, dials_data, lines_data, rules_data
from bench.report.tokens import Bank, token_data
from bench.tables.claims import Answer
from bench.tables.table import Table

DIGITS = 4


@dataclass(frozen=True)
class Sources:
    """What was read for a page; a part that is empty is left out of it."""

    title: str
    tables: Sequence[Table] = ()
    dial_tables: Sequence[Table] = ()
    """Of which only the dials are drawn: their lines stand in the tables of another file."""
    claims: Sequence[Answer] = ()
    runs: Sequence[Mapping[str, Any]] = ()
    """`run_data` of run folders."""
    banks: Sequence[Bank] = ()
    overlaps: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Name, and `Overlap.to_json()` of a run's shadow log."""
    diagnostics: Sequence[tuple[str, Mapping[str, Any]]] = ()
    published: str = ""
    """The text of published.csv, where the page sets it beside the tables."""
    notes: Sequence[str] = field(default_factory=tuple)


def page(sources: Sources) -> bytes:
    """One HTML file."""
    lines = lines_data(sources.tables)
    tokens = token_data(sources.banks)
    rules = {line["rule"] for line in lines}
    rules |= {rule["name"] for bank in tokens for rule in bank["rules"]}
    data: dict[str, Any] = {
        "title": sources.title,
        "notes": list(sources.notes),
        "claims": claims_data(sources.claims),
        "lines": lines,
        "rules": rules_data(rules),
        "curves": curves_data(sources.tables),
        "dials": dials_data(sources.tables) + dials_data(sources.dial_tables),
        "overlaps": [overlap_data(name, found) for name, found in sources.overlaps],
        "tokens": tokens,
        "reported": reported_data(sources.published, sources.tables) if sources.published else [],
        "diagnostics": diagnosed_data(sources.diagnostics),
        "runs": list(sources.runs),
    }
    return render(sources.title, data)


def overlap_data(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A shadow log's overlap, as far as the page draws it."""
    names = ("steps", "tokens", "keep", "jaccard_by_chance", "rules", "clustered_order",
             "jaccard", "profiles")  # fmt: skip
    return {"name": name, **{key: _rounded(found[key]) for key in names}}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
