"""Losses and their logit gradients against closed forms in float64; the one denominator."""

from inspect import signature
from math import nan

import numpy as np
import pytest
import torch

from bench.core.config import OBJECTIVES
from bench.train.loss import token_scale
from bench.train.objectives import FORMULAS as LOSSES
from bench.train.objectives import token_loss

N, V = 6, 9
K = 3
PARAMS = {name: {"k": K} for name, defaults in OBJECTIVES.items() if "k" in defaults}
"""The default K is larger than the vocabulary of these tests."""


def softmax(x) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(a, b) -> np.ndarray:
    """Σ_v a (log a - log b), keeping the axis."""
    return (a * np.log(a / b)).sum(-1, keepdims=True)


@pytest.fixture(params=[1.0, 6.0], ids=["flat", "peaked"])
def logits(request):
    """Student and teacher logits, float32 (N, V), and sampled tokens (N,)."""
    generator = torch.Generator().manual_seed(3)
    student = request.param * torch.randn(N, V, generator=generator)
    teacher = request.param * torch.randn(N, V, generator=generator)
    return student, teacher, torch.randint(V, (N,), generator=generator)


def loss_and_gradient(objective, student, teacher, token, params=None):
    """loss_N and d(Σ loss)/d(student logits), as float64 NumPy."""
    student = student.clone().requires_grad_()
    params = {**PARAMS.get(objective, {}), **(params or {})}
    loss_N = token_loss(objective, student, teacher, token, params)
    (gradient_NV,) = torch.autograd.grad(loss_N.sum(), student)
    return loss_N.detach().double().numpy(), gradient_NV.double().numpy()


def distributions(logits):
    return softmax(logits[0].double().numpy()), softmax(logits[1].double().numpy())


def through_softmax(p, gradient_p) -> np.ndarray:
    """dL/dlogits from dL/dp: p_v (g_v - Σ_u p_u g_u)."""
    return p * (gradient_p - (p * gradient_p).sum(-1, keepdims=True))


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
    loss_N = token_loss(objective, student, teacher, token, params)
    assert loss_N.dtype == torch.float32
    loss_N.sum().backward()
    assert teacher.grad is None and bool(student.grad.abs().sum() > 0)
    raised = token_loss(
        objective, student.detach().float(), teacher.detach().float(), token, params
    )
    assert torch.equal(loss_N.detach(), raised)


# Not renormalised on S or T: the mass there is moved even where the two models agree.
NOT_STATIONARY = {"topk_forward_kl", "eopd", "topk_reverse_kl_clamped"}


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - NOT_STATIONARY))
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


FORMULAS = {f.__name__: f for f in (
    skew_reverse_kl, topk_reverse_kl, topk_reverse_kl_tail, topk_reverse_kl_clamped,
    topk_forward_kl, k2, eopd, todi,
)}  # fmt: skip
S: np.ndarray
FIXED: dict = {}
"""What carries no gradient: the set S, the gap of the surrogate, ToDi's weights (as q/p)."""


@pytest.mark.parametrize("objective", FORMULAS)
def test_an_objective_and_its_gradient_against_finite_differences_in_float64(logits, objective):
    global S
    token = logits[2].numpy()
    x, (p, q) = logits[0].double().numpy(), distributions(logits)
    S, rows = top(p), np.arange(N)
    FIXED.update(gap=np.log(q[rows, token] / p[rows, token]), weight=q / p)
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
    ],
)
def test_objectives_read_their_parameters(logits, objective, params, formula):
    token = logits[2].numpy()
    p, q = distributions(logits)
    FIXED.update(gap=np.log(q[np.arange(N), token] / p[np.arange(N), token]), weight=q / p)
    loss, _ = loss_and_gradient(objective, *logits, params)
    np.testing.assert_allclose(loss, formula(p, q, token), rtol=2e-5, atol=2e-5)
    assert np.abs(loss - loss_and_gradient(objective, *logits)[0]).max() > 1e-3


def test_k2s_expected_gradient_is_that_of_reverse_kl(logits):
    student, teacher, _ = logits
    p, q = distributions(logits)
    expected = np.zeros((N, V))
    for token in range(V):
        _, gradient = loss_and_gradient("k2", student, teacher, torch.full((N,), token))
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
    for name, parameters in OBJECTIVES.items():
        assert set(signature(LOSSES[name]).parameters) - read == set(parameters)


def test_an_unknown_objective_is_refused(logits):
    with pytest.raises(ValueError, match="'kl'.*reverse_kl"):
        token_loss("kl", *logits)


# The denominator

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)
SELECTED = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=float)
WEIGHT = np.array([[2, 0, 1, 0.5], [0, 0.25, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def scale_of(weight, normalize, mask=MASK):
    return token_scale(torch.as_tensor(weight), torch.from_numpy(mask), normalize).numpy()


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_selected_is_the_weighted_mean_over_the_batch(weight):
    assert scale_of(weight, "selected") == pytest.approx(weight / weight.sum())
    assert scale_of(weight, "selected").sum() == pytest.approx(1)


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_all_divides_by_every_sampled_token(weight):
    assert scale_of(weight, "all") == pytest.approx(weight / 9)


@pytest.mark.parametrize("weight", [SELECTED, WEIGHT], ids=["mask", "weights"])
def test_per_response_is_a_mean_of_means_over_the_responses_with_any(weight):
    expected = np.zeros_like(weight)
    for row in (0, 1):
        expected[row] = weight[row] / weight[row].sum() / 2
    assert scale_of(weight, "per_response") == pytest.approx(expected)


def test_per_response_of_a_worked_example():
    expected = [[1 / 6, 0, 1 / 6, 1 / 6], [0, 1 / 2, 0, 0], [0] * 4, [0] * 4]
    assert scale_of(SELECTED, "per_response") == pytest.approx(np.array(expected))


def test_a_boolean_selection_and_full_selection():
    everything = {name: scale_of(MASK, name) for name in ("selected", "all")}
    assert everything["selected"] == pytest.approx(MASK / 9)
    assert np.array_equal(everything["selected"], everything["all"])
    assert scale_of(SELECTED > 0, "selected") == pytest.approx(SELECTED / 4)


@pytest.mark.parametrize("normalize", ["selected", "all", "per_response"])
def test_an_empty_selection_has_scale_zero(normalize):
    assert np.array_equal(scale_of(np.zeros((4, 4)), normalize), np.zeros((4, 4)))
    nothing = np.zeros((4, 4), dtype=bool)
    assert np.array_equal(scale_of(np.ones((4, 4)), normalize, nothing), np.zeros((4, 4)))


@pytest.mark.parametrize("garbage", [nan, np.inf, 5.0])
@pytest.mark.parametrize("normalize", ["selected", "all", "per_response"])
def test_padding_cannot_change_the_scale(normalize, garbage):
    wide_weight = np.full((6, 7), garbage)
    wide_weight[:4, :4] = np.where(MASK, WEIGHT, garbage)
    wide_mask = np.zeros((6, 7), dtype=bool)
    wide_mask[:4, :4] = MASK
    wide = scale_of(wide_weight, normalize, wide_mask)
    assert np.array_equal(wide[:4, :4], scale_of(WEIGHT, normalize))
    assert np.all(wide[~wide_mask] == 0)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="'mean'.*per_response"):
        scale_of(WEIGHT, "mean")
