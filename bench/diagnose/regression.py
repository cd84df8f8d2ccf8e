"""Standardised least squares of the gain on what a context is, and the share it explains.

Draws reweight prompts, so the moments of each prompt are summed once and every draw is a small
system. R² out of prompt fits on nine tenths of the prompts and predicts the others: unlike R², it
falls when a regressor says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.diagnose.bootstrap import Draws

FOLDS = 10


@dataclass(frozen=True)
class Fit:
    """One model of A gains, in the bank (row 0) and in each draw."""

    r2_DA: np.ndarray
    out_of_prompt_DA: np.ndarray
    standardised_DXA: np.ndarray
    """Coefficients per standard deviation of regressor and gain."""
    per_unit_DXA: np.ndarray
    """Coefficients per unit of the regressor as it was given."""


class Moments:
    """Σ weight · product of every two columns of (1, regressors, gains), by draw and fold."""

    def __init__(self, regressor_NX: np.ndarray, gain_NA: np.ndarray, draws: Draws):
        self.scale_X = regressor_NX.std(0)
        self.scale_X[self.scale_X < 1e-9 * np.maximum(1, np.abs(regressor_NX).max(0))] = np.inf
        scaled_NX = (regressor_NX - regressor_NX.mean(0)) / self.scale_X
        self.gains = gain_NA.shape[1]
        ones_N1 = np.ones((len(scaled_NX), 1))
        column_NM = np.concatenate([ones_N1, scaled_NX, gain_NA], axis=1)
        size = column_NM.shape[1]
        sum_PMM = np.zeros((draws.prompts, size, size))
        for prompt in range(draws.prompts):
            of_prompt = column_NM[draws.prompt_N == prompt]
            sum_PMM[prompt] = of_prompt.T @ of_prompt
        fold_P = np.arange(draws.prompts) % min(FOLDS, draws.prompts)
        self.moment_FDMM = np.array(
            [
                np.tensordot(draws.weight_DP[:, fold_P == fold], sum_PMM[fold_P == fold], 1)
                for fold in range(fold_P.max() + 1)
            ]
        )

    def fit(self, columns: Sequence[int]) -> Fit:
        """Least squares on the named regressors (places in regressor_NX) and an intercept."""
        chosen_X = np.array(columns)
        whole_DMM = self.moment_FDMM.sum(0)
        standardised_DXA, raw_DXA, r2_DA = _solve(whole_DMM, chosen_X + 1, self.gains)
        per_unit_DXA = raw_DXA / self.scale_X[chosen_X][:, None]  # a constant's scale is infinite
        rest_DA = np.zeros_like(r2_DA)
        for fold_DMM in self.moment_FDMM:
            _, beta_DXA, _ = _solve(whole_DMM - fold_DMM, chosen_X + 1, self.gains)
            rest_DA += _squared_error(
                fold_DMM, beta_DXA, whole_DMM - fold_DMM, chosen_X + 1, self.gains
            )
        total_DA = _covariance(whole_DMM)[1][:, -self.gains :, -self.gains :]
        total_DA = np.einsum("daa->da", total_DA) * whole_DMM[:, :1, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            out_DA = 1 - rest_DA / total_DA
        return Fit(r2_DA, out_DA, standardised_DXA, per_unit_DXA)


def _covariance(moment_DMM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean_DM, covariance_DMM) of the columns."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_DM = moment_DMM[:, 0] / moment_DMM[:, :1, 0]
        second_DMM = moment_DMM / moment_DMM[:, :1, :1]
    return mean_DM, second_DMM - mean_DM[:, :, None] * mean_DM[:, None, :]


def _solve(
    moment_DMM: np.ndarray, chosen_X: np.ndarray, gains: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(standardised_DXA, coefficient_DXA, r2_DA). A constant regressor has coefficient 0."""
    _, cov_DMM = _covariance(moment_DMM)
    cov_DMM = np.nan_to_num(cov_DMM)
    sd_DM = np.sqrt(np.maximum(np.einsum("dmm->dm", cov_DMM), 0))
    sd_DX, sd_DA = sd_DM[:, chosen_X], sd_DM[:, -gains:]
    inverse_DX = np.where(sd_DX > 1e-9, 1 / np.where(sd_DX > 0, sd_DX, 1), 0.0)
    among_DXX = cov_DMM[:, chosen_X[:, None], chosen_X]
    among_DXX = among_DXX * inverse_DX[:, :, None] * inverse_DX[:, None, :]
    with_DXA = cov_DMM[:, chosen_X, -gains:] * inverse_DX[:, :, None]
    by_sd_DXA = np.linalg.pinv(among_DXX, rcond=1e-9, hermitian=True) @ with_DXA
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised_DXA = by_sd_DXA / sd_DA[:, None, :]
        r2_DA = np.einsum("dxa,dxa->da", by_sd_DXA, with_DXA) / sd_DA**2
    return standardised_DXA, by_sd_DXA * inverse_DX[:, :, None], r2_DA


def _squared_error(
    fold_DMM: np.ndarray,
    beta_DXA: np.ndarray,
    train_DMM: np.ndarray,
    chosen_X: np.ndarray,
    gains: int,
) -> np.ndarray:
    """Σ weight · (gain - prediction)² over a fold, the intercept from the training prompts."""
    mean_DM, _ = _covariance(train_DMM)
    mean_DM = np.nan_to_num(mean_DM)
    intercept_D1A = (
        mean_DM[:, None, -gains:] - np.einsum("dx,dxa->da", mean_DM[:, chosen_X], beta_DXA)[:, None]
    )
    with_one = np.concatenate([[0], chosen_X])
    theta_DXA = np.concatenate([intercept_D1A, beta_DXA], axis=1)
    among_DXX = fold_DMM[:, with_one[:, None], with_one]
    cross_DXA = fold_DMM[:, with_one, -gains:]
    own_DA = np.einsum("daa->da", fold_DMM[:, -gains:, -gains:])
    return (
        own_DA
        - 2 * np.einsum("dxa,dxa->da", theta_DXA, cross_DXA)
        + np.einsum("dxa,dxy,dya->da", theta_DXA, among_DXX, theta_DXA)
    )
