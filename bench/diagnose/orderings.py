"""How well scores order contexts by their gain: Spearman, partial Spearman, AUROC(G > 0)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.diagnose.bootstrap import Draws, Report
from bench.selection.budget import budget

FLAT = 1e-9
"""A rank whose variance is this share of the largest possible has none left."""


@dataclass(frozen=True)
class Association:
    """Of J scores with A gains, in the bank (row 0) and in each draw; NaN where not defined."""

    spearman_DJA: np.ndarray
    partial_DJA: np.ndarray
    """Spearman given the controls."""
    auroc_DJA: np.ndarray
    """P(the score is higher at a context with G > 0 than at one without), ties half."""


def associate(
    score_JN: np.ndarray, control_CN: np.ndarray, gain_AN: np.ndarray, draws: Draws, report: Report
) -> Association:
    """Ranks are taken anew in every draw; equal values share their mean rank."""
    scores, controls, gains = (len(x) for x in (score_JN, control_CN, gain_AN))
    ranks = Ranks(np.concatenate([score_JN, control_CN, gain_AN]))
    positive_AN = (gain_AN > 0).astype(float)
    shape = (len(draws.weight_DP), scores, gains)
    found = Association(*(np.full(shape, np.nan) for _ in range(3)))
    others = slice(scores, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        for d, weight_N in enumerate(draws.context_weights()):
            rank_XN = ranks.centred(weight_N)
            total = weight_N.sum()
            rank_XN /= total
            weighted_XN = rank_XN * weight_N
            cov_XO = weighted_XN @ rank_XN[others].T / total
            var_X = np.einsum("xn,xn->x", weighted_XN, rank_XN) / total
            var_X[var_X < FLAT] = np.nan
            cov_JA, cov_JC = cov_XO[:scores, controls:], cov_XO[:scores, :controls]
            cov_CC, cov_CA = np.split(cov_XO[scores : scores + controls], [controls], axis=1)
            var_J, var_A = var_X[:scores], var_X[scores + controls :]
            found.spearman_DJA[d] = cov_JA / np.sqrt(var_J[:, None] * var_A)
            given_CX = np.linalg.pinv(cov_CC, hermitian=True) @ np.hstack([cov_JC.T, cov_CA])
            given_CJ, given_CA = given_CX[:, :scores], given_CX[:, scores:]
            left_J = var_J - np.einsum("jc,cj->j", cov_JC, given_CJ)
            left_A = var_A - np.einsum("ca,ca->a", cov_CA, given_CA)
            left_J[left_J < 1e-6 * var_J] = np.nan
            left_A[left_A < 1e-6 * var_A] = np.nan
            found.partial_DJA[d] = (cov_JA - cov_JC @ given_CA) / np.sqrt(left_J[:, None] * left_A)
            above_A = positive_AN @ weight_N / total
            inside_JA = weighted_XN[:scores] @ positive_AN.T / total
            auroc_JA = 0.5 + inside_JA / (above_A * (1 - above_A))
            auroc_JA[np.isnan(var_J)] = np.nan
            found.auroc_DJA[d] = auroc_JA
            report(d + 1, len(draws.weight_DP))
    return found


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


class Ranks:
    """Mid-ranks of J variables over N contexts under any weights; each is sorted once."""

    def __init__(self, value_JN: np.ndarray):
        value_JN = np.atleast_2d(np.asarray(value_JN, dtype=float))
        variables, contexts = value_JN.shape
        order_JN = np.argsort(value_JN, axis=1, kind="stable")
        sorted_JN = np.take_along_axis(value_JN, order_JN, 1)
        is_new_JN = np.ones(value_JN.shape, dtype=bool)
        is_new_JN[:, 1:] = sorted_JN[:, 1:] != sorted_JN[:, :-1]
        place_N = np.arange(contexts)
        first_JN = np.maximum.accumulate(np.where(is_new_JN, place_N, 0), axis=1)
        is_last_JN = np.ones(value_JN.shape, dtype=bool)
        is_last_JN[:, :-1] = is_new_JN[:, 1:]
        last_JN = np.where(is_last_JN, place_N, contexts)[:, ::-1]
        last_JN = np.minimum.accumulate(last_JN, axis=1)[:, ::-1]
        row_J1 = np.arange(variables)[:, None] * (contexts + 1)
        self._order_JN = order_JN
        self._first_JN = np.empty_like(order_JN)
        self._end_JN = np.empty_like(order_JN)
        np.put_along_axis(self._first_JN, order_JN, row_J1 + first_JN, 1)
        np.put_along_axis(self._end_JN, order_JN, row_J1 + last_JN + 1, 1)
        self._cumulative_JM = np.zeros((variables, contexts + 1))

    def centred(self, weight_N: np.ndarray) -> np.ndarray:
        """rank_JN - its weighted mean: weight below, plus half the weight of equals."""
        np.cumsum(weight_N[self._order_JN], axis=1, out=self._cumulative_JM[:, 1:])
        flat = self._cumulative_JM.reshape(-1)
        rank_JN = flat.take(self._first_JN)
        rank_JN += flat.take(self._end_JN)
        rank_JN -= weight_N.sum()
        rank_JN *= 0.5
        return rank_JN
