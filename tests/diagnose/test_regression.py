"""Standardised least squares by prompt moments, against numpy on the expanded sample."""

import numpy as np
import pytest

from bench.diagnose.bootstrap import make_draws
from bench.diagnose.regression import FOLDS, Moments

GENERATOR = np.random.default_rng(0)
PROMPT_N = np.repeat(np.arange(30), 8)
X_NX = GENERATOR.normal(size=(240, 4)) * [1, 5, 0.1, 2] + [0, 3, 0, 1]
X_NX[:, 3] = 0.5
Y_NA = np.stack([X_NX @ [1.0, -0.2, 3.0, 0.0] + GENERATOR.normal(size=240),
                 GENERATOR.normal(size=240)], 1)  # fmt: skip
DRAWS = make_draws(PROMPT_N, 10, 0)
MOMENTS = Moments(X_NX, Y_NA, DRAWS)


@pytest.mark.parametrize("d", [0, 3])
def test_coefficients_and_r2_are_numpys(d):
    place = np.repeat(np.arange(240), DRAWS.weight_DP[d][PROMPT_N].astype(int))
    x, y = X_NX[place][:, :3], Y_NA[place]
    design = np.c_[np.ones(len(x)), x]
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    r2 = 1 - (y - design @ beta).var(0) / y.var(0)
    fit = MOMENTS.fit([0, 1, 2])
    assert fit.per_unit_DXA[d] == pytest.approx(beta[1:])
    assert fit.standardised_DXA[d] == pytest.approx(beta[1:] * x.std(0)[:, None] / y.std(0))
    assert fit.r2_DA[d] == pytest.approx(r2)


@pytest.mark.parametrize("d", [0, 3])
def test_out_of_prompt_r2_predicts_prompts_that_were_not_fitted(d):
    place = np.repeat(np.arange(240), DRAWS.weight_DP[d][PROMPT_N].astype(int))
    x, y, fold = X_NX[place][:, :2], Y_NA[place], PROMPT_N[place] % FOLDS
    design = np.c_[np.ones(len(x)), x]
    error = np.zeros(2)
    for f in range(FOLDS):
        beta = np.linalg.lstsq(design[fold != f], y[fold != f], rcond=None)[0]
        error += ((y[fold == f] - design[fold == f] @ beta) ** 2).sum(0)
    expected = 1 - error / ((y - y.mean(0)) ** 2).sum(0)
    assert MOMENTS.fit([0, 1]).out_of_prompt_DA[d] == pytest.approx(expected)


def test_noise_explains_nothing_out_of_prompt_though_it_raises_r2():
    fit = MOMENTS.fit([0, 1, 2])
    assert fit.r2_DA[0, 1] > 0 > fit.out_of_prompt_DA[0, 1]


def test_a_constant_regressor_has_coefficient_0_and_changes_nothing():
    with_it, without = MOMENTS.fit([0, 1, 2, 3]), MOMENTS.fit([0, 1, 2])
    assert (with_it.per_unit_DXA[:, 3] == 0).all()
    assert with_it.r2_DA == pytest.approx(without.r2_DA)


def test_two_equal_regressors_share_their_coefficient():
    twice = Moments(np.c_[X_NX[:, 0], X_NX[:, 0]], Y_NA, DRAWS).fit([0, 1])
    assert twice.per_unit_DXA[:, 0] == pytest.approx(twice.per_unit_DXA[:, 1])
