"""Signals of a batch: all of the design, keyed by response, hidden unless named."""

import torch
from batch_signals import signals_of

from bench.core.randomness import keyed_uniform
from bench.selection.signals import BASE_SIGNALS, SIGNAL_NAMES


def test_the_signals_of_the_design_all_exist():
    base = {"mask_BT", "token_BT", "position_BT", "length_B", "uniform_BT"}
    assert set(BASE_SIGNALS) == base
    assert set(SIGNAL_NAMES) >= {
        "student_logprob_BT", "teacher_logprob_BT", "student_entropy_BT", "teacher_entropy_BT",
        "reverse_kl_BT", "forward_kl_BT", "jsd_BT", "hellinger_BT", "total_variation_BT",
        "student_topk_id_BTK", "student_topk_logprob_BTK", "teacher_topk_id_BTK",
        "teacher_topk_logprob_BTK", "teacher_logprob_on_student_topk_BTK",
        "student_logprob_on_teacher_topk_BTK", "teacher_mass_on_student_topk_BT",
        "student_mass_on_student_topk_BT",
    }  # fmt: skip


def test_base_signals_of_a_batch(make_batch):
    batch = make_batch()
    signals = signals_of(batch, seed=4, step=7)
    assert signals.length_B.tolist() == [8, 4, 7, 1, 0, 6]  # 9 less the hole
    assert signals.position_BT.tolist() == [list(range(9))] * 6
    assert torch.equal(signals.token_BT[batch.mask_BT], batch.token_BT[batch.mask_BT])
    assert torch.all(signals.token_BT[~batch.mask_BT] == 0)
    order = [3, 0, 5, 1, 4, 2]
    permuted = signals_of(batch.rows(order), seed=4, step=7)
    assert torch.equal(permuted.uniform_BT, signals.uniform_BT[order])
    assert not torch.equal(signals_of(batch, seed=4, step=8).uniform_BT, signals.uniform_BT)
    assert not torch.equal(signals_of(batch, seed=5, step=7).uniform_BT, signals.uniform_BT)


def test_a_selectors_random_numbers_are_not_those_that_break_ties(make_batch):
    """Otherwise `random` and its own tie-break, or two uses of one number, would be correlated."""
    batch = make_batch()
    uniform_BT = signals_of(batch, seed=4, step=7).uniform_BT
    shape = tuple(batch.mask_BT.shape)
    assert torch.equal(uniform_BT, keyed_uniform(4, "selector", 7, batch.row_key_B, shape))
    assert not torch.equal(uniform_BT, keyed_uniform(4, "tie", 7, batch.row_key_B, shape))


def test_only_hides_every_signal_that_is_not_named(make_batch):
    signals = signals_of(make_batch()).only(["jsd_BT"])
    assert list(signals.computed()) == ["jsd_BT"]
    assert signals.student_entropy_BT is None
    assert all(getattr(signals, name) is not None for name in BASE_SIGNALS)
