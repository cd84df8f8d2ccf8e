"""Micro-batches: bounded by responses and by padded tokens, nothing lost, nothing changed."""

from itertools import pairwise

import pytest
import torch
from dense import assert_close, chunked_gradients, random_selection
from hypothesis import given
from hypothesis import strategies as st
from small_pair import loaded_pair, rollout
from steps import run_steps, trainer

from bench.train.hidden_states import PassSettings, hidden_states, micro_batches

LENGTHS = st.lists(st.integers(1, 50), max_size=40).map(lambda found: sorted(found, reverse=True))


@given(LENGTHS, st.integers(1, 12), st.none() | st.integers(1, 200))
def test_every_response_is_in_one_micro_batch_and_none_is_too_large(lengths, rows, tokens):
    pieces = [lengths[piece] for piece in micro_batches(lengths, rows, tokens)]
    assert [length for piece in pieces for length in piece] == lengths
    for piece in pieces:
        assert 1 <= len(piece) <= rows
        assert tokens is None or len(piece) == 1 or len(piece) * max(piece) <= tokens
    for piece, after in pairwise(pieces):  # sorted: none could take one more
        is_full = tokens is not None and (len(piece) + 1) * max(piece) > tokens
        assert len(piece) == rows or is_full, (piece, after)


def test_a_budget_of_tokens_bounds_the_padded_batch_prompts_included():
    pair = loaded_pair()
    sample = rollout(pair, count=8)
    seen = []
    hook = pair.student.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    settings = PassSettings(64, 1 << 24, micro_batch_tokens=100)
    with torch.no_grad():
        found = hidden_states(pair.student, sample, sample.mask_BT, settings)
        hook.remove()
        whole = hidden_states(pair.student, sample, sample.mask_BT, PassSettings(64, 1 << 24))
    assert sum(rows for rows, _ in seen) == 16
    assert all(rows * width <= 100 for rows, width in seen) and len(seen) > 2
    widths = [width for _, width in seen]
    assert widths == sorted(widths, reverse=True)
    torch.testing.assert_close(found, whole, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("tokens", [1, 60, 200])
def test_a_budget_of_tokens_changes_no_gradient(tokens):
    pair = loaded_pair()
    sample = rollout(pair)
    selected_BT = random_selection(sample, 0.3)
    _, whole, _ = chunked_gradients(pair, sample, selected_BT)
    settings = PassSettings(64, 1 << 24, tokens)
    _, pieces, _ = chunked_gradients(pair, sample, selected_BT, settings=settings)
    assert_close(pieces, whole)


def test_a_run_in_pieces_of_tokens_selects_the_same(tmp_path):
    whole = trainer(tmp_path / "a", selector="teachability", keep=0.3)
    pieces = trainer(tmp_path / "b", {"micro_batch_tokens": 70}, selector="teachability", keep=0.3)
    for one, other in zip(run_steps(whole), run_steps(pieces), strict=True):
        assert other["trained_tokens"] == one["trained_tokens"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
