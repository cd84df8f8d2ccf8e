"""Intervals against published values and scipy's own tests."""

from math import inf

import numpy as np
import pytest
from scipy import stats

from bench.core.stats import mean_estimate, paired_difference


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_accuracies_get_wilsons_interval_as_published(successes, n, low, high):
    estimate = mean_estimate([1] * successes + [0] * (n - successes))
    assert estimate.mean == pytest.approx(successes / n) and estimate.n == n
    assert estimate.ci95 == pytest.approx((low, high), abs=6e-5)


def test_wilsons_formula_at_the_ends():
    z2 = stats.norm.ppf(0.975) ** 2
    assert mean_estimate([0.0] * 10).ci95 == pytest.approx((0, z2 / (10 + z2)), abs=1e-9)
    assert mean_estimate([1.0] * 10).ci95 == pytest.approx((10 / (10 + z2), 1), abs=1e-9)
    assert mean_estimate([True]).ci95 == pytest.approx((1 / (1 + z2), 1), abs=1e-9)


def test_graded_scores_get_students_interval():
    score_I = np.random.default_rng(0).random(37)
    estimate = mean_estimate(list(score_I))
    expected = stats.ttest_1samp(score_I, 0).confidence_interval(0.95)
    assert estimate.mean == pytest.approx(score_I.mean())
    assert estimate.ci95 == pytest.approx((expected.low, expected.high))


def test_paired_differences_get_the_paired_t_interval():
    generator = np.random.default_rng(1)
    before_I = generator.integers(0, 2, 50)
    after_I = generator.integers(0, 2, 50) | (before_I & generator.integers(0, 2, 50))
    estimate = paired_difference(list(after_I), list(before_I))
    expected = stats.ttest_rel(after_I, before_I).confidence_interval(0.95)
    assert estimate.mean == pytest.approx(after_I.mean() - before_I.mean()) and estimate.n == 50
    assert estimate.ci95 == pytest.approx((expected.low, expected.high))
    swapped = paired_difference(list(before_I), list(after_I))
    assert swapped.mean == -estimate.mean
    assert swapped.ci95 == pytest.approx((-expected.high, -expected.low))


def test_a_paired_difference_of_a_worked_example():
    # differences 1, 0, 1, 0: mean 1/2, sd √(1/3), t(0.975, 3) = 3.18245.
    estimate = paired_difference([1, 0, 1, 1], [0, 0, 0, 1])
    half = 3.18245 * (1 / 3) ** 0.5 / 2
    assert estimate.mean == 0.5
    assert estimate.ci95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)


def test_one_item_says_nothing_of_its_spread():
    assert paired_difference([1.0], [0.0]).ci95 == (-inf, inf)
    assert mean_estimate([0.3]).ci95 == (-inf, inf)


def test_items_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="2 and 3"):
        paired_difference([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="0 and 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="no items"):
        mean_estimate([])
