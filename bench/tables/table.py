"""A table of results as data: comparisons, lines, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bench.core.moderated import MIN_SEEDS, SeedVariance
from bench.core.stats import Difference, Verdict, paired_difference
from bench.tables.rows import DEFAULTS, Row, Tuned, regime_name


def scores_of(runs: Sequence[Row], task: str) -> np.ndarray:
    """Scores of the trained students, float64: runs by items."""
    return np.array([run.items["trained"][task] for run in runs], dtype=float)


@dataclass(frozen=True)
class Comparison:
    """A rule's paired difference from a reference, over their common seeds and all items."""

    mean: float
    seeds: int
    crossed: Difference | None
    """None for one common seed, which has no interval over seeds."""
    verdict: Verdict | None = None
    """None too with fewer than MIN_SEEDS common seeds."""
    only_seeds: tuple[int, ...] = ()
    """The common seeds, where one of the two has others beside them."""

    @property
    def can_be_judged(self) -> bool:
        return self.crossed is not None and self.seeds >= MIN_SEEDS


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
    seed_variance: SeedVariance | None = None
    """Of one seed's mean, moderated over the arms of the table; None for one seed."""

    @property
    def rule(self) -> str:
        """The selector without the version that an older or a corrected one is named with."""
        return self.selector.partition("@")[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @cached_property
    def score_SI(self) -> np.ndarray:
        """Scores of the trained student, float64: seeds (in order) by items."""
        return scores_of(self.runs, self.task)

    @cached_property
    def accuracy_S(self) -> tuple[float, ...]:
        return tuple(self.score_SI.mean(1).tolist()) if self.runs else ()

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

    @property
    def rules(self) -> set[str]:
        return {line.rule for line in self.arms()}

    def arms(self, selector: str | None = None) -> list[Line]:
        """The trained lines, perhaps of one selector only."""
        return [line for line in self.lines if line.runs and selector in (None, line.selector)]

    def comparisons(self) -> list[Comparison]:
        """The family of Holm's adjustment: every comparison that gets a verdict."""
        return [c for line in self.lines for c in (line.vs_full, line.vs_random)
                if c is not None and c.can_be_judged]  # fmt: skip
