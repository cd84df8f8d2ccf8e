"""A sweep's TOML file -> Sweep: which experiments to run, checked before anything runs."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.config import ConfigError, Experiment, Runtime, experiment_from, one_line, unknown_name
from bench.plan import Plan, make_plan
from bench.registry import get_selector

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


class Tuning(_Table):
    """Every point of the grid is a cell that gets the same number of trials over the ranges."""

    trials: Annotated[int, Field(ge=1)]
    ranges: Annotated[dict[str, Range], Field(min_length=1)]
    sampler: Literal["tpe", "qmc", "grid"] = "tpe"
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
                raise unknown_name("Experiment", name, Experiment.model_fields)
            if not isinstance(field.default, int | float) or isinstance(field.default, bool):
                raise ValueError(f"{name}: only a number can have a range")
            span = self.ranges[name]
            for end in span.values or (span.low, span.high):
                Experiment.parse({name: end})
        if self.sampler == "grid":
            if bare := [name for name, span in self.ranges.items() if not span.values]:
                raise ValueError(f"ranges.{bare[0]}: the sampler grid needs `values`")
            if len(self.grid()) != self.trials:
                raise ValueError(
                    f"trials: {self.trials} is not accepted: the grid has {len(self.grid())} points"
                )
        return self

    def grid(self) -> list[dict[str, int | float]]:
        """Every combination of the ranges' values."""
        names = list(self.ranges)
        return [
            dict(zip(names, point, strict=True))
            for point in product(*(span.values for span in self.ranges.values()))
        ]


class SweepFile(Block):
    """The whole file: a first block, more blocks under [[also]], and perhaps [tuning]."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    about: str = ""
    also: tuple[dict[str, Value], ...] = ()
    tuning: Tuning | None = None

    def blocks(self) -> list[Block]:
        shared = {name: getattr(self, name) for name in Block.model_fields}
        return [Block.model_validate(shared)] + [
            Block.model_validate({**shared, **extra}) for extra in self.also
        ]


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: its points in order, each once."""

    file: SweepFile
    plans: tuple[Plan, ...]


def read_sweep(path: Path, runtime: Runtime) -> Sweep:
    """Read and check a sweep. Raises ConfigError naming the file, the line and the key."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"sweep {str(path)!r} cannot be read: {error.strerror}") from error
    try:
        file = SweepFile.model_validate(tomllib.loads(text))
        blocks = file.blocks()
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValidationError as error:
        words = [part for item in error.errors() for part in reversed(item["loc"])]
        line = one_line(error)
        words += [*_quoted(line), line.partition(":")[0]]
        raise ConfigError(f"{_place(path, text, words)}: {line}") from None
    except ConfigError as error:
        raise ConfigError(f"{_place(path, text, _quoted(error))}: {error}") from None
    plans: dict[str, Plan] = {}
    for block in blocks:
        for values in block.values():
            try:
                plan = make_plan(_experiment(values, block.preset), runtime)
            except ConfigError as error:
                words = [*_quoted(error), *str(error).split(":")[:1]]
                raise ConfigError(f"{_place(path, text, words)}: {error}") from None
            plans.setdefault(plan.run_id, plan)
    _check_tuning(path, file, plans)
    return Sweep(file, tuple(plans.values()))


def _experiment(values: Mapping[str, Value], preset: str | None) -> Experiment:
    """One point. A rule whose budget is fixed (`full`, weights) leaves the grid's keep out."""
    selector = get_selector(values["selector"], **values.get("selector_params", {}))
    if selector.keep is not None or selector.sets_keep or selector.kind == "weight":
        values = {name: value for name, value in values.items() if name != "keep"}
    return experiment_from(values, preset)


def _check_tuning(path: Path, file: SweepFile, plans: Mapping[str, Plan]) -> None:
    if file.tuning is None:
        return
    for plan in plans.values():
        if file.tuning.task in plan.experiment.eval_tasks:
            raise ConfigError(
                f"{path}: tuning.task {file.tuning.task!r} is also in eval_tasks; tuning on the "
                "reported split is leakage"
            )


def _quoted(error: object) -> list[str]:
    return re.findall(r"'([^']+)'", str(error))


def _place(path: Path, text: str, words: list[Any]) -> str:
    """`file:line` of the first line that holds one of the words, else the file."""
    for word in words:
        if not isinstance(word, str):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", line.partition("#")[0]):
                return f"{path}:{number}"
    return str(path)
