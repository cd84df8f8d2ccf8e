"""A sweep's TOML file -> Sweep: which experiments to run, checked before anything runs."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.core.claims import Claims, NamedClaims
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError, unknown_name
from bench.core.presets import experiment_from
from bench.run.plan import Plan, make_plan, with_pair_settings
from bench.selection.registry import get_selector
from bench.sweep.source import Source
from bench.tasks.protocol import task_names

Value = Any


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Block(_Table):
    """Every combination of its lists. What a block leaves out is the file's."""

    pairs: Annotated[tuple[str, ...], Field(min_length=1)] = ("tiny-qwen3",)
    selectors: Annotated[tuple[str, ...], Field(min_length=1)] = ("teachability",)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    preset: str | None = None
    base: dict[str, Value] = {}
    """Experiment fields that all points share."""
    grid: dict[str, Annotated[list[Value], Field(min_length=1)]] = {}
    """Experiment fields and the values to cross."""

    @model_validator(mode="after")
    def _check_fields(self) -> "Block":
        own = {"pair": "pairs", "selector": "selectors", "seed": "seeds"}
        for name in (*self.base, *self.grid):
            if name in own:
                raise ValueError(f"{name}: list it under `{own[name]}`")
            if name not in Experiment.model_fields:
                raise unknown_name("Experiment", name, Experiment.model_fields)
        if both := sorted(self.base.keys() & self.grid.keys()):
            raise ValueError(f"{both[0]}: is in base and in grid; one of them")
        return self

    def values(self) -> Iterator[dict[str, Value]]:
        """Experiment values, seeds outermost: an interrupted sweep has whole seeds first."""
        names = list(self.grid)
        for seed, pair, selector in product(self.seeds, self.pairs, self.selectors):
            for combination in product(*self.grid.values()):
                yield {
                    **self.base,
                    **dict(zip(names, combination, strict=True)),
                    "pair": pair,
                    "selector": selector,
                    "seed": seed,
                }


class Range(_Table):
    """Values that a tuning sampler proposes: from low to high, or a list of them."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    values: tuple[Annotated[int | float, Field(union_mode="smart")], ...] = ()

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.values:
            if self.model_fields_set != {"values"}:
                raise ValueError("values stand alone: no low, high, log or step beside them")
            if len(set(self.values)) != len(self.values):
                raise ValueError(f"values {list(self.values)} repeat")
            return self
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and no step")
        return self


CELL_FIELDS = ("seed", "selector")
"""What a tuning never chooses; of one objective, not the keep either."""
Objective = Literal["accuracy", "trained", "scored"]
"""Accuracy on the tuning task, up; tokens trained on, or scored by the teacher, down."""


class Tuning(_Table):
    """Every point of the grid is a cell that gets the same number of trials over the ranges."""

    trials: Annotated[int, Field(ge=1)]
    ranges: Annotated[dict[str, Range], Field(min_length=1)]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("accuracy",)
    """Of several, accuracy comes first, and a cell has a front of values instead of the best."""
    sampler: Literal["tpe", "qmc", "grid", "nsga2"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "none"
    task: str = "tiny_math_tune"
    """Task whose accuracy is maximised; never one that is reported."""
    seed: int = 1000
    """Seed of the tuning runs; the reported runs have the sweep's own seeds."""
    report_every: Annotated[int, Field(ge=1)] = 20
    """Steps between the reports that a pruner judges by."""

    @model_validator(mode="after")
    def _check_fields(self) -> "Tuning":
        for name in self.ranges:
            field = Experiment.model_fields.get(name)
            if field is None:
                raise unknown_name("ranges", name, Experiment.model_fields)
            if name in CELL_FIELDS or (name == "keep" and not self.has_front):
                raise ValueError(f"{name}: cannot have a range, it tells the cells apart")
            if not isinstance(field.default, int | float) or isinstance(field.default, bool):
                raise ValueError(f"{name}: only a number can have a range")
        if self.sampler == "grid":
            if bare := [name for name, span in self.ranges.items() if not span.values]:
                raise ValueError(f"ranges.{bare[0]}: the sampler grid needs `values`")
            if len(self.grid()) != self.trials:
                raise ValueError(
                    f"trials: {self.trials} is not accepted: the grid has {len(self.grid())} points"
                )
        return self

    @model_validator(mode="after")
    def _check_objectives(self) -> "Tuning":
        if self.objectives[0] != "accuracy" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives: {list(self.objectives)} is not accepted: accuracy first, then "
                "trained, scored or both"
            )
        if self.sampler == "nsga2" and not self.has_front:
            raise ValueError("sampler: nsga2 needs several objectives")
        if self.pruner != "none" and self.has_front:
            raise ValueError(f"pruner: {self.pruner} judges by one objective; leave it out")
        return self

    @property
    def has_front(self) -> bool:
        """Several objectives: no values are the best."""
        return len(self.objectives) > 1

    def grid(self) -> list[dict[str, int | float]]:
        """Every combination of the ranges' values."""
        names = list(self.ranges)
        return [
            dict(zip(names, point, strict=True))
            for point in product(*(span.values for span in self.ranges.values()))
        ]


class SweepFile(Block):
    """The whole file: a first block, more under [[also]], perhaps [tuning], perhaps [claims]."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    about: str = ""
    also: tuple[dict[str, Value], ...] = ()
    tuning: Tuning | None = None
    claims: Claims | None = None

    def block(self, number: int) -> Block:
        """The first block is 0; those under [[also]] follow, and inherit from it."""
        shared = {name: getattr(self, name) for name in Block.model_fields}
        return Block.model_validate({**shared, **(self.also[number - 1] if number else {})})


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: its points in order, each once."""

    file: SweepFile
    plans: tuple[Plan, ...]


def read_sweep(path: Path, runtime: Runtime) -> Sweep:
    """Read and check a sweep. Raises ConfigError naming the file, the line and the key."""
    file, blocks, source = _read(path)
    plans: dict[str, Plan] = {}
    for number, block in enumerate(blocks):
        for values in block.values():
            with source.errors(number):
                plan = make_plan(_experiment(values, block.preset), runtime)
            plans.setdefault(plan.run_id, plan)
    if file.tuning is not None:
        with source.errors("tuning"):
            _check_tuning(file.tuning, plans)
    return Sweep(file, tuple(plans.values()))


def read_claims(path: Path) -> NamedClaims | None:
    """The claims of a sweep file, None where it names none; loads no pair. Raises ConfigError."""
    file, blocks, source = _read(path)
    if file.claims is None:
        return None
    points = []
    for number, block in enumerate(blocks):
        for values in block.values():
            with source.errors(number):
                point = with_pair_settings(_experiment(values, block.preset))
                points.append(point.model_dump(mode="json"))
    return NamedClaims(str(path), file.name, file.claims, tuple(points), file.tuning is not None)


def _read(path: Path) -> tuple[SweepFile, list[Block], Source]:
    """The file, its blocks, and what says where in it an error is."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"sweep {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"sweep {str(path)!r} cannot be read: no UTF-8: {error}") from error
    source = Source(path, text)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no TOML, numbers of thousands of digits
        raise ConfigError(f"{path}: {error}") from None
    with source.errors():
        file = SweepFile.model_validate(table)
    blocks = []
    for number in range(1 + len(file.also)):
        with source.errors(number):
            blocks.append(file.block(number))
    if file.claims is not None:
        with source.errors("claims"):
            _check_claims(file.claims, blocks)
    return file, blocks, source


def _check_claims(claims: Claims, blocks: Sequence[Block]) -> None:
    """Every claim is of rules and a keep that the sweep runs. Raises ConfigError."""
    rules = {name for block in blocks for name in block.selectors}
    keeps = {
        keep
        for block in blocks
        for keep in block.grid.get("keep", [block.base.get("keep", Experiment().keep)])
    }
    pairs = {pair for block in blocks for pair in block.pairs}
    for kind in ("primary", "secondary", "predictions"):
        for claim in getattr(claims, kind):
            for pair in getattr(claim, "pairs", ()):
                if pair not in pairs:
                    raise unknown_name(f"claims.{kind}.pairs", pair, pairs)
            for name in (claim.rule, claim.reference):
                if name not in rules:
                    raise unknown_name(f"claims.{kind}", name, rules)
            if claim.keep not in keeps:
                named = ", ".join(f"{keep:g}" if isinstance(keep, float) else str(keep)
                                  for keep in sorted(keeps, key=str))  # fmt: skip
                raise ConfigError(
                    f"claims.{kind}: keep {claim.keep:g} is not accepted: the sweep runs {named}"
                )


def _experiment(values: Mapping[str, Value], preset: str | None) -> Experiment:
    """One point. A rule whose budget is fixed (`full`, weights) leaves the grid's keep out."""
    selector = get_selector(values["selector"], **values.get("selector_params", {}))
    if selector.keep is not None or selector.sets_keep or selector.kind == "weight":
        values = {name: value for name, value in values.items() if name != "keep"}
    return experiment_from(values, preset)


def _check_tuning(tuning: Tuning, plans: Mapping[str, Plan]) -> None:
    """What the tuning's own table cannot know. Raises ConfigError."""
    if tuning.task not in task_names():
        raise unknown_name("tuning.task", tuning.task, task_names())
    for experiment in (plan.experiment for plan in plans.values()):
        if tuning.task in experiment.eval_tasks:
            raise ConfigError(
                f"tuning.task: {tuning.task!r} is also in 'eval_tasks'; tuning on the reported "
                "split is leakage"
            )
        if tuning.seed == experiment.seed:
            raise ConfigError(
                f"tuning.seed: {tuning.seed} is also in 'seeds'; tuning on a reported seed is "
                "leakage"
            )
        _check_ends(tuning, experiment)
        is_deaf = tuning.report_every > experiment.steps and "steps" not in tuning.ranges
        if tuning.pruner != "none" and is_deaf:
            raise ConfigError(
                f"tuning.report_every: {tuning.report_every} is not accepted with "
                f"{experiment.steps} steps: the pruner would hear of nothing"
            )


def _check_ends(tuning: Tuning, experiment: Experiment) -> None:
    """Raise ConfigError where an end of a range does not go with the other settings of a point."""
    given = experiment.model_dump(mode="json")
    ends = {name: span.values or (span.low, span.high) for name, span in tuning.ranges.items()}
    for name, values in ends.items():
        for value in values:
            # What goes with it may have a range, too: it is enough that some value of it does.
            others = [{other: v} for other in ends if other != name for v in ends[other]]
            errors = []
            for beside in ({}, *others):
                try:
                    Experiment.parse({**given, **beside, name: value})
                    break
                except ConfigError as error:
                    errors.append(error)
            else:
                raise ConfigError(f"tuning.ranges.{name}: {errors[0]}")
