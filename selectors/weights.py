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


@selector("scope", kind="weight", needs=(*BOTH, "reward_B"), reads_sampled_token=True,
          choices={"group": {"mean": ("group_B",), "none": ()}})  # fmt: skip
def scope(signals: TokenSignals, temperature: float = 1.0, group: str = "mean") -> Tensor:
    """Weight whole responses: right ones by the student's doubt, wrong ones by the teacher's trust.

    Formula: right: ppl_S^(1/τ); wrong: ppl_T^(-1/τ); each over its mean among the right, or wrong,
    responses to the same prompt; ppl = exp(-mean log-probability of the response)

    Source: arXiv 2604.10688 (machine981/SCOPE; τ = 1; its likelihood path is `--objective scope`).

    Deviations: how the group is normalised is not stated in what we read: to a mean of 1, or not at
    all (`group`). With one response to a prompt every weight is 1: use `--responses-per-prompt`.
    """
    doubt_B = -mean_of_response(signals.student_logprob_BT, signals)
    trust_B = mean_of_response(signals.teacher_logprob_BT, signals)
    is_right_B = signals.reward_B > 0.5
    log_B = torch.where(is_right_B, doubt_B, trust_B) / temperature
    if group == "none":
        return log_B.exp()[:, None].expand(signals.mask_BT.shape).masked_fill(~signals.mask_BT, 0)
    same_BB = (signals.group_B[:, None] == signals.group_B) & (is_right_B[:, None] == is_right_B)
    same_BB = same_BB & signals.mask_BT.any(1)
    # In logarithms: the perplexity of a long improbable response overflows.
    count_B = same_BB.sum(1).clamp(min=1)
    total_B = log_B.expand(same_BB.shape).masked_fill(~same_BB, -torch.inf).logsumexp(1)
    weight_B = (log_B - total_B + count_B.log()).exp()
    return weight_B[:, None].expand(signals.mask_BT.shape).masked_fill(~signals.mask_BT, 0)


@selector(
    "bellman_rac",
    kind="weight",
    needs=("forward_kl_BT", "teacher_mass_on_student_topk_BT", *BOTH),
    reads_sampled_token=True,
)
def bellman_rac(signals: TokenSignals, gamma: float = 0.995, floor: float = 0.1) -> Tensor:
    """Weight tokens up from which teachable ones can still be reached.

    Formula: w = 0.1 + 0.9 norm_q05(V)², V = R/M, R_t = g_t + γ a_t R_{t+1},
    M_t = 1 + γ a_t M_{t+1}, g = D̂·Ĉ, a = min(1, q(y)/p(y))

    Source: ihbkaiser/jta-opd (its Bellman-RAC; γ = 0.995).
    """
    gain_BT = signals.norm_q05(signals.forward_kl_BT) * signals.norm_q05(
        signals.teacher_mass_on_student_topk_BT
    )
    accepted_BT = (signals.teacher_logprob_BT - signals.student_logprob_BT).clamp(max=0).exp()
    reward_B, mass_B = torch.zeros(len(gain_BT)), torch.zeros(len(gain_BT))
    reward_B, mass_B = reward_B.to(gain_BT), mass_B.to(gain_BT)
    value_BT = torch.zeros_like(gain_BT)
    for t in reversed(range(gain_BT.shape[1])):
        is_there_B = signals.mask_BT[:, t]
        decay_B = gamma * accepted_BT[:, t]
        reward_B = torch.where(is_there_B, gain_BT[:, t] + decay_B * reward_B, reward_B)
        mass_B = torch.where(is_there_B, 1 + decay_B * mass_B, mass_B)
        value_BT[:, t] = reward_B / mass_B.clamp(min=1)
    return floor + (1 - floor) * signals.norm_q05(value_BT).square()


@selector(
    "ida",
    kind="weight",
    needs=("student_entropy_BT", "student_entropy_slope_BT", *BOTH),
    reads_sampled_token=True,
)
def ida(signals: TokenSignals) -> Tensor:
    """Weight tokens down where the teacher's reward and the student's entropy pull apart.

    Formula: 1 where A·D ≥ 0, else |q(y) - p(y)|/(q(y) + p(y)); A = Δ,
    D = Σ_v p²(log p + H) - p(y)(log p(y) + H)

    Source: arXiv 2608.29846.

    Deviations: D is our derivation of "the local effect on the student's entropy": the change of H
    where the logit of y is raised, against the mean of p.
    """
    student_BT, teacher_BT = signals.student_logprob_BT.exp(), signals.teacher_logprob_BT.exp()
    surprise_BT = student_BT * (signals.student_logprob_BT + signals.student_entropy_BT)
    effect_BT = signals.student_entropy_slope_BT - surprise_BT
    agrees_BT = (signals.teacher_logprob_BT - signals.student_logprob_BT) * effect_BT >= 0
    total_BT = (student_BT + teacher_BT).clamp(min=1e-30)
    return torch.where(agrees_BT, 1.0, (teacher_BT - student_BT).abs() / total_BT)


@selector("problem", kind="weight", needs=("reward_B", "group_B"), responses=2)
def problem(signals: TokenSignals) -> Tensor:
    """Weight prompts up that the student answers right half of the time.

    Formula: p̂(1 - p̂), p̂ the share of right responses to the prompt

    Source: arXiv 2603.11178 (PACED).
    """
    rate_B = pass_rate(signals)
    weight_B1 = (rate_B * (1 - rate_B))[:, None]
    return weight_B1.expand(signals.mask_BT.shape).masked_fill(~signals.mask_BT, 0)


@selector("opdvr_advantage", kind="weight", needs=(*BOTH, "reward_B", "group_B"),
          reads_sampled_token=True, responses=2)  # fmt: skip
def opdvr_advantage(signals: TokenSignals) -> Tensor:
    """Weight tokens on which teacher and verifier agree by the response's advantage in its group.

    Formula: |A| where Δ > 0 in a right response or Δ < 0 in a wrong one, else 0;
    A = (R - p̂)/√(p̂(1 - p̂)) among the responses to the prompt

    Source: arXiv 2608.24696 (OPDVR's variant; the mask alone is `opdvr`).

    Deviations: A is 0 where all responses to a prompt are alike.
    """
    rate_B = pass_rate(signals)
    spread_B = (rate_B * (1 - rate_B)).sqrt()
    advantage_B = torch.where(spread_B > 0, (signals.reward_B - rate_B) / spread_B, 0)
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    agrees_BT = gap_BT * (2 * signals.reward_B[:, None] - 1) > 0
    return torch.where(agrees_BT & signals.mask_BT, advantage_B[:, None].abs(), 0.0)


def pass_rate(signals: TokenSignals) -> Tensor:
    """(B,): the share of right responses among those to the same prompt that have a token."""
    is_there_B = signals.mask_BT.any(1)
    same_BB = (signals.group_B[:, None] == signals.group_B) & is_there_B
    return (same_BB * signals.reward_B).sum(1) / same_BB.sum(1).clamp(min=1)


def mean_of_response(x_BT: Tensor, signals: TokenSignals) -> Tensor:
    """Mean over each response's sampled tokens, (B,); 0 for a response without any."""
    return x_BT.masked_fill(~signals.mask_BT, 0).sum(1) / signals.mask_BT.sum(1).clamp(min=1)
