"""Losses and their logit gradients against closed forms in float64; the one denominator."""

from inspect import signature

import numpy as np
import pytest
import torch
from losses import CONTEXT, PARAMS, N, V, distributions, kl, loss_and_gradient, through_softmax

from bench.core.objectives import OBJECTIVES, ON_SAMPLED_TOKEN
from bench.train.batch_objectives import CONTEXTS
from bench.train.objectives import FORMULAS as LOSSES
from bench.train.objectives import eopd, sampled_reverse_kl, token_loss


def test_reverse_kl_and_its_gradient(logits):
    p, q = distributions(logits)
    loss, gradient = loss_and_gradient("reverse_kl", *logits)
    np.testing.assert_allclose(loss, kl(p, q)[:, 0], rtol=1e-5, atol=1e-6)
    expected = p * (np.log(p / q) - kl(p, q))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-6)


def test_forward_kl_and_its_gradient(logits):
    p, q = distributions(logits)
    loss, gradient = loss_and_gradient("forward_kl", *logits)
    np.testing.assert_allclose(loss, kl(q, p)[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, p - q, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_and_its_gradient(logits, beta):
    """β KL(q‖m) + (1-β) KL(p‖m), m = β q + (1-β) p; dL/dp = (1-β) log(p/m)."""
    p, q = distributions(logits)
    m = beta * q + (1 - beta) * p
    loss, gradient = loss_and_gradient("jsd", *logits, {"beta": beta})
    expected = beta * kl(q, m) + (1 - beta) * kl(p, m)
    np.testing.assert_allclose(loss, expected[:, 0], rtol=1e-5, atol=1e-6)
    expected = through_softmax(p, (1 - beta) * np.log(p / m))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_jsd_at_one_half_is_symmetric_bounded_and_the_default(logits):
    student, teacher, token = logits
    loss, _ = loss_and_gradient("jsd", student, teacher, token)
    swapped, _ = loss_and_gradient("jsd", teacher, student, token)
    np.testing.assert_allclose(loss, swapped, atol=1e-6)
    assert loss.max() <= np.log(2) + 1e-6 and loss.min() > 0
    np.testing.assert_array_equal(
        loss, loss_and_gradient("jsd", student, teacher, token, {"beta": 0.5})[0]
    )
    other, _ = loss_and_gradient("jsd", student, teacher, token, {"beta": 0.2})
    mirrored, _ = loss_and_gradient("jsd", teacher, student, token, {"beta": 0.8})
    np.testing.assert_allclose(other, mirrored, atol=1e-6)
    assert np.abs(other - loss).max() > 0.01


def test_jsd_over_beta_tends_to_forward_kl():
    """With m = β q + (1-β) p, small β means m = p: it is the teacher that β weighs."""
    student, teacher = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[1.0, -0.5, 0.0]])
    p, q = distributions((student, teacher))
    loss, _ = loss_and_gradient("jsd", student, teacher, torch.tensor([0]), {"beta": 1e-3})
    assert loss / 1e-3 == pytest.approx(kl(q, p)[:, 0], rel=0.01)
    assert abs(kl(q, p) - kl(p, q)) > 0.1 * kl(q, p)


def test_sampled_reverse_kl_value_and_gradient(logits):
    """-sg[Δ] log p(y), Δ = log q(y) - log p(y): gradient -Δ (1[v = y] - p_v)."""
    p, q = distributions(logits)
    token = logits[2].numpy()
    rows = np.arange(N)
    gap = np.log(q[rows, token] / p[rows, token])
    loss, gradient = loss_and_gradient("sampled_reverse_kl", *logits)
    np.testing.assert_allclose(loss, -gap * np.log(p[rows, token]), rtol=1e-5, atol=1e-6)
    expected = -gap[:, None] * (np.eye(V)[token] - p)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_sampled_surrogates_expected_gradient_is_that_of_reverse_kl(logits):
    student, teacher, _ = logits
    p, q = distributions(logits)
    expected = np.zeros((N, V))
    for token in range(V):
        sampled = torch.full((N,), token)
        _, gradient = loss_and_gradient("sampled_reverse_kl", student, teacher, sampled)
        expected += p[:, token : token + 1] * gradient
    exact = p * (np.log(p / q) - kl(p, q))
    np.testing.assert_allclose(expected, exact, rtol=1e-4, atol=5e-6)
    _, gradient = loss_and_gradient("reverse_kl", *logits)
    np.testing.assert_allclose(expected, gradient, rtol=1e-4, atol=5e-6)


def test_off_support_teacher_mass_pulls_forward_kl_and_hardly_reverse_kl():
    """The example of methods.md §6: C = 0.1, the teacher's token far off the student's support."""
    p, q = torch.tensor([[1 - 1e-4, 1e-4]]), torch.tensor([[0.1, 0.9]])
    token = torch.tensor([0])
    _, reverse = loss_and_gradient("reverse_kl", p.log(), q.log(), token)
    _, forward = loss_and_gradient("forward_kl", p.log(), q.log(), token)
    assert -reverse[0, 1] == pytest.approx(1e-4 * (np.log(9e3) + 2.3015), rel=1e-3)
    assert -forward[0, 1] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_the_teacher_gets_no_gradient_and_losses_are_float32(logits, objective):
    student, teacher, token = logits
    student = student.bfloat16().requires_grad_()
    teacher = teacher.bfloat16().requires_grad_()
    params = PARAMS.get(objective)
    loss_N = token_loss(objective, student, teacher, token, params, CONTEXT)
    assert loss_N.dtype == torch.float32
    loss_N.sum().backward()
    assert teacher.grad is None and bool(student.grad.abs().sum() > 0)
    raised = token_loss(
        objective, student.detach().float(), teacher.detach().float(), token, params, CONTEXT
    )
    assert torch.equal(loss_N.detach(), raised)


# Not renormalised on S or T: the mass there is moved even where the two models agree.
NOT_STATIONARY = {"topk_forward_kl", "eopd", "topk_reverse_kl_clamped"}
# Their coefficients come from the batch, and are not 0 in this test.
GIVEN = {"residual_advantage", "opd2", "scope", "tide", "opsa"}


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - NOT_STATIONARY - GIVEN))
def test_models_that_agree_have_no_loss_and_no_gradient(logits, objective):
    loss, gradient = loss_and_gradient(objective, logits[0], logits[0], logits[2])
    assert np.abs(loss).max() < 1e-6 and np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_excluded_ids_have_no_loss_and_no_gradient(logits, objective):
    student, teacher, token = logits
    loss, gradient = loss_and_gradient(objective, student, teacher, token)
    wide = [torch.nn.functional.pad(x, (0, 3), value=-1e4) for x in (student, teacher)]
    wide_loss, wide_gradient = loss_and_gradient(objective, *wide, token)
    np.testing.assert_allclose(wide_loss, loss, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(wide_gradient[:, :V], gradient, rtol=1e-6, atol=1e-6)
    assert np.all(wide_gradient[:, V:] == 0)


@pytest.mark.parametrize(
    ("objective", "params", "told"),
    [
        ("jsd", "beta=1", "beta=1.0 must lie strictly in"),
        ("skew_reverse_kl", "alpha=0", "alpha=0.0 must lie strictly in"),
        ("topk_reverse_kl", "k=2.5", "k=2.5 must be a whole number from 1"),
        ("topk_forward_kl", "k=0", "k=0.0 must be a whole number from 1"),
        ("todi", "beta=-1", "beta=-1.0 must be greater than 0"),
        ("eopd", "alpha=1", "'alpha' is not a parameter of eopd; it takes k, threshold"),
        ("k2", "k=4", "'k' is not a parameter of k2; it takes none"),
    ],
)
def test_a_wrong_parameter_of_an_objective_is_named(objective, params, told):
    from bench.core.config import Experiment
    from bench.core.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"objective": objective, "objective_params": params})
    assert told in str(caught.value)


def test_every_objective_of_the_settings_has_a_formula_with_its_parameters():
    assert list(LOSSES) == list(OBJECTIVES)
    read = {"student_NV", "teacher_NV", "student_logit_NV", "teacher_logit_NV", "token_N"}
    read |= {f"{name}_N" for name in CONTEXT}
    for name, parameters in OBJECTIVES.items():
        taken = set(signature(LOSSES[name]).parameters)
        if name in CONTEXTS:
            needs, find = CONTEXTS[name]
            taken |= set(signature(find).parameters) - {"signals"}
            # A K that only signals have is the engine's to heed.
            taken |= {"k"} & set(parameters) if any("topk" in need for need in needs) else set()
        assert taken - read == set(parameters)


def test_the_objectives_of_the_sampled_token_are_those_that_read_it():
    reading = {name for name in LOSSES if "token_N" in signature(LOSSES[name]).parameters}
    assert reading == ON_SAMPLED_TOKEN


def test_an_unknown_objective_is_refused(logits):
    with pytest.raises(ValueError, match="'kl'.*reverse_kl"):
        token_loss("kl", *logits)


def test_eopd_adds_the_forward_divergence_above_its_threshold_alone():
    """At the threshold itself it does not (arXiv 2603.07079: H > τ)."""
    teacher_NV = torch.full((1, 4), 0.25).log()
    student_NV, token_N = torch.randn(1, 4).log_softmax(-1), torch.tensor([2])
    entropy = float(-torch.linalg.vecdot(teacher_NV.exp(), teacher_NV))
    at = eopd(student_NV, teacher_NV, token_N, threshold=entropy, k=4)
    below = eopd(student_NV, teacher_NV, token_N, threshold=entropy - 1e-3, k=4)
    sampled = sampled_reverse_kl(student_NV, teacher_NV, token_N)
    assert at.equal(sampled) and not below.equal(sampled)
