"""Statistics over the sampled tokens: against NumPy and scipy, and blind to padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from bench.selection.population import (
    average_ranks,
    best_of_each,
    norm_minmax,
    norm_q05,
    percentile_rank,
    place_in_response,
    quantile_of_each,
    quantiles,
)

NORMALISATIONS = (norm_q05, norm_minmax, percentile_rank)

values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60)


def row(value_N) -> tuple[torch.Tensor, torch.Tensor]:
    x_BT = torch.tensor([list(value_N)], dtype=torch.float32)
    return x_BT, torch.ones_like(x_BT, dtype=torch.bool)


def random_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    x_BT = torch.randn(4, 30, generator=generator).exp()
    mask_BT = torch.rand(4, 30, generator=generator) < 0.6
    return x_BT, mask_BT, x_BT.numpy().astype(float)[mask_BT.numpy()]


@given(values, st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_quantiles_are_numpys_linear_ones(value_N, probabilities):
    x_BT, mask_BT = row(value_N)
    expected = np.quantile(x_BT.numpy().astype(float), probabilities, method="linear")
    np.testing.assert_allclose(quantiles(x_BT, mask_BT, *probabilities), expected, rtol=1e-9)


def test_quantiles_of_a_worked_example():
    x_BT, mask_BT = row([40.0, 10.0, 20.0, 30.0])
    assert quantiles(x_BT, mask_BT, 0.0, 0.05, 0.5, 0.95, 1.0) == pytest.approx(
        [10.0, 11.5, 25.0, 38.5, 40.0]
    )


def test_q05_clips_at_the_quantiles_of_the_masked_tokens():
    x_BT, mask_BT, x_N = random_batch()
    low, high = np.quantile(x_N, [0.05, 0.95])
    expected = np.clip((x_N - low) / (high - low), 0, 1)
    actual_BT = norm_q05(x_BT, mask_BT)
    np.testing.assert_allclose(actual_BT[mask_BT].numpy(), expected, atol=2e-6)
    assert (expected == 0).sum() >= 2 and (expected == 1).sum() >= 2
    assert torch.all(actual_BT[~mask_BT] == 0)


def test_minmax_reaches_0_and_1_only_at_the_ends():
    x_BT, mask_BT, x_N = random_batch()
    expected = (x_N - x_N.min()) / (x_N.max() - x_N.min())
    actual_N = norm_minmax(x_BT, mask_BT)[mask_BT].numpy()
    np.testing.assert_allclose(actual_N, expected, atol=2e-6)
    assert (actual_N == 0).sum() == 1 and (actual_N == 1).sum() == 1


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=60))
def test_percentile_rank_averages_ties_as_scipy_does(value_N):
    x_BT, mask_BT = row(value_N)
    expected = (rankdata(value_N, method="average") - 1) / (len(value_N) - 1)
    np.testing.assert_allclose(percentile_rank(x_BT, mask_BT)[0].numpy(), expected, atol=1e-6)


def test_average_ranks_are_scipys_in_each_row():
    generator = np.random.default_rng(0)
    value = generator.integers(0, 6, (4, 40)).astype(float)
    value[1] = generator.normal(size=40)
    value[2, :7] = -np.inf
    value[3] = 3.0
    np.testing.assert_array_equal(
        average_ranks(torch.tensor(value)).numpy(), rankdata(value, axis=1) - 1
    )


def test_percentile_rank_counts_only_masked_tokens():
    x_BT, mask_BT, x_N = random_batch()
    expected = (rankdata(x_N) - 1) / (x_N.size - 1)
    actual_BT = percentile_rank(x_BT, mask_BT)
    np.testing.assert_allclose(actual_BT[mask_BT].numpy(), expected, atol=1e-6)
    assert torch.all(actual_BT[~mask_BT] == 0)


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("value_N", [[3.5] * 7, [0.0], [-2.0, -2.0]])
def test_a_population_without_spread_becomes_one_half(normalise, value_N):
    assert normalise(*row(value_N)).tolist() == [[0.5] * len(value_N)]


def test_a_range_under_1e_5_is_neutral_and_one_over_it_is_stretched():
    # 21 tokens: Q05 and Q95 are the second and the second last, so their range is `spread`.
    def population(spread):
        return [0.0, 0.0, *[spread / 2] * 17, spread, spread]

    for normalise in (norm_q05, norm_minmax):
        assert normalise(*row(population(0.99e-5))).unique().tolist() == [0.5]
        stretched = normalise(*row(population(1.01e-5)))[0]
        assert stretched[:2].tolist() == [0, 0] and stretched[-2:].tolist() == [1, 1]
        assert stretched[2:-2].tolist() == pytest.approx([0.5] * 17)


def test_outliers_outside_the_quantiles_do_not_widen_the_q05_range():
    # 41 tokens: one outlier at each end is outside Q05 and Q95.
    population = [-1e6, *[1.0] * 39, 1e6]
    assert norm_q05(*row(population)).unique().tolist() == [0.5]
    assert norm_minmax(*row(population))[0, 0] == 0 and norm_minmax(*row(population))[0, -1] == 1


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e9, -1e9])
@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_padding_cannot_change_a_normalised_value(normalise, garbage):
    x_BT, mask_BT, _ = random_batch()
    clean_BT = normalise(x_BT, mask_BT)
    dirty_BT = torch.full((6, 37), garbage)
    dirty_BT[:4, :30] = torch.where(mask_BT, x_BT, garbage)
    wide_BT = torch.zeros(6, 37, dtype=torch.bool)
    wide_BT[:4, :30] = mask_BT
    padded_BT = normalise(dirty_BT, wide_BT)
    assert torch.equal(padded_BT[:4, :30], clean_BT)
    assert torch.all(padded_BT[~wide_BT] == 0)


@given(values)
def test_normalised_values_lie_in_0_1_and_keep_the_order(value_N):
    x_BT, mask_BT = row(value_N)
    order = np.argsort(x_BT.numpy()[0], kind="stable")
    for normalise in NORMALISATIONS:
        sorted_N = normalise(x_BT, mask_BT)[0].numpy()[order]
        assert sorted_N.min() >= 0 and sorted_N.max() <= 1
        assert np.all(np.diff(sorted_N) >= 0)


def test_a_batch_without_tokens_gives_zeros():
    x_BT, mask_BT = torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool)
    for normalise in NORMALISATIONS:
        assert normalise(x_BT, mask_BT).tolist() == [[0.0] * 3] * 2


def test_a_quantile_of_more_tokens_than_torch_quantile_takes():
    x_BT = torch.linspace(0, 1, 17_000_001)[None]
    mask_BT = torch.ones_like(x_BT, dtype=torch.bool)
    assert quantiles(x_BT, mask_BT, 0.25)[0] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("share", [0.07, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("rounding", ["up", "down", "nearest"])
def test_the_best_of_each_response_are_counted_exactly(share, rounding):
    from fractions import Fraction
    from math import ceil, floor

    x_BT, mask_BT, _ = random_batch(3)
    x_BT[:, ::3] = -torch.inf  # never
    x_BT[0, 1::3] = 1.0  # ties
    tie_BT = torch.rand(x_BT.shape, generator=torch.Generator().manual_seed(9))
    kept_BT = best_of_each(x_BT, mask_BT, tie_BT, share, rounding, 1)
    whole = {"up": ceil, "down": floor, "nearest": round}[rounding]
    for row in range(len(x_BT)):
        may = [t for t in range(30) if mask_BT[row, t] and x_BT[row, t] > -torch.inf]
        count = min(len(may), max(1, whole(Fraction(str(share)) * len(may))))
        best = sorted(may, key=lambda t: (-x_BT[row, t], tie_BT[row, t]))[:count]
        assert sorted(kept_BT[row].nonzero()[:, 0].tolist()) == sorted(best)


def test_the_quantile_and_the_place_of_each_response():
    x_BT, mask_BT, _ = random_batch(4)
    mask_BT[1] = False
    found_B1, place_BT = quantile_of_each(x_BT, mask_BT, 0.1), place_in_response(mask_BT)
    for row in (0, 2, 3):
        value_N = x_BT[row, mask_BT[row]].double().numpy()
        assert float(found_B1[row]) == pytest.approx(np.quantile(value_N, 0.1), rel=1e-6)
        n = len(value_N)
        np.testing.assert_allclose(place_BT[row, mask_BT[row]], (np.arange(n) + 0.5) / n, rtol=1e-6)
    assert found_B1[1].isnan() and not place_BT[~mask_BT].any()
