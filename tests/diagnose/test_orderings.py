"""Spearman, partial Spearman and AUROC, against scipy on the expanded sample."""

import numpy as np
import pytest
from scipy import stats

from bench.diagnose.bootstrap import make_draws
from bench.diagnose.orderings import associate

SILENT = lambda done, total: None  # noqa: E731
GENERATOR = np.random.default_rng(0)
PROMPT_N = np.repeat(np.arange(12), 10)
SCORE_JN = np.stack(
    [
        np.round(GENERATOR.normal(size=120), 1),
        GENERATOR.normal(size=120),
        np.full(120, 2.0),
    ]
)
CONTROL_CN = np.stack([GENERATOR.normal(size=120) + SCORE_JN[0], np.tile(np.arange(10), 12)])
GAIN_AN = np.stack(
    [
        np.round(SCORE_JN[0] + CONTROL_CN[0] + GENERATOR.normal(size=120), 1),
        GENERATOR.normal(size=120),
    ]
)
DRAWS = make_draws(PROMPT_N, 20, 1)
FOUND = associate(SCORE_JN, CONTROL_CN, GAIN_AN, DRAWS, SILENT)


def expanded(d: int) -> np.ndarray:
    return np.repeat(np.arange(120), DRAWS.weight_DP[d][PROMPT_N].astype(int))


@pytest.mark.parametrize("d", [0, 1, 7])
def test_spearman_is_scipys_on_every_draw(d):
    place = expanded(d)
    for j in range(2):
        for a in range(2):
            expected = stats.spearmanr(SCORE_JN[j, place], GAIN_AN[a, place]).statistic
            assert FOUND.spearman_DJA[d, j, a] == pytest.approx(expected)


@pytest.mark.parametrize("d", [0, 3])
def test_auroc_counts_pairs_with_ties_as_half(d):
    place = expanded(d)
    for j in range(2):
        score, is_positive = SCORE_JN[j, place], GAIN_AN[0, place] > 0
        above, below = score[is_positive][:, None], score[~is_positive][None]
        expected = ((above > below) + 0.5 * (above == below)).mean()
        assert FOUND.auroc_DJA[d, j, 0] == pytest.approx(expected)


@pytest.mark.parametrize("d", [0, 5])
def test_partial_spearman_is_the_correlation_of_what_the_controls_leave_of_the_ranks(d):
    place = expanded(d)
    ranks = [stats.rankdata(x[place]) for x in (SCORE_JN[0], GAIN_AN[0], *CONTROL_CN)]
    design = np.stack([np.ones(place.size), *ranks[2:]], 1)
    left = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in ranks[:2]]
    assert FOUND.partial_DJA[d, 0, 0] == pytest.approx(np.corrcoef(*left)[0, 1])


def test_a_constant_score_has_no_correlation_and_a_control_none_given_itself():
    assert np.isnan(FOUND.spearman_DJA[:, 2]).all() and np.isnan(FOUND.auroc_DJA[:, 2]).all()
    found = associate(CONTROL_CN, CONTROL_CN, GAIN_AN, DRAWS, SILENT)
    assert np.isnan(found.partial_DJA).all() and np.isfinite(found.spearman_DJA).all()
