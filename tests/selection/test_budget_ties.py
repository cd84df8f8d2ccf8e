"""Ties: broken by response, seed and step, or by position; never by order or padding."""

from math import inf, nan

import torch
from hypothesis import given
from hypothesis import strategies as st
from score_cases import KEEPS, cases

from bench.selection.budget import select_tokens


@given(cases(scores=(0.0, 1.0)), st.sampled_from(KEEPS), st.randoms(use_true_random=False))
def test_row_order_cannot_change_the_selection(case, keep, random):
    score_BT, mask_BT = case
    keys = [f"prompt{row}/0" for row in range(mask_BT.shape[0])]
    order = random.sample(range(len(keys)), len(keys))
    for scope in ("batch", "response"):
        args = {"keep": float(keep), "scope": scope, "min_keep_per_response": 1}
        plain_BT = select_tokens(score_BT, mask_BT, row_key_B=keys, **args)
        permuted_BT = select_tokens(
            score_BT[order], mask_BT[order], row_key_B=[keys[row] for row in order], **args
        )
        assert torch.equal(permuted_BT, plain_BT[order])


@given(
    cases(scores=(0.0, 1.0)),
    st.sampled_from(KEEPS),
    st.sampled_from(["hash", "earlier"]),
    st.sampled_from([nan, inf, -inf, 9.0]),
)
def test_appended_padding_cannot_change_the_selection(case, keep, ties, garbage):
    score_BT, mask_BT = case
    rows, positions = mask_BT.shape
    wide_score_BT = torch.full((rows + 2, positions + 3), garbage)
    wide_score_BT[:rows, :positions] = score_BT
    wide_mask_BT = torch.zeros(rows + 2, positions + 3, dtype=torch.bool)
    wide_mask_BT[:rows, :positions] = mask_BT
    for scope in ("batch", "response"):
        args = {"keep": float(keep), "scope": scope, "ties": ties, "min_keep_per_response": 1}
        wide_BT = select_tokens(wide_score_BT, wide_mask_BT, **args)
        assert torch.equal(wide_BT[:rows, :positions], select_tokens(score_BT, mask_BT, **args))
        assert int(wide_BT.sum()) == int(wide_BT[:rows, :positions].sum())


def test_a_responses_ties_do_not_depend_on_the_other_responses():
    mask_BT = torch.ones(4, 50, dtype=torch.bool)
    keys = ["a", "b", "c", "d"]
    args = {"keep": 0.3, "scope": "response", "seed": 3, "step": 9}
    whole_BT = select_tokens(torch.zeros(4, 50), mask_BT, row_key_B=keys, **args)
    for row, key in enumerate(keys):
        alone_BT = select_tokens(torch.zeros(1, 50), mask_BT[:1], row_key_B=[key], **args)
        assert torch.equal(alone_BT[0], whole_BT[row])
    assert len({tuple(row) for row in whole_BT.tolist()}) == 4


def test_ties_are_broken_anew_for_each_seed_and_step():
    score_BT, mask_BT = torch.zeros(2, 60), torch.ones(2, 60, dtype=torch.bool)
    chosen = {
        (seed, step): tuple(
            select_tokens(score_BT, mask_BT, keep=0.1, seed=seed, step=step).view(-1).tolist()
        )
        for seed in range(3)
        for step in range(3)
    }
    assert len(set(chosen.values())) == 9
    again = select_tokens(score_BT, mask_BT, keep=0.1, seed=1, step=2)
    assert tuple(again.view(-1).tolist()) == chosen[1, 2]


def test_hashed_ties_have_nothing_to_do_with_position_or_row():
    rows, positions, steps = 10, 20, 300
    mask_BT = torch.ones(rows, positions, dtype=torch.bool)
    count_BT = torch.zeros(rows, positions)
    for step in range(steps):
        count_BT += select_tokens(torch.zeros(rows, positions), mask_BT, keep=0.1, step=step)
    # 6,000 choices; the shares of each column (row) have mean 0.1 and this standard error.
    for axis, cells in ((0, rows), (1, positions)):
        share = count_BT.mean(axis) / steps
        error = (0.1 * 0.9 / (steps * cells)) ** 0.5
        assert float((share - 0.1).abs().max()) < 4 * error
        line = torch.arange(share.numel(), dtype=torch.float)
        assert abs(float(torch.corrcoef(torch.stack([share, line]))[0, 1])) < 0.75


def test_earlier_keeps_the_earliest_positions_then_the_first_rows():
    mask_BT = torch.ones(3, 5, dtype=torch.bool)
    mask_BT[1, 0] = False
    selected_BT = select_tokens(torch.zeros(3, 5), mask_BT, keep=0.3, ties="earlier")  # 5 of 14
    assert selected_BT.int().tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    four = select_tokens(torch.zeros(3, 5), mask_BT, keep=0.25, ties="earlier")
    assert four.int().tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_better_score_beats_any_tie_break():
    score_BT = torch.zeros(1, 30)
    score_BT[0, [7, 29]] = 1e-30
    mask_BT = torch.ones(1, 30, dtype=torch.bool)
    for ties in ("hash", "earlier"):
        selected_BT = select_tokens(score_BT, mask_BT, keep=0.05, ties=ties)
        assert selected_BT.nonzero()[:, 1].tolist() == [7, 29]


def test_minus_zero_ties_with_zero():
    mask_BT = torch.ones(1, 40, dtype=torch.bool)
    signed_BT = torch.zeros(1, 40)
    signed_BT[:, ::2] = -0.0
    assert torch.equal(
        select_tokens(signed_BT, mask_BT, keep=0.2),
        select_tokens(signed_BT.abs(), mask_BT, keep=0.2),
    )


def test_earlier_is_by_position_also_where_there_are_more_responses_than_positions():
    mask_BT = torch.ones(7, 2, dtype=torch.bool)
    selected_BT = select_tokens(torch.zeros(7, 2), mask_BT, keep=8 / 14, ties="earlier")
    assert selected_BT[:, 0].all() and selected_BT[:, 1].tolist() == [True] + 6 * [False]


def test_without_a_seed_and_a_step_ties_are_those_of_seed_0_at_step_0():
    mask_BT = torch.ones(4, 40, dtype=torch.bool)
    told = {"keep": 0.2, "row_key_B": list("abcd")}
    first = select_tokens(torch.zeros(4, 40), mask_BT, **told)
    assert first.equal(select_tokens(torch.zeros(4, 40), mask_BT, **told, seed=0, step=0))
    assert not first.equal(select_tokens(torch.zeros(4, 40), mask_BT, **told, step=1))
