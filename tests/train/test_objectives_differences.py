"""Every other objective against finite differences of its formula in float64."""

import numpy as np
import pytest
import torch
from losses import CONTEXT, K, N, V, distributions, kl, loss_and_gradient, softmax

from bench.core.objectives import OBJECTIVES
from bench.train.objectives import token_loss

# The further objectives, loss and gradient against float64


def on(ids, *arrays):
    return [np.take_along_axis(x, ids, -1) for x in arrays]


def top(p):
    return np.argsort(-p, -1)[:, :K]


def skew_reverse_kl(p, q, token, alpha=0.1):
    return kl(p, alpha * p + (1 - alpha) * q)[:, 0]


def topk_reverse_kl(p, q, token):
    p, q = on(S, p, q)
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return kl(p, q)[:, 0]


def topk_reverse_kl_tail(p, q, token):
    p, q = on(S, p, q)
    rest, other = 1 - p.sum(-1), 1 - q.sum(-1)
    return kl(p, q)[:, 0] + rest * np.log(rest / other)


def topk_reverse_kl_clamped(p, q, token):
    return np.maximum(kl(*on(S, p, q))[:, 0], 0)


def topk_forward_kl(p, q, token):
    p, q = on(top(q), p, q)
    return kl(q / q.sum(-1, keepdims=True), p)[:, 0]


def k2(p, q, token):
    rows = np.arange(N)
    return 0.5 * np.log(q[rows, token] / p[rows, token]) ** 2


def sampled_reverse_kl(p, q, token):
    rows = np.arange(N)
    return -FIXED["gap"] * np.log(p[rows, token])


def eopd(p, q, token, threshold=0.8):
    unsure = -(q * np.log(q)).sum(-1) > threshold
    return sampled_reverse_kl(p, q, token) + unsure * topk_forward_kl(p, q, token)


def todi(p, q, token, beta=1.0):
    weight = FIXED["weight"] ** beta / (FIXED["weight"] ** beta + 1)
    return (weight * q * np.log(q / p) + (1 - weight) * p * np.log(p / q)).sum(-1)


def log_p_y(p, token):
    return np.log(p[np.arange(N), token])


def given(name):
    return CONTEXT[name].double().numpy()


def residual_advantage(p, q, token):
    return -given("advantage") * log_p_y(p, token)


def tempered(p):
    t = given("temperature")[:, None]
    return softmax(np.log(p) / t)


def adakd_reverse_kl(p, q, token):
    return given("temperature") ** 2 * kl(tempered(p), tempered(q))[:, 0]


def adakd_forward_kl(p, q, token):
    return given("temperature") ** 2 * kl(tempered(q), tempered(p))[:, 0]


def scope(p, q, token):
    return np.where(given("right") == 1, -log_p_y(p, token), sampled_reverse_kl(p, q, token))


def toward(p, q):
    ids = top(q)
    q, p = on(ids, q, p)
    return (q / q.sum(-1, keepdims=True) * np.log(p)).sum(-1)


def tide(p, q, token, weight=1.0):
    return -given("excess") * log_p_y(p, token) - weight * given("deficit") * toward(p, q)


def capped_fkl(p, q, token, cap=0.05):
    return np.minimum(q * np.log(q / p), cap).sum(-1)


def tv_advantage(p, q, token):
    return -FIXED["tv"] * log_p_y(p, token)


def aopd(p, q, token, threshold=0.0, renormalised=True):
    rows = np.arange(N)
    is_forward = FIXED["change"][rows, token] <= threshold
    q_top, p_top = on(top(q), q, p)
    q_top = q_top / q_top.sum(-1, keepdims=True)
    p_top = p_top / p_top.sum(-1, keepdims=True) if renormalised else p_top
    return np.where(is_forward, kl(q_top, p_top)[:, 0], sampled_reverse_kl(p, q, token))


def tail_aware_sc(p, q, token):
    rows, ids = np.arange(N), top(q)
    p_top, q_top = on(ids, p, q)
    rest, other = 1 - p_top.sum(-1), 1 - q_top.sum(-1)
    outside = ~(ids == token[:, None]).any(-1)
    score = p[rows, token] / FIXED["p"][rows, token] * FIXED["inner"]
    return kl(p_top, q_top)[:, 0] + rest * np.log(rest / other) + outside * score


def fix(p, q, token):
    """What carries no gradient, at these distributions."""
    rows, ids = np.arange(N), top(q)
    gap = np.log(q[rows, token] / p[rows, token])
    rest, other = (1 - x.sum(-1) for x in on(ids, p, q))
    FIXED.update(
        gap=gap, weight=q / p, tv=np.sign(gap) * np.abs(p - q).sum(-1) / 2, change=q - p, p=p,
        inner=np.log((p[rows, token] / rest) / (q[rows, token] / other)),
    )  # fmt: skip


opd2 = opsa = residual_advantage
FORMULAS = {f.__name__: f for f in (
    skew_reverse_kl, topk_reverse_kl, topk_reverse_kl_tail, topk_reverse_kl_clamped,
    topk_forward_kl, k2, eopd, todi, tv_advantage, residual_advantage, aopd, tail_aware_sc,
    adakd_reverse_kl, adakd_forward_kl, scope, tide, capped_fkl,
)} | {"opd2": opd2, "opsa": opsa}  # fmt: skip


S: np.ndarray


FIXED: dict = {}
"""What carries no gradient: the set S, the gap of the surrogate, ToDi's weights (as q/p)."""


@pytest.mark.parametrize("objective", FORMULAS)
def test_an_objective_and_its_gradient_against_finite_differences_in_float64(logits, objective):
    global S
    token = logits[2].numpy()
    x, (p, q) = logits[0].double().numpy(), distributions(logits)
    S = top(p)
    fix(p, q, token)
    formula = FORMULAS[objective]
    loss, gradient = loss_and_gradient(objective, *logits)
    np.testing.assert_allclose(loss, formula(p, q, token), rtol=2e-5, atol=2e-5)
    step, expected = 1e-6, np.zeros((N, V))
    for v in range(V):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[:, v] += sign * step
            ends.append(formula(softmax(moved), q, token))
        expected[:, v] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=2e-5)
    assert np.abs(expected).max() > 0.01


def test_every_objective_has_a_formula_here_or_above():
    above = {"reverse_kl", "forward_kl", "jsd", "sampled_reverse_kl"}
    assert {*FORMULAS, *above} == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("objective", "params", "formula"),
    [
        ("skew_reverse_kl", {"alpha": 0.5}, lambda p, q, y: skew_reverse_kl(p, q, y, 0.5)),
        ("todi", {"beta": 2.0}, lambda p, q, y: todi(p, q, y, 2.0)),
        ("eopd", {"threshold": 10.0}, lambda p, q, y: eopd(p, q, y, 10.0)),
        ("aopd", {"threshold": 1.0}, lambda p, q, y: aopd(p, q, y, 1.0)),
        ("aopd", {"threshold": -1.0}, lambda p, q, y: sampled_reverse_kl(p, q, y)),
        ("aopd", {"renormalised": 0}, lambda p, q, y: aopd(p, q, y, 0.0, False)),
        ("tide", {"weight": 3.0}, lambda p, q, y: tide(p, q, y, 3.0)),
        ("capped_fkl", {"cap": 0.5}, lambda p, q, y: capped_fkl(p, q, y, 0.5)),
    ],
)
def test_objectives_read_their_parameters(logits, objective, params, formula):
    token = logits[2].numpy()
    p, q = distributions(logits)
    fix(p, q, token)
    loss, _ = loss_and_gradient(objective, *logits, params)
    np.testing.assert_allclose(loss, formula(p, q, token), rtol=2e-5, atol=2e-5)
    assert np.abs(loss - loss_and_gradient(objective, *logits)[0]).max() > 1e-3


@pytest.mark.parametrize("objective", ["k2", "tail_aware_sc"])
def test_a_sampled_objectives_expected_gradient_is_that_of_reverse_kl(logits, objective):
    student, teacher, _ = logits
    p, q = distributions(logits)
    expected = np.zeros((N, V))
    for token in range(V):
        _, gradient = loss_and_gradient(objective, student, teacher, torch.full((N,), token))
        expected += p[:, token : token + 1] * gradient
    exact = p * (np.log(p / q) - kl(p, q))
    np.testing.assert_allclose(expected, exact, rtol=1e-4, atol=1e-5)


def test_over_the_whole_vocabulary_the_top_k_divergences_are_the_plain_ones(logits):
    for name in ("topk_reverse_kl", "topk_reverse_kl_tail", "topk_reverse_kl_clamped"):
        whole = loss_and_gradient(name, *logits, {"k": V})
        plain = loss_and_gradient("reverse_kl", *logits)
        np.testing.assert_allclose(whole[0], plain[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole[1], plain[1], rtol=1e-3, atol=1e-5)
    whole, plain = (
        loss_and_gradient(name, *logits, {"k": V} if "topk" in name else None)[1]
        for name in ("topk_forward_kl", "forward_kl")
    )
    np.testing.assert_allclose(whole, plain, atol=1e-5)


def test_the_clamped_divergence_is_silent_where_its_part_is_negative():
    """S = {0, 1}; the teacher holds more on S than the student."""
    p, q = torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([[0.5, 0.4, 0.05, 0.05]])
    loss, gradient = loss_and_gradient(
        "topk_reverse_kl_clamped", p.log(), q.log(), torch.tensor([0]), {"k": 2}
    )
    assert float(0.4 * np.log(0.8) + 0.3 * np.log(0.75)) < 0
    assert loss[0] == 0 and not gradient.any()
    tail, _ = loss_and_gradient(
        "topk_reverse_kl_tail", p.log(), q.log(), torch.tensor([0]), {"k": 2}
    )
    expected = 0.4 * np.log(0.8) + 0.3 * np.log(0.75) + 0.3 * np.log(3)
    assert tail[0] == pytest.approx(expected, rel=1e-5)


def test_a_top_k_beyond_the_vocabulary_is_refused(logits):
    for k in (0, V + 1):
        with pytest.raises(ValueError, match=f"k={k} is not accepted: 1 to {V}"):
            token_loss("topk_forward_kl", *logits, {"k": k})


def test_a_top_k_divergence_as_an_advantage_has_no_expected_gradient_and_is_refused(logits):
    """A(s)·∇ log p(y) averaged over y ~ p: A does not depend on y, and Σ_y p ∇ log p = 0."""
    p, q = distributions(logits)
    advantage = kl(p, q)
    expected = sum(p[:, y : y + 1] * advantage * (np.eye(V)[y] - p) for y in range(V))
    assert np.abs(advantage).min() > 0.01 and np.abs(expected).max() < 1e-12
    from bench.core.config import Experiment
    from bench.core.errors import ConfigError

    for name in ("topk_reverse_kl_advantage", "topk_forward_kl_advantage"):
        with pytest.raises(ConfigError, match=f"objective: '{name}'.*zero expected gradient"):
            Experiment.parse({"objective": name})
