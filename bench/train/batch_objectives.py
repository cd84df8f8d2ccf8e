"""Losses that read more of a batch than one position: thresholds, medians, means, a selection.

`context_of` finds what each needs from the signals of the whole batch, before the loss; the formula
then reads it token by token, with `_N` in place of `_BT`. p is the student, q the teacher, y the
sampled token, Δ = log q(y) - log p(y), sg no gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from inspect import signature
from math import floor

import torch
from torch import Tensor

from bench.selection.signals import TokenSignals

SMALLEST = 1e-12
"""Divergences under this count as this much where a ratio of them is taken."""


@dataclass(frozen=True)
class Context:
    """What an objective reads of the whole batch, float32 (B, T), 0 off the mask."""

    value_BT: Mapping[str, Tensor] = field(default_factory=dict)
    selected_BT: Tensor | None = None
    """bool: the tokens that it trains on, where it selects for itself."""
    teacher_hidden_ND: Tensor | None = None
    """The teacher's hidden states of this process's rows, where they were found on the way."""


def residual_advantage(student_NV: Tensor, token_N: Tensor, advantage_N: Tensor) -> Tensor:
    """-sg[a]·log p(y), a = (q - p)(y) - Σ_v p(q - p), less its mean over the response.

    Source: arXiv 2610.11519.
    """
    return -advantage_N * _at(student_NV, token_N)


def opd2(student_NV: Tensor, token_N: Tensor, advantage_N: Tensor) -> Tensor:
    """-sg[s]·log p(y), s = log q(y)/q_base(y) less its mean under p on S, 0 where s·d < 0.

    d is Δ less its mean likewise. q_base is the student before training unless `reference` names a
    model; p is renormalised on S for the means: our reading. Source: arXiv 2607.15161.
    """
    return -advantage_N * _at(student_NV, token_N)


def adakd_reverse_kl(student_NV: Tensor, teacher_NV: Tensor, temperature_N: Tensor) -> Tensor:
    """T²·KL(p_T‖q_T), both at T = exp(-c·tanh(log(s/median s))), s the Hellinger distance.

    Source: arXiv 2510.11615 (AdaKD's IDTS, c = 0.5).
    """
    student_NV, teacher_NV = _tempered(student_NV, teacher_NV, temperature_N)
    loss_N = torch.linalg.vecdot(student_NV.exp(), student_NV - teacher_NV)
    return temperature_N.square() * loss_N


def adakd_forward_kl(student_NV: Tensor, teacher_NV: Tensor, temperature_N: Tensor) -> Tensor:
    """T²·KL(q_T‖p_T), both at T = exp(-c·tanh(log(s/median s))), s the Hellinger distance.

    Source: arXiv 2510.11615 (AdaKD's IDTS, c = 0.5).
    """
    student_NV, teacher_NV = _tempered(student_NV, teacher_NV, temperature_N)
    loss_N = torch.linalg.vecdot(teacher_NV.exp(), teacher_NV - student_NV)
    return temperature_N.square() * loss_N


def scope(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, right_N: Tensor) -> Tensor:
    """-log p(y) in right responses, -sg[Δ]·log p(y) in wrong ones.

    Its weights are the rule `scope`. Source: arXiv 2604.10688.
    """
    student_N = _at(student_NV, token_N)
    gap_N = (_at(teacher_NV, token_N) - student_N).detach()
    return -torch.where(right_N > 0.5, 1.0, gap_N) * student_N


def tide(
    student_NV: Tensor,
    teacher_NV: Tensor,
    token_N: Tensor,
    excess_N: Tensor,
    deficit_N: Tensor,
    weight: float,
    k: int,
) -> Tensor:
    """-e·log p(y) - d·λ Σ_T q̄ log p, e = 2(exp(Δ/2) - 1) where the student's excess -Δ > 0 is among
    the batch's highest share, d = 1 where its deficit Σ_T q̄(log q̄ - log p) ≥ 0 is, else 0.

    q̄ = q/Σ_T q, T the teacher's top K. Source: arXiv 2608.09836 (both shares 0.2, λ = 1, K = 16).
    """
    teacher_NK, id_NK = teacher_NV.topk(k, -1)
    teacher_NK = teacher_NK - teacher_NK.logsumexp(-1, keepdim=True)
    toward_N = torch.linalg.vecdot(teacher_NK.exp(), student_NV.gather(-1, id_NK))
    return -excess_N * _at(student_NV, token_N) - weight * deficit_N * toward_N


def opsa(student_NV: Tensor, token_N: Tensor, advantage_N: Tensor) -> Tensor:
    """-sg[A]·log p(y) on the ⌊0.2 N⌋ tokens of lowest log p(y), A = -½ - ½ r, r their min-max
    entropy (A = -1 where all are equal). No teacher: the control that every gain should beat.

    Source: arXiv 2608.31046 (OPSA).
    """
    return -advantage_N * _at(student_NV, token_N)


def capped_fkl(student_NV: Tensor, teacher_NV: Tensor, cap: float) -> Tensor:
    """Σ_v min(q log(q/p), τ) on the half of each response where H(p) is highest.

    Source: OPSRD (τ = 0.05; also 0.06).
    """
    return (teacher_NV.exp() * (teacher_NV - student_NV)).clamp(max=cap).sum(-1)


def _at(logprob_NV: Tensor, token_N: Tensor) -> Tensor:
    return logprob_NV.gather(-1, token_N[:, None])[:, 0]


def _tempered(student_NV: Tensor, teacher_NV: Tensor, temperature_N: Tensor) -> tuple[Tensor, ...]:
    return tuple((x / temperature_N[:, None]).log_softmax(-1) for x in (student_NV, teacher_NV))


# --- what they read of the batch -----------------------------------------------------------------

PAIR = ("student_logprob_BT", "teacher_logprob_BT")


def _of_residuals(signals: TokenSignals) -> Context:
    gap_BT = signals.teacher_logprob_BT.exp() - signals.student_logprob_BT.exp()
    advantage_BT = (gap_BT - signals.mean_probability_gap_BT).masked_fill(~signals.mask_BT, 0)
    count_B1 = signals.mask_BT.sum(1, keepdim=True).clamp(min=1)
    return Context({"advantage": advantage_BT - advantage_BT.sum(1, keepdim=True) / count_B1})


def _of_opd2(signals: TokenSignals) -> Context:
    p_BTK = signals.student_topk_logprob_BTK.softmax(-1)
    at_top_BTK = signals.teacher_logprob_on_student_topk_BTK
    own_BT, own_BTK = signals.teacher_logprob_BT, at_top_BTK
    sides = []
    for other_BT, other_BTK in (
        (signals.reference_logprob_BT, signals.reference_logprob_on_student_topk_BTK),
        (signals.student_logprob_BT, signals.student_topk_logprob_BTK),
    ):
        sides.append(own_BT - other_BT - (p_BTK * (own_BTK - other_BTK)).sum(-1))
    change_BT, gap_BT = sides
    return Context({"advantage": torch.where(change_BT * gap_BT >= 0, change_BT, 0)})


def _of_temperatures(signals: TokenSignals, c: float) -> Context:
    distance_BT = signals.hellinger_BT.clamp(min=SMALLEST)
    ratio_BT = distance_BT / max(SMALLEST, signals.quantile(signals.hellinger_BT, 0.5))
    return Context({"temperature": (-c * ratio_BT.log().tanh()).exp()})


def _of_rewards(signals: TokenSignals) -> Context:
    return Context({"right": signals.reward_B[:, None].expand(signals.mask_BT.shape)})


def _of_tide(signals: TokenSignals, excess_share: float, deficit_share: float) -> Context:
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    lack_BT = (-gap_BT).clamp(min=0)
    is_excess_BT = (gap_BT < 0) & (lack_BT >= signals.quantile(lack_BT, 1 - excess_share))
    teacher_BTK = signals.teacher_topk_logprob_BTK.log_softmax(-1)
    difference_BTK = teacher_BTK - signals.student_logprob_on_teacher_topk_BTK
    deficit_BT = (teacher_BTK.exp() * difference_BTK).sum(-1).clamp(min=0)
    is_deficit_BT = deficit_BT >= signals.quantile(deficit_BT, 1 - deficit_share)
    excess_BT = torch.where(is_excess_BT, 2 * torch.expm1(gap_BT / 2), 0)
    return Context({"excess": excess_BT, "deficit": is_deficit_BT.float()}, signals.mask_BT)


def _of_opsa(signals: TokenSignals, share: float) -> Context:
    tokens = int(signals.mask_BT.sum())
    count = max(1, floor(Fraction(str(share)) * tokens))
    selected_BT = signals.rank_from_best(-signals.student_logprob_BT) <= count
    entropy_K = signals.student_entropy_BT[selected_BT]
    low, high = (entropy_K.min(), entropy_K.max()) if tokens else (0.0, 0.0)
    advantage_BT = torch.full_like(signals.student_entropy_BT, -1.0)
    if high > low:
        advantage_BT = -0.5 - 0.5 * (signals.student_entropy_BT - low) / (high - low)
    return Context({"advantage": torch.where(selected_BT, advantage_BT, 0)}, selected_BT)


def _of_capped(signals: TokenSignals, share: float) -> Context:
    return Context({}, signals.best_of_each(signals.student_entropy_BT, share, "up"))


CONTEXTS: dict[str, tuple[tuple[str, ...], Callable[..., Context]]] = {
    "residual_advantage": ((*PAIR, "mean_probability_gap_BT"), _of_residuals),
    "opd2": (
        (
            *PAIR, "student_topk_logprob_BTK", "teacher_logprob_on_student_topk_BTK",
            "reference_logprob_BT", "reference_logprob_on_student_topk_BTK",
        ),
        _of_opd2,
    ),
    "adakd_reverse_kl": (("hellinger_BT",), _of_temperatures),
    "adakd_forward_kl": (("hellinger_BT",), _of_temperatures),
    "scope": (("reward_B",), _of_rewards),
    "tide": (
        (*PAIR, "teacher_topk_logprob_BTK", "student_logprob_on_teacher_topk_BTK"), _of_tide,
    ),
    "opsa": (("student_logprob_BT", "student_entropy_BT"), _of_opsa),
    "capped_fkl": (("student_entropy_BT",), _of_capped),
}  # fmt: skip
"""objective -> the signals that its context reads, and the context of a batch's signals."""


def context_needs(objective: str) -> tuple[str, ...]:
    """The signals, of SIGNAL_NAMES and EXTRA_SIGNALS, that the objective reads of a batch."""
    return CONTEXTS[objective][0] if objective in CONTEXTS else ()


def context_of(objective: str, signals: TokenSignals, params: Mapping[str, float]) -> Context:
    """What the objective reads of the batch; nothing for one that reads single positions.

    signals   of the student as it is now: `context_needs(objective)`, at the objective's own K.
    params    all of its parameters.
    """
    if objective not in CONTEXTS:
        return Context()
    needs, find = CONTEXTS[objective]
    with torch.no_grad():
        taken = {
            name: value for name, value in params.items() if name in signature(find).parameters
        }
        context = find(signals.only(needs), **taken)
    masked = {
        name: value_BT.float().masked_fill(~signals.mask_BT, 0)
        for name, value_BT in context.value_BT.items()
    }
    return Context(masked, context.selected_BT)


BATCH_FORMULAS: dict[str, Callable[..., Tensor]] = {
    formula.__name__: formula
    for formula in (
        residual_advantage, opd2, adakd_reverse_kl, adakd_forward_kl, scope, tide, opsa, capped_fkl,
    )
}  # fmt: skip
