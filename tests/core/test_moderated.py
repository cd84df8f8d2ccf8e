"""The moderated test: each step against its formula, the whole against tables of known truth."""

import json
from pathlib import Path

import null_worlds as worlds
import numpy as np
import pytest
from scipy import special, stats
from table_tests import crossed, errors_of, in_use

from bench.core import moderated
from bench.core.moderated import (
    CHOSEN,
    Moderation,
    SeedVariance,
    moderate,
    own_variances,
    scaled_t,
    seed_variances,
)
from bench.core.provenance import code_digest

RESULTS = Path(__file__).parents[2] / "results"


def table(arms, seeds, draws=None, seed=0):
    shape = (arms, seeds) if draws is None else (draws, arms, seeds)
    return np.random.default_rng(seed).normal(0, 0.02, shape)


def test_what_a_seed_does_to_all_arms_is_no_variance():
    mean_AS = table(6, 4)
    with_shared = mean_AS + np.array([0.3, -0.1, 0.2, 0.0])
    variance_A, df_A = own_variances(mean_AS)
    assert own_variances(with_shared)[0] == pytest.approx(variance_A)
    # Balanced: the variance of what is left, over the share of it that centring leaves.
    left_AS = mean_AS - mean_AS.mean(0)
    assert variance_A == pytest.approx(left_AS.var(1, ddof=1) * 6 / 5)
    assert df_A.tolist() == [3] * 6


def test_few_arms_keep_it():
    mean_AS = table(5, 4) + np.array([0.3, -0.1, 0.2, 0.0])
    assert own_variances(mean_AS)[0] == pytest.approx(mean_AS.var(1, ddof=1))


@pytest.mark.parametrize("arms", [4, 9])
def test_missing_seeds_leave_variances_unbiased(arms):
    mean_RAS = table(arms, 5, draws=4000) * (1 + np.arange(arms)[:, None] % 2 * 0)
    mean_RAS += np.random.default_rng(1).normal(0, 0.05, (4000, 1, 5)) * (arms > 5)
    mean_RAS[:, 1::2, 3:] = np.nan
    mean_RAS[:, 2, 0] = np.nan
    variance_RA, df_A = own_variances(mean_RAS)
    assert variance_RA.mean(0) == pytest.approx(np.full(arms, 4e-4), rel=0.06)
    assert df_A.tolist() == [4, 2, 3, 2, 4, 2, 4, 2, 4][:arms]


def test_variances_of_unequal_seeds_are_those_of_least_squares():
    mean_AS = table(7, 5)
    mean_AS[3, 1:3] = np.nan
    mean_AS[5, 4] = np.nan
    arm_N, seed_N = np.nonzero(~np.isnan(mean_AS))
    design = np.hstack([np.eye(7)[arm_N], np.eye(5)[seed_N]])
    fit = design @ np.linalg.lstsq(design, mean_AS[arm_N, seed_N], rcond=None)[0]
    square_N = (mean_AS[arm_N, seed_N] - fit) ** 2
    free_N = 1 - np.diag(design @ np.linalg.pinv(design))
    expected = [square_N[arm_N == arm].sum() / free_N[arm_N == arm].sum() for arm in range(7)]
    assert own_variances(mean_AS)[0] == pytest.approx(np.array(expected))


def prior_by_hand(variance_A, df):
    """Smyth (2004), section 6.2, with the spread one standard error upward."""
    log_A = np.log(variance_A) - special.digamma(df / 2) + np.log(df / 2)
    spread = log_A.var(ddof=1) * (1 + (2 / (len(variance_A) - 1)) ** 0.5)
    excess = spread - special.polygamma(1, df / 2)
    prior_df = 1e3
    if excess > special.polygamma(1, 500):
        low, high = 1e-3, 500.0
        for _ in range(200):  # trigamma falls
            middle = (low + high) / 2
            low, high = (middle, high) if special.polygamma(1, middle) > excess else (low, middle)
        prior_df = 2 * low
    mean = log_A.mean() + special.digamma(prior_df / 2) - np.log(prior_df / 2)
    return np.exp(mean), prior_df


@pytest.mark.parametrize("spread", [0.1, 0.7, 1.2])
def test_a_variance_is_drawn_to_the_prior_by_the_degrees_of_freedom_of_each(spread):
    rng = np.random.default_rng(3)
    variance_A = 4e-4 * np.exp(rng.normal(0, spread, 12)) * rng.chisquare(4, 12) / 4
    df_A, is_reference_A = np.full(12, 4), np.arange(12) < 2
    prior, prior_df = prior_by_hand(variance_A, 4)
    lent_A = np.minimum(prior_df, np.where(is_reference_A, 4, 10))
    expected_A = (lent_A * prior + 4 * variance_A) / (lent_A + 4)
    is_outlier_A = stats.f.sf(variance_A / prior, 4, lent_A) < 0.1
    expected_A = np.where(is_outlier_A, np.maximum(expected_A, variance_A), expected_A)
    found_A, found_df_A = moderate(variance_A, df_A, is_reference_A)
    assert found_A == pytest.approx(expected_A, rel=1e-6)
    assert found_df_A == pytest.approx(lent_A + 4, rel=1e-6)


def test_arms_that_agree_lend_no_more_than_the_caps():
    variance_A, df_A = np.full(20, 4e-4), np.full(20, 2)
    found_A, found_df_A = moderate(variance_A, df_A, np.arange(20) < 1)
    assert found_df_A.tolist() == [6.0] + [12.0] * 19
    # Equal variances of two degrees of freedom each: their common prior lies above them.
    assert found_A[1] > 4e-4 and len(set(found_A[1:])) == 1


def test_a_wild_arm_keeps_its_own_variance_and_a_quiet_one_does_not():
    variance_A = np.array([*np.full(20, 4e-4), 4e-2, 4e-6])
    found_A, _ = moderate(variance_A, np.full(22, 4), np.zeros(22, bool))
    assert found_A[20] == pytest.approx(4e-2)
    assert found_A[21] > 1e-5
    tamed_A, _ = moderate(
        variance_A, np.full(22, 4), np.zeros(22, bool), how=Moderation(outlier=0.0)
    )
    assert tamed_A[20] < 4e-2


def test_no_variance_is_below_what_the_items_make_of_it():
    variance_A = np.array([1e-5, 4e-4, 5e-4, 6e-4])
    free_A, df_A = moderate(variance_A, np.full(4, 2), np.zeros(4, bool))
    floor_A = np.array([1.0, 0.0, 0.0, 0.0])
    found_A, same_df_A = moderate(variance_A, np.full(4, 2), np.zeros(4, bool), floor_A)
    assert found_A[0] == 1.0 and found_A[1:] == pytest.approx(free_A[1:])
    assert same_df_A == pytest.approx(df_A)


def test_one_mean_for_all_seeds_is_no_infinite_outlier():
    variance_A = np.array([0.0, 4e-4, 5e-4, 6e-4])
    least_A = np.array([4.5e-4 * 1e-3, 4e-4, 5e-4, 6e-4])
    found = moderate(variance_A, np.full(4, 2), np.zeros(4, bool))
    assert found[0] == pytest.approx(moderate(least_A, np.full(4, 2), np.zeros(4, bool))[0])
    nothing, _ = moderate(np.zeros(3), np.full(3, 2), np.zeros(3, bool))
    assert np.isfinite(nothing).all() and (nothing < 1e-200).all()


def test_one_arm_has_only_itself():
    assert moderate(np.array([4e-4]), np.array([4]), np.array([False]))[0] == pytest.approx(4e-4)
    assert moderate(np.array([4e-4]), np.array([4]), np.array([False]))[1] == 4


def test_the_scaled_t_has_the_moments_of_the_sum():
    parts, rng, draws = [(0.5, 7.0), (0.3, 12.0), (0.2, 30.0)], np.random.default_rng(0), 10**6
    total = sum(part**0.5 * rng.standard_t(df, draws) for part, df in parts)
    error, scale, df = scaled_t(parts)
    stands_for = error * scale * rng.standard_t(float(df), draws)
    assert error == pytest.approx(1.0)
    assert stands_for.var() == pytest.approx(total.var(), rel=0.01)
    for share in (0.01, 0.001):
        level = np.quantile(np.abs(total), 1 - share)
        assert (np.abs(stands_for) > level).mean() == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([(4.0, 9.0)], (2.0, 1.0, 9.0)),  # one part: its own t
        ([(4.0, 9.0), (0.0, 1.0)], (2.0, 1.0, 9.0)),  # a part of zero counts for nothing
        ([(3.0, 3.0), (1.0, 12.0)], (2.0, 1.0, 3.0)),  # no fourth moment: the fewest
        ([(3.0, 4.0), (1.0, 12.0)], (2.0, 1.0, 4.0)),
        ([(0.0, 3.0), (0.0, 5.0)], (0.0, 1.0, np.inf)),
    ],
)
def test_the_t_of_simple_sums(parts, expected):
    assert scaled_t(parts) == pytest.approx(expected)


def test_arms_of_one_seed_have_no_variance_and_lend_none():
    means = [{0: 0.5, 1: 0.52, 2: 0.49}, {1: 0.6}, {0: 0.4, 2: 0.44}]
    found = seed_variances(means, [True, False, False], [0.0, 0.0, 0.0])
    assert found[1] is None
    assert found[::2] == seed_variances(means[::2], [True, False], [0.0, 0.0])
    assert isinstance(found[0], SeedVariance)
    assert seed_variances([{0: 0.5}], [False], [0.0]) == [None]


DESIGNS = [
    {"rules": 31, "seeds": 5, "ratio": 4.0},
    {"rules": 31, "seeds": 3, "ratio": 4.0},
    {"rules": 2, "seeds": 3, "ratio": 2.0},
    {"rules": 10, "seeds": 3, "ratio": 4.0, "unequal": True},
    {"rules": 10, "seeds": 3, "ratio": 10.0, "stress": "references wild"},
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: "-".join(map(str, design.values())))
def test_the_family_wise_error_holds_where_that_of_the_crossed_test_does_not(design):
    """A short form of tests/benchmarks/verdict_error.py."""
    tables = 2000
    world = worlds.normal(np.random.default_rng([7, len(str(design))]), tables, **design)
    found, before = (errors_of(world, test)["family"] for test in (in_use, crossed))
    assert found <= 0.06 + 2 * (0.06 * 0.94 / tables) ** 0.5, found
    assert before > 0.1, before


def test_few_items_are_known_by_their_own_degrees_of_freedom():
    world = worlds.right_or_wrong(np.random.default_rng(5), 400, 2, 3, items=12, sd=0.0)
    assert errors_of(world, in_use)["family"] <= 0.06


def test_what_the_simulation_computes_is_what_the_tables_do():
    """One table of scores both ways: as a world of items, and by the functions of the tables."""
    from bench.core.stats import moderated_difference, sampling_variance

    rng = np.random.default_rng(11)
    score_ASI = (rng.random((7, 4, 50)) < rng.uniform(0.4, 0.7, (7, 4, 1))).astype(float)
    floors = [sampling_variance(score_SI) for score_SI in score_ASI]
    variances = seed_variances(
        [dict(enumerate(score_SI.mean(1))) for score_SI in score_ASI], [True] + [False] * 6, floors
    )
    world = worlds.of_items(score_ASI[None], np.array([[3, 0], [5, 0]]), 1, 0.0)
    world = worlds.World(world.mean_RAS, world.pair_C2, world.item_RC, world.residual_RC, 50,
                         np.array(floors), world.is_reference_A, world.is_null_C)  # fmt: skip
    expected = [
        moderated_difference(score_ASI[a] - score_ASI[0], variances[a], variances[0]).p_value
        for a in (3, 5)
    ]
    assert in_use(world)[0] == pytest.approx(expected)


def test_the_committed_figures_are_of_this_test():
    found = json.loads((RESULTS / "statistics.json").read_text())
    assert found["code"] == code_digest(("core/moderated",)), (
        "python tests/benchmarks/verdict_error.py makes results/statistics.md anew; a change of "
        "the test is a new TEST_VERSION"
    )
    assert found["test_version"] == moderated.TEST_VERSION
    assert found["replicates"] >= 5000
    assert Moderation(10.0, 4.0, 0.1) == CHOSEN


def test_the_page_is_made_of_the_committed_figures():
    from verdict_error import power_table
    from verdict_page import page

    found = json.loads((RESULTS / "statistics.json").read_text())
    assert (RESULTS / "statistics.md").read_text() == page(found)
    committed = json.loads((RESULTS.parent / "bench/tables/power.json").read_text())
    assert committed == json.loads(json.dumps(power_table(found)))
