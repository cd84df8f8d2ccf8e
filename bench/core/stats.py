"""Intervals, paired differences and verdicts.

Seeds and items are crossed: every seed's checkpoint answers every item. With D the paired
difference of two methods on common seeds, D[s, i] = mean + seed_s + item_i + residual_si, and the
variance of the grand mean has a part of each. Both are drawn: what is inferred is of other training
seeds and of other items like these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import root_scalar

from bench.core.moderated import SeedVariance, scaled_t

CONFIDENCE = 0.95
MIN_EFFECT = 0.01
"""Differences under one point are ties, however certain."""
POWER = 0.8

Verdict = Literal["better", "tie", "worse"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over n items."""

    mean: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods over common seeds and items."""

    mean: float
    ci95: tuple[float, float]
    standard_error: float
    """Times the scale of the t that the mean over it is referred to."""
    degrees_of_freedom: float
    p_value: float
    """Two-sided, of no difference."""
    seeds: int
    items: int

    def p_value_of(self, difference: float) -> float:
        """Two-sided, of this true difference."""
        distance = abs(self.mean - difference)
        if self.standard_error == 0:
            return float(distance == 0)
        return float(2 * stats.t.sf(distance / self.standard_error, self.degrees_of_freedom))

    def smallest_detectable(self, comparisons: int = 1) -> float:
        """The true difference that a two-sided test at 5 % / comparisons finds with POWER.

        The statistic of a true difference is a noncentral t; what is found has its sign.
        """
        level = (1 - CONFIDENCE) / comparisons
        return _noncentrality(self.degrees_of_freedom, level) * self.standard_error


@cache
def _noncentrality(df: float, level: float) -> float:
    """Of the t statistic that exceeds the two-sided critical value with POWER."""
    critical = stats.t.isf(level / 2, df)
    ends = (0.0, 2 * critical + 5)
    found = root_scalar(lambda shift: stats.nct.sf(critical, df, shift) - POWER, bracket=ends)
    return float(found.root)


def mean_estimate(score_I: Sequence[float]) -> Estimate:
    """Mean of per-item scores: Wilson's interval for 0/1 scores, Student's t for others.

    Raises ValueError for no items.
    """
    scores = np.asarray(score_I, dtype=float)
    if scores.size == 0:
        raise ValueError("score_I: no items")
    if np.isin(scores, (0.0, 1.0)).all():
        test = stats.binomtest(int(scores.sum()), scores.size)
        low, high = test.proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(float(scores.mean()), (float(low), float(high)), scores.size)
    return Estimate(float(scores.mean()), _t_interval(scores), scores.size)


def paired_difference(after_I: Sequence[float], before_I: Sequence[float]) -> Estimate:
    """Mean of after - before on the same items, with Student's t interval over the items.

    It says how two checkpoints differ on these items; it holds no variance of training seeds.
    Raises ValueError where the items do not pair up.
    """
    after, before = np.asarray(after_I, dtype=float), np.asarray(before_I, dtype=float)
    if after.shape != before.shape or after.size == 0:
        raise ValueError(f"{after.size} and {before.size} scores do not pair up")
    difference = after - before
    return Estimate(float(difference.mean()), _t_interval(difference), difference.size)


class TwoWay(NamedTuple):
    """Mean squares of a table of seeds (rows) and items (columns), one observation a cell."""

    seed: float
    item: float
    residual: float


def mean_squares(value_SI: ArrayLike) -> TwoWay:
    """Of the two-way layout. Raises ValueError for fewer than two seeds or two items."""
    value_SI = np.asarray(value_SI, dtype=float)
    if value_SI.ndim != 2 or min(value_SI.shape) < 2:
        raise ValueError(f"value_SI: {value_SI.shape} needs two seeds and two items at least")
    seeds, items = value_SI.shape
    mean = value_SI.mean()
    of_seed, of_item = value_SI.mean(1, keepdims=True), value_SI.mean(0, keepdims=True)
    df_seed, df_item = seeds - 1, items - 1
    return TwoWay(
        items * float(((of_seed - mean) ** 2).sum()) / df_seed,
        seeds * float(((of_item - mean) ** 2).sum()) / df_item,
        float(((value_SI - of_seed - of_item + mean) ** 2).sum()) / (df_seed * df_item),
    )


def crossed_mean(score_SI: ArrayLike) -> Estimate:
    """The grand mean of one method's scores over crossed seeds (rows) and items (columns).

    Var(mean) = max(MS_seed + MS_item - MS_res, MS_seed, MS_item) / (S·I); t interval with
    Satterthwaite's degrees of freedom, at least 1. It is an interval of one accuracy: its tails are
    too light for verdicts (`moderated_difference`). Raises ValueError as `mean_squares`.
    """
    score_SI = np.asarray(score_SI, dtype=float)
    ms, (seeds, items) = mean_squares(score_SI), score_SI.shape
    mean, df_seed, df_item = float(score_SI.mean()), seeds - 1, items - 1
    both = ms.seed + ms.item - ms.residual
    largest = max(both, ms.seed, ms.item)
    if largest <= np.finfo(float).eps * mean**2:  # all cells equal, up to rounding
        return Estimate(mean, (mean, mean), items)
    if largest == both:
        parts = ms.seed**2 / df_seed + ms.item**2 / df_item
        df = max(1.0, both**2 / (parts + ms.residual**2 / (df_seed * df_item)))
    else:
        df = float(df_seed if largest == ms.seed else df_item)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * float(np.sqrt(largest / score_SI.size))
    return Estimate(mean, (mean - half, mean + half), items)


def item_variance(value_SI: ArrayLike) -> float:
    """The part that drawing the items has in the variance of the grand mean.

    max(0, MS_item - MS_res) / (S·I): what is the same in all seeds. What items do in each seed anew
    is in the variance of the seeds' means.
    """
    ms = mean_squares(value_SI)
    return max(0.0, ms.item - ms.residual) / np.asarray(value_SI).size


def sampling_variance(score_SI: ArrayLike) -> float:
    """The part that items alone have in the variance of one seed's mean: MS_res / I."""
    return mean_squares(score_SI).residual / np.asarray(score_SI).shape[1]


def moderated_difference(
    difference_SI: ArrayLike, one: SeedVariance, other: SeedVariance
) -> Difference:
    """The grand mean of a paired difference over crossed seeds (rows) and items (columns).

    `one` and `other` are the moderated variances of the two arms (`bench.core.moderated`): the
    squared error is both over S, and `item_variance`; the interval is that of the scaled t.
    Raises ValueError for fewer than two seeds or two items.
    """
    difference_SI = np.asarray(difference_SI, dtype=float)
    of_items = item_variance(difference_SI)
    seeds, items = difference_SI.shape
    parts = [(arm.variance / seeds, arm.degrees_of_freedom) for arm in (one, other)]
    error, scale, df = map(float, scaled_t([*parts, (of_items, items - 1)]))
    mean, error = float(difference_SI.mean()), error * scale
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * error
    found = Difference(mean, (mean - half, mean + half), error, df, 0.0, seeds, items)
    return replace(found, p_value=found.p_value_of(0.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the family's error rate stays at the level."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, largest)
    return adjusted.tolist()


def verdicts(differences: Sequence[Difference], min_effect: float = MIN_EFFECT) -> list[Verdict]:
    """better or worse where Holm's adjusted p is under 5 % and the difference exceeds `min_effect`.

    The family is the list given: all comparisons of one table. Anything else is a tie.
    """
    adjusted = holm([difference.p_value for difference in differences])
    found: list[Verdict] = []
    for difference, p_value in zip(differences, adjusted, strict=True):
        is_clear = p_value < 1 - CONFIDENCE and abs(difference.mean) > min_effect
        found.append(("better" if difference.mean > 0 else "worse") if is_clear else "tie")
    return found


def mcnemar_exact(one_I: Sequence[float], other_I: Sequence[float]) -> float:
    """Exact two-sided McNemar p-value of two checkpoints on the same 0/1 items.

    For a pair of checkpoints only: pooling it over seeds would count the same items several times.
    """
    one, other = np.asarray(one_I), np.asarray(other_I)
    if one.shape != other.shape or not np.isin([one, other], (0, 1)).all():
        raise ValueError("McNemar's test needs paired scores of 0 or 1")
    wins, losses = int((one > other).sum()), int((one < other).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def probability_of_improvement(one_S: Sequence[float], other_S: Sequence[float]) -> float:
    """P(a run of the one beats a run of the other) over all pairs of seeds; ties count half."""
    one, other = np.asarray(one_S)[:, None], np.asarray(other_S)[None, :]
    return float(((one > other) + 0.5 * (one == other)).mean())


def _t_interval(values: np.ndarray) -> tuple[float, float]:
    mean = float(values.mean())
    if values.size < 2:
        return (float("-inf"), float("inf"))
    error = float(values.std(ddof=1)) / np.sqrt(values.size)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, values.size - 1)) * error
    return (mean - half, mean + half)
