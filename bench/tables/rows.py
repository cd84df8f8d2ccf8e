"""Rows of result files: rows.jsonl and tuning.json as read, and the regime that a row is of.

A regime is the value of every field of Experiment but those of VARIES and MEASURES. Pure: texts in,
no input or output.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.fields import one_line
from bench.core.files import canonical_json
from bench.core.keep_schedule import mean_keep
from bench.core.presets import PRESETS
from bench.core.records import SCHEMA_VERSION, RunRecord
from bench.core.result_rows import SUM, row_sum

VARIES = ("pair", "selector", "selector_params", "keep", "seed")
"""Fields of Experiment that may differ inside a table (pair: inside the overall one)."""
DEFAULTS = {n: value for n, value in Experiment().all_values().items() if n not in VARIES}
"""Also of fields that a dump leaves out: a row may state one at its default."""
MEASURES = ("eval_tasks", "eval_every", "curve_tasks", "curve_items")
"""Fields that say what else is measured and leave the training as it is: no part of a regime."""
BASELINES = ("untrained", "teacher")


class Row(RunRecord):
    """One line of rows.jsonl."""

    items: dict[str, dict[str, tuple[float, ...]]]
    """untrained | trained | teacher -> task -> per-item scores."""
    superseded: str | None = None
    """Name of the version of its rule, where a later correction changed what the rule means."""

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


class FrontPoint(BaseModel):
    """Values that no others of the same cell are better than in everything."""

    params: dict[str, Any]
    values: list[float]
    """Of each objective, in their order, on the tuning task and at the tuning's seed."""


class TunedCell(BaseModel):
    """One rule at one setting, whose values were chosen by the tuning."""

    experiment: dict[str, Any]
    best: dict[str, Any] = {}
    value: float = 0.0
    front: list[FrontPoint] = []
    """Instead of the best, where the tuning has several objectives; from the cheapest up."""
    trials: list[dict[str, Any]]

    @model_validator(mode="after")
    def _check_found(self) -> Self:
        if not self.front and not {"best", "value"} <= self.model_fields_set:
            raise ValueError("best: neither the best values nor a front of values is there")
        return self


class Tuned(BaseModel):
    """A tuning.json: what every cell was given, and what it found."""

    sweep: str
    sampler: str
    trials: int
    task: str
    seed: int
    ranges: dict[str, Any]
    objectives: tuple[str, ...] = ("accuracy",)
    cells: dict[str, TunedCell]

    @property
    def has_front(self) -> bool:
        return len(self.objectives) > 1


def read_tuned(name: str, text: str) -> Tuned:
    """A tuning.json. Raises ConfigError naming the file for anything else."""
    try:
        return Tuned.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{name}: not the result of a tuning: {one_line(error)}"[:400]) from None


def read_rows(texts: Mapping[str, str], superseded: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of the texts of one or more rows.jsonl files, by file name, each run once, in order of
    age: by when they ended; those that do not say, first, by file and line.

    `superseded` has the run ids of rules that were corrected since: run id -> `rule@version`.
    Raises ConfigError naming file and line for a line that is no row of this schema, and naming
    both lines for two rows of one run that disagree, or two runs of one experiment that differ in
    more than the rule's source.
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
    rows = sorted(found.values(), key=lambda item: item[1].ended or "")  # stable: by line
    _check_models(rows)
    return [
        row.model_copy(update={"superseded": _version(superseded[row.run_id])})
        if superseded and row.run_id in superseded
        else row
        for _, row in rows
    ]


def _version(name: str) -> str:
    """`floor-first` of `teachability_released@floor-first`."""
    return name.partition("@")[2]


def _check_models(rows: Sequence[tuple[str, Row]]) -> None:
    """Raise ConfigError for two runs of one experiment on other models, tokenizers or data, or
    that do not say what they differ in.
    """
    seen: dict[tuple[str, bool], tuple[str, Row]] = {}
    for place, row in rows:
        key = canonical_json(row.experiment), bool(row.points_to)
        other_place, other = seen.setdefault(key, (place, row))
        if other is not row and not row.points_to:
            raise ConfigError(
                f"{place}: run {row.run_id!r} has the same experiment as {other.run_id!r} in "
                f"{other_place}: a rule, a model or a tokenizer was edited between the two, and "
                "neither row says which; keep the rows of one of them"
            )
        names = sorted(
            name
            for name in {*row.points_to, *other.points_to} - {"selector"}
            if row.points_to.get(name) != other.points_to.get(name)
        )
        if names:
            raise ConfigError(
                f"{place}: run {row.run_id!r} has the same experiment as {other.run_id!r} in "
                f"{other_place} and another {names[0]}: the files behind it were edited between "
                "the two; keep the rows of one of them"
            )


def _row(line: str, place: str, is_cut: bool) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = "the last line, half written?" if is_cut else error
        raise ConfigError(f"{place}: not a whole line of JSON ({why}); delete it") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{place}: schema_version {version!r} is not {SCHEMA_VERSION}")
    if values.get(SUM) not in (None, row_sum(values)):
        raise ConfigError(
            f"{place}: the row of run {values.get('run_id')!r} changed since it was written; get "
            f"it again, or take the field {SUM!r} out if the change is meant"
        )
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{place}: {one_line(error)}"[:400]) from None
    row = row.model_copy(update={"experiment": {**DEFAULTS, **row.experiment}})
    for who in (*BASELINES, "trained"):
        for task, score in row.scores.get("trained", {}).items():
            n = len(row.items.get(who, {}).get(task, ()))
            wrong = [x for x in row.items.get(who, {}).get(task, ()) if not 0 <= x <= 1]
            if wrong:
                raise ConfigError(
                    f"{place}: run {row.run_id!r} has a score of {wrong[0]} of {task} ({who}); "
                    "accepted: 0 to 1"
                )
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
    # The one that says most first: paper_released holds all of paper.
    for preset, values in sorted(PRESETS.items(), key=lambda item: -len(item[1])):
        if values.items() <= left.items():
            parts.append(preset)
            left = {name: value for name, value in left.items() if name not in values}
    order = [*DEFAULTS, *sorted(set(left) - set(DEFAULTS))]
    for name in sorted(left, key=order.index):
        value = left[name]
        parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={plain(value)}")
    return ", ".join(parts) or "default"


def plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}={item}" for name, item in sorted(value.items())) + ")"
    return str(value)
