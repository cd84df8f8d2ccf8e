"""Which of several rows count: newest versions of rules and tasks, and runs that were repeated.

Rows come in order of age. A row says which rule made it by the hash of the rule's source; older
rows say nothing, and are taken for the newest version unless another row shows that the rule was
edited in between. Pure: no input or output.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.core.files import canonical_json
from bench.tables.rows import DEFAULTS, MEASURES, Row, regime_changes, regime_name

Versions = Literal["newest", "all"]
HEX = 6
"""Digits of a rule's hash that name an older version of it."""
UNKNOWN = "older"
"""Name of a version whose rows do not say which source made them."""


@dataclass(frozen=True)
class Counted:
    """The rows that tables are made of, and those that they leave out."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, int]
    """rule -> rows of its older versions."""


def count_versions(rows: Sequence[Row], versions: Versions = "newest") -> Counted:
    """Rows of the newest version of each rule, or of all: older ones then go by `rule@bc74cd`.

    `rows` are in order of age. A version that is superseded (`superseded.json`) is always named.
    """
    by_rule: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_rule[row.experiment["selector"]].append(row)
    kept: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for rule, own in by_rule.items():
        names = _version_names(own)
        newest = names[own[-1].run_id]
        for row in own:
            name = names[row.run_id]
            if name != newest and versions == "newest":
                left_out[rule] += 1
            else:
                is_named = row.superseded is not None or name != newest
                kept[row.run_id] = f"{rule}@{name}" if is_named else rule
    found = [
        row.model_copy(update={"experiment": {**row.experiment, "selector": kept[row.run_id]}})
        for row in rows
        if row.run_id in kept
    ]
    return Counted(tuple(found), dict(left_out))


def _version_names(rows: Sequence[Row]) -> dict[str, str]:
    """run id -> the version of its rule, of rows of one rule in order of age."""
    names: dict[str, str] = {}
    experiments: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        source = row.points_to.get("selector")
        names[row.run_id] = row.superseded or (source[:HEX] if source else UNKNOWN)
        experiments[canonical_json(row.experiment)].add(names[row.run_id])
    was_edited = any(len(found) > 1 and UNKNOWN in found for found in experiments.values())
    known = [name for name in names.values() if name != UNKNOWN]
    own = [row for row in rows if row.superseded is None and row.points_to]
    if was_edited or not known or not own:
        return names
    latest = names[own[-1].run_id]
    return {run_id: latest if name == UNKNOWN else name for run_id, name in names.items()}


def training_of(experiment: Mapping[str, Any]) -> str:
    """What decides the trained weights, as text; fields that a row lacks are at their defaults."""
    values = {**DEFAULTS, **experiment}
    return canonical_json({name: v for name, v in values.items() if name not in MEASURES})


def newest_of(rows: Iterable[Row]) -> Row:
    """The run that counts of several of one training: the newest engine's, of these the newest."""
    return max(enumerate(rows), key=lambda item: (item[1].engine_version, item[0]))[1]


def counted(rows: Sequence[Row], versions: Versions) -> tuple[list[Row], Mapping[str, int]]:
    """The runs that count, and how many rows of older versions of each rule do not."""
    found = count_versions(rows, versions)
    by_training: dict[str, list[Row]] = defaultdict(list)
    for row in found.rows:
        by_training[training_of(row.experiment)].append(row)
    kept = []
    for own in by_training.values():
        tasks = {task for row in own for task in row.scores["trained"]}
        counted = {newest_of(r for r in own if t in r.scores["trained"]).run_id for t in tasks}
        kept += [row for row in own if row.run_id in counted]
    return kept, found.left_out


def of_newest_task(task: str, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Scores of two versions of a task are not compared: the newest counts."""
    versions = [row.task_versions.get(task, 1) for row in rows]
    newest = [row for row, version in zip(rows, versions, strict=True) if version == max(versions)]
    if len(newest) == len(rows):
        return newest, []
    older = sorted({str(version) for version in versions if version != max(versions)})
    return newest, [
        f"Warning: {len(rows) - len(newest)} rows of version {', '.join(older)} of {task} are left "
        f"out; this table is of version {max(versions)}"
    ]


def engine_warnings(runs: Iterable[Row]) -> list[str]:
    """Where rows of several engine versions are compared."""
    found = sorted({run.engine_version for run in runs})
    if len(found) < 2:
        return []
    named = " and ".join(map(str, found))
    return [f"Warning: rows of engine versions {named} stand in this table and are compared"]


def left_out_warnings(left_out: Mapping[str, int], rules: Iterable[str]) -> list[str]:
    """For each of these rules that has rows of older versions."""
    return [
        f"Warning: {left_out[rule]} rows of older versions of {rule} are left out; --versions all "
        "shows them"
        for rule in sorted(set(rules) & set(left_out))
    ]


@dataclass(frozen=True)
class Repeat:
    """Runs of one training: the one that counts last, and their accuracies."""

    task: str
    runs: tuple[Row, ...]

    @property
    def accuracy_R(self) -> tuple[float, ...]:
        return tuple(float(np.mean(run.items["trained"][self.task])) for run in self.runs)

    @property
    def regime(self) -> str:
        return regime_name(regime_changes(self.runs[0].experiment))


def repeats(rows: Sequence[Row]) -> list[Repeat]:
    """Every training that was run more than once, by task; rows in order of age."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for task in row.scores["trained"]:
            groups[training_of(row.experiment), task].append(row)
    found = []
    for (_, task), own in groups.items():
        if len(own) > 1:
            counted = newest_of(own)
            others = (row for row in own if row is not counted)
            found.append(Repeat(task, (*others, counted)))
    return found


def repeat_sd(found: Iterable[Repeat]) -> float:
    """Standard deviation of one run between machines and versions, from the repeats."""
    squares = [(float(np.var(r.accuracy_R)) * len(r.runs), len(r.runs) - 1) for r in found]
    return (sum(s for s, _ in squares) / sum(n for _, n in squares)) ** 0.5
