"""Rows of finished runs -> tables, as data; bench.sheets writes them. Pure: no input or output.

A table holds one pair, one task and one regime: every field of Experiment but pair, selector,
selector_params, keep and seed is equal in all its rows.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError
from scipy.stats import rankdata

from bench.config import PRESETS, ConfigError, Experiment, one_line
from bench.keep import mean_keep
from bench.records import SCHEMA_VERSION, RunRecord, canonical_json
from bench.stats import (
    Difference,
    Verdict,
    crossed_difference,
    mean_estimate,
    paired_difference,
    probability_of_improvement,
    verdicts,
)

VARIES = ("pair", "selector", "selector_params", "keep", "seed")
"""Fields of Experiment that may differ inside a table (pair: inside the overall one)."""
DEFAULTS = {n: value for n, value in Experiment().all_values().items() if n not in VARIES}
"""Also of fields that a dump leaves out: a row may state one at its default."""
MEASURES = ("eval_tasks", "eval_every", "curve_tasks", "curve_items")
"""Fields that say what else is measured and leave the training as it is: no part of a regime."""
BASELINES = ("untrained", "teacher")
BOOTSTRAP_SEED, BOOTSTRAP_DRAWS = 0, 10_000


class Row(RunRecord):
    """One line of rows.jsonl."""

    items: dict[str, dict[str, tuple[float, ...]]]
    """untrained | trained | teacher -> task -> per-item scores."""

    @property
    def seed(self) -> int:
        return self.experiment["seed"]

    @property
    def keep(self) -> float:
        """The budget as a number; of a schedule, its mean over the steps."""
        return mean_keep(self.experiment["keep"], self.experiment["steps"])

    @property
    def has_no_keep(self) -> bool:
        """Weights, and rules that set a budget of their own: no `random` has the same keep."""
        if self.experiment["selector"] == "full":
            return False
        return self.effective_sample_size is not None or (
            self.experiment["keep"] == 1.0 and self.realised_keep < 1.0
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
    tuning: "Tuned | None" = None
    """Where every rule has its own best values of some fields: the budget that found them."""

    @property
    def regime(self) -> str:
        if self.tuning is None:
            return regime_name(self.changes)
        return f"{regime_name(self.changes)}, {'+'.join(self.tuning.ranges)} tuned"

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


@dataclass(frozen=True)
class Ranks:
    """Average ranks over pairs of the rules that every pair has at one keep (and of `full`)."""

    task: str
    regime: str
    keep: float
    pairs: tuple[str, ...]
    lines: tuple[tuple[str, float, tuple[float, float], tuple[float, ...]], ...]
    """label, average rank (1 is best), 95 % interval over seeds, rank in each pair."""


class TunedCell(BaseModel):
    """One rule at one setting, whose values were chosen by the tuning."""

    experiment: dict[str, Any]
    best: dict[str, Any]
    value: float
    trials: list[dict[str, Any]]


class Tuned(BaseModel):
    """A tuning.json: what every cell was given, and what it found."""

    sweep: str
    sampler: str
    trials: int
    task: str
    seed: int
    ranges: dict[str, Any]
    cells: dict[str, TunedCell]


def read_tuned(name: str, text: str) -> Tuned:
    """A tuning.json. Raises ConfigError naming the file for anything else."""
    try:
        return Tuned.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{name}: not the result of a tuning: {one_line(error)}"[:400]) from None


def read_rows(texts: Mapping[str, str]) -> list[Row]:
    """Rows of the texts of one or more rows.jsonl files, by file name, each run once, by run id.

    Raises ConfigError naming file and line for a line that is no row of this schema, and naming
    both lines for two rows of one run that disagree, or two runs of one experiment.
    """
    found: dict[str, tuple[str, Row]] = {}
    for name, text in texts.items():
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place, row = f"{name}:{number}", _row(line, f"{name}:{number}", number == len(lines))
            if row.run_id in found:
                row = _same_run(found[row.run_id], (place, row))
            found[row.run_id] = (place, row)
    by_experiment: dict[str, tuple[str, Row]] = {}
    for place, row in sorted(found.values(), key=lambda item: item[1].run_id):
        other_place, other = by_experiment.setdefault(canonical_json(row.experiment), (place, row))
        if other is not row:
            raise ConfigError(
                f"{place}: run {row.run_id!r} has the same experiment as {other.run_id!r} in "
                f"{other_place}: a rule, a model or a tokenizer was edited between the two; "
                "keep the rows of one of them"
            )
    return [row for _, row in by_experiment.values()]


def _row(line: str, place: str, is_cut: bool) -> Row:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        why = "the last line, half written?" if is_cut else error.msg
        raise ConfigError(f"{place}: not a whole line of JSON ({why}); delete it") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{place}: schema_version {version!r} is not {SCHEMA_VERSION}")
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{place}: {one_line(error)}"[:400]) from None
    row = row.model_copy(update={"experiment": {**DEFAULTS, **row.experiment}})
    for who in (*BASELINES, "trained"):
        for task, score in row.scores.get("trained", {}).items():
            n = len(row.items.get(who, {}).get(task, ()))
            if n == 0 or n != score["n"]:
                raise ConfigError(
                    f"{place}: run {row.run_id!r} has {n} scores of {task} ({who}), not "
                    f"{score['n']}"
                )
    return row


def _same_run(one: tuple[str, Row], other: tuple[str, Row]) -> Row:
    for name in ("experiment", "scores", "items"):
        if getattr(one[1], name) != getattr(other[1], name):
            raise ConfigError(
                f"run {one[1].run_id!r} is in {one[0]} and {other[0]} with different {name}; "
                "keep one of the two"
            )
    # They may differ in cost and provenance; the choice must not depend on the order of files.
    return min(one[1], other[1], key=lambda row: canonical_json(row.model_dump(mode="json")))


def make_tables(rows: Iterable[Row], tunings: Iterable[Tuned] = ()) -> list[Table]:
    """Every table, the default regime first. Raises ConfigError where items do not pair up.

    A tuning adds a table for each pair, of the rows that were run at each rule's own best values.
    """
    rows = list(rows)
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for task in row.scores["trained"]:
            changes = canonical_json(regime_changes(row.experiment))
            groups[changes, row.experiment["pair"], task].append(row)
    for (text, pair, task), group in groups.items():
        changes = json.loads(text)
        if changes.pop("keep", None) is not None:  # `full` has no schedule, yet is its reference
            siblings = groups.get((canonical_json(changes), pair, task), [])
            group += [row for row in siblings if row.experiment["selector"] == "full"]
    tables = []
    for (changes, pair, task), group in groups.items():
        group.sort(key=lambda row: row.run_id)
        for has_no_keep in (False, True):
            made = _table(pair, task, json.loads(changes), group, has_no_keep)
            tables += [made] if made else []
    for tuning in tunings:
        tables += _tuned_tables(rows, tuning)
    return sorted(
        tables,
        key=lambda t: (t.tuning is not None, _regime_order(t.changes), t.pair, t.task,
                       t.has_no_keep),
    )  # fmt: skip


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
        for has_no_keep in (False, True):
            made = _table(pair, task, json.loads(changes), group, has_no_keep)
            if made:
                yield replace(made, tuning=tuning)


def _training(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the trained weights but the seed; fields that a row lacks are at defaults."""
    values = {**DEFAULTS, **experiment}
    return {n: v for n, v in values.items() if n not in (*MEASURES, "seed")}


def regime_changes(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not at Experiment's defaults; a field that a row lacks is at its default.

    JSON values, in the order of Experiment's fields. A schedule of the budget is part of a regime:
    its rules are compared with `random` under the same schedule.
    """
    names = [*DEFAULTS, *sorted(set(experiment) - set(DEFAULTS) - set(VARIES))]
    schedule = {"keep": experiment["keep"]} if isinstance(experiment.get("keep"), str) else {}
    return schedule | {
        name: experiment[name]
        for name in names
        if name not in MEASURES
        and name in experiment
        and (name not in DEFAULTS or experiment[name] != DEFAULTS[name])
    }


def regime_name(changes: Mapping[str, Any]) -> str:
    """`default`, or what differs from it; a preset goes by its name."""
    parts, left = [], dict(changes)
    for preset, values in PRESETS.items():
        if values.items() <= left.items():
            parts.append(preset)
            left = {name: value for name, value in left.items() if name not in values}
    order = [*DEFAULTS, *sorted(set(left) - set(DEFAULTS))]
    for name in sorted(left, key=order.index):
        value = left[name]
        parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={_plain(value)}")
    return ", ".join(parts) or "default"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}={item}" for name, item in sorted(value.items())) + ")"
    return str(value)


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
) -> Table | None:
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
    if not any(line.selector != "full" for line in lines) and (has_no_keep or not lines):
        return None
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
    return ", ".join(f"{name}={_plain(value)}" for name, value in sorted(params.items()))


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


def overall(tables: Iterable[Table]) -> list[Ranks]:
    """Average ranks, for each task, regime and keep where several pairs have both references."""
    groups: dict[tuple, dict[str, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep:
            groups[table.task, table.regime][table.pair] = table
    found = []
    for (task, _), by_pair in groups.items():
        arms = [{(line.label, line.keep): line for line in t.arms()} for t in by_pair.values()]
        common = set.intersection(*(set(arm) for arm in arms))
        regime = next(iter(by_pair.values())).regime
        for keep in sorted({keep for label, keep in common if label != "full"}):
            keys = sorted(key for key in common if key[1] == keep or key[0] == "full")
            if len(by_pair) > 1 and {"full", "random"} <= {label for label, _ in keys}:
                lines = _ranked(keys, arms)
                found.append(Ranks(task, regime, keep, tuple(by_pair), lines))
    return found


def _ranked(keys: Sequence[tuple], arms: Sequence[Mapping[tuple, Line]]) -> tuple:
    """Ranks by accuracy; the interval resamples the seeds of every rule in every pair."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rank_PA, drawn_DA = [], np.zeros((BOOTSTRAP_DRAWS, len(keys)))
    for by_key in arms:
        rank_PA.append(rankdata([-round(by_key[key].accuracy, 12) for key in keys]))
        accuracy_DA = np.empty_like(drawn_DA)
        for column, key in enumerate(keys):
            seeds_S = np.array(by_key[key].accuracy_S)
            pick_DS = generator.integers(len(seeds_S), size=(BOOTSTRAP_DRAWS, len(seeds_S)))
            accuracy_DA[:, column] = seeds_S[pick_DS].mean(1)
        drawn_DA += rankdata(-accuracy_DA.round(12), axis=1) / len(arms)
    low_A, high_A = np.quantile(drawn_DA, (0.025, 0.975), axis=0)
    mean_A = np.mean(rank_PA, axis=0)
    lines = [
        (key[0], float(mean_A[a]), (float(low_A[a]), float(high_A[a])),
         tuple(float(rank_A[a]) for rank_A in rank_PA))
        for a, key in enumerate(keys)
    ]  # fmt: skip
    return tuple(sorted(lines, key=lambda line: (line[1], line[0])))


def k_groups(tables: Iterable[Table]) -> list[dict[int, Table]]:
    """Tables that differ in k alone, k -> table, where there are several."""
    groups: dict[str, dict[int, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep and table.tuning is None:
            rest = {name: value for name, value in table.changes.items() if name != "k"}
            key = canonical_json([table.pair, table.task, rest])
            groups[key][table.changes.get("k", DEFAULTS["k"])] = table
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class Dial:
    """Tables of pairs that differ in one stated number (`style_share`), in its order."""

    fact: str
    by_value: Mapping[float, Table]

    def lines(self) -> dict[tuple[float, str], dict[float, Line]]:
        """(keep, label) -> value of the dial -> line, of every rule and of the baselines."""
        found: dict[tuple[float, str], dict[float, Line]] = defaultdict(dict)
        for value, table in self.by_value.items():
            for line in table.lines:
                found[line.keep, line.label][value] = line
        return dict(found)


def dials(tables: Iterable[Table]) -> list[Dial]:
    """Families of at least three pairs that state another number each, by task and regime."""
    groups: dict[tuple[str, str, str], dict[float, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep and table.tuning is None and table.arms():
            for fact, value in table.facts.items():
                groups[fact, table.task, table.regime][value] = table
    return [
        Dial(fact, dict(sorted(by_value.items())))
        for (fact, *_), by_value in groups.items()
        if len(by_value) > 2
    ]
