"""Intervals and paired differences. NumPy and scipy only; imports no sibling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over n items."""

    mean: float
    ci95: tuple[float, float]
    n: int


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


def _t_interval(values: np.ndarray) -> tuple[float, float]:
    mean = float(values.mean())
    if values.size < 2:
        return (float("-inf"), float("inf"))
    error = float(values.std(ddof=1)) / np.sqrt(values.size)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, values.size - 1)) * error
    return (mean - half, mean + half)
