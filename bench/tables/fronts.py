"""What a search with several objectives found: of every rule the points that nothing beats. Pure.

The points were chosen on the tuning task at the tuning's seed; what is said of them is the reported
accuracy at the sweep's own seeds, and what those runs cost.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.stats import crossed_mean, mean_estimate
from bench.tables.leaderboard import but_seed
from bench.tables.rows import Row, Tuned
from bench.tables.sheet import NONE, Sheet, points
from bench.tables.table import scores_of

COSTS = {"trained": "tokens trained on", "scored": "tokens scored by the teacher"}


@dataclass(frozen=True)
class Point:
    """One rule at one point of its front, as it was reported."""

    selector: str
    params: dict[str, Any]
    on_tune: float
    accuracy: float
    ci95: tuple[float, float]
    """Over seeds and items; over items alone for one seed."""
    costs: dict[str, float]
    """Mean over seeds of what a run of it spent."""
    seeds: int


@dataclass(frozen=True)
class Fronts:
    """The fronts of all rules on one pair and task."""

    pair: str
    task: str
    tuning: Tuned
    by_rule: dict[str, list[Point]]
    """Each from the cheapest up."""

    @property
    def where(self) -> str:
        return f"{self.pair}, {self.task}, {self.tuning.sweep}"

    @property
    def costs(self) -> tuple[str, ...]:
        return self.tuning.objectives[1:]

    def overall(self, cost: str) -> list[Point]:
        """The points that none of any rule is more accurate than at the same cost or less."""
        every = [point for found in self.by_rule.values() for point in found]
        every.sort(key=lambda point: (point.costs[cost], -point.accuracy))
        kept: list[Point] = []
        for point in every:
            if not kept or point.accuracy > kept[-1].accuracy:
                kept.append(point)
        return kept


def fronts_of(rows: Sequence[Row], tunings: Sequence[Tuned]) -> list[Fronts]:
    """Of every tuning with several objectives, by pair and task; points without rows are absent."""
    found: dict[tuple[int, str, str], dict[str, list[Point]]] = defaultdict(
        lambda: defaultdict(list)
    )
    by_training: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_training[but_seed(row.experiment)].append(row)
    for number, tuning in enumerate(tunings):
        for cell in tuning.cells.values() if tuning.has_front else ():
            for chosen in cell.front:
                runs = by_training.get(but_seed({**cell.experiment, **chosen.params}), [])
                runs = sorted({run.seed: run for run in runs}.values(), key=lambda run: run.seed)
                for task in runs[0].scores["trained"] if runs else ():
                    point = _point(cell.experiment["selector"], chosen, runs, task, tuning)
                    found[number, runs[0].experiment["pair"], task][point.selector].append(point)
    return [
        Fronts(pair, task, tunings[number], dict(sorted(by_rule.items())))
        for (number, pair, task), by_rule in sorted(found.items(), key=lambda item: item[0])
    ]


def _point(selector: str, chosen: Any, runs: Sequence[Row], task: str, tuning: Tuned) -> Point:
    score_SI = scores_of(runs, task)
    estimate = crossed_mean(score_SI) if len(runs) > 1 else mean_estimate(score_SI[0].tolist())
    costs = {
        name: sum(run.tokens[name] for run in runs) / len(runs) for name in tuning.objectives[1:]
    }
    low, high = estimate.ci95
    return Point(selector, chosen.params, chosen.values[0], float(score_SI.mean()),
                 (max(0.0, low), min(1.0, high)), costs, len(runs))  # fmt: skip


def fronts_sheet(fronts: Fronts) -> Sheet:
    """Every point of every rule's front, and which of all are on the front of all rules."""
    names = list(fronts.tuning.ranges)
    best = {id(point) for cost in fronts.costs for point in fronts.overall(cost)}
    rows = []
    for rule, found in fronts.by_rule.items():
        for point in sorted(found, key=lambda point: point.costs[fronts.costs[0]]):
            low, high = (points(end, False) for end in point.ci95)
            rows.append((
                rule, *(_value(point.params.get(name)) for name in names),
                *(f"{point.costs[cost]:,.0f}" for cost in fronts.costs),
                points(point.on_tune, False),
                f"{points(point.accuracy, False)} ({low} to {high})", str(point.seeds),
                "yes" if id(point) in best else "",
            ))  # fmt: skip
    return Sheet(
        f"Front: {fronts.where}",
        ("rule", *names, *(COSTS[cost] for cost in fronts.costs), "on tune %", "reported %",
         "seeds", "front of all"),
        tuple(rows),
        (
            f"{fronts.tuning.trials} trials for every rule by {fronts.tuning.sampler} on "
            f"{fronts.tuning.task} at seed {fronts.tuning.seed}, for accuracy up and "
            f"{' and '.join(COSTS[cost] for cost in fronts.costs)} down. Each rule's points are "
            "those that no other of its trials beats in everything; they were run again at the "
            "sweep's own seeds and are reported on items that the search never saw. *Front of "
            "all*: no point of any rule is as cheap and more accurate, as reported; the intervals "
            "say how sure that is.",
        ),
    )  # fmt: skip


def _value(value: Any) -> str:
    return NONE if value is None else f"{value:.3g}"
