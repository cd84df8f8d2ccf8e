"""How well scores order contexts by their gain: Spearman, partial Spearman, AUROC(G > 0)."""

from dataclasses import dataclass

import numpy as np

from bench.diagnose.bootstrap import Draws, Ranks, Report

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
