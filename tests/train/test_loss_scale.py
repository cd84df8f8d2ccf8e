"""The one denominator: every normalisation against sums worked out by hand."""

from math import nan

import numpy as np
import pytest
import torch

from bench.train.loss import token_scale

# The denominator

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)


SELECTED = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=float)


WEIGHT = np.array([[2, 0, 1, 0.5], [0, 0.25, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def scale_of(weight, normalize, mask=MASK):
    return token_scale(torch.as_tensor(weight), torch.from_numpy(mask), normalize).numpy()


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_selected_is_the_weighted_mean_over_the_batch(weight):
    assert scale_of(weight, "selected") == pytest.approx(weight / weight.sum())
    assert scale_of(weight, "selected").sum() == pytest.approx(1)


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_all_divides_by_every_sampled_token(weight):
    assert scale_of(weight, "all") == pytest.approx(weight / 9)


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_per_response_is_a_mean_of_means_over_the_responses_with_any(weight):
    expected = np.zeros_like(weight)
    for row in (0, 1):
        expected[row] = weight[row] / weight[row].sum() / 2
    assert scale_of(weight, "per_response") == pytest.approx(expected)


def test_per_response_of_a_worked_example():
    expected = [[1 / 6, 0, 1 / 6, 1 / 6], [0, 1 / 2, 0, 0], [0] * 4, [0] * 4]
    assert scale_of(SELECTED, "per_response") == pytest.approx(np.array(expected))


def test_a_boolean_selection_and_full_selection():
    everything = {name: scale_of(MASK, name) for name in ("selected", "all")}
    assert everything["selected"] == pytest.approx(MASK / 9)
    assert np.array_equal(everything["selected"], everything["all"])
    assert scale_of(SELECTED > 0, "selected") == pytest.approx(SELECTED / 4)


@pytest.mark.parametrize("normalize", ["selected", "all", "per_response"])
def test_an_empty_selection_has_scale_zero(normalize):
    assert np.array_equal(scale_of(np.zeros((4, 4)), normalize), np.zeros((4, 4)))
    nothing = np.zeros((4, 4), dtype=bool)
    assert np.array_equal(scale_of(np.ones((4, 4)), normalize, nothing), np.zeros((4, 4)))


@pytest.mark.parametrize("garbage", [nan, np.inf, 5.0])
@pytest.mark.parametrize("normalize", ["selected", "all", "per_response"])
def test_padding_cannot_change_the_scale(normalize, garbage):
    wide_weight = np.full((6, 7), garbage)
    wide_weight[:4, :4] = np.where(MASK, WEIGHT, garbage)
    wide_mask = np.zeros((6, 7), dtype=bool)
    wide_mask[:4, :4] = MASK
    wide = scale_of(wide_weight, normalize, wide_mask)
    assert np.array_equal(wide[:4, :4], scale_of(WEIGHT, normalize))
    assert np.all(wide[~wide_mask] == 0)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="'mean'.*per_response"):
        scale_of(WEIGHT, "mean")
