"""Matched top-N: the contexts a selector would keep, in the bank and in every draw."""

import numpy as np
import pytest
import torch

from bench.diagnose.bootstrap import make_draws
from bench.diagnose.orderings import budgets, keep_top, make_order
from bench.selection.budget import select_tokens

GENERATOR = np.random.default_rng(0)
PROMPT_N = np.repeat(np.arange(10), 7)
SCORE_N = np.round(GENERATOR.normal(size=70), 1)
VALUE_AN = GENERATOR.normal(size=(3, 70))
TIE_N = GENERATOR.random(70)
KEEPS = (0.07, 0.3, 1.0)
DRAWS = make_draws(PROMPT_N, 15, 2)
BUDGET_DC = budgets(KEEPS, DRAWS)


def test_the_top_is_what_select_tokens_keeps():
    score_BT = torch.tensor(GENERATOR.permutation(70).reshape(10, 7)).float()  # no ties
    kept = keep_top(make_order(score_BT.numpy().ravel(), TIE_N), VALUE_AN, BUDGET_DC, DRAWS)
    for c, keep in enumerate(KEEPS):
        mask_BT = torch.ones(10, 7, dtype=torch.bool)
        selected_N = select_tokens(score_BT, mask_BT, keep=keep).numpy().ravel()
        assert kept.top_DCA[0, c] == pytest.approx(VALUE_AN[:, selected_N].mean(1))
        covered = VALUE_AN[:, selected_N].sum(1) / VALUE_AN.sum(1)
        assert kept.covered_DCA[0, c] == pytest.approx(covered)


@pytest.mark.parametrize("d", [0, 1, 4])
def test_a_draw_is_the_expanded_sample(d):
    order = make_order(SCORE_N, TIE_N)
    kept = keep_top(order, VALUE_AN, BUDGET_DC, DRAWS)
    weight_N = DRAWS.weight_DP[d][PROMPT_N].astype(int)
    ranked = np.repeat(order.place_N, weight_N[order.place_N])
    for c, keep in enumerate(KEEPS):
        size = int(np.ceil(round(keep * len(ranked), 9)))
        assert BUDGET_DC[d, c] == size
        assert kept.top_DCA[d, c] == pytest.approx(VALUE_AN[:, ranked[:size]].mean(1))
    tenth = len(ranked) // 10
    assert kept.bucket_DBA[d, 9] == pytest.approx(VALUE_AN[:, ranked[:tenth]].mean(1))
    assert kept.bucket_DBA[d, 0] == pytest.approx(VALUE_AN[:, ranked[-tenth:]].mean(1))
    assert kept.bucket_DBA[d].mean(0) == pytest.approx(VALUE_AN[:, ranked].mean(1))


def test_equal_scores_are_ordered_by_the_hash_and_never_by_position():
    order = make_order(np.zeros(70), TIE_N)
    assert order.place_N.tolist() == np.argsort(TIE_N).tolist()


def test_a_rule_that_abstains_is_judged_by_what_it_keeps():
    score_N = np.full(70, -np.inf)
    score_N[[3, 11]] = 1.0
    order = make_order(score_N, TIE_N)
    assert order.eligible == 2
    kept = keep_top(order, VALUE_AN, BUDGET_DC, DRAWS)
    assert kept.top_DCA[0, 1] == pytest.approx(VALUE_AN[:, [3, 11]].mean(1))
    nobody = keep_top(make_order(np.full(70, -np.inf), TIE_N), VALUE_AN, BUDGET_DC, DRAWS)
    assert np.isnan(nobody.top_DCA).all()
