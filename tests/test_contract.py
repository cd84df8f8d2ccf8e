"""What every selector owes, whoever wrote it: one test of each promise over the whole registry."""

from dataclasses import fields, replace
from math import ceil

import pytest
import torch

from bench import TokenSignals, get_selector, select_tokens, selector_names, signals_from_logits
from bench.signals import BASE_SIGNALS, SIGNAL_NAMES

K = 3

every_selector = pytest.mark.parametrize("name", selector_names())
every_score = pytest.mark.parametrize(
    "name", [name for name in selector_names() if get_selector(name).kind == "score"]
)


@pytest.fixture
def batch(make_batch):
    return make_batch(seed=8, vocabulary=20, scale=4.0)


def signals_of(batch, **keywords) -> TokenSignals:
    return signals_from_logits(**vars(batch), k=K, seed=2, step=5, **keywords)


def tensors(signals) -> dict[str, torch.Tensor]:
    return {field.name: getattr(signals, field.name) for field in fields(signals)}


def spend(name, score_BT, batch, **keywords):
    return select_tokens(
        score_BT,
        batch.mask_BT,
        row_key_B=batch.row_key_B,
        abstains=get_selector(name).abstains,
        **keywords,
    )


@every_selector
def test_it_scores_every_sampled_token_with_a_float_that_is_not_nan(name, batch):
    score_BT = get_selector(name)(signals_of(batch))
    assert score_BT.shape == batch.mask_BT.shape and score_BT.is_floating_point()
    assert not score_BT[batch.mask_BT].isnan().any()
    assert not score_BT.requires_grad


@every_selector
def test_signals_it_does_not_declare_cannot_change_its_scores(name, batch):
    selector, signals = get_selector(name), signals_of(batch)
    undeclared = [other for other in SIGNAL_NAMES if other not in selector.needs]
    poisoned = replace(
        signals,
        **{
            other: torch.full_like(getattr(signals, other), -1 if "_id_" in other else torch.nan)
            for other in undeclared
        },
    )
    clean_BT = selector.rule(signals, **selector.params)[batch.mask_BT]
    assert torch.equal(selector.rule(poisoned, **selector.params)[batch.mask_BT], clean_BT)
    absent = signals.only(selector.needs)
    assert torch.equal(selector(absent)[batch.mask_BT], clean_BT)


@every_selector
def test_it_reads_every_signal_that_it_declares(name, batch):
    """A need that is not read costs a pass over the vocabulary for nothing."""
    read = set()

    class Recorder(TokenSignals):
        def __getattribute__(self, attribute):
            read.add(attribute)
            return super().__getattribute__(attribute)

    selector = get_selector(name)
    selector.rule(Recorder(**tensors(signals_of(batch))), **selector.params)
    assert read & set(SIGNAL_NAMES) == set(selector.needs)


@every_selector
def test_padding_cannot_change_its_scores(name, batch):
    rows, positions = batch.mask_BT.shape
    score_BT = get_selector(name)(signals_of(batch))
    extra_rows, extra_positions = 2, 5
    wide = {}
    for key, value in vars(batch).items():
        if key == "row_key_B":
            wide[key] = [*value, *(f"dummy{row}" for row in range(extra_rows))]
            continue
        garbage = {"mask_BT": False, "token_BT": 7}.get(key, torch.nan)
        shape = (rows + extra_rows, positions + extra_positions, *value.shape[2:])
        wide[key] = torch.full(shape, garbage, dtype=value.dtype)
        wide[key][:rows, :positions] = value
    wide_BT = get_selector(name)(signals_from_logits(**wide, k=K, seed=2, step=5))
    inside = wide_BT[:rows, :positions][batch.mask_BT]
    torch.testing.assert_close(inside, score_BT[batch.mask_BT], rtol=1e-6, atol=1e-6)


@every_selector
def test_garbage_in_the_signals_off_the_mask_cannot_change_its_scores(name, batch):
    selector, signals = get_selector(name), signals_of(batch)
    garbage = {}
    for other, value in tensors(signals).items():
        if other in ("mask_BT", "length_B", "position_BT"):
            continue
        filler = torch.nan if value.is_floating_point() else 3
        off = ~batch.mask_BT.view(*batch.mask_BT.shape, *[1] * (value.ndim - 2))
        garbage[other] = value.masked_fill(off, filler)
    dirty_BT = selector(replace(signals, **garbage))
    assert torch.equal(dirty_BT[batch.mask_BT], selector(signals)[batch.mask_BT])


@every_selector
def test_it_leaves_its_inputs_as_they_were(name, batch):
    signals = signals_of(batch)
    before = {key: value.clone() for key, value in tensors(signals).items()}
    get_selector(name)(signals)
    for key, value in tensors(signals).items():
        assert torch.equal(value, before[key]), key


@every_selector
def test_it_is_deterministic(name, batch):
    torch.manual_seed(1)
    one_BT = get_selector(name)(signals_of(batch))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    two_BT = get_selector(name)(signals_of(batch))
    assert torch.equal(one_BT[batch.mask_BT], two_BT[batch.mask_BT])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@every_selector
def test_the_order_of_the_responses_cannot_change_its_scores(name, batch):
    order = [4, 2, 0, 5, 3, 1]
    permuted = batch.rows(order)
    score_BT = get_selector(name)(signals_of(batch))
    permuted_BT = get_selector(name)(signals_of(permuted))
    torch.testing.assert_close(
        permuted_BT[permuted.mask_BT],
        score_BT[order][permuted.mask_BT],
        rtol=1e-6,
        atol=1e-6,
    )
    if get_selector(name).kind == "score":
        for keep in (0.1, 0.5):
            selected_BT = spend(name, score_BT, batch, keep=keep)
            assert torch.equal(spend(name, permuted_BT, permuted, keep=keep), selected_BT[order])


@every_score
@pytest.mark.parametrize("scope", ["batch", "response"])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5, 1.0])
def test_it_spends_exactly_the_budget_under_the_mask(name, keep, scope, batch):
    if get_selector(name).abstains:
        pytest.skip("may leave budget unspent")
    score_BT = get_selector(name)(signals_of(batch))
    selected_BT = spend(name, score_BT, batch, keep=keep, scope=scope)
    length_B = [8, 4, 7, 1, 0, 6]
    assert not (selected_BT & ~batch.mask_BT).any()
    if scope == "batch":
        assert int(selected_BT.sum()) == ceil(keep * 26)
    else:
        assert selected_BT.sum(1).tolist() == [ceil(keep * length) for length in length_B]


@every_score
@pytest.mark.parametrize("scope", ["batch", "response"])
def test_at_keep_1_it_is_plain_distillation(name, scope, batch):
    if get_selector(name).abstains:
        pytest.skip("may leave budget unspent")
    score_BT = get_selector(name)(signals_of(batch))
    assert torch.equal(spend(name, score_BT, batch, keep=1.0, scope=scope), batch.mask_BT)


@every_selector
def test_one_token_alone_or_none_at_all_is_a_batch_too(name, batch):
    for masked in ([], [(3, 0)]):
        mask_BT = torch.zeros_like(batch.mask_BT)
        for at in masked:
            mask_BT[at] = True
        small = replace(batch, mask_BT=mask_BT)
        score_BT = get_selector(name)(signals_of(small))
        assert not score_BT[mask_BT].isnan().any()
        if get_selector(name).kind == "score":
            assert torch.equal(spend(name, score_BT, small, keep=1.0), mask_BT)


@every_selector
def test_models_that_agree_exactly_get_scores_that_are_not_nan(name, batch):
    same = replace(batch, teacher_logits_BTV=batch.student_logits_BTV)
    assert not get_selector(name)(signals_of(same))[batch.mask_BT].isnan().any()


@every_selector
def test_near_one_hot_models_get_finite_scores(name, make_batch):
    batch = make_batch(seed=1, vocabulary=20, scale=300.0)
    score_N = get_selector(name)(signals_of(batch))[batch.mask_BT]
    assert not score_N.isnan().any() and not (score_N == torch.inf).any()


@every_selector
def test_it_says_whether_it_reads_the_sampled_token(name, batch):
    """Such a score biases the gradient of a sampled objective, so the registry marks it."""
    selector = get_selector(name)
    other_token = replace(batch, token_BT=(batch.token_BT + 1) % 20)
    one_N = selector(signals_of(batch))[batch.mask_BT]
    other_N = selector(signals_of(other_token))[batch.mask_BT]
    assert torch.equal(one_N, other_N) == (not selector.reads_sampled_token)


@every_selector
def test_its_docstring_says_what_is_kept_and_the_source(name):
    selector = get_selector(name)
    doc = selector.rule.__doc__
    assert selector.summary.startswith(("Keep ", "Weight ")) and selector.summary.endswith(".")
    assert "\n    Source: " in doc and len(selector.source) > 10
    assert set(selector.needs).isdisjoint(BASE_SIGNALS)
    assert selector.name == name and selector.params == selector.parameters()
