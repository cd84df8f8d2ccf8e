"""What papers reported of token selection, each beside its own source's full row. Pure.

`published.csv` holds their numbers, one a line, none of them measured here; `read_as` says how each
was read. No two sources share a protocol: a rule is compared with the `full` of its own table, on
the same pair, benchmark and metric, and never with another source's.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from bench.core.errors import ConfigError
from bench.core.keep_schedule import HEADLINE_KEEP
from bench.tables.leaderboard import is_main
from bench.tables.sheet import NONE, Sheet, points
from bench.tables.table import Table

PUBLISHED = Path(__file__).parent / "published.csv"
NO_RULES = ("full", "untrained", "teacher", "privileged teacher", "grpo (no teacher)")
"""Rows of a source that are no way to choose tokens."""
IS_DIFFERENCE = ("minus full", "full minus", "swing")
"""Words of a selector or a metric whose number is a difference or a spread already."""
FEWEST = 2
"""Cells of a rule, and rules of a paper, without which nothing is said of their spread."""


@dataclass(frozen=True)
class Reported:
    """One published number."""

    source: str
    """A table or a section of a paper."""
    id: str
    """The paper: an arXiv id, or what stands for one."""
    read_as: str
    pair: str
    objective: str
    selector: str
    keep: str
    """Empty where it is not stated."""
    benchmark: str
    metric: str
    score: float
    """In the units of its metric, as printed."""
    note: str

    @property
    def is_mean(self) -> bool:
        """Of several benchmarks, which stand beside it or not."""
        return self.benchmark.startswith(("avg", "mean", "test avg"))

    @property
    def is_difference(self) -> bool:
        return any(word in text for word in IS_DIFFERENCE for text in (self.selector, self.metric))


def read_published(text: str) -> list[Reported]:
    """The lines of published.csv. Raises ConfigError naming the line for one that is none."""
    found = []
    for number, line in enumerate(csv.DictReader(StringIO(text)), 2):
        try:
            found.append(Reported(**{**line, "score": float(line["score"])}))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"published.csv:{number}: no published number: {error}") from None
    return found


@dataclass(frozen=True)
class Cell:
    """A rule at a keep on a pair, in one source: the mean over its benchmarks, as that table has it
    where it has one.

    Differences are in points of the source's metrics; None where no row is there to compare with.
    """

    source: str
    id: str
    read_as: str
    selector: str
    pair: str
    keep: str
    score: float
    from_full: float | None
    from_random: float | None


def cells_of(reported: Sequence[Reported]) -> list[Cell]:
    """One cell for each source, pair, objective, rule and keep, in the order of the file."""
    groups: dict[tuple[str, ...], list[Reported]] = defaultdict(list)
    for row in reported:
        if row.selector not in NO_RULES and not row.is_difference:
            key = (row.source, row.pair, row.objective, row.selector, row.keep)
            groups[key].append(row)
    full = _by_place(row for row in reported if row.selector == "full")
    random = _by_place((row for row in reported if row.selector == "random"), with_keep=True)
    cells = []
    for group in groups.values():
        rows = [row for row in group if row.is_mean] or group  # as the source itself averages
        first = rows[0]
        cells.append(
            Cell(
                first.source, first.id, first.read_as, first.selector, first.pair, first.keep,
                fmean(row.score for row in rows),
                _difference(rows, full, with_keep=False),
                None if first.selector == "random" else _difference(rows, random, with_keep=True),
            )
        )  # fmt: skip
    return cells


Places = dict[tuple[str, ...], float]


def _place(row: Reported, with_keep: bool) -> tuple[str, ...]:
    place = (row.source, row.pair, row.objective, row.benchmark, row.metric)
    return (*place, row.keep) if with_keep else place


def _by_place(rows: Iterable[Reported], with_keep: bool = False) -> Places:
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        found[_place(row, with_keep)].append(row.score)
    return {place: fmean(scores) for place, scores in found.items()}


def _difference(rows: Sequence[Reported], reference: Places, with_keep: bool) -> float | None:
    """Mean over the benchmarks that both have; None where there is none."""
    found = [
        row.score - reference[place]
        for row in rows
        if (place := _place(row, with_keep)) in reference
    ]
    return fmean(found) if found else None


def sources_sheet(cells: Sequence[Cell], tables: Sequence[Table]) -> Sheet:
    """Every rule of every source: its differences from that source's own full row."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.selector, cell.source].append(cell)
    here = _measured(tables)
    rows = []
    for (selector, source), found in sorted(groups.items(), key=lambda item: item[0]):
        differences = [cell.from_full for cell in found if cell.from_full is not None]
        rows.append((
            selector, source, found[0].id, found[0].read_as, str(len(found)),
            *_spread(differences), here.get(selector, NONE),
        ))  # fmt: skip
    return Sheet(
        "Reported elsewhere, each from its own source's full row",
        ("rule", "source", "paper", "read as", "cells", "mean", "least to most", "above full",
         f"here at {HEADLINE_KEEP:g}"),
        tuple(rows),
        (
            "Others' numbers, on other models, data and budgets; none of the first eight columns "
            "was measured here, and no two sources share a protocol: nothing is ranked across "
            "them. A cell is a pair and a keep, its difference the mean over the benchmarks of the "
            "source's own table. A source without a full row has no differences. The last column "
            "is this project's own difference from `full`, in its default regime.",
        ),
    )  # fmt: skip


def _spread(differences: Sequence[float]) -> tuple[str, str, str]:
    if not differences:
        return (NONE, NONE, NONE)
    least, most = min(differences), max(differences)
    above = sum(difference > 0 for difference in differences)
    return (
        points(fmean(differences) / 100),
        f"{points(least / 100)} to {points(most / 100)}",
        f"{above} of {len(differences)}",
    )


def _measured(tables: Sequence[Table]) -> dict[str, str]:
    """rule -> our difference from `full` at HEADLINE_KEEP in the default regime, pair by pair."""
    found: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        if is_main(table) and not table.changes and not table.has_no_keep:
            for line in table.arms():
                if line.keep == HEADLINE_KEEP and line.vs_full is not None and not line.params:
                    found[line.rule].append(f"{points(line.vs_full.mean)} on {table.pair}")
    return {rule: "; ".join(texts) for rule, texts in found.items()}


@dataclass(frozen=True)
class Spread:
    """Whether a paper's rules can be told apart, on one pair, by its own numbers."""

    id: str
    pair: str
    rules: int
    cells: int
    f_value: float
    p_value: float
    between: float
    """Standard deviation over all cells."""
    within: float
    """Mean over rules of the standard deviation over keeps."""


def spreads_of(cells: Sequence[Cell]) -> list[Spread]:
    """One-way analysis of variance of each paper and pair: rules, over their keeps.

    All tables of a paper are pooled; a rule at a keep that two of them have counts once, the first
    one. Rules with fewer than FEWEST cells say nothing of spread and are left out.
    """
    by_pair: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for cell in cells:
        if cell.keep not in ("", "1.0") and cell.selector != "random":
            by_pair[cell.id, cell.pair][cell.selector].setdefault(cell.keep, cell.score)
    found = []
    for (paper, pair), rules in by_pair.items():
        groups = [list(by_keep.values()) for by_keep in rules.values() if len(by_keep) >= FEWEST]
        if len(groups) < FEWEST:
            continue
        test = stats.f_oneway(*groups)
        every = [score for group in groups for score in group]
        found.append(
            Spread(paper, pair, len(groups), len(every), float(test.statistic), float(test.pvalue),
                   stdev(every), fmean(map(stdev, groups)))
        )  # fmt: skip
    return found


def spreads_sheet(cells: Sequence[Cell]) -> Sheet | None:
    """Can the papers' own numbers tell their rules apart?"""
    rows = tuple(
        (
            one.id, one.pair, str(one.rules), str(one.cells), f"{one.within:.2f}",
            f"{one.between:.2f}",
            f"F({one.rules - 1}, {one.cells - one.rules}) = {one.f_value:.1f}",
            f"{one.p_value:.2g}",
        )
        for one in spreads_of(cells)
    )  # fmt: skip
    if not rows:
        return None
    return Sheet(
        "Reported elsewhere: are the rules of one paper told apart?",
        ("paper", "pair", "rules", "cells", "sd over keeps", "sd over all", "rules against keeps",
         "p"),
        rows,
        (
            "One-way analysis of variance of a paper's own cells on one pair, rules against the "
            "keeps that each was run at, `random` and `full` left out; a cell is the mean over "
            "benchmarks of a single training run. A large p: the rules differ no more than one "
            "rule does from keep to keep.",
        ),
    )  # fmt: skip


def random_sheet(cells: Sequence[Cell]) -> Sheet | None:
    """Every rule against the random choice of its own source, pooled over pairs and keeps."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells:
        if cell.from_random is not None:
            groups[cell.id, cell.selector].append(cell.from_random)
    rows = []
    for (paper, selector), found in sorted(groups.items()):
        interval, above = NONE, f"{sum(x > 0 for x in found)} of {len(found)}"
        if len(found) > FEWEST:
            half = stats.sem(found) * stats.t.ppf(0.975, len(found) - 1)
            mean = fmean(found)
            interval = f"{points((mean - half) / 100)} to {points((mean + half) / 100)}"
        rows.append((paper, selector, str(len(found)), points(fmean(found) / 100), interval, above))
    if not rows:
        return None
    return Sheet(
        "Reported elsewhere: against the random choice of the same source",
        ("paper", "rule", "cells", "mean", "95 % over cells", "above random"),
        tuple(rows),
        (
            "Differences at the same pair and keep, averaged over benchmarks and pooled over the "
            "cells of a paper, each a single training run; the intervals are of one comparison and "
            "over the paper's own cells, not over training seeds.",
        ),
    )


def published_sheets(text: str, tables: Sequence[Table]) -> list[Sheet]:
    """All that is said of others' numbers."""
    cells = cells_of(read_published(text))
    if not cells:
        return []
    more = (random_sheet(cells), spreads_sheet(cells))
    return [sources_sheet(cells, tables), *(sheet for sheet in more if sheet is not None)]
