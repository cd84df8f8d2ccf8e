"""Per-token losses: what one selected position adds, before weights and the one denominator.

p is the student (with gradient), q the teacher (without), y the sampled token, all at one position
of N; log-probabilities are float32 over the shared vocabulary. Imports no sibling.
"""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor

DEFAULTS: dict[str, dict[str, float]] = {
    "reverse_kl": {},
    "forward_kl": {},
    "jsd": {"beta": 0.5},
    "sampled_reverse_kl": {},
}
"""Every objective with its parameters' defaults."""


def token_loss(
    objective: str,
    student_logit_NV: Tensor,
    teacher_logit_NV: Tensor,
    token_N: Tensor,
    params: Mapping[str, float] | None = None,
) -> Tensor:
    """loss_N of the named objective, float32, nats. Raises ValueError for an unknown one."""
    student_NV, teacher_NV = _log_softmax(student_logit_NV), _log_softmax(teacher_logit_NV).detach()
    match objective:
        case "reverse_kl":
            return reverse_kl(student_NV, teacher_NV)
        case "forward_kl":
            return forward_kl(student_NV, teacher_NV)
        case "jsd":
            return jsd(student_NV, teacher_NV, **{**DEFAULTS["jsd"], **(params or {})})
        case "sampled_reverse_kl":
            return sampled_reverse_kl(student_NV, teacher_NV, token_N)
    raise ValueError(f"objective: {objective!r} is not one of {', '.join(DEFAULTS)}")


def reverse_kl(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p(v) [log p(v) - log q(v)]. Source: arXiv 2306.08543, 2306.13649."""
    return torch.linalg.vecdot(student_NV.exp(), student_NV - teacher_NV)


def forward_kl(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """KL(q‖p) = Σ_v q(v) [log q(v) - log p(v)]. Source: arXiv 1503.02531."""
    return torch.linalg.vecdot(teacher_NV.exp(), teacher_NV - student_NV)


def jsd(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    """β KL(q‖m) + (1-β) KL(p‖m), m = β q + (1-β) p, 0 < β < 1. Source: arXiv 2306.13649, eq. 1."""
    mixture_NV = torch.logaddexp(teacher_NV + log(beta), student_NV + log(1 - beta))
    from_teacher_N = torch.linalg.vecdot(teacher_NV.exp(), teacher_NV - mixture_NV)
    from_student_N = torch.linalg.vecdot(student_NV.exp(), student_NV - mixture_NV)
    return beta * from_teacher_N + (1 - beta) * from_student_N


def sampled_reverse_kl(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor) -> Tensor:
    """-sg[log q(y) - log p(y)] · log p(y), whose mean gradient over y ~ p is that of KL(p‖q).

    The PPO ratio of arXiv 2605.26844 is 1 here, since each rollout is used for one update, so its
    clipping (0.2/0.28) never binds and is not computed. The value is not a divergence.
    """
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    return -(teacher_N - student_N).detach() * student_N


def _log_softmax(logit_NV: Tensor) -> Tensor:
    """Float32; more exact on CPU over a large vocabulary than torch.log_softmax."""
    logit_NV = logit_NV.float()
    logit_NV = logit_NV - logit_NV.amax(-1, keepdim=True).detach()
    return logit_NV - logit_NV.exp().sum(-1, keepdim=True).log()


def token_scale(
    weight_BT: Tensor, mask_BT: Tensor, normalize: str, reduce_sum=lambda value: value
) -> Tensor:
    """scale_BT, float32, such that the loss of the global batch is Σ scale · loss.

    weight_BT   float >= 0, 0 off the selection; a mask is the 0/1 case. Weights count as fractions
                of a token in every denominator.
    normalize   "selected": Σ w·loss / Σ w.  "all": Σ w·loss / sampled tokens.
                "per_response": the weighted mean of each response, then the mean over the
                responses that have any weight.
    reduce_sum  sums a tensor over processes, so that denominators are global.

    A batch with no weight has scale 0 everywhere (loss 0), never NaN.
    """
    weight_BT = torch.where(mask_BT, weight_BT.double(), 0)
    match normalize:
        case "selected":
            scale_BT = weight_BT / _positive(reduce_sum(weight_BT.sum()))
        case "all":
            scale_BT = weight_BT / _positive(reduce_sum(mask_BT.sum().double()))
        case "per_response":
            sum_B1 = weight_BT.sum(1, keepdim=True)
            responses = reduce_sum((sum_B1 > 0).sum().double())
            scale_BT = weight_BT / _positive(sum_B1) / _positive(responses)
        case _:
            raise ValueError(f"normalize: {normalize!r} is not one of selected, all, per_response")
    return scale_BT.float()


def _positive(x: Tensor) -> Tensor:
    """x, or 1 where there is nothing to divide by (and the numerator is 0 too)."""
    return torch.where(x > 0, x, 1.0)
