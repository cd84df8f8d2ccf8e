"""What the contexts that a score ranks highest have gained: matched top-N, and curves by decile.

In a draw a context counts as often as its prompt was drawn, and the one at the cut counts in part,
so every score keeps the same number of contexts: `ceil(keep * n)`, as `selection/budget` spends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.diagnose.bootstrap import Draws
from bench.selection.budget import budget

BUCKETS = 10


@dataclass(frozen=True)
class Order:
    """Contexts, best first. Those after the first `eligible` may never be kept."""

    place_N: np.ndarray
    eligible: int


@dataclass(frozen=True)
class Kept:
    """Means of A values over the top contexts of one order, in the bank (row 0) and each draw."""

    top_DCA: np.ndarray
    """Per kept context, for each keep."""
    bucket_DBA: np.ndarray
    """In each tenth of the contexts, the lowest scores first."""
    covered_DCA: np.ndarray
    """Share of the sum over all contexts that lies in the kept ones."""


def make_order(score_N: np.ndarray, tie_N: np.ndarray) -> Order:
    """By score; equal scores by the hash `tie_N`, never by position. -inf is never kept."""
    return Order(np.lexsort((tie_N, -score_N)), int((score_N > -np.inf).sum()))


def budgets(keeps: Sequence[float], draws: Draws) -> np.ndarray:
    """budget_DC: the contexts that each keep pays for in each draw."""
    return np.array(
        [[budget(keep, round(total)) for keep in keeps] for total in draws.total_D()], dtype=float
    )


def keep_top(order: Order, value_AN: np.ndarray, budget_DC: np.ndarray, draws: Draws) -> Kept:
    """Means over the top contexts and over tenths, for every draw."""
    value_NA = np.ascontiguousarray(value_AN.T[order.place_N])
    prompt_N = draws.prompt_N[order.place_N]
    shape = (len(budget_DC), budget_DC.shape[1], value_NA.shape[1])
    top_DCA, covered_DCA = np.empty(shape), np.empty(shape)
    bucket_DBA = np.empty((shape[0], BUCKETS, shape[2]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for d, weight_P in enumerate(draws.weight_DP):
            weight_N = weight_P[prompt_N]
            reached_N = np.cumsum(weight_N)
            total = reached_N[-1]
            allowed = reached_N[order.eligible - 1] if order.eligible else 0.0
            budget_C = np.minimum(budget_DC[d], allowed)
            cut_X = np.concatenate([budget_C, total * np.arange(1, BUCKETS + 1) / BUCKETS])
            sum_XA = _cumulative(weight_N, reached_N, value_NA, cut_X)
            top_CA, tenth_BA = np.split(sum_XA, [len(budget_C)])
            top_DCA[d] = top_CA / budget_C[:, None]
            covered_DCA[d] = top_CA / tenth_BA[-1]
            best_first_BA = np.diff(tenth_BA, axis=0, prepend=0) * BUCKETS / total
            bucket_DBA[d] = best_first_BA[::-1]
    return Kept(top_DCA, bucket_DBA, covered_DCA)


def _cumulative(
    weight_N: np.ndarray, reached_N: np.ndarray, value_NA: np.ndarray, cut_X: np.ndarray
) -> np.ndarray:
    """Σ of value over the first `cut` contexts by weight, for each cut; the last one in part."""
    place_X = np.minimum(np.searchsorted(reached_N, cut_X - 1e-9), len(weight_N) - 1)
    order_X = np.argsort(place_X)
    sum_XA = np.empty((len(cut_X), value_NA.shape[1]))
    running_A, start = np.zeros(value_NA.shape[1]), 0
    for x in order_X:
        place = place_X[x]
        running_A = running_A + weight_N[start:place] @ value_NA[start:place]
        before = reached_N[place] - weight_N[place]
        sum_XA[x] = running_A + (cut_X[x] - before) * value_NA[place]
        start = place
    return sum_XA
