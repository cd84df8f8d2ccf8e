"""How large the gradient of a token's loss is at the student's logits, in closed form."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.core.objectives import objective_defaults
from bench.selection.formulas import Chunk

CLOSED_FORMS = ("reverse_kl", "forward_kl", "jsd", "sampled_reverse_kl")


def measured_objective(objective: str) -> str:
    """The objective whose gradient `logit_gradient_norm` gives: this one, or reverse_kl."""
    return objective if objective in CLOSED_FORMS else "reverse_kl"


def logit_gradient_norm(chunk: Chunk, objective: str, params: Mapping[str, float]) -> Tensor:
    """‖∂loss/∂z‖₂ at the student's logits z of each position, float32 (N,), nats.

    reverse_kl          g_v = p_v (log p_v/q_v - KL(p‖q))
    forward_kl          g = p - q
    jsd                 g_v = (1-β) p_v (log p_v/m_v - KL(p‖m)), m = β q + (1-β) p
    sampled_reverse_kl  g = -Δ (e_y - p), Δ = log q(y) - log p(y)

    For an objective without a closed form here it is that of reverse_kl (`measured_objective`).
    """
    with torch.autocast(chunk.token_N1.device.type, enabled=False):
        return _norm(chunk, objective, params)


def _norm(chunk: Chunk, objective: str, params: Mapping[str, float]) -> Tensor:
    p_NV = chunk.student_NV
    match measured_objective(objective):
        case "forward_kl":
            return (p_NV - chunk.teacher_NV).norm(dim=-1)
        case "jsd":
            beta = {**objective_defaults("jsd"), **params}["beta"]
            m_NV = beta * chunk.teacher_NV + (1 - beta) * p_NV
            # m >= (1-β) p: where p is too small for float32, so is what it adds.
            log_ratio_NV = chunk.student_logprob_NV - m_NV.clamp(min=1e-38).log()
            return (1 - beta) * _centred_norm(p_NV, torch.where(p_NV > 0, log_ratio_NV, 0))
        case "sampled_reverse_kl":
            p_N1 = p_NV.gather(-1, chunk.token_N1)
            ratio_N1 = chunk.log_ratio_NV.gather(-1, chunk.token_N1)
            # ‖e_y - p‖² = (1 - p_y)² + Σ_{v≠y} p_v²
            square_N = p_NV.square().sum(-1) - p_N1[:, 0].square() + (1 - p_N1[:, 0]).square()
            return ratio_N1[:, 0].abs() * square_N.clamp(min=0).sqrt()
    return _centred_norm(p_NV, chunk.log_ratio_NV)


def _centred_norm(p_NV: Tensor, f_NV: Tensor) -> Tensor:
    """‖p (f - Σ p f)‖₂."""
    mean_N1 = torch.linalg.vecdot(p_NV, f_NV)[:, None]
    return (p_NV * (f_NV - mean_N1)).norm(dim=-1)
