"""Rows of finished runs -> tables, as data; table_sheets writes them. Pure: no input or output.

A table holds one pair, one task and one regime (`bench.tables.rows`).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.core.config import PRESETS, ConfigError
from bench.core.records import canonical_json
from bench.core.stats import (
    Difference,
    Verdict,
    crossed_difference,
    mean_estimate,
    paired_difference,
    probability_of_improvement,
    verdicts,
)
from bench.tables.rows import (
    BASELINES,
    DEFAULTS,
    MEASURES,
    Row,
    Tuned,
    plain,
    regime_changes,
    regime_name,
)


@dataclass(frozen=True)
class Comparison:
    """A rule's paired difference from a reference, over their common seeds and all items."""

    mean: float
    seeds: int
    crossed: Difference | None
    """None for one common seed, which has no interval over seeds."""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Line:
    """One line of a table: a rule at one budget, or a model that was not trained."""

    label: str
    accuracy: float
    ci95: tuple[float, float]
    """Over seeds and items; over items alone for one seed and for baselines."""
    parse_failure_rate: float
    truncation_rate: float
    task: str
    selector: str = ""
    params: str = ""
    keep: float = 0.0
    runs: tuple[Row, ...] = ()
    """By seed; none for a baseline."""
    vs_full: Comparison | None = None
    vs_random: Comparison | None = None
    beats_random: float | None = None
    """Probability of improvement over random at the same keep."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @cached_property
    def accuracy_S(self) -> tuple[float, ...]:
        return tuple(float(np.mean(run.items["trained"][self.task])) for run in self.runs)

    @property
    def seed_sd(self) -> float | None:
        return float(np.std(self.accuracy_S, ddof=1)) if len(self.runs) > 1 else None

    @property
    def seeds_ci95(self) -> tuple[float, float]:
        """95 % interval of the mean over training seeds, for these items; the mean for one seed."""
        if len(self.runs) < 2:
            return (self.accuracy, self.accuracy)
        low, high = paired_difference(self.accuracy_S, [0.0] * len(self.runs)).ci95
        return (max(0.0, low), min(1.0, high))

    @property
    def effective_sample_size(self) -> float | None:
        sizes = [run.effective_sample_size for run in self.runs]
        known = [size for size in sizes if size is not None]
        return sum(known) / len(known) if known else None

    @property
    def peak_memory_bytes(self) -> int:
        return max(run.peak_memory_bytes for run in self.runs)

    @property
    def training_seconds(self) -> float:
        """Mean over seeds, without the shadow panel, and without evaluation: only a pair's first
        run scores the baselines."""
        return self.mean_of(
            lambda run: (
                run.seconds["total"] - run.seconds["evaluate"] - run.seconds.get("shadow", 0.0)
            )
        )

    def mean_of(self, value) -> float:
        """Mean over seeds of a number of each run."""
        return sum(map(value, self.runs)) / len(self.runs)


@dataclass(frozen=True)
class Table:
    """All rules of one pair, task and regime.

    Rules without a keep to match, weights and budgets of their own, have tables of their own.
    """

    pair: str
    task: str
    changes: Mapping[str, Any]
    """Fields of Experiment that are not at their defaults."""
    lines: tuple[Line, ...]
    has_no_keep: bool
    warnings: tuple[str, ...] = ()
    tuning: Tuned | None = None
    """Where every rule has its own best values of some fields: the budget that found them."""

    @property
    def regime(self) -> str:
        if self.tuning is None:
            return regime_name(self.changes)
        return f"{regime_name(self.changes)}, {'+'.join(self.tuning.ranges)} tuned"

    @property
    def setting(self) -> str:
        """All but the pair, in words."""
        return f"{self.task}, regime {self.regime}, {self.items:,} items"

    @property
    def where(self) -> str:
        """What the table is of, in words."""
        return f"{self.pair}, {self.setting}"

    @property
    def facts(self) -> dict[str, float]:
        """What the pair says of itself as one of a family."""
        return self.arms()[0].runs[0].pair_facts

    @property
    def items(self) -> int:
        return len(self.lines[-1].runs[0].items["trained"][self.task])

    @property
    def steps(self) -> int:
        return self.changes.get("steps", DEFAULTS["steps"])

    def arms(self, selector: str | None = None) -> list[Line]:
        """The trained lines, perhaps of one selector only."""
        return [line for line in self.lines if line.runs and selector in (None, line.selector)]

    def comparisons(self) -> list[Comparison]:
        """The family of Holm's adjustment: every comparison that has an interval."""
        return [c for line in self.lines for c in (line.vs_full, line.vs_random)
                if c is not None and c.crossed is not None]  # fmt: skip


UNREAD: dict[str, tuple[str, ...]] = {
    "full": ("k", "keep", "scope", "min_keep_per_response", "ties"),
    "random": ("k",),
}
"""Fields that a reference trains alike under any value of: neither reads a signal, so no top-K set,
and `full` selects every token whatever spends the budget."""


def make_tables(rows: Iterable[Row], tunings: Iterable[Tuned] = ()) -> list[Table]:
    """Every table, the default regime first. Raises ConfigError where items do not pair up.

    A table lacks no `full` or `random` that was run in a regime where they train alike. A tuning
    adds a table for each pair, of the rows that were run at each rule's own best values, and takes
    away those that would only hold a part of it.
    """
    rows = list(rows)
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    alike: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.run_id):
        changes, selector = regime_changes(row.experiment), row.experiment["selector"]
        for task in row.scores["trained"]:
            groups[canonical_json(changes), row.experiment["pair"], task].append(row)
            if selector in UNREAD:
                read = _read_by(selector, changes)
                alike[selector, read, row.experiment["pair"], task].append(row)
    tables = []
    for (text, pair, task), own in groups.items():
        changes, keeps = json.loads(text), {row.experiment["keep"] for row in own}
        known = {row.run_id for row in own}
        borrowed = [
            row
            for name in UNREAD
            for row in alike.get((name, _read_by(name, changes), pair, task), ())
            if row.run_id not in known and (name == "full" or row.experiment["keep"] in keeps)
        ]
        tables += _tables(pair, task, changes, own, borrowed)
    tuned = [table for tuning in tunings for table in _tuned_tables(rows, tuning)]
    tables = [table for table in tables if not any(_is_part(table, of) for of in tuned)]
    return sorted(
        [*tables, *tuned],
        key=lambda t: (t.tuning is not None, _regime_order(t.changes), t.pair, t.task,
                       t.has_no_keep),
    )  # fmt: skip


def _read_by(reference: str, changes: Mapping[str, Any]) -> str:
    """The part of a regime that decides how a reference trains."""
    read = {name: value for name, value in changes.items() if name not in UNREAD[reference]}
    if reference == "full" and read.get("normalize") == "all":
        del read["normalize"]  # all sampled tokens are the selected ones: the same denominator
    return canonical_json(read)


def _tables(
    pair: str, task: str, changes: dict[str, Any], own: Sequence[Row], borrowed: Sequence[Row] = ()
) -> Iterator[Table]:
    """The table of the rules at a keep, and that of the rules without one, where there are any."""
    for has_no_keep in (False, True):
        if any(row.has_no_keep == has_no_keep for row in own):
            yield _table(pair, task, changes, [*own, *borrowed], has_no_keep)


def _tuned_tables(rows: Sequence[Row], tuning: Tuned) -> Iterator[Table]:
    """The tables of one tuning. `full` and the rules are each at their own best values."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for cell in tuning.cells.values():
        wanted = _training({**cell.experiment, **cell.best})
        changes = {
            name: value
            for name, value in regime_changes(cell.experiment).items()
            if name not in tuning.ranges
        }
        for row in rows:
            if _training(row.experiment) == wanted:
                for task in row.scores["trained"]:
                    groups[canonical_json(changes), row.experiment["pair"], task].append(row)
    for (changes, pair, task), group in groups.items():
        group.sort(key=lambda row: row.run_id)
        for table in _tables(pair, task, json.loads(changes), group):
            yield replace(table, tuning=tuning)


def _is_part(table: Table, tuned: Table) -> bool:
    """Only the tuning made this regime: a reference is missing, and all its runs are in `tuned`."""
    assert tuned.tuning is not None
    changed = set(table.changes) & set(tuned.tuning.ranges)
    if not changed or all(table.arms(name) for name in UNREAD):
        return False
    runs, others = ({run.run_id for line in t.arms() for run in line.runs} for t in (table, tuned))
    return table.task == tuned.task and runs <= others


def _training(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the trained weights but the seed; fields that a row lacks are at defaults."""
    values = {**DEFAULTS, **experiment}
    return {n: v for n, v in values.items() if n not in (*MEASURES, "seed")}


def is_main(table: Table) -> bool:
    """The default regime or a preset."""
    return table.tuning is None and regime_name(table.changes) in ("default", *PRESETS)


def _regime_order(changes: Mapping[str, Any]) -> tuple:
    name = regime_name(changes)
    numbers = tuple(float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", name))
    return (name != "default", not name.startswith(tuple(PRESETS)), re.sub(r"[\d.]", "", name),
            numbers, name)  # fmt: skip


def _table(
    pair: str, task: str, changes: dict[str, Any], rows: Sequence[Row], has_no_keep: bool
) -> Table:
    """The table of these rows; of two runs of one seed in an arm the first counts."""
    sizes = {len(row.items["trained"][task]): row.run_id for row in rows}
    if len(sizes) > 1:
        named = ", ".join(f"{run_id!r} {n}" for n, run_id in sorted(sizes.items()))
        raise ConfigError(f"{task}: runs of one table answered different numbers of items: {named}")
    arms: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        made_of = row.experiment
        if row.has_no_keep == has_no_keep or made_of["selector"] == "full":
            params = _params(made_of["selector_params"])
            arm = arms[made_of["selector"], params, row.keep]
            # The same training, run again to measure something else, is not another seed.
            if made_of["seed"] not in {run.experiment["seed"] for run in arm}:
                arm.append(row)
    several = {s for s, n in Counter(s for s, _ in {(s, p) for s, p, _ in arms}).items() if n > 1}
    lines = [_arm(task, key, runs, key[0] in several) for key, runs in arms.items()]
    full = next((line for line in lines if line.selector == "full"), None)
    random = {line.keep: line for line in lines if line.selector == "random"}
    lines = _judged([_compared(line, full, random.get(line.keep)) for line in lines])
    lines.sort(key=lambda line: (line.selector != "full", line.keep, -line.accuracy, line.label))
    baselines, warnings = _baselines(task, rows)
    warnings += [
        f"Warning: {line.label} spent {spent:.3f} of keep {line.keep:g}: it left budget unspent"
        for line in lines
        if not has_no_keep
        and (spent := line.mean_of(lambda run: run.realised_keep)) < 0.98 * line.keep
    ]
    return Table(pair, task, changes, (*baselines, *lines), has_no_keep, tuple(warnings))


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={plain(value)}" for name, value in sorted(params.items()))


def _arm(task: str, key: tuple[str, str, float], rows: Iterable[Row], show_params: bool) -> Line:
    """One line. Parameters are shown where a table holds a rule with several of them."""
    selector, params, keep = key
    runs = tuple(sorted(rows, key=lambda row: row.seed))
    score_SI = np.array([run.items["trained"][task] for run in runs])
    if len(runs) > 1:
        low, high = crossed_difference(score_SI).ci95
    else:
        low, high = mean_estimate(score_SI[0].tolist()).ci95
    scores = [run.scores["trained"][task] for run in runs]
    return Line(
        label=f"{selector} ({params})" if params and show_params else selector,
        accuracy=float(score_SI.mean()),
        ci95=(max(0.0, low), min(1.0, high)),
        parse_failure_rate=sum(s["parse_failure_rate"] for s in scores) / len(scores),
        truncation_rate=sum(s["truncation_rate"] for s in scores) / len(scores),
        task=task,
        selector=selector,
        params=params,
        keep=keep,
        runs=runs,
    )


def _baselines(task: str, rows: Sequence[Row]) -> tuple[list[Line], list[str]]:
    """The untrained student and the teacher, and a warning where runs disagree about them."""
    lines, warnings = [], []
    for who in BASELINES:
        means = sorted({float(np.mean(row.items[who][task])) for row in rows})
        if len({row.items[who][task] for row in rows}) > 1:
            warnings.append(
                f"Warning: the runs disagree about {who} ({100 * means[0]:.1f} to "
                f"{100 * means[-1]:.1f} %): other machines, or a pair that was rebuilt"
            )
        row = rows[0]
        score, estimate = row.scores[who][task], mean_estimate(row.items[who][task])
        lines.append(
            Line(who, estimate.mean, estimate.ci95, score["parse_failure_rate"],
                 score["truncation_rate"], task)
        )  # fmt: skip
    return lines, warnings


def compare(line: Line, reference: Line | None) -> Comparison | None:
    """The paired difference over the seeds that both have; None where there is none."""
    if reference is None or reference is line:
        return None
    common = sorted(set(line.seeds) & set(reference.seeds))
    if not common:
        return None
    score_SI, other_SI = (
        np.array([run.items["trained"][line.task] for run in arm.runs if run.seed in common])
        for arm in (line, reference)
    )
    difference_SI = score_SI - other_SI
    crossed = crossed_difference(difference_SI) if len(common) > 1 else None
    return Comparison(float(difference_SI.mean()), len(common), crossed)


def _compared(line: Line, full: Line | None, random: Line | None) -> Line:
    beats = None
    if random not in (None, line) and min(len(line.runs), len(random.runs)) > 1:
        beats = probability_of_improvement(line.accuracy_S, random.accuracy_S)
    return replace(
        line,
        vs_full=compare(line, full),
        vs_random=compare(line, random),
        beats_random=beats,
    )


def _judged(lines: Sequence[Line]) -> list[Line]:
    """The lines with verdicts: one Holm family over every comparison of the table."""
    places = [(number, name) for number in range(len(lines)) for name in ("vs_full", "vs_random")]
    open_ = {
        (number, name): comparison
        for number, name in places
        if (comparison := getattr(lines[number], name)) and comparison.crossed
    }
    found = verdicts([comparison.crossed for comparison in open_.values()]) if open_ else []
    judged = list(lines)
    for ((number, name), comparison), verdict in zip(open_.items(), found, strict=True):
        judged[number] = replace(judged[number], **{name: replace(comparison, verdict=verdict)})
    return judged
