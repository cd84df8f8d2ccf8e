"""The first rules against methods.md's formulas: in float64 NumPy, and worked out by hand."""

from math import log

import numpy as np
import pytest
from batch_signals import signals_of
from numpy_first_rules import EXPECTED, Tokens
from numpy_rules import EXPECTED as CATALOGUE
from numpy_rules import norm_mm, norm_q, soft_or
from probabilities import P, Q, signals_of_probabilities

from bench import get_selector, selector_names

AT_RANDOM = {"random", "random_stratified"}

FIRST_SELECTORS = [
    "full",
    "random",
    "random_stratified",
    "first",
    "last",
    "entropy",
    "teacher_entropy",
    "forward_kl",
    "reverse_kl",
    "jsd",
    "abs_gap",
    "low_student_logprob",
    "teachability",
    "teachability_released",
    "teachability_conditional",
    "teachability_rank",
    "teachability_raw",
    "teachability_split",
    "compatibility",
    "incompatible",
    "tip",
    "teachability_entropy",
]


def test_the_first_selectors_are_registered_and_each_rule_has_its_example_here():
    assert set(FIRST_SELECTORS) <= set(selector_names())
    assert set(selector_names()) == {*EXPECTED, *AT_RANDOM, *CATALOGUE}


# Peaked masses tie at 1 in float32, and ranks see it.
CASES = [
    (name, scale)
    for name in sorted(EXPECTED)
    for scale in (1.0, 4.0, 30.0)
    if (name, scale) != ("teachability_rank", 30.0)
]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_a_score_is_its_formula(make_batch, name, scale):
    batch = make_batch(seed=4, vocabulary=16, scale=scale)
    expected = EXPECTED[name](Tokens(batch))
    actual = get_selector(name)(signals_of(batch))[batch.mask_BT].numpy()
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6 * max(1, scale))
    if name not in ("full", "first", "last"):
        assert np.ptp(expected) > 0.05  # the example tells tokens apart


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("entropy", -(0.5 * log(0.5) + 0.3 * log(0.3) + 0.15 * log(0.15) + 0.05 * log(0.05))),
        ("teacher_entropy", -(0.1 * log(0.1) + 0.2 * log(0.2) + 0.3 * log(0.3) + 0.4 * log(0.4))),
        ("forward_kl", 0.1 * log(0.2) + 0.2 * log(2 / 3) + 0.3 * log(2) + 0.4 * log(8)),
        ("reverse_kl", 0.5 * log(5) + 0.3 * log(1.5) + 0.15 * log(0.5) + 0.05 * log(0.125)),
        ("abs_gap", log(1.5)),  # y = 1: q(y)/p(y) = 2/3
        ("low_student_logprob", -log(0.3)),
        ("compatibility", 0.3),  # S = {0, 1}
        (
            "teachability_raw",
            0.3 * (0.1 * log(0.2) + 0.2 * log(2 / 3) + 0.3 * log(2) + 0.4 * log(8)),
        ),
        # q|S = (1/3, 2/3), p|S = (5/8, 3/8)
        ("teachability_split", 0.3 * (log(8 / 15) / 3 + 2 * log(16 / 9) / 3)),
        # one token has no spread: both factors are neutral
        ("teachability", 0.25),
        ("teachability_conditional", 0.25),
        ("teachability_released", 0.25),
        ("teachability_rank", 0.25),
        ("incompatible", 0.25),
        ("tip", 0.75),
        ("teachability_entropy", 0.75),
    ],
)
def test_a_score_of_one_token_worked_out_by_hand(name, score):
    signals = signals_of_probabilities([P], [Q], [1], k=2)
    assert float(get_selector(name)(signals)) == pytest.approx(score, rel=1e-5)


def test_tip_is_unclipped_and_reads_the_reverse_divergence(make_batch):
    batch = make_batch(seed=4, vocabulary=16)
    x = Tokens(batch)
    tip = EXPECTED["tip"](x)
    assert np.abs(tip - soft_or(norm_q(x.h_s), norm_q(x.reverse))).max() > 0.01
    assert np.abs(tip - soft_or(norm_mm(x.h_s), norm_mm(x.forward))).max() > 0.01
    score = get_selector("tip")(signals_of(batch))[batch.mask_BT].numpy()
    assert (score == 1).sum() <= 2  # the argmax of each axis, nothing clipped to it
    np.testing.assert_allclose(score, tip, atol=1e-5)
