"""The panel: the same masks as the budget's, and statistics that NumPy and scipy recompute."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench import get_selector, select_tokens, signals_from_logits
from bench.core.errors import ConfigError
from bench.selection.budget import select_each
from bench.selection.registry import Selector
from bench.shadow.panel import (
    Member,
    Panel,
    Spend,
    choose,
    jaccard,
    make_panel,
    spearman,
)

SPEND = Spend(0.3, "batch", 0, "hash", 0, 0, None)


@given(
    seed=st.integers(0, 10_000),
    keep=st.sampled_from([0.05, 0.07, 0.3, 1.0]),
    scope=st.sampled_from(["batch", "response"]),
    minimum=st.integers(0, 3),
    ties=st.sampled_from(["hash", "earlier"]),
    levels=st.sampled_from([1, 2, 5, 1000]),
    drops=st.booleans(),
)
def test_many_rules_spend_as_each_does_alone(seed, keep, scope, minimum, ties, levels, drops):
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 8)
    length_B = torch.randint(0, 9, (5,), generator=generator)
    length_B[0] = 8
    mask_BT = torch.arange(8)[None] < length_B[:, None]
    mask_BT[0, 7] = False
    score_RBT = torch.randint(levels, (4, *shape), generator=generator).float()
    if drops:
        score_RBT[torch.rand(score_RBT.shape, generator=generator) < 0.3] = -torch.inf
    settings = {
        "keep": keep, "scope": scope, "min_keep_per_response": minimum, "ties": ties,
        "seed": seed, "step": 3, "row_key_B": list("abcde"),
    }  # fmt: skip
    spent = select_each(score_RBT[:, mask_BT], mask_BT, **settings)
    for score_BT, selected_N in zip(score_RBT, spent.selected_RN, strict=True):
        alone_BT = select_tokens(score_BT, mask_BT, **settings, abstains=True)
        assert torch.equal(selected_N, alone_BT[mask_BT])


def test_tied_tokens_are_those_that_the_tie_rule_chose():
    mask_BT = torch.ones(2, 5, dtype=torch.bool)
    score_RN = torch.tensor(
        [
            [9, 1, 1, 1, 0, 0, 0, 0, 0, 0.0],  # 9 by score, two of three ones by the tie rule
            [9, 1, 1, 0, 0, 0, 0, 0, 0, 0.0],  # both ones: the tie rule had no choice
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0],
            [9, 8, -torch.inf, -torch.inf, *[-torch.inf] * 6],  # too few: nothing was left out
        ]
    )
    assert select_each(score_RN, mask_BT, keep=0.3).tied_R.tolist() == [2, 0, 3, 0]
    # In each response 2 of 5: the first keeps the 9 and one of three ones, the second two zeros.
    by_response = select_each(score_RN, mask_BT, keep=0.4, scope="response")
    assert by_response.tied_R.tolist() == [3, 3, 4, 0]
    # What a minimum adds does not count.
    minimum = select_each(score_RN, mask_BT, keep=0.3, min_keep_per_response=3)
    assert minimum.tied_R.tolist() == [2, 0, 3, 0]


def test_rank_correlations_are_scipys():
    generator = np.random.default_rng(0)
    score = generator.integers(0, 6, (5, 40)).astype(float)
    score[1] = generator.normal(size=40)
    score[2, :7] = -np.inf
    score[4] = 3.0
    correlation = spearman(torch.tensor(score)).numpy()
    for a in range(4):
        for b in range(4):
            finite = [np.where(np.isinf(score[i]), -99, score[i]) for i in (a, b)]
            assert correlation[a, b] == pytest.approx(stats.spearmanr(*finite).statistic)
    assert np.isnan(correlation[4]).all() and np.isnan(correlation[:, 4]).all()


def test_jaccard_is_intersection_over_union():
    selected = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = jaccard(selected)
    assert found[0].tolist() == pytest.approx([1, 1 / 3, 1, 0])
    assert found[3, 3].isnan()


def test_the_panel_is_the_runs_own_rule_and_every_other_that_can_differ():
    own = get_selector("tip")
    panel = make_panel(["all"], own)
    labels = [member.label for member in panel.members]
    assert labels[0] == "tip" and labels.count("tip") == 1
    assert {"entropy", "random", "teachability"} <= set(labels)
    assert panel.skipped["full"] == "keeps every token"
    assert set(panel.needs) >= {"student_entropy_BT", "forward_kl_BT"}


def test_a_rule_with_other_parameters_is_another_rule():
    own = get_selector("teachability_released", floor=1e-6)
    panel = make_panel(["teachability_released", "entropy"], own)
    assert [member.label for member in panel.members] == [
        "teachability_released(floor=1e-06)", "teachability_released", "entropy",
    ]  # fmt: skip


def test_an_unknown_rule_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        make_panel(["entropie"], get_selector("tip"))


def test_a_rule_that_breaks_is_skipped_with_its_error(make_batch):
    def broken(signals):
        return signals.uniform_BT * torch.nan

    own, rule = get_selector("entropy"), Selector("broken_here", broken)
    batch = make_batch()
    signals = signals_from_logits(
        batch.student_logits_BTV, batch.teacher_logits_BTV, batch.token_BT, batch.mask_BT, k=3
    )
    panel = Panel((Member("entropy", own), Member("broken_here", rule)), {})
    choices = choose(panel, signals, SPEND)
    assert choices.labels == ("entropy",)
    assert "NaN" in choices.skipped["broken_here"]
    expected_BT = select_tokens(own(signals), batch.mask_BT, keep=0.3)
    assert torch.equal(choices.selected_RN[0], expected_BT[batch.mask_BT])
