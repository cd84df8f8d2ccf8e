"""What papers reported, each as a difference from its own source's full row, and ours beside it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from bench.core.keep_schedule import HEADLINE_KEEP
from bench.tables.leaderboard import is_main
from bench.tables.published import cells_of, read_published
from bench.tables.table import Table


def reported_data(published: str, tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Rules with a number to compare, those with most cells first.

    cells     points of the source's own metric from the source's own full row
    measured  ours, points of accuracy from `full` at 5 % in the main regime, with 95 % interval
    """
    cells = [cell for cell in cells_of(read_published(published)) if cell.from_full is not None]
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for table in tables:
        if not is_main(table):
            continue
        for line in table.arms():
            if line.keep == HEADLINE_KEEP and line.vs_full is not None:
                crossed = line.vs_full.crossed
                low, high = crossed.ci95 if crossed else (None, None)
                measured[line.rule].append(
                    {
                        "pair": table.pair, "points": _points(line.vs_full.mean),
                        "low": _points(low), "high": _points(high),
                        "verdict": line.vs_full.verdict, "seeds": line.vs_full.seeds,
                    }
                )  # fmt: skip
    by_rule: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        by_rule[cell.selector].append(
            {
                "source": cell.source, "id": cell.id, "pair": cell.pair, "keep": cell.keep,
                "points": round(float(cell.from_full or 0), 3), "read_as": cell.read_as,
            }
        )  # fmt: skip
    found = [
        {"rule": rule, "cells": own, "measured": measured.get(rule, [])}
        for rule, own in by_rule.items()
    ]
    return sorted(found, key=lambda one: (-len(one["cells"]), one["rule"]))


def _points(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 3)
