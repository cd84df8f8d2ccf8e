"""Cells of text -> a Markdown table. Imports no sibling."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(map(bar, [header, ["---"] * len(header), *rows])) + "\n"


def bar(cells: Iterable[str]) -> str:
    """One line of a table; a bar inside a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
