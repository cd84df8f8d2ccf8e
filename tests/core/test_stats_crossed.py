"""Crossed seeds and items: the interval covers what it promises; verdicts say tie by default."""

import numpy as np
import pytest
from scipy import stats

from bench.core.moderated import SeedVariance
from bench.core.stats import (
    Difference,
    crossed_mean,
    holm,
    item_variance,
    mcnemar_exact,
    moderated_difference,
    probability_of_improvement,
    sampling_variance,
    verdicts,
)


def simulate(rng, seeds, items, seed_sd, interaction_sd):
    """difference_SI of two methods of equal accuracy: 0/1 scores from a logistic model."""
    item_I = rng.normal(0, 1.5, items)
    score = []
    for _ in range(2):
        logit_SI = (
            item_I + rng.normal(0, interaction_sd, items) + rng.normal(0, seed_sd, (seeds, 1))
        )
        score.append(rng.random((seeds, items)) < 1 / (1 + np.exp(-logit_SI)))
    return score[0].astype(float) - score[1]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("interaction_sd", [0.0, 0.5])
def test_the_95_percent_interval_covers_at_least_93_percent(seeds, seed_sd, interaction_sd):
    rng = np.random.default_rng([seeds, int(100 * seed_sd), int(10 * interaction_sd)])
    tries, covered = 1500, 0
    for _ in range(tries):
        low, high = crossed_mean(simulate(rng, seeds, 1000, seed_sd, interaction_sd)).ci95
        covered += low <= 0 <= high
    # Two binomial standard errors of the simulation itself are allowed for.
    assert covered / tries >= 0.93 - 2 * (0.93 * 0.07 / tries) ** 0.5, covered / tries


def layout(seeds=3, items=40):
    """Values with effects of seeds and items, and their mean squares by definition."""
    rng = np.random.default_rng(0)
    of_seed, of_item = rng.normal(size=(seeds, 1)), 0.5 * rng.normal(size=(1, items))
    d_SI = of_seed + of_item + rng.normal(size=(seeds, items))
    residual = d_SI - d_SI.mean(1, keepdims=True) - d_SI.mean(0, keepdims=True) + d_SI.mean()
    return (
        d_SI,
        items * d_SI.mean(1).var(ddof=1),
        seeds * d_SI.mean(0).var(ddof=1),
        (residual**2).sum() / ((seeds - 1) * (items - 1)),
    )


def test_the_variance_of_an_accuracy_is_that_of_the_two_way_layout():
    d_SI, ms_seed, ms_item, ms_res = layout()
    both = ms_seed + ms_item - ms_res
    assert both > max(ms_seed, ms_item)
    df = both**2 / (ms_seed**2 / 2 + ms_item**2 / 39 + ms_res**2 / 78)
    found, half = crossed_mean(d_SI), stats.t.ppf(0.975, df) * (both / 120) ** 0.5
    assert (found.mean, found.n) == (pytest.approx(d_SI.mean()), 40)
    assert found.ci95 == pytest.approx((d_SI.mean() - half, d_SI.mean() + half))


def test_the_variance_of_a_difference_is_both_arms_and_the_items():
    d_SI, _, ms_item, ms_res = layout()
    assert item_variance(d_SI) == pytest.approx((ms_item - ms_res) / 120) and ms_item > ms_res
    assert sampling_variance(d_SI) == pytest.approx(ms_res / 40)
    one, other = SeedVariance(0.03, 7.0), SeedVariance(0.06, 12.0)
    found = moderated_difference(d_SI, one, other)
    square = (0.03 + 0.06) / 3 + (ms_item - ms_res) / 120
    # The scaled t by hand: second and fourth moments of the three parts.
    shares = [0.01 / square, 0.02 / square, (ms_item - ms_res) / 120 / square]
    parts = [s * df / (df - 2) for s, df in zip(shares, (7, 12, 39), strict=True)]
    df = 4 + sum(parts) ** 2 / sum(p**2 / (d - 4) for p, d in zip(parts, (7, 12, 39), strict=True))
    error = (square * sum(parts) * (df - 2) / df) ** 0.5
    assert found.degrees_of_freedom == pytest.approx(df)
    assert found.standard_error == pytest.approx(error)
    assert found.ci95[1] - found.mean == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.mean) / error, df))
    assert (found.seeds, found.items, found.mean) == (3, 40, pytest.approx(d_SI.mean()))
    shifted = moderated_difference(d_SI + 0.02, one, other)
    assert shifted.p_value_of(0.02) == pytest.approx(found.p_value)


def test_items_that_only_differ_by_chance_add_nothing():
    """MS_item under MS_res: no variance is negative, no error smaller than that of the seeds."""
    row_I = np.random.default_rng(2).normal(size=40)
    d_SI = np.stack([row_I, -row_I, 0 * row_I])
    assert item_variance(d_SI) == 0.0
    arm = SeedVariance(0.03, 9.0)
    found = moderated_difference(d_SI, arm, SeedVariance(0.0, 9.0))
    assert (found.standard_error, found.degrees_of_freedom) == pytest.approx((0.1, 9.0))


def test_more_items_cannot_hide_the_variance_of_seeds():
    seed_S1 = np.array([[0.1], [0.0], [-0.1]])
    few, many = (crossed_mean(seed_S1 + np.zeros((3, n))).ci95 for n in (10, 10_000))
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert few == pytest.approx((-half, half)) and many == pytest.approx((-half, half))


def test_no_difference_anywhere_is_a_certain_zero():
    same = SeedVariance(0.0, 6.0)
    found = moderated_difference(np.zeros((3, 5)), same, same)
    assert (found.mean, found.ci95, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert found.smallest_detectable(4) == 0.0
    certain = moderated_difference(np.full((3, 5), 0.2), same, same)
    assert certain.mean == pytest.approx(0.2) and certain.p_value < 1e-50
    assert crossed_mean(np.full((3, 5), 0.2)).ci95 == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (9,)])
def test_one_seed_or_one_item_is_refused(shape):
    with pytest.raises(ValueError, match="two seeds and two items"):
        crossed_mean(np.zeros(shape))
    with pytest.raises(ValueError, match="two seeds and two items"):
        moderated_difference(np.zeros(shape), SeedVariance(1.0, 5.0), SeedVariance(1.0, 5.0))


def difference(mean, p_value):
    return Difference(mean, (0.0, 0.0), 0.01, 10.0, p_value, 3, 1000)


def test_holm_adjusts_as_worked_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_verdict_needs_certainty_and_size():
    assert verdicts([difference(0.05, 1e-4)]) == ["better"]
    assert verdicts([difference(-0.05, 1e-4)]) == ["worse"]
    assert verdicts([difference(0.009, 1e-9)]) == ["tie"]  # certain, but under a point
    assert verdicts([difference(0.05, 0.04)]) == ["better"]
    assert verdicts([difference(0.05, 0.04)] * 2) == ["tie", "tie"]  # two tries at 5 % are not one
    assert verdicts([difference(0.009, 1e-9)], min_effect=0.0) == ["better"]


@pytest.mark.parametrize("df", [1.0, 2.0, 3.7, 12.0])
@pytest.mark.parametrize("comparisons", [1, 7])
def test_the_smallest_detectable_effect_is_found_with_80_percent_power(df, comparisons):
    """By simulation: a t statistic is a normal over an independent estimate of its own spread."""
    error, draws = 0.02, 200_000
    design = Difference(0.0, (0.0, 0.0), error, df, 1.0, 3, 1000)
    rng = np.random.default_rng(1)
    spread_D = error * np.sqrt(rng.chisquare(df, draws) / df)
    effect_D = rng.normal(design.smallest_detectable(comparisons), error, draws)
    critical = stats.t.ppf(1 - 0.025 / comparisons, df)
    power = (effect_D > critical * spread_D).mean()
    assert power == pytest.approx(0.8, abs=0.004)


def test_more_comparisons_need_a_larger_effect():
    found = Difference(0.0, (0.0, 0.0), 0.02, 5.0, 1.0, 3, 1000)
    sizes = [found.smallest_detectable(n) for n in (1, 2, 63, 500)]
    assert sizes == sorted(sizes) and np.isfinite(sizes).all() and sizes[0] > 0


def test_mcnemar_is_the_binomial_test_of_the_discordant_items():
    one = [1] * 9 + [0] * 1 + [1] * 5
    other = [0] * 9 + [1] * 1 + [1] * 5
    assert mcnemar_exact(one, other) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_exact(one, one) == 1.0
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar_exact([0.5], [1])


def test_probability_of_improvement_counts_pairs_and_half_ties():
    assert probability_of_improvement([3, 1], [2, 1]) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_seeds_that_all_answer_nothing_have_an_interval_of_no_width():
    found = crossed_mean(np.zeros((3, 5)))
    assert (found.mean, found.ci95) == (0.0, (0.0, 0.0))
