"""Combinations: what each word of an expression computes."""

import numpy as np
import pytest
import torch
from batch_signals import under

from bench import get_selector, select_tokens
from bench.selection.contract_batch import make_batch


@pytest.fixture
def signals():
    return make_batch().signals()


def test_split_gives_each_rule_its_share_of_every_budget(signals):
    mask_BT = signals.mask_BT
    total = int(mask_BT.sum())
    for share in (0.25, 0.5, 0.8):
        score_BT = get_selector(f"split({share}, entropy, first)")(signals)
        a = signals.rank_from_best(signals.student_entropy_BT)[mask_BT].numpy()
        b = signals.rank_from_best(-signals.position_BT.float())[mask_BT].numpy()
        for keep in (0.1, 0.3, 0.6):
            selected_BT = select_tokens(score_BT, mask_BT, keep=keep)
            kept = selected_BT[mask_BT].numpy()
            budget = int(kept.sum())
            # The kept set is the best i of a with the best j of b, i : j as share : 1 - share.
            time = np.minimum(a / share, b / (1 - share))
            order = np.sort(time)
            assert (time[kept] <= order[budget - 1] + 1e-4).all()
            deepest = order[budget - 1]
            assert kept[a <= share * deepest - 1].all()
            assert kept[b <= (1 - share) * deepest - 1].all()
        assert total > 20


def test_a_split_of_disjoint_rules_has_exactly_the_shares():
    """a ranks the first half of the tokens best, b the second: nothing counts for both."""
    from bench.selection.combinations import split

    n = 200
    uniform = torch.rand(1, n, generator=torch.Generator().manual_seed(1))
    place = torch.arange(n).float()[None]

    class Signals:
        mask_BT = torch.ones(1, n, dtype=torch.bool)
        uniform_BT = uniform

    score_BT = split(Signals(), (-place, place), (0.25,))
    for keep, of_a, of_b in ((0.1, 5, 15), (0.2, 10, 30), (0.4, 20, 60)):
        kept = select_tokens(score_BT, Signals.mask_BT, keep=keep)[0]
        assert abs(int(kept[:100].sum()) - of_a) <= 1 and abs(int(kept[100:].sum()) - of_b) <= 1


def test_mix_is_a_weighted_sum(signals):
    x = signals.mask_BT
    h, d = signals.student_entropy_BT[x].double(), signals.reverse_kl_BT[x].double()
    z = [(v - v.mean()) / v.std(correction=0) for v in (h, d)]
    expected = 0.3 * z[0] + 0.7 * z[1]
    torch.testing.assert_close(
        under(signals, "mix(0.3, entropy, 0.7, reverse_kl)").double(), expected,
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    ranks = [v.argsort().argsort() / (len(v) - 1) for v in (h, d)]
    torch.testing.assert_close(
        under(signals, "mix(1, entropy, -2, reverse_kl, norm='rank')").double(),
        (ranks[0] - 2 * ranks[1]).double(), rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_gate_lets_through_what_is_at_or_above_the_quantile(signals):
    low = under(signals, "low_entropy").double().numpy()
    for at in (0.5, 0.9):
        gated = under(signals, f"gate(low_entropy, teachability, at={at})").numpy()
        is_open = low >= np.quantile(low, at)
        expected = np.where(is_open, under(signals, "teachability").numpy(), -np.inf)
        np.testing.assert_array_equal(gated, expected)
    assert get_selector("gate(low_entropy, teachability)").abstains


def test_shuffled_deals_the_same_values_out_at_random(signals):
    mask_BT = signals.mask_BT
    plain_BT = get_selector("teachability")(signals)
    dealt_BT = get_selector("shuffled(teachability)")(signals)
    assert torch.equal(dealt_BT[mask_BT].sort().values, plain_BT[mask_BT].sort().values)
    assert not torch.equal(dealt_BT[mask_BT], plain_BT[mask_BT])
    for row, mask_T in enumerate(mask_BT):
        inside_T = get_selector("shuffled(teachability, within='response')")(signals)[row]
        assert torch.equal(inside_T[mask_T].sort().values, plain_BT[row, mask_T].sort().values)
    # Each place gets each value equally often: the mean score of a place tends to the mean of all.
    batch = make_batch()
    total = torch.zeros_like(plain_BT)
    for step in range(400):
        total += get_selector("shuffled(teachability)")(batch.signals(step))
    spread = plain_BT[mask_BT].std() / 20
    assert float((total[mask_BT] / 400 - plain_BT[mask_BT].mean()).abs().max()) < 4.5 * spread


def test_reversed_and_bottom_turn_the_order_over_and_never_stays_never(signals):
    plain = under(signals, "teachability")
    assert torch.equal(under(signals, "bottom(teachability)"), -plain)
    mirrored = under(signals, "reversed(teachability)")
    torch.testing.assert_close(mirrored, plain.min() + plain.max() - plain)
    gated = under(signals, "gate(entropy, forward_kl)")
    for word in ("bottom", "reversed"):
        turned = under(signals, f"{word}(gate(entropy, forward_kl))")
        assert torch.equal(turned == -torch.inf, gated == -torch.inf)
        finite = gated > -torch.inf
        assert torch.equal(turned[finite].argsort(), (-gated[finite]).argsort())


def test_a_token_that_a_rule_never_keeps_is_out_and_out_of_the_statistics(signals):
    gate = under(signals, "gate(entropy, forward_kl)")
    finite = gate > -torch.inf
    for expression in ("product(gate(entropy, forward_kl), compatibility, norm='minmax')",
                       "mix(1, gate(entropy, forward_kl), 1, compatibility)"):  # fmt: skip
        assert torch.equal(under(signals, expression) > -torch.inf, finite)
    inside = under(signals, "normalised(gate(entropy, forward_kl), norm='minmax')")[finite]
    assert inside.min() == 0 and inside.max() == 1
    either = under(signals, "soft_or(gate(entropy, forward_kl), compatibility)")
    assert (either > -torch.inf).all()
    both = "soft_or(gate(entropy, forward_kl), gate(entropy, compatibility))"
    assert torch.equal(under(signals, both) > -torch.inf, finite)


def test_shuffled_within_a_decile_deals_out_among_tokens_of_one_tenth(signals):
    mask_BT, plain_BT = signals.mask_BT, get_selector("teachability")(signals)
    dealt_BT = get_selector("shuffled(teachability, within='decile')")(signals)
    tenth_BT = torch.zeros_like(mask_BT, dtype=torch.int64)
    for row, mask_T in enumerate(mask_BT):
        n = int(mask_T.sum())
        tenth_BT[row, mask_T] = torch.tensor([int(10 * (r + 0.5) / n) for r in range(n)]).long()
    moved = 0
    for tenth in range(10):
        here_BT = (tenth_BT == tenth) & mask_BT
        one, other = plain_BT[here_BT], dealt_BT[here_BT]
        assert torch.equal(one.sort().values, other.sort().values)
        moved += int((one != other).sum())
    assert moved > 5


@pytest.mark.parametrize("rule", ["dial", "tip_p98", "q3", "first_n(n=3)", "random", "tide_excess"])
def test_matched_keeps_as_many_random_tokens(signals, rule):
    mask_BT = signals.mask_BT
    for keep in (0.05, 0.3, 1.0):
        both = [
            select_tokens(get_selector(name)(signals), mask_BT, keep=keep, abstains=True)
            for name in (rule, f"matched({rule})")
        ]
        assert int(both[0].sum()) == int(both[1].sum())
        if rule != "random" and 3 < int(both[0].sum()) < int(mask_BT.sum()):
            assert not torch.equal(*both)
    within = get_selector(f"matched({rule}, within='response')")(signals)
    plain = get_selector(rule)(signals)
    for scores in (within, plain):
        scores[~mask_BT] = -torch.inf
    assert torch.equal((within > -torch.inf).sum(1), (plain > -torch.inf).sum(1))
    # The tokens it may keep are those of the highest keyed number.
    kept_BT = get_selector(f"matched({rule})")(signals) > -torch.inf
    kept, left = (signals.uniform_BT[mask_BT & where] for where in (kept_BT, ~kept_BT))
    assert not len(left) or not len(kept) or kept.min() >= left.max()


def test_matched_takes_no_weights_and_leaves_a_budget_what_it_is():
    from bench.core.errors import ConfigError

    with pytest.raises(ConfigError, match="sure gives weights: they keep every token"):
        get_selector("matched(sure)")
    found = get_selector("matched(dial)")
    assert (found.keep, found.abstains, found.kind) == (1.0, True, "score")
    assert get_selector("matched(adakd)").sets_keep and get_selector("matched(q3)").keep is None


def test_an_expression_compares_as_many_responses_as_its_rules_do():
    assert get_selector("shuffled(problem)").responses == 2
    assert get_selector("shuffled(entropy)").responses == 1
