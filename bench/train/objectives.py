"""Per-token losses: what one selected position adds, before weights and the one denominator.

p is the student (with gradient), q the teacher (without), y the sampled token, all at one position
of N; log-probabilities are float32 over the shared vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import signature
from math import log
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.core.logits import log_softmax
from bench.core.objectives import OBJECTIVES, objective_defaults
from bench.train.batch_objectives import BATCH_FORMULAS


def token_loss(
    objective: str,
    student_logit_NV: Tensor,
    teacher_logit_NV: Tensor | None,
    token_N: Tensor,
    params: Mapping[str, float] | None = None,
    context_N: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """loss_N of the named objective, float32, nats. Raises ValueError for an unknown one.

    teacher_logit_NV   None for an objective without a teacher (`needs_teacher`).
    context_N          what it reads of the whole batch (`batch_objectives.context_of`), by name.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: {objective!r} is not one of {', '.join(OBJECTIVES)}")
    settings: dict[str, Any] = {**objective_defaults(objective), **(params or {})}
    if "k" in settings:
        settings["k"] = _count(settings["k"], student_logit_NV.shape[-1])
    # Autocast, where it is on, would take the sums over the vocabulary in half precision.
    with torch.autocast(student_logit_NV.device.type, enabled=False):
        if objective == "reverse_kl":
            return reverse_kl(student_logit_NV, cast(Tensor, teacher_logit_NV))
        reads = _reads(objective)
        values = {f"{name}_N": value_N for name, value_N in (context_N or {}).items()}
        values["token_N"] = token_N
        if "teacher_NV" in reads:
            values["teacher_NV"] = log_softmax(cast(Tensor, teacher_logit_NV)).detach()
        taken = {name: values[name] for name in reads if name in values}
        settings = {name: value for name, value in settings.items() if name in reads}
        return FORMULAS[objective](log_softmax(student_logit_NV), **taken, **settings)


def needs_teacher(objective: str) -> bool:
    """Does its loss read the teacher's distribution at the position?"""
    return objective == "reverse_kl" or "teacher_NV" in _reads(objective)


@cache
def _reads(objective: str) -> tuple[str, ...]:
    """The names of what a formula takes."""
    return tuple(signature(FORMULAS[objective]).parameters)


def _count(k: float, vocabulary: int) -> int:
    if not 1 <= k <= vocabulary:
        raise ValueError(f"objective_params: k={k:g} is not accepted: 1 to {vocabulary}")
    return int(k)


def reverse_kl(student_logit_NV: Tensor, teacher_logit_NV: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p(v) [log p(v) - log q(v)].

    Of logits, where the others take log-probabilities. Source: arXiv 2306.08543, 2306.13649.
    """
    return cast(Tensor, ReverseKL.apply(student_logit_NV, teacher_logit_NV))


class ReverseKL(torch.autograd.Function):
    """`reverse_kl` with its gradient in closed form.

    The gradient at the student's logits, p(v) [log p(v) - log q(v) - KL(p‖q)], is found in the same
    pass over the logits, and scaled in place by the backward pass, of which there can be one only.
    """

    @staticmethod
    def forward(ctx: Any, student_logit_NV: Tensor, teacher_logit_NV: Tensor) -> Tensor:
        loss_N = student_logit_NV.new_empty(student_logit_NV.shape[0], dtype=torch.float32)
        grad_NV = torch.empty_like(student_logit_NV, dtype=torch.float32)
        for rows in row_blocks(student_logit_NV):
            student_NV = log_softmax(student_logit_NV[rows])
            ratio_NV = student_NV - log_softmax(teacher_logit_NV[rows])
            student_NV.exp_()
            loss_N[rows] = torch.linalg.vecdot(student_NV, ratio_NV)
            ratio_NV -= loss_N[rows, None]
            torch.mul(student_NV, ratio_NV, out=grad_NV[rows])
        ctx.save_for_backward(grad_NV)
        ctx.dtype = student_logit_NV.dtype
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (grad_NV,) = ctx.saved_tensors
        return grad_NV.mul_(grad_N[:, None]).to(ctx.dtype), None


CACHED_LOGITS = 1_048_576
"""Logits that elementwise work on a CPU takes at once: what it reads again is still near."""


def row_blocks(logit_NV: Tensor) -> Iterator[slice]:
    """Slices over the positions: pieces that a CPU's cache holds, everything elsewhere."""
    positions, vocabulary = logit_NV.shape
    size = max(1, CACHED_LOGITS // vocabulary if logit_NV.device.type == "cpu" else positions)
    for start in range(0, max(1, positions), size):
        yield slice(start, start + size)


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
    Source: arXiv 2605.26844.
    """
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    return -(teacher_N - student_N).detach() * student_N


def skew_reverse_kl(student_NV: Tensor, teacher_NV: Tensor, alpha: float) -> Tensor:
    """KL(p‖m), m = α p + (1-α) q, 0 < α < 1. Source: arXiv 2402.03898 (DistiLLM)."""
    mixture_NV = torch.logaddexp(student_NV + log(alpha), teacher_NV + log(1 - alpha))
    return torch.linalg.vecdot(student_NV.exp(), student_NV - mixture_NV)


def topk_reverse_kl(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Tensor:
    """KL of the conditionals on S: Σ_S p(v|S) [log p(v|S) - log q(v|S)], S the student's top K.

    S is a fixed set: no gradient goes through the choice of its members.
    Source: this project, one of three readings of trainers' top-K reverse KL.
    """
    student_NK, teacher_NK = _on_student_topk(student_NV, teacher_NV, k)
    student_NK = student_NK - student_NK.logsumexp(-1, keepdim=True)
    teacher_NK = teacher_NK - teacher_NK.logsumexp(-1, keepdim=True)
    return torch.linalg.vecdot(student_NK.exp(), student_NK - teacher_NK)


def topk_reverse_kl_tail(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Tensor:
    """Σ_S p [log p - log q] + (1-P_S) [log(1-P_S) - log(1-C)]: all else is one more bucket.

    P_S = Σ_S p, C = Σ_S q. A bucket whose mass is lost to rounding counts as 1e-9.
    Source: this project, one of three readings of trainers' top-K reverse KL.
    """
    student_NK, teacher_NK = _on_student_topk(student_NV, teacher_NV, k)
    inside_N = torch.linalg.vecdot(student_NK.exp(), student_NK - teacher_NK)
    if k == student_NV.shape[-1]:
        return inside_N
    tail_N, teacher_tail_N = _tail(student_NK), _tail(teacher_NK)
    return inside_N + tail_N * (tail_N.log() - teacher_tail_N.log())


def topk_reverse_kl_clamped(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Tensor:
    """max(0, Σ_S p [log p - log q]): the part of KL(p‖q) on S, which alone may be negative.

    Our reading of "clamped": where the sum is negative, loss and gradient are 0. It is not
    stationary at p = q: its gradient there still lowers P_S.
    Source: this project, one of three readings of trainers' top-K reverse KL.
    """
    student_NK, teacher_NK = _on_student_topk(student_NV, teacher_NV, k)
    return torch.linalg.vecdot(student_NK.exp(), student_NK - teacher_NK).clamp(min=0)


def topk_forward_kl(student_NV: Tensor, teacher_NV: Tensor, k: int) -> Tensor:
    """Σ_T q(v|T) [log q(v|T) - log p(v)], T the teacher's top K; the student is not renormalised.

    So its gradient also draws mass into T, as that of KL(q‖p) does. Source: arXiv 2603.07079.
    """
    teacher_NK, id_NK = teacher_NV.topk(k, -1)
    teacher_NK = teacher_NK - teacher_NK.logsumexp(-1, keepdim=True)
    return torch.linalg.vecdot(teacher_NK.exp(), teacher_NK - student_NV.gather(-1, id_NK))


def k2(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor) -> Tensor:
    """½Δ², Δ = log q(y) - log p(y), whose mean gradient over y ~ p is that of KL(p‖q).

    Source: arXiv 2608.25643.
    """
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    return 0.5 * (teacher_N - student_N).square()


def eopd(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, threshold: float, k: int
) -> Tensor:
    """sampled_reverse_kl + 1[H(q) > threshold]·topk_forward_kl, threshold in nats.

    Source: arXiv 2603.07079.
    """
    entropy_N = -torch.linalg.vecdot(teacher_NV.exp(), teacher_NV)
    forward_N = topk_forward_kl(student_NV, teacher_NV, k)
    sampled_N = sampled_reverse_kl(student_NV, teacher_NV, token_N)
    return sampled_N + torch.where(entropy_N > threshold, forward_N, 0)


def todi(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    """Σ_v a q [log q - log p] + (1-a) p [log p - log q], a = sg σ(β (log q(v) - log p(v))).

    Forward where the student gives a token too little, reverse where it gives it too much.
    Source: arXiv 2505.16297 (β = 1).
    """
    ratio_NV = teacher_NV - student_NV
    weight_NV = torch.sigmoid(beta * ratio_NV).detach()
    forward_N = torch.linalg.vecdot(weight_NV * teacher_NV.exp(), ratio_NV)
    reverse_N = torch.linalg.vecdot((1 - weight_NV) * student_NV.exp(), ratio_NV)
    return forward_N - reverse_N


def tv_advantage(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor) -> Tensor:
    """-sg[sign Δ · ½ Σ|p - q|]·log p(y). Source: arXiv 2609.08341 (TV-OPD)."""
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    distance_N = 0.5 * (student_NV.detach().exp() - teacher_NV.exp()).abs().sum(-1)
    return -(teacher_N - student_N).detach().sign() * distance_N * student_N


def aopd(
    student_NV: Tensor,
    teacher_NV: Tensor,
    token_N: Tensor,
    threshold: float,
    renormalised: float,
    k: int,
) -> Tensor:
    """G·KL(q_T‖p_T) + (1-G)·(-sg[Δ]·log p(y)), G = 1[q(y) - p(y) ≤ threshold].

    T is the teacher's top K, on which both sides are renormalised, or the teacher alone
    (`renormalised=0`): our reading. Threshold -1 is `sampled_reverse_kl`, 1 the forward KL alone.
    Source: arXiv 2605.06387 (AOPD; threshold 0, K = 16).
    """
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0].detach()
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_NK, id_NK = teacher_NV.topk(k, -1)
    teacher_NK = teacher_NK - teacher_NK.logsumexp(-1, keepdim=True)
    student_NK = student_NV.gather(-1, id_NK)
    if renormalised:
        student_NK = student_NK - student_NK.logsumexp(-1, keepdim=True)
    forward_N = torch.linalg.vecdot(teacher_NK.exp(), teacher_NK - student_NK)
    sampled_N = sampled_reverse_kl(student_NV, teacher_NV, token_N)
    return torch.where(teacher_N.exp() - student_N.exp() <= threshold, forward_N, sampled_N)


def tail_aware_sc(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, k: int) -> Tensor:
    """Σ_T p [log p - log q] + P log(P/Q) + 1[y ∉ T] p(y)/sg p(y) · sg log[(p(y)/P)/(q(y)/Q)].

    T is the teacher's top K, P and Q the mass that p and q leave outside it. The last term makes
    the mean gradient over y ~ p that of KL(p‖q).
    Source: HuipengHuang/TA-OPD (Tail-Aware OPD's score correction).
    """
    teacher_NK, id_NK = teacher_NV.topk(k, -1)
    student_NK = student_NV.gather(-1, id_NK)
    inside_N = torch.linalg.vecdot(student_NK.exp(), student_NK - teacher_NK)
    if k == student_NV.shape[-1]:
        return inside_N
    tail_N, teacher_tail_N = (
        logprob_NV.scatter(-1, id_NK, -torch.inf).logsumexp(-1)
        for logprob_NV in (student_NV, teacher_NV)
    )
    student_N = student_NV.gather(-1, token_N[:, None])[:, 0]
    teacher_N = teacher_NV.gather(-1, token_N[:, None])[:, 0]
    inner_N = student_N - tail_N - teacher_N + teacher_tail_N
    is_outside_N = ~(id_NK == token_N[:, None]).any(-1)
    score_N = (student_N - student_N.detach()).exp() * inner_N.detach()
    correction_N = torch.where(is_outside_N, score_N, 0)
    return inside_N + tail_N.exp() * (tail_N - teacher_tail_N) + correction_N


def _on_student_topk(student_NV: Tensor, teacher_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(log p, log q) on the student's top K, (N, K)."""
    id_NK = student_NV.detach().topk(k, -1).indices
    return student_NV.gather(-1, id_NK), teacher_NV.gather(-1, id_NK)


def _tail(logprob_NK: Tensor) -> Tensor:
    """1 - Σ exp, at least 1e-9."""
    return (1 - logprob_NK.exp().sum(-1)).clamp(min=1e-9)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    formula.__name__: formula
    for formula in (
        reverse_kl, forward_kl, jsd, sampled_reverse_kl, skew_reverse_kl, topk_reverse_kl,
        topk_reverse_kl_tail, topk_reverse_kl_clamped, topk_forward_kl, k2, eopd, todi,
        tv_advantage, aopd, tail_aware_sc,
    )
} | BATCH_FORMULAS  # fmt: skip
"""objective -> its loss_N: of log-probabilities (reverse_kl: of logits), and of `token_N` and the
batch's context where it takes those; then its parameters, as core/config names them."""
