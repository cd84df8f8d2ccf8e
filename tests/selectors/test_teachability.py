"""The teachability family: what it keeps, and what its variants come to."""

from math import log

import numpy as np
import pytest
import torch
from batch_signals import signals_of
from numpy_first_rules import Tokens
from numpy_rules import norm_q
from probabilities import P, Q, signals_of_probabilities

from bench import get_selector


def test_teachability_keeps_corrective_mass_within_reach_and_incompatible_the_rest():
    """The teacher's mass moves inside the student's top 2, or off it, or not at all."""
    p = [[0.6, 0.3, 0.08, 0.02], [0.6, 0.3, 0.08, 0.02], [0.7, 0.1, 0.1, 0.1]]
    q = [[0.02, 0.9, 0.06, 0.02], [0.6, 0.06, 0.02, 0.32], [0.7, 0.1, 0.1, 0.1]]
    signals = signals_of_probabilities(p, q, [0, 0, 0], k=2)
    assert get_selector("teachability")(signals)[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    incompatible = get_selector("incompatible")(signals)[0].tolist()
    assert incompatible[0] == 0 and incompatible[1] > 0.8 and incompatible[2] == 0


def test_the_released_divergence_is_mostly_a_meter_of_the_floor():
    """Three tokens, K = 3: S∖T = {0}, none, {3}; T∖S = {3}, none, {1}. Both sides are renormalised
    first and floored afterwards."""
    p = [P, [0.4, 0.3, 0.2, 0.1], [0.25, 0.15, 0.34, 0.26]]
    q = [Q, [0.4, 0.35, 0.15, 0.1], [0.4, 0.26, 0.24, 0.1]]
    floor = 1e-12
    q_bar = np.array([floor, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9])
    p_bar = np.array([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, floor])
    with_a_missing_token = (q_bar * np.log(q_bar / p_bar)).sum()
    assert q_bar[3] * (log(q_bar[3]) + 27.6) > 0.9 * with_a_missing_token
    q_bar, p_bar = np.array([0.4, 0.35, 0.15]) / 0.9, np.array([0.4, 0.3, 0.2]) / 0.9
    without = (q_bar * np.log(q_bar / p_bar)).sum()
    q_bar = np.array([0.4 / 0.9, 0.26 / 0.9, 0.24 / 0.9, floor])
    p_bar = np.array([0.25 / 0.85, floor, 0.34 / 0.85, 0.26 / 0.85])
    third = (q_bar * np.log(q_bar / p_bar)).sum()
    divergence = norm_q(np.array([with_a_missing_token, without, third]))
    overlap = norm_q(np.array([0.2 + 0.3, 0.4 + 0.35 + 0.15, 0.4 + 0.24]))
    signals = signals_of_probabilities(p, q, [0, 0, 0], k=3)
    actual = get_selector("teachability_released")(signals)[0].numpy()
    np.testing.assert_allclose(actual, divergence * overlap, rtol=1e-4, atol=1e-6)


def test_the_release_renormalises_before_it_floors_and_never_again():
    """With a floor of a tenth, which can be seen: K = 2 of three ids, q = (.5, .3, .2) against
    p = (.5, .2, .3). T = {0, 1}, S = {0, 2}: q̄ = (.625, .375, .1), p̄ = (.625, .1, .375)."""
    q_bar, p_bar = np.array([0.625, 0.375, 0.1]), np.array([0.625, 0.1, 0.375])
    seen = (q_bar * np.log(q_bar / p_bar)).sum()
    # Floored first and renormalised afterwards, as the older form had it.
    q_old, p_old = np.array([0.5, 0.3, 0.1]) / 0.9, np.array([0.5, 0.1, 0.3]) / 0.9
    older = (q_old * np.log(q_old / p_old)).sum()
    q = [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.4, 0.35, 0.25]]
    p = [[0.5, 0.2, 0.3], [0.5, 0.4, 0.1], [0.4, 0.35, 0.25]]
    second_q, second_p = np.array([0.6, 0.3]) / 0.9, np.array([0.5, 0.4]) / 0.9
    second = (second_q * np.log(second_q / second_p)).sum()
    signals = signals_of_probabilities(p, q, [0, 0, 0], k=2)
    actual = get_selector("teachability_released", floor=0.1)(signals)[0].numpy()
    overlap = norm_q(np.array([0.5, 0.9, 0.75]))
    expected = norm_q(np.array([seen, second, 0.0])) * overlap
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    with_older = norm_q(np.array([older, second, 0.0])) * overlap
    assert np.abs(with_older - expected).max() > 1e-3


def test_the_released_floor_is_a_parameter(make_batch):
    batch = make_batch(seed=4, vocabulary=16)
    actual = get_selector("teachability_released", floor=1e-3)(signals_of(batch))[batch.mask_BT]
    np.testing.assert_allclose(actual, Tokens(batch).released(1e-3), rtol=1e-4, atol=1e-5)
    assert np.abs(Tokens(batch).released(1e-3) - Tokens(batch).released()).max() > 0.01


def test_raw_teachability_becomes_divergence_as_k_grows(make_batch):
    batch = make_batch(vocabulary=16)
    signals = signals_of(batch, k=16)
    torch.testing.assert_close(
        get_selector("teachability_raw")(signals), get_selector("forward_kl")(signals)
    )
    torch.testing.assert_close(
        get_selector("teachability_split")(signals), get_selector("forward_kl")(signals)
    )
