"""Every signal against float64 NumPy; chunked equals dense; nothing but float32 leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batch_signals import K, signals_of
from numpy_rules import kl

from bench.core.logits import log_softmax
from bench.selection.formulas import chunk_signals, signals_from_logits
from bench.selection.signals import SIGNAL_NAMES, STUDENT_ONLY, base_signals, with_signals

SCALES = (1.0, 5.0, 30.0)


def at(x_NV, id_NK) -> np.ndarray:
    return np.take_along_axis(x_NV, id_NK, -1)


def reference(batch, k=K) -> dict[str, np.ndarray]:
    """The design's signals from their definitions, float64, over the N masked tokens."""
    log_p, log_q = batch.log_p, batch.log_q
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log((p + q) / 2)
    student_top = np.argsort(-log_p, -1, kind="stable")[:, :k]
    teacher_top = np.argsort(-log_q, -1, kind="stable")[:, :k]
    return {
        "student_logprob_BT": at(log_p, batch.token[:, None])[:, 0],
        "teacher_logprob_BT": at(log_q, batch.token[:, None])[:, 0],
        "student_entropy_BT": -(p * log_p).sum(-1),
        "teacher_entropy_BT": -(q * log_q).sum(-1),
        "reverse_kl_BT": kl(log_p, log_q),
        "forward_kl_BT": kl(log_q, log_p),
        "jsd_BT": 0.5 * kl(log_p, log_m) + 0.5 * kl(log_q, log_m),
        "hellinger_BT": np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=-1) / np.sqrt(2),
        "total_variation_BT": 0.5 * np.abs(p - q).sum(-1),
        "student_topk_id_BTK": student_top,
        "student_topk_logprob_BTK": at(log_p, student_top),
        "teacher_topk_id_BTK": teacher_top,
        "teacher_topk_logprob_BTK": at(log_q, teacher_top),
        "teacher_logprob_on_student_topk_BTK": at(log_q, student_top),
        "student_logprob_on_teacher_topk_BTK": at(log_p, teacher_top),
        "teacher_mass_on_student_topk_BT": at(q, student_top).sum(-1),
        "student_mass_on_student_topk_BT": at(p, student_top).sum(-1),
        "student_entropy_slope_BT": (p**2 * (log_p - (p * log_p).sum(-1)[:, None])).sum(-1),
        "mean_probability_gap_BT": (p * (q - p)).sum(-1),
    }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SIGNAL_NAMES)
def test_a_signal_is_its_definition_in_float64(make_batch, name, scale):
    batch = make_batch(seed=1, vocabulary=40, scale=scale)
    expected = reference(batch)[name]
    actual = getattr(signals_of(batch), name)[batch.mask_BT].numpy()
    if expected.dtype == np.int64:
        assert actual.tolist() == expected.tolist()
    else:
        # Divergences round at 1e-7 of the largest log-ratio; their own size may be far smaller.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-7 * max(1, 4 * scale))


def test_a_worked_example():
    p, q = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.tensor([0.25, 0.25, 0.5, 1e-30])
    ln2 = np.log(2)
    signals = signals_from_logits(
        p.log()[None, None], q.log()[None, None], torch.tensor([[2]]), torch.tensor([[True]]), k=2
    )
    values = {name: value.flatten().tolist() for name, value in signals.computed().items()}
    assert values["student_logprob_BT"] == pytest.approx([-3 * ln2])
    assert values["teacher_logprob_BT"] == pytest.approx([-ln2])
    assert values["student_entropy_BT"] == pytest.approx([1.75 * ln2])
    assert values["teacher_entropy_BT"] == pytest.approx([1.5 * ln2])
    assert values["forward_kl_BT"] == pytest.approx([(-0.25 + 0.5 * 2) * ln2])
    expected = 0.5 * ln2 - 0.125 * 2 * ln2 + 0.125 * (np.log(0.125) - np.log(1e-30))
    assert values["reverse_kl_BT"] == pytest.approx([expected])
    assert values["total_variation_BT"] == pytest.approx([0.375])
    assert values["student_topk_id_BTK"] == [0, 1] and values["teacher_topk_id_BTK"][0] == 2
    assert values["teacher_mass_on_student_topk_BT"] == pytest.approx([0.5])
    assert values["student_mass_on_student_topk_BT"] == pytest.approx([0.75])


@pytest.mark.parametrize("scale", SCALES)
def test_forward_kl_splits_exactly_into_learnable_off_support_and_mass(make_batch, scale):
    """KL(q‖p) = C·KL(q|S‖p|S) + (1-C)·KL(q|Sᶜ‖p|Sᶜ) + kl_bernoulli(C‖P_S)."""
    batch = make_batch(seed=2, vocabulary=20, scale=scale)
    log_p, log_q = batch.log_p, batch.log_q
    order = np.argsort(-log_p, -1, kind="stable")
    signals = signals_of(batch)

    def given(log_x, ids):
        log_x = at(log_x, ids)
        return log_x - np.logaddexp.reduce(log_x, -1, keepdims=True)

    inside, outside = order[:, :K], order[:, K:]
    mass = at(np.exp(log_q), inside).sum(-1)
    off_mass = at(np.exp(log_q), outside).sum(-1)
    student_mass = at(np.exp(log_p), inside).sum(-1)
    student_off_mass = at(np.exp(log_p), outside).sum(-1)
    learnable = mass * kl(given(log_q, inside), given(log_p, inside))
    incompatible = off_mass * kl(given(log_q, outside), given(log_p, outside))
    bernoulli = mass * np.log(mass / student_mass)
    bernoulli += off_mass * np.log(off_mass / student_off_mass)
    total = learnable + incompatible + bernoulli

    mask = batch.mask_BT
    np.testing.assert_allclose(total, kl(log_q, log_p), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(signals.forward_kl_BT[mask], total, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(signals.teacher_mass_on_student_topk_BT[mask], mass, atol=1e-6)
    np.testing.assert_allclose(
        signals.student_mass_on_student_topk_BT[mask], student_mass, atol=1e-6
    )


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_chunked_equals_dense(make_batch, size):
    batch = make_batch(vocabulary=40, scale=5.0)
    mask = batch.mask_BT
    flat = batch.student_logits_BTV[mask], batch.teacher_logits_BTV[mask], batch.token_BT[mask]
    pieces = [
        chunk_signals(*(x[start : start + size] for x in flat), SIGNAL_NAMES, K)
        for start in range(0, len(flat[2]), size)
    ]
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in SIGNAL_NAMES}
    base = base_signals(batch.token_BT, mask, seed=0, step=0, row_key_B=batch.row_key_B)
    chunked, dense = with_signals(base, joined).computed(), signals_of(batch).computed()
    for name in SIGNAL_NAMES:
        torch.testing.assert_close(chunked[name], dense[name], rtol=1e-6, atol=1e-6)


def test_signals_are_float32_detached_finite_and_zero_off_the_mask(make_batch):
    batch = make_batch(scale=30.0)  # the teacher's padding is NaN
    batch = replace(batch, student_logits_BTV=batch.student_logits_BTV.requires_grad_())
    values = signals_of(batch).computed()
    assert list(values) == list(SIGNAL_NAMES)
    for name, value in values.items():
        assert value.dtype == (torch.int64 if "_id_" in name else torch.float32), name
        assert not value.requires_grad and bool(torch.isfinite(value).all()), name
        assert torch.all(value[~batch.mask_BT] == 0), name
        assert value.shape == (6, 9, K)[: value.ndim] and name.endswith("K") == (value.ndim == 3)


def test_bfloat16_logits_are_raised_to_float32_before_the_softmax(make_batch):
    batch = make_batch(vocabulary=40, scale=5.0)
    student, teacher = batch.student_logits_BTV.bfloat16(), batch.teacher_logits_BTV.bfloat16()
    low = signals_of(replace(batch, student_logits_BTV=student, teacher_logits_BTV=teacher))
    raised = replace(batch, student_logits_BTV=student.float(), teacher_logits_BTV=teacher.float())
    for name, value in signals_of(raised).computed().items():
        assert torch.equal(low.computed()[name], value), name


def test_excluded_ids_contribute_nothing(make_batch):
    batch = make_batch(vocabulary=12, scale=5.0)
    widen = torch.nn.functional.pad
    wide = replace(
        batch,
        student_logits_BTV=widen(batch.student_logits_BTV, (0, 5), value=-1e4),
        teacher_logits_BTV=widen(batch.teacher_logits_BTV, (0, 5), value=-1e4),
    )
    wide.student_logits_BTV[~batch.mask_BT] = 0
    for name, value in signals_of(batch).computed().items():
        torch.testing.assert_close(signals_of(wide).computed()[name], value, rtol=1e-6, atol=1e-6)


def test_models_that_agree_have_no_divergence(make_batch):
    batch = make_batch(vocabulary=40, scale=30.0)
    same = signals_of(replace(batch, teacher_logits_BTV=batch.student_logits_BTV))
    for name in ("reverse_kl", "forward_kl", "jsd", "hellinger", "total_variation"):
        assert float(getattr(same, f"{name}_BT").abs().max()) < 1e-6, name
    assert torch.equal(same.teacher_mass_on_student_topk_BT, same.student_mass_on_student_topk_BT)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_mass_on_the_topk_grows_to_1_with_k(make_batch, k):
    batch = make_batch(vocabulary=12)
    signals = signals_of(batch, k=k)
    mass = signals.teacher_mass_on_student_topk_BT[batch.mask_BT]
    np.testing.assert_allclose(
        mass, reference(batch, k)["teacher_mass_on_student_topk_BT"], atol=1e-6
    )
    assert signals.student_topk_id_BTK.shape[-1] == k
    if k == 12:
        np.testing.assert_allclose(mass, 1, atol=1e-6)


def test_student_only_signals_are_computed_without_a_teacher(make_batch):
    batch = make_batch()
    student, token = batch.student_logits_BTV[batch.mask_BT], batch.token_BT[batch.mask_BT]
    values = chunk_signals(student, None, token, sorted(STUDENT_ONLY), K)
    expected = reference(batch)
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    for name in set(SIGNAL_NAMES) - STUDENT_ONLY:
        with pytest.raises(ValueError, match="teacher"):
            chunk_signals(student, None, token, [name], K)


def test_a_batch_without_tokens_has_signals_of_zeros(make_batch):
    batch = make_batch()
    empty = replace(batch, mask_BT=torch.zeros_like(batch.mask_BT))
    for name, value in signals_of(empty).computed().items():
        assert torch.all(value == 0), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 13}, "k: 13"),
        ({"teacher_logits_BTV": torch.zeros(6, 9, 11)}, "vocabulary"),
        ({"token_BT": torch.zeros(6, 8, dtype=torch.int64)}, "token_BT"),
        ({"mask_BT": torch.ones(6, 9)}, "mask_BT"),
        ({"row_key_B": ["a"] * 6}, "row_key_B"),
    ],
)
def test_bad_input_is_named(make_batch, change, message):
    batch = make_batch()
    arguments = {**vars(batch), "k": K, **change}
    with pytest.raises(ValueError, match=message):
        signals_from_logits(**arguments)


def test_log_probabilities_are_exact_over_a_real_vocabulary():
    generator = torch.Generator().manual_seed(0)
    logit_NV = 3 * torch.randn(4, 151_936, generator=generator)
    exact_NV = logit_NV.double().log_softmax(-1)
    assert float((log_softmax(logit_NV).double() - exact_NV).abs().max()) < 5e-6
    values = chunk_signals(
        logit_NV, logit_NV.flip(0), torch.zeros(4, dtype=torch.int64),
        ["teacher_mass_on_student_topk_BT"], 16,
    )  # fmt: skip
    top_NK = exact_NV.topk(16).indices
    expected_N = exact_NV.flip(0).gather(-1, top_NK).exp().sum(-1)
    error_N = values["teacher_mass_on_student_topk_BT"].double() - expected_N
    assert float(error_N.abs().max()) < 1e-6
