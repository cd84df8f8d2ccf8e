"""Gradients of the chunked passes, and what they are compared with: dense logits."""

import torch

from bench.selection.budget import select_tokens
from bench.train.hidden_states import PassSettings
from bench.train.loss import LossInputs, accumulate_loss, token_scale

WHOLE = PassSettings(micro_batch=64, logit_chunk=1 << 24)


def random_selection(sample, keep, scope="batch"):
    generator = torch.Generator().manual_seed(3)
    score_BT = torch.rand(sample.mask_BT.shape, generator=generator)
    return select_tokens(score_BT, sample.mask_BT, keep=keep, scope=scope)


def dense_logits(pair, model, sample):
    """(B, T, V) over the shared vocabulary, by the model's own forward, position by position."""
    logits_BLV = model(input_ids=sample.sequence_BL).logits[..., : pair.vocabulary.size]
    rows, positions = sample.mask_BT.shape
    index_BT = sample.prompt_length_B[:, None] + torch.arange(positions) - 1
    index_BT = index_BT.clamp(max=logits_BLV.shape[1] - 1)
    return logits_BLV[torch.arange(rows)[:, None], index_BT]


def gradients(pair):
    found = {
        name: parameter.grad.clone() if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in pair.student.named_parameters()
    }
    pair.student.zero_grad()
    return found


def chunked_gradients(pair, sample, selected_BT, objective="reverse_kl", normalize="selected",
                      settings=WHOLE, teacher_hidden_ND=None):  # fmt: skip
    scale_BT = token_scale(selected_BT.float(), sample.mask_BT, normalize)
    inputs = LossInputs(
        objective, OBJECTIVES[objective], scale_BT, teacher_hidden_ND, context(sample)
    )
    found = accumulate_loss(
        pair.student, pair.teacher, sample, pair.vocabulary, inputs, settings,
        lambda loss: loss.backward(),
    )  # fmt: skip
    return found.loss, gradients(pair), found.scored


def context(sample):
    """What objectives read of a batch: any numbers of the right kind, (B, T)."""
    generator = torch.Generator().manual_seed(4)
    u = {name: torch.rand(sample.mask_BT.shape, generator=generator) for name in range(5)}
    return {
        "advantage": 2 * u[0] - 1, "excess": -u[1], "deficit": (u[2] < 0.5).float(),
        "temperature": 0.7 + 0.6 * u[3], "right": (u[4] < 0.5).float(),
    }  # fmt: skip


def assert_close(one, other, largest=1e-5, mean=1e-6):
    """Relative to the largest gradient of the model: the maximum and the mean residual."""
    size = max(float(gradient.abs().max()) for gradient in other.values())
    assert size > 0
    for name in other:
        residual = (one[name] - other[name]).abs() / size
        assert float(residual.max()) < largest, name
        assert float(residual.mean()) < mean, name


OBJECTIVES = {
    "reverse_kl": {},
    "forward_kl": {},
    "jsd": {"beta": 0.3},
    "sampled_reverse_kl": {},
    "skew_reverse_kl": {"alpha": 0.3},
    "topk_reverse_kl": {"k": 5},
    "topk_reverse_kl_tail": {"k": 5},
    "topk_reverse_kl_clamped": {"k": 5},
    "topk_forward_kl": {"k": 5},
    "k2": {},
    "eopd": {"threshold": 3.0, "k": 5},
    "todi": {"beta": 2.0},
    "tv_advantage": {},
    "aopd": {"threshold": 0.1, "renormalised": 0, "k": 5},
    "tail_aware_sc": {"k": 5},
    "residual_advantage": {},
    "opd2": {},
    "adakd_reverse_kl": {},
    "adakd_forward_kl": {},
    "scope": {},
    "tide": {"weight": 2.0, "k": 5},
    "opsa": {},
    "capped_fkl": {"cap": 0.1},
}
