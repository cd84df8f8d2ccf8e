"""The rules of the catalogue against methods.md's formulas, worked out in float64 NumPy.

The first rules are in test_selectors.py, the teachability family also in test_teachability.py.
"""

from math import log

import numpy as np
import pytest
import torch
from numpy_rules import EXPECTED, NEVER, Tokens, kept, norm_mm, norm_q, rank, score_of, soft_or, z

from bench import get_selector
from bench.selection.contract_batch import make_batch

ALL_ALIKE = {"first_n"}


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_score_is_its_formula(name, scale, seed):
    batch = make_batch(seed, scale)
    expected = EXPECTED[name](Tokens(batch)).astype(float)
    np.testing.assert_allclose(score_of(name, batch), expected, rtol=3e-5, atol=3e-6 * scale)
    if name not in ALL_ALIKE:
        assert len(set(expected.tolist())) > 1  # the example tells tokens apart


# Parameters


def test_dial_at_beta_12_and_at_no_gap():
    batch = make_batch(3, 1.0)
    x = Tokens(batch)
    change = np.abs(np.exp(x.log_q_y) - np.exp(x.log_p_y))
    expected = np.abs(x.gap) ** -0.2 * change**1.2
    may = x.stop == 0
    for beta, value in ((1.2, expected), (0.0, np.abs(x.gap))):
        scores = score_of("dial", batch, beta=beta, share=1.0)
        np.testing.assert_allclose(scores[may], value[may], rtol=1e-4)
        assert (scores[~may] == NEVER).all()
    from dataclasses import replace

    same = replace(batch, teacher_logits_BTV=batch.student_logits_BTV)
    assert not score_of("dial", same, beta=1.2, share=1.0)[may].any()


def test_first_n_is_a_prefix_whatever_the_budget():
    batch = make_batch()
    np.testing.assert_array_equal(score_of("first_n", batch, n=3), kept(Tokens(batch).t < 3))


@pytest.mark.parametrize("number", "1234")
def test_the_quadrants_part_the_batch(number):
    batch = make_batch()
    inside = score_of("quadrant", batch, number=number) > NEVER
    np.testing.assert_array_equal(inside, Tokens(batch).quadrant() == int(number))


def test_parameters_that_are_words_are_checked_and_choose_what_is_needed():
    assert "forward_kl_BT" in get_selector("zscore_mix").needs
    other = get_selector("zscore_mix", direction="reverse")
    assert "reverse_kl_BT" in other.needs and "forward_kl_BT" not in other.needs
    x = Tokens(make_batch())
    expected = 0.5 * z(x.h_s) + z(-x.log_p_y) + z(x.reverse)
    actual = score_of("zscore_mix", make_batch(), direction="reverse", entropy=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'sideways'.*forward, reverse"):
        get_selector("zscore_mix", direction="sideways")


@pytest.mark.parametrize(
    ("gap", "value"),
    [("absolute", np.abs), ("positive", lambda g: g.clip(0)), ("negative", lambda g: (-g).clip(0))],
)
def test_the_gap_of_spot_is_a_parameter(gap, value):
    x = Tokens(make_batch())
    expected = norm_q(x.h_t) * x.mass * value(x.gap)
    np.testing.assert_allclose(
        score_of("spot", make_batch(), gap=gap), expected, rtol=1e-4, atol=1e-5
    )


NORMS = {"q05": norm_q, "minmax": norm_mm, "rank": rank}


@pytest.mark.parametrize("norm", NORMS)
def test_the_normalisation_is_a_parameter_of_the_rules_that_have_one(norm):
    batch, n = make_batch(), NORMS[norm]
    x = Tokens(batch)
    expected = {
        "tip": soft_or(n(x.h_s), n(x.reverse)),
        "tip_q05": soft_or(n(x.h_s), n(x.forward)),
        "tip_q3": (1 - n(x.h_s)) * n(x.forward),
        "teachability": n(x.forward) * n(x.mass),
        "incompatible": n(x.forward) * (1 - n(x.mass)),
        "teachability_entropy": soft_or(n(x.h_s), n(x.forward * x.mass)),
        "teachability_entropy_docs": soft_or(n(x.h_s), n(x.forward) * n(x.mass)),
    }
    for name, value in expected.items():
        actual = score_of(name, batch, norm=norm)
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_zscore_goes_through_the_normal_distribution_function():
    from scipy.stats import norm

    x = Tokens(make_batch())
    expected = norm.cdf(z(x.forward)) * norm.cdf(z(x.mass))
    np.testing.assert_allclose(
        score_of("teachability", make_batch(), norm="zscore"), expected, rtol=1e-4, atol=1e-5
    )


def test_a_rule_at_its_own_normalisation_is_the_rule_without_the_parameter():
    for name, own in (("tip", "minmax"), ("teachability", "q05")):
        assert get_selector(name, norm=own) == get_selector(name)
        assert get_selector(name, norm=own).params == {}
        assert get_selector(name, norm="rank").params == {"norm": "rank"}
        assert get_selector(name, norm="rank").code_sha256() == get_selector(name).code_sha256()


@pytest.mark.parametrize(("name", "k"), [("selectkd", 5), ("teacher_margin", 2)])
def test_a_rule_that_needs_a_larger_k_says_so(name, k, make_batch):
    from bench import signals_from_logits

    signals = signals_from_logits(**vars(make_batch()), k=k - 1)
    with pytest.raises(ValueError, match=f"'{name}'.*k of at least {k}"):
        get_selector(name)(signals)


# Rules with a memory


def test_adakd_lowers_its_ratio_as_the_loss_falls_and_raises_it_again():
    """Divergences scaled by hand: the EMA falls under 95 % of its mark, then rises over 105 %."""
    from dataclasses import replace

    signals = make_batch().signals()
    selector = get_selector("adakd", decay=0.5, start=0.5)
    ema = mark = None
    ratio, ratios = 0.5, []
    mean = float(signals.reverse_kl_BT[signals.mask_BT].double().mean())
    for factor in (1, 1, *[0.5] * 7, 2, 2, 2, 1):
        scored = selector(replace(signals, reverse_kl_BT=factor * signals.reverse_kl_BT))
        assert torch.equal(scored, signals.hellinger_BT)
        now = factor * mean
        if ema is None:
            ema = mark = now
        else:
            ema = 0.5 * ema + 0.5 * now
            if ema < 0.95 * mark:
                ratio, mark = ratio * 0.95, ema
            elif ema > 1.05 * mark:
                ratio, mark = min(1, ratio * 1.05), ema
        assert selector.step_keep == pytest.approx(ratio)
        ratios.append(ratio)
    assert min(ratios) < 0.5 and ratios[-1] > min(ratios)


def test_adakd_stays_within_its_bounds():
    from dataclasses import replace

    signals = make_batch().signals()
    selector = get_selector("adakd", decay=0.0, least=0.4)
    for step in range(40):
        selector(replace(signals, reverse_kl_BT=0.5**step * signals.reverse_kl_BT))
    assert selector.step_keep == 0.4
    for step in range(40):
        selector(replace(signals, reverse_kl_BT=2.0**step * signals.reverse_kl_BT))
    assert selector.step_keep == 1.0


def test_reopold_changes_its_criterion_at_the_switch():
    batch = make_batch()
    x, selector = Tokens(batch), get_selector("reopold", switch_step=2)
    early = kept(x.gap >= log(0.1 / 0.9))
    later = kept(x.h_s >= np.quantile(x.h_s, 0.8))
    for expected in (early, early, later, later):
        score_N = selector(batch.signals())[batch.mask_BT].numpy()
        np.testing.assert_array_equal(score_N, expected)


def test_rock_drops_the_types_that_have_cost_most_over_all_steps():
    batches = [make_batch(seed) for seed in (1, 2, 3)]
    selector = get_selector("rock")
    loss, count = np.zeros(20), np.zeros(20)
    for batch in batches:
        score_N = selector(batch.signals())[batch.mask_BT].numpy()
        x = Tokens(batch)
        np.add.at(loss, x.y, x.reverse)
        np.add.at(count, x.y, 1)
        order = np.argsort(-loss)
        dropped = order[np.cumsum(count[order]) <= 0.18 * count.sum()]
        np.testing.assert_array_equal(score_N, kept(~np.isin(x.y, dropped)))
        assert len(dropped) > 0


def test_two_selectors_of_one_rule_share_no_memory():
    batch = make_batch()
    one, other = get_selector("reopold", switch_step=1), get_selector("reopold", switch_step=1)
    one(batch.signals())
    one(batch.signals())
    assert one.memory.state == {"step": 2} and other.memory.state == {"step": 0}
    nested = get_selector("gate(reopold(switch_step=1), entropy)")
    nested(batch.signals())
    assert nested.parts[0].memory.state == {"step": 1}
    assert get_selector("gate(reopold(switch_step=1), entropy)").parts[0].memory.state["step"] == 0


def test_extra_signals_that_are_not_given_are_named(make_batch):
    from bench import signals_from_logits

    batch = make_batch()
    signals = signals_from_logits(**vars(batch), k=3)
    with pytest.raises(ValueError, match="'scope' needs reward_B, group_B: not computed"):
        get_selector("scope")(signals)
    with pytest.raises(ValueError, match=r"reward_B \(3,\) is not \(6,\)"):
        signals_from_logits(**vars(batch), k=3, extra={"reward_B": torch.zeros(3)})
    with pytest.raises(ValueError, match="'rewards' is not one of reference_logprob_BT"):
        signals_from_logits(**vars(batch), k=3, extra={"rewards": torch.zeros(6)})
