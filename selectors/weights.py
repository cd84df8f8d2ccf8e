"""Rules that weight every token instead of choosing some: w ≥ 0, the loss is Σ w·loss / Σ w."""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector

BOTH = ("student_logprob_BT", "teacher_logprob_BT")


@selector("entropy_gap", kind="weight", needs=("student_entropy_BT", "teacher_entropy_BT"))
def entropy_gap(signals: TokenSignals) -> Tensor:
    """Weight tokens by how much less sure the student is than the teacher.

    Formula: σ(H(p) - H(q))

    Source: arXiv 2603.13260.
    """
    return torch.sigmoid(signals.student_entropy_BT - signals.teacher_entropy_BT)


@selector("acceptance", kind="weight", needs=BOTH, reads_sampled_token=True)
def acceptance(signals: TokenSignals) -> Tensor:
    """Weight tokens by the chance that speculative decoding would accept them.

    Formula: min(1, q(y)/p(y))

    Source: arXiv 2211.17192 (the acceptance rule of speculative decoding).
    """
    return (signals.teacher_logprob_BT - signals.student_logprob_BT).clamp(max=0).exp()


@selector("sure", kind="weight", needs=("student_logprob_BT",), reads_sampled_token=True)
def sure(signals: TokenSignals, alpha: float = 1.0) -> Tensor:
    """Weight tokens up that the student itself found unlikely.

    Formula: 1 + α(1 - p(y))

    Source: arXiv 2608.25643 (with the ½Δ² objective: `--objective k2`).

    Deviations: α is not stated in what we read; 1.
    """
    return 1 - alpha * torch.expm1(signals.student_logprob_BT)


@selector("iw_prefix", kind="weight", needs=BOTH, reads_sampled_token=True)
def iw_prefix(signals: TokenSignals, w_max: float = 1.5) -> Tensor:
    """Weight tokens by how little of the response's disagreement has come before them.

    Formula: 1 + (w_max - 1)(1 - F_{t-1}), F_{t-1} = Σ_{i<t} |Δ_i| / Σ_i |Δ_i|

    Source: arXiv 2606.22600 (w_max = 1.5).

    Deviations: a response without any disagreement has F = 0.
    """
    gap_BT = (signals.teacher_logprob_BT - signals.student_logprob_BT).abs()
    gap_BT = gap_BT.masked_fill(~signals.mask_BT, 0)
    total_B1 = gap_BT.sum(1, keepdim=True)
    before_BT = gap_BT.cumsum(1) - gap_BT
    share_BT = torch.where(total_B1 > 0, before_BT / total_B1, 0).clamp(0, 1)
    return 1 + (w_max - 1) * (1 - share_BT)


@selector("position_sigmoid", kind="weight")
def position_sigmoid(
    signals: TokenSignals, w_min: float = 0.25, middle: float = 0.3, width: float = 0.1
) -> Tensor:
    """Weight tokens up along the response, from a floor to 1.

    Formula: w_min + (1 - w_min) σ((t/T - τ)/s), (w_min, τ, s) = (0.25, 0.30, 0.10)

    Source: arXiv 2605.21606.

    Deviations: T is the response's own length, t counts from 0: our reading.
    """
    place_BT = signals.position_BT / signals.length_B.clamp(min=1)[:, None]
    return w_min + (1 - w_min) * torch.sigmoid((place_BT - middle) / width)


@selector("selectkd", kind="weight", needs=("student_topk_id_BTK", "teacher_topk_id_BTK"))
def selectkd(signals: TokenSignals, top: int = 5, low: float = 0.01) -> Tensor:
    """Weight tokens fully where the teacher has the student's best candidate among its own best.

    Formula: 1 where argmax p ∈ top-5(q), else 0.01

    Source: arXiv 2510.24021.
    """
    if signals.teacher_topk_id_BTK.shape[-1] < top:
        raise ValueError(f"top: {top} needs k of at least {top}")
    best_BT1 = signals.student_topk_id_BTK[..., :1]
    is_there_BT = (signals.teacher_topk_id_BTK[..., :top] == best_BT1).any(-1)
    return torch.where(is_there_BT, 1.0, low)


@selector(
    "fire",
    kind="weight",
    needs=("student_entropy_BT", "teacher_entropy_BT", "teacher_logprob_BT"),
    reads_sampled_token=True,
)
def fire(signals: TokenSignals, alpha: float = 1.0, beta: float = 1.0, drop: float = 0.2) -> Tensor:
    """Weight tokens up where the teacher is sure and the student is not; drop the worst responses.

    Formula: (1 + α(1 - H(q)/max H(q)))(1 + β H(p)/max H(p)), scaled to mean 1; 0 in the 20 % of
    responses with the lowest mean log q(y)

    Source: arXiv 2606.02684 (α = β = 1).

    Deviations: the maxima are over the batch and the mean over the tokens that are left; the
    number of dropped responses is rounded down.
    """
    mask_BT = signals.mask_BT
    student_BT, teacher_BT = (
        (x_BT / x_BT.masked_fill(~mask_BT, 0).amax().clamp(min=1e-12)).clamp(0, 1)
        for x_BT in (signals.student_entropy_BT, signals.teacher_entropy_BT)
    )
    weight_BT = (1 + alpha * (1 - teacher_BT)) * (1 + beta * student_BT)
    mean_B = mean_of_response(signals.teacher_logprob_BT, signals)
    has_tokens_B = mask_BT.any(1)
    worst_B = mean_B.masked_fill(~has_tokens_B, torch.inf).argsort(stable=True)
    dropped_B = torch.zeros_like(has_tokens_B)
    dropped_B[worst_B[: int(drop * int(has_tokens_B.sum()))]] = True
    weight_BT = weight_BT.masked_fill(dropped_B[:, None] | ~mask_BT, 0)
    kept = (mask_BT & ~dropped_B[:, None]).sum().clamp(min=1)
    return weight_BT / (weight_BT.sum() / kept).clamp(min=1e-12)


@selector("scope", kind="weight", needs=(*BOTH, "reward_B", "group_B"), reads_sampled_token=True)
def scope(signals: TokenSignals, temperature: float = 1.0) -> Tensor:
    """Weight whole responses: right ones by the student's doubt, wrong ones by the teacher's trust.

    Formula: right: ppl_S^(1/τ); wrong: ppl_T^(-1/τ); each over its mean among the right, or wrong,
    responses to the same prompt; ppl = exp(-mean log-probability of the response)

    Source: arXiv 2604.10688.

    Deviations: τ is not stated in what we read (1), nor whether the group is normalised to a mean
    of 1, as here, or otherwise. Its likelihood objective for right responses is not part of a rule.
    With one response to a prompt every weight is 1: use `--responses-per-prompt`.
    """
    doubt_B = -mean_of_response(signals.student_logprob_BT, signals)
    trust_B = mean_of_response(signals.teacher_logprob_BT, signals)
    is_right_B = signals.reward_B > 0.5
    log_B = torch.where(is_right_B, doubt_B, trust_B) / temperature
    same_BB = (signals.group_B[:, None] == signals.group_B) & (is_right_B[:, None] == is_right_B)
    same_BB = same_BB & signals.mask_BT.any(1)
    # In logarithms: the perplexity of a long improbable response overflows.
    count_B = same_BB.sum(1).clamp(min=1)
    total_B = log_B.expand(same_BB.shape).masked_fill(~same_BB, -torch.inf).logsumexp(1)
    weight_B = (log_B - total_B + count_B.log()).exp()
    return weight_B[:, None].expand(signals.mask_BT.shape).masked_fill(~signals.mask_BT, 0)


def mean_of_response(x_BT: Tensor, signals: TokenSignals) -> Tensor:
    """Mean over each response's sampled tokens, (B,); 0 for a response without any."""
    return x_BT.masked_fill(~signals.mask_BT, 0).sum(1) / signals.mask_BT.sum(1).clamp(min=1)
