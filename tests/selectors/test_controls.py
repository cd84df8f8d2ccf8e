"""Controls: prefixes, suffixes, and tokens at random with the same chance for each."""

import pytest
import torch
from batch_signals import signals_of

from bench import get_selector, select_tokens, signals_from_logits


def test_first_and_last_select_prefixes_and_suffixes():
    mask_BT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]) > 0
    logits = torch.zeros(2, 5, 4)
    signals = signals_from_logits(logits, logits, mask_BT.long(), mask_BT, k=2)
    first = select_tokens(get_selector("first")(signals), mask_BT, keep=0.5)  # 4 of 8
    assert first.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    last = select_tokens(get_selector("last")(signals), mask_BT, keep=0.5)
    assert last.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]


def lengths_batch(lengths, step=0):
    mask_BT = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    logits = torch.zeros(*mask_BT.shape, 2)
    return signals_from_logits(logits, logits, mask_BT.long(), mask_BT, k=1, seed=5, step=step)


def test_random_is_the_keyed_uniform_number(make_batch):
    batch = make_batch()
    signals = signals_of(batch, seed=3, step=2)
    score_BT = get_selector("random")(signals)
    assert torch.equal(score_BT[batch.mask_BT], signals.uniform_BT[batch.mask_BT])
    other_BT = get_selector("random")(signals_of(batch, seed=3, step=3))
    assert not torch.equal(score_BT, other_BT)


def test_random_chooses_every_token_with_the_same_chance():
    steps, lengths = 400, [40, 10, 25, 25]
    count_BT = torch.zeros(4, 40)
    for step in range(steps):
        signals = lengths_batch(lengths, step)
        count_BT += select_tokens(get_selector("random")(signals), signals.mask_BT, keep=0.2)
    share_N = count_BT[signals.mask_BT] / steps
    error = (0.2 * 0.8 / steps) ** 0.5
    assert float((share_N - 0.2).abs().max()) < 4.5 * error
    # Var(share) of independent choices, within the spread of a variance over 100 tokens.
    assert 0.6 < float(share_N.var()) / error**2 < 1.5


@pytest.mark.parametrize("keep", [0.03, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_random_stratified_gives_each_response_its_share_within_one_token(keep):
    lengths = [60, 33, 47, 20, 5, 51, 38, 1, 29, 44]
    for step in range(30):
        signals = lengths_batch(lengths, step)
        score_BT = get_selector("random_stratified")(signals)
        selected_BT = select_tokens(score_BT, signals.mask_BT, keep=keep, step=step)
        for length, kept in zip(lengths, selected_BT.sum(1).tolist(), strict=True):
            # The batch's own budget moves the common share a little off keep.
            assert abs(kept - keep * length) < 1 + 0.02 * length, (length, kept)


def test_random_stratified_rounds_each_share_up_or_down_whatever_the_lengths():
    lengths = [2000] + [10] * 63
    for keep in (0.03, 0.25):
        signals = lengths_batch(lengths, 0)
        score_BT = get_selector("random_stratified")(signals)
        kept_B = select_tokens(score_BT, signals.mask_BT, keep=keep).sum(1)
        assert abs(int(kept_B[0]) - keep * 2000) < 1 + 0.01 * 2000
        assert set(kept_B[1:].tolist()) <= {int(keep * 10), int(keep * 10) + 1}


@pytest.mark.parametrize("keep", [0.05, 0.2])
def test_random_stratified_is_random_inside_a_response_and_fair_between_them(keep):
    steps, lengths = 400, [40, 10, 25, 25]
    count_BT = torch.zeros(4, 40)
    for step in range(steps):
        signals = lengths_batch(lengths, step)
        score_BT = get_selector("random_stratified")(signals)
        count_BT += select_tokens(score_BT, signals.mask_BT, keep=keep, step=step)
    share_BT = count_BT / steps
    error = (keep * (1 - keep) / steps) ** 0.5
    assert float((share_BT[signals.mask_BT] - keep).abs().max()) < 4.5 * error
    for row, length in enumerate(lengths):
        # Half a token of ten, for instance, is one token every other step.
        assert float(share_BT[row, :length].mean()) == pytest.approx(keep, abs=0.01)
