"""What objectives read of a whole batch, in float64 NumPy; and that the engine heeds it."""

import numpy as np
import pytest
import torch
from numpy_more_rules import opd2_parts
from numpy_rules import Tokens
from steps import run_steps, same, trainer, weights

from bench.core.errors import ConfigError
from bench.core.objectives import OBJECTIVES, SELECT_THEMSELVES, objective_defaults
from bench.selection.contract_batch import K, make_batch
from bench.train.batch_objectives import CONTEXTS, context_needs, context_of

MANY_STOPS = tuple(range(0, 657, 11))


def context(objective, batch, **params):
    defaults = {**objective_defaults(objective), **params}
    return context_of(objective, batch.signals(), defaults)


def found(objective, name, batch, **params) -> np.ndarray:
    value_BT = context(objective, batch, **params).value_BT[name]
    assert not value_BT[~batch.mask_BT].any()
    return value_BT[batch.mask_BT].double().numpy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.fixture(params=[(3, 1.0), (4, 4.0)])
def batch(request):
    return make_batch(*request.param)


def test_a_residual_advantage_is_centred_in_its_response(batch):
    x = Tokens(batch)
    p, q = np.exp(x.log_p), np.exp(x.log_q)
    raw = np.exp(x.log_q_y) - np.exp(x.log_p_y) - (p * (q - p)).sum(-1)
    close(
        found("residual_advantage", "advantage", batch),
        raw - x.in_responses(lambda w: raw[w].mean()),
    )


def test_opd2_is_silent_where_the_signs_differ(batch):
    s, d = opd2_parts(Tokens(batch))
    expected = np.where(s * d >= 0, s, 0)
    assert (expected == 0).any() and (expected != 0).any()
    close(found("opd2", "advantage", batch), expected)


@pytest.mark.parametrize("objective", ["adakd_reverse_kl", "adakd_forward_kl"])
@pytest.mark.parametrize("c", [0.5, 0.2])
def test_adakds_temperatures(batch, objective, c):
    s = Tokens(batch).hellinger()
    expected = np.exp(-c * np.tanh(np.log(s / np.median(s))))
    close(found(objective, "temperature", batch, c=c), expected)
    assert expected.min() < 1 < expected.max()


def test_scope_reads_the_rewards(batch):
    np.testing.assert_array_equal(found("scope", "right", batch), Tokens(batch).reward)


@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.4, 0.1)])
def test_tides_coefficients_and_thresholds(batch, shares):
    x = Tokens(batch)
    lack = np.maximum(-x.gap, 0)
    is_excess = (x.gap < 0) & (lack >= np.quantile(lack, 1 - shares[0]))
    deficit = np.maximum(x.tide_deficit(), 0)
    params = {"excess_share": shares[0], "deficit_share": shares[1], "k": K}
    close(
        found("tide", "excess", batch, **params),
        np.where(is_excess, 2 * (np.exp(x.gap / 2) - 1), 0),
    )
    is_deficit = deficit >= np.quantile(deficit, 1 - shares[1])
    np.testing.assert_array_equal(found("tide", "deficit", batch, **params), is_deficit)
    assert torch.equal(context("tide", batch, **params).selected_BT, batch.mask_BT)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.001])
def test_opsa_takes_the_least_likely_tokens_and_ranks_their_entropy(batch, share):
    x, ours = Tokens(batch), context("opsa", batch, share=share)
    count = max(1, int(share * len(x.y)))
    chosen = np.argsort(x.log_p_y)[:count]
    is_chosen = np.isin(np.arange(len(x.y)), chosen)
    np.testing.assert_array_equal(ours.selected_BT[batch.mask_BT].numpy(), is_chosen)
    h = x.h_s[chosen]
    expected = np.zeros(len(x.y))
    spread = np.ptp(h)
    expected[chosen] = -0.5 - 0.5 * (h - h.min()) / spread if spread else -1
    close(found("opsa", "advantage", batch, share=share), expected)


def test_capped_forward_kl_takes_the_unsure_half_of_each_response(batch):
    x = Tokens(batch)
    chosen = np.zeros(len(x.y), bool)
    for where in x.responses():
        chosen[where[np.argsort(-x.h_s[where])[: -(-len(where) // 2)]]] = True
    ours = context("capped_fkl", batch).selected_BT[batch.mask_BT].numpy()
    np.testing.assert_array_equal(ours, chosen)


def test_an_objective_reads_what_it_declares_and_nothing_else():
    for name, (needs, _) in CONTEXTS.items():
        signals = make_batch().signals()
        context_of(name, signals.only(needs), objective_defaults(name))
        for need in needs:
            with pytest.raises((TypeError, AttributeError)):
                context_of(name, signals.only(set(needs) - {need}), objective_defaults(name))
    assert context_needs("reverse_kl") == ()


# --- in the engine -------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", sorted(set(CONTEXTS) | {"aopd", "tail_aware_sc"}))
def test_micro_batches_and_chunks_change_no_update(tmp_path, objective):
    rule = {"selector": "full"} if objective in SELECT_THEMSELVES else {"keep": 0.3}
    ends = []
    for number, pieces in enumerate(({}, {"micro_batch": 2, "logit_chunk": 3000})):
        one = trainer(tmp_path / str(number), pieces, **rule, objective=objective, seed=2,
                      stop_ids=MANY_STOPS, learning_rate=1e-3)  # fmt: skip
        run_steps(one)
        ends.append(torch.cat([w.flatten() for w in weights(one).values()]))
    torch.testing.assert_close(*ends, atol=2e-5, rtol=1e-4)


def test_opsa_runs_no_teacher_and_trains_on_its_share(tmp_path, monkeypatch):
    one = trainer(tmp_path, selector="full", objective="opsa", steps=2)
    monkeypatch.setattr(one.teacher, "forward", None)
    for line in run_steps(one):
        assert line["trained_tokens"] == max(1, line["sampled_tokens"] // 5)
    assert one.totals.scored == 0


def test_the_k_of_an_objective_is_not_that_of_the_rule(tmp_path):
    ends = [
        weights_of(trainer(tmp_path / f"{k}-{own}", selector="full", objective="tide", k=k,
                           objective_params={"k": own}, steps=1))
        for k, own in ((4, 8), (9, 8), (4, 3))
    ]  # fmt: skip
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


def weights_of(one):
    run_steps(one)
    return weights(one)


@pytest.mark.parametrize("objective", sorted(SELECT_THEMSELVES))
def test_an_objective_that_selects_for_itself_stands_alone(tmp_path, objective):
    for values in ({}, {"selector": "random", "keep": 0.5}, {"selector": "first_n"},
                   {"selector": "sure"}):  # fmt: skip
        with pytest.raises(ConfigError, match=f"objective: {objective} selects its tokens itself"):
            trainer(tmp_path, objective=objective, **values)
    trainer(tmp_path, objective=objective, selector="random", keep=1.0)


@pytest.mark.parametrize("objective", sorted(CONTEXTS))
def test_every_parameter_changes_the_update(tmp_path, objective):
    """A parameter that no update heeds would be a setting that does nothing."""
    other = {"share": 0.9, "cap": 5.0, "c": 2.0, "k": 2, "weight": 9.0, "excess_share": 0.9,
             "deficit_share": 0.9}  # fmt: skip
    rule = {"selector": "full", "objective": objective, "steps": 1, "learning_rate": 1e-3}
    plain = weights_of(trainer(tmp_path / "plain", **rule))
    for name in OBJECTIVES[objective]:
        params = {"objective_params": {name: other[name]}}
        assert not same(weights_of(trainer(tmp_path / name, **rule, **params)), plain), name


@pytest.mark.parametrize("objective", ["tide", "adakd_reverse_kl", "scope"])
@pytest.mark.parametrize("rule", [{"selector": "full"}, {"selector": "teachability", "keep": 1.0}])
def test_the_teacher_runs_once_a_step(tmp_path, objective, rule):
    one = trainer(tmp_path, **rule, objective=objective, steps=2)
    lines = run_steps(one)
    assert one.totals.scored == sum(line["sampled_tokens"] for line in lines)


def test_an_objective_reads_the_sampled_tokens_whatever_the_population_of_the_rule(tmp_path):
    ends = [
        weights_of(trainer(tmp_path / p, selector="entropy", keep=0.5, population=p,
                           objective="adakd_reverse_kl", stop_ids=MANY_STOPS))
        for p in ("sampled", "rows")
    ]  # fmt: skip
    assert same(*ends)
