"""Intervals over prompts and seeds, and ranks under weights."""

import numpy as np
import pytest
from scipy import stats

from bench.diagnose.bootstrap import Draws, make_draws, resampled
from bench.diagnose.orderings import Ranks

PROMPTS, LENGTH = 60, 20


def clustered(seed: int, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """(prompt_N, value_N): a share of the variance is the prompt's own."""
    generator = np.random.default_rng(seed)
    prompt_N = np.repeat(np.arange(PROMPTS), LENGTH)
    own = generator.normal(size=PROMPTS)[prompt_N]
    noise = generator.normal(size=prompt_N.size)
    return prompt_N, np.sqrt(shared) * own + np.sqrt(1 - shared) * noise


def mean_interval(prompt_N, value_NS, draws=400):
    found = make_draws(prompt_N, draws, 0)
    value_DS = found.sums(value_NS) / found.total_D()[:, None]
    return resampled(value_DS, found.prompts)


def width(found) -> float:
    return found.ci95[1] - found.ci95[0]


def test_the_interval_is_wider_than_a_naive_one_where_a_prompts_contexts_are_alike():
    prompt_N, value_N = clustered(0, shared=0.5)
    by_prompt = width(mean_interval(prompt_N, value_N[:, None]))
    naive = width(mean_interval(np.arange(value_N.size), value_N[:, None]))
    expected = np.sqrt(1 + (LENGTH - 1) * 0.5)  # the design effect of equal clusters
    assert by_prompt / naive == pytest.approx(expected, rel=0.2)


def test_the_interval_is_the_naive_one_where_contexts_are_independent():
    prompt_N, value_N = clustered(1, shared=0.0)
    by_prompt = width(mean_interval(prompt_N, value_N[:, None]))
    naive = width(mean_interval(np.arange(value_N.size), value_N[:, None]))
    assert by_prompt / naive == pytest.approx(1, rel=0.25)


def test_for_one_seed_the_interval_is_students_over_prompt_means():
    prompt_N, value_N = clustered(2, shared=0.5)
    mean_P = value_N.reshape(PROMPTS, LENGTH).mean(1)
    low, high = stats.t.interval(0.95, PROMPTS - 1, mean_P.mean(), stats.sem(mean_P))
    found = mean_interval(prompt_N, value_N[:, None], draws=4000)
    assert found.value == pytest.approx(value_N.mean())
    assert width(found) == pytest.approx(high - low, rel=0.04)


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not():
    prompt_N, value_N = clustered(3, shared=0.3)
    one = width(mean_interval(prompt_N, value_N[:, None]))
    same = width(mean_interval(prompt_N, np.stack([value_N] * 3, 1)))
    apart = mean_interval(prompt_N, value_N[:, None] + np.array([-0.5, 0.0, 0.5]))
    assert same == pytest.approx(one)
    assert width(apart) > 3 * one
    assert apart.by_seed == pytest.approx(value_N.mean() + np.array([-0.5, 0.0, 0.5]))
    # Three seeds a half apart: sd 0.5, two degrees of freedom.
    at_least = 2 * stats.t.ppf(0.975, 2) * 0.5 / np.sqrt(3)
    assert width(apart) == pytest.approx(at_least, rel=0.1)


def test_noise_of_contexts_under_each_seed_is_not_counted_as_variance_of_seeds_too():
    prompt_N, _ = clustered(4, shared=0.0)
    generator = np.random.default_rng(5)
    widths, truth = [], []
    for _ in range(40):
        value_NS = generator.normal(size=(prompt_N.size, 3))
        widths.append(width(mean_interval(prompt_N, value_NS, draws=100)))
        truth.append(value_NS.mean())
    assert np.median(widths) == pytest.approx(2 * 1.96 * np.std(truth), rel=0.4)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Crossed random effects of prompts and seeds; 3 seeds, 30 prompts."""
    generator = np.random.default_rng(6)
    hits = 0
    for _ in range(200):
        prompt_P1, seed_S = generator.normal(size=(30, 1)), 0.2 * generator.normal(size=3)
        value_PS = prompt_P1 + seed_S + 0.5 * generator.normal(size=(30, 3))
        low, high = mean_interval(np.arange(30), value_PS, draws=100).ci95
        hits += low <= 0 <= high
    assert 0.91 <= hits / 200 <= 0.995


def test_prompts_are_drawn_whole_and_the_same_for_the_same_seed():
    prompt_N = np.array([5, 5, 9, 9, 9, 2])
    one, other = make_draws(prompt_N, 50, 3), make_draws(prompt_N, 50, 3)
    assert np.array_equal(one.weight_DP, other.weight_DP)
    assert one.weight_DP[0].tolist() == [1, 1, 1]
    assert (one.weight_DP.sum(1) == 3).all()
    assert one.prompt_N.tolist() == [1, 1, 2, 2, 2, 0]
    assert not np.array_equal(make_draws(prompt_N, 50, 4).weight_DP, one.weight_DP)


def test_a_statistic_that_is_not_defined_has_no_value_and_one_that_is_seldom_has_no_interval():
    never = resampled(np.full((11, 2), np.nan), 10)
    assert never.to_json() == {"value": None, "ci95": None}
    often = np.ones((101, 1))
    often[1:50] = np.nan
    assert resampled(often, 10).to_json() == {"value": 1.0, "ci95": None}
    exact = resampled(np.zeros((101, 3)), 10)
    assert exact.to_json("gain") == {"gain": 0.0, "ci95": [0.0, 0.0]} and exact.p_value == 1


def test_ranks_under_weights_are_those_of_the_expanded_sample():
    generator = np.random.default_rng(7)
    value_JN = np.round(generator.normal(size=(4, 30)), 1)
    value_JN[3] = 1.0
    value_JN[2, :5] = -np.inf
    weight_N = generator.integers(0, 4, size=30).astype(float)
    ranks = Ranks(value_JN)
    for weights_N in (weight_N, np.ones(30)):
        rank_JN = ranks.centred(weights_N)
        place_M = np.repeat(np.arange(30), weights_N.astype(int))
        for j in range(4):
            expected_M = stats.rankdata(value_JN[j, place_M])
            expected_M = expected_M - expected_M.mean()
            assert np.allclose(rank_JN[j, place_M], expected_M)


def test_means_of_a_group_are_those_of_the_expanded_sample():
    draws = Draws(np.array([0, 0, 1, 1]), np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    value_NS = np.array([[1.0], [3.0], [5.0], [7.0]])
    mean_DS = draws.means(value_NS, np.array([True, False, True, True]))
    assert mean_DS[:, 0] == pytest.approx([13 / 3, 1, 6])
    only_first = draws.means(value_NS, np.array([True, True, False, False]))[:, 0]
    assert only_first[:2] == pytest.approx([2, 2]) and np.isnan(only_first[2])
