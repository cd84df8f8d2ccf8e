"""scores + mask -> exactly the budgeted tokens, against a brute-force reference."""

from math import inf, nan

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from score_cases import KEEPS, cases

from bench.selection.budget import budget, refill_empty, select_tokens


def exact_ceil(keep: str, n: int) -> int:
    """ceil(keep * n) on the decimal digits, in integers."""
    whole, _, digits = keep.partition(".")
    scale = 10 ** len(digits)
    return -(-int(whole + digits) * n // scale)


def cut_is_right(score_N, selected_N, eligible_N, spend) -> bool:
    """The kept ones are the `spend` best (or all eligible ones), whatever breaks the ties."""
    kept, dropped = score_N[selected_N], score_N[eligible_N & ~selected_N]
    right_number = kept.numel() == min(spend, int(eligible_N.sum()))
    in_order = not kept.numel() or not dropped.numel() or kept.min() >= dropped.max()
    return right_number and bool(in_order) and not bool((selected_N & ~eligible_N).any())


# The number


def test_seven_percent_of_100_tokens_is_7():
    assert budget(0.07, 100) == 7
    assert budget(0.05, 20) == 1 and budget(0.05, 30) == 2  # the design's examples
    assert budget(0.05, 0) == 0 and budget(1e-05, 100) == 1
    assert select_tokens(torch.rand(4, 25), torch.ones(4, 25) > 0, keep=0.07).sum() == 7


@given(st.integers(1, 1000), st.integers(1, 3), st.integers(0, 10**7))
def test_the_budget_is_the_exact_ceiling(digits, places, tokens):
    assume(digits <= 10**places)
    assert budget(digits / 10**places, tokens) == -(-digits * tokens // 10**places)


# Scopes


@given(cases(), st.sampled_from(KEEPS))
def test_batch_scope_keeps_exactly_the_best_of_the_batch(case, keep):
    score_BT, mask_BT = case
    eligible_BT = mask_BT & (score_BT > -inf)
    spend = exact_ceil(keep, int(mask_BT.sum()))
    if spend > eligible_BT.sum():
        with pytest.raises(ValueError, match="-inf"):
            select_tokens(score_BT, mask_BT, keep=float(keep))
    selected_BT = select_tokens(score_BT, mask_BT, keep=float(keep), abstains=True)
    assert selected_BT.dtype == torch.bool and selected_BT.shape == mask_BT.shape
    assert cut_is_right(score_BT, selected_BT, eligible_BT, spend)


@given(cases(), st.sampled_from(KEEPS))
def test_response_scope_keeps_exactly_the_best_of_each_response(case, keep):
    score_BT, mask_BT = case
    eligible_BT = mask_BT & (score_BT > -inf)
    spend_B = [exact_ceil(keep, int(n)) for n in mask_BT.sum(1)]
    args = {"keep": float(keep), "scope": "response"}
    if any(spend > n for spend, n in zip(spend_B, eligible_BT.sum(1), strict=True)):
        with pytest.raises(ValueError, match="response .*-inf"):
            select_tokens(score_BT, mask_BT, **args)
    selected_BT = select_tokens(score_BT, mask_BT, abstains=True, **args)
    for row, spend in enumerate(spend_B):
        assert cut_is_right(score_BT[row], selected_BT[row], eligible_BT[row], spend)


@pytest.mark.parametrize("ties", ["hash", "earlier"])
def test_without_ties_the_selection_is_a_plain_sort(ties):
    generator = torch.Generator().manual_seed(0)
    score_BT = torch.randn(7, 40, generator=generator)
    mask_BT = torch.rand(7, 40, generator=generator) < 0.7
    ranked = sorted(mask_BT.nonzero().tolist(), key=lambda at: -float(score_BT[*at]))
    selected_BT = select_tokens(score_BT, mask_BT, keep=0.13, ties=ties)
    best = ranked[: exact_ceil("0.13", len(ranked))]
    assert sorted(selected_BT.nonzero().tolist()) == sorted(best)


def test_a_worked_example_of_both_scopes():
    score_BT = torch.tensor([[5.0, 9.0, 4.0, 8.0], [1.0, 7.0, nan, nan]])
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]) > 0
    batch = select_tokens(score_BT, mask_BT, keep=0.3)  # ceil(1.8) = 2
    assert batch.int().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    response = select_tokens(score_BT, mask_BT, keep=0.3, scope="response")  # 2 of 4 and 1 of 2
    assert response.int().tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]


# The minimum per response


@given(cases(), st.sampled_from(KEEPS), st.integers(1, 3), st.sampled_from(["batch", "response"]))
def test_the_minimum_adds_each_rows_best_by_the_same_score_and_removes_none(
    case, keep, least, scope
):
    score_BT, mask_BT = case
    eligible_BT = mask_BT & (score_BT > -inf)
    args = {"keep": float(keep), "scope": scope, "abstains": True}
    before_BT = select_tokens(score_BT, mask_BT, **args)
    after_BT = select_tokens(score_BT, mask_BT, min_keep_per_response=least, **args)
    assert not (before_BT & ~after_BT).any()
    for row in range(mask_BT.shape[0]):
        number = max(int(before_BT[row].sum()), min(least, int(eligible_BT[row].sum())))
        assert cut_is_right(score_BT[row], after_BT[row], eligible_BT[row], number)


def test_the_minimum_of_a_worked_example():
    score_BT = torch.tensor([[5.0, 9.0, 4.0], [1.0, 3.0, 2.0], [nan, nan, nan]])
    mask_BT = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 0]]) > 0
    one = select_tokens(score_BT, mask_BT, keep=0.1, min_keep_per_response=1)
    assert one.int().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    two = select_tokens(score_BT, mask_BT, keep=0.1, min_keep_per_response=2)
    assert two.int().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


# Edges


def test_a_nan_under_the_mask_is_refused_and_one_off_it_is_not():
    score_BT, mask_BT = torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool)
    score_BT[1, 2] = nan
    with pytest.raises(ValueError, match="response 1, position 2"):
        select_tokens(score_BT, mask_BT, keep=0.5)
    mask_BT[1, 2] = False
    assert select_tokens(score_BT, mask_BT, keep=0.5).sum() == 4


def test_minus_infinity_is_never_kept_even_to_reach_a_minimum():
    score_BT = torch.tensor([[-inf, 1.0, 2.0], [-inf, -inf, -inf]])
    mask_BT = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="only 2"):
        select_tokens(score_BT, mask_BT, keep=0.5)
    selected_BT = select_tokens(score_BT, mask_BT, keep=0.5, abstains=True, min_keep_per_response=2)
    assert selected_BT.int().tolist() == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("scope", ["batch", "response"])
def test_an_empty_mask_selects_nothing(scope):
    mask_BT = torch.zeros(3, 4, dtype=torch.bool)
    selected_BT = select_tokens(
        torch.full((3, 4), nan), mask_BT, keep=1.0, scope=scope, min_keep_per_response=2
    )
    assert selected_BT.tolist() == [[False] * 4] * 3


@given(cases(scores=(-1.0, 0.0, 2.0)), st.sampled_from(["batch", "response"]))
def test_keep_1_selects_the_mask(case, scope):
    score_BT, mask_BT = case
    assert torch.equal(select_tokens(score_BT, mask_BT, keep=1.0, scope=scope), mask_BT)


@given(cases(scores=(0.0, 1.0, 2.0)))
def test_a_larger_budget_only_adds_tokens(case):
    score_BT, mask_BT = case
    smaller_BT = torch.zeros_like(mask_BT)
    for keep in (0.05, 0.2, 0.5, 0.8, 1.0):
        selected_BT = select_tokens(score_BT, mask_BT, keep=keep)
        assert not (smaller_BT & ~selected_BT).any()
        smaller_BT = selected_BT


def test_inputs_are_left_as_they_were():
    score_BT, mask_BT = torch.rand(3, 5, requires_grad=True), torch.rand(3, 5) < 0.5
    before = score_BT.detach().clone(), mask_BT.clone()
    selected_BT = select_tokens(score_BT, mask_BT, keep=0.5, min_keep_per_response=1)
    assert torch.equal(score_BT.detach(), before[0]) and torch.equal(mask_BT, before[1])
    assert not selected_BT.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_float_type_are_ordered_exactly(dtype):
    score_BT = torch.arange(60).flip(0).view(3, 20).to(dtype)
    selected_BT = select_tokens(score_BT, torch.ones(3, 20, dtype=torch.bool), keep=0.1)
    assert selected_BT.view(-1).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.1}, "keep"),
        ({"keep": -0.1}, "keep"),
        ({"keep": nan}, "keep"),
        ({"scope": "row"}, "scope.*'row'"),
        ({"ties": "later"}, "ties.*'later'"),
        ({"min_keep_per_response": -1}, "min_keep_per_response"),
        ({"score_BT": torch.zeros(2, 4)}, "score_BT"),
        ({"score_BT": torch.zeros(2, 3, dtype=torch.int64)}, "score_BT"),
        ({"mask_BT": torch.ones(2, 3)}, "mask_BT"),
        ({"row_key_B": ["a"]}, "row_key_B"),
        ({"row_key_B": ["a", "a"]}, "row_key_B"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"score_BT": torch.zeros(2, 3), "mask_BT": torch.ones(2, 3) > 0, **change}
    with pytest.raises(ValueError, match=message):
        select_tokens(**arguments)


def test_only_a_response_that_keeps_nothing_is_filled_by_the_other_score():
    mask_BT = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    score_BT = torch.tensor([[9.0, 8, 7], [3, 2, 0], [1, 0, 0], [0, 0, 0]])
    other_BT = torch.tensor([[0.0, 1, 2], [1, 5, 9], [0, 9, 9], [9, 9, 9]])
    selected_BT = select_tokens(score_BT, mask_BT, keep=0.3)
    assert selected_BT.tolist() == [[True, True, False], *[[False] * 3] * 3]
    filled_BT = refill_empty(selected_BT, other_BT, mask_BT, count=1)
    assert filled_BT[0].equal(selected_BT[0]), "it keeps two"
    assert filled_BT[1:].tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert refill_empty(selected_BT, other_BT, mask_BT, count=2)[1].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="NaN"):
        refill_empty(selected_BT, other_BT * torch.nan, mask_BT, count=1)
    nothing_BT = torch.zeros_like(mask_BT)
    assert refill_empty(nothing_BT, other_BT, nothing_BT, count=1).equal(nothing_BT)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0000001, 1.5, inf, nan])
def test_a_keep_that_is_no_share_is_refused(keep):
    mask_BT = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="keep: .* is not accepted"):
        select_tokens(torch.zeros(2, 3), mask_BT, keep=keep)


def test_ties_of_a_refill_are_broken_by_seed_step_and_row_key_as_everywhere():
    mask_BT = torch.ones(6, 9, dtype=torch.bool)
    nothing_BT, equal_BT = torch.zeros_like(mask_BT), torch.zeros(6, 9)

    def filled(**order):
        return refill_empty(nothing_BT, equal_BT, mask_BT, count=1, **order)

    keys = [f"p{row}" for row in range(6)]
    first = filled(row_key_B=keys)
    assert first.equal(filled(row_key_B=keys, seed=0, step=0))
    assert first.flip(0).equal(filled(row_key_B=keys[::-1]))
    assert not first.equal(filled(row_key_B=[key + "x" for key in keys]))
    assert not first.equal(filled(row_key_B=keys, step=1))
    assert not first.equal(filled(row_key_B=keys, seed=1))
