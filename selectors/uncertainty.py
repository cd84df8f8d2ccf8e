"""Rules that read one model's own uncertainty."""

from math import log

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector


@selector("entropy", needs=("student_entropy_BT",))
def entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the student's entropy H(p) is largest.

    Formula: H(p)

    Source: arXiv 2506.01939; 2604.14084.
    """
    return signals.student_entropy_BT


@selector("entropy_p98", needs=("student_entropy_BT",), keep=1.0, abstains=True)
def entropy_p98(signals: TokenSignals, share: float = 0.5, clip: float = 0.98) -> Tensor:
    """Keep a share of each response where the student's entropy, clipped at its 98 %, is largest.

    Formula: min(H(p), Q_0.98); the ⌊ρn⌋ best of each response

    Source: arXiv 2604.14084 (the entropy axis of TIP at its own setting, ρ = 0.5).

    Deviations: tokens above the quantile tie, and the keyed uniform number orders them.
    """
    clipped_BT = signals.clipped_above(signals.student_entropy_BT, clip)
    kept_BT = signals.best_of_each(clipped_BT, share, "down")
    return torch.where(kept_BT, clipped_BT, -torch.inf)


@selector("entropy_sample", needs=("student_entropy_BT",))
def entropy_sample(signals: TokenSignals) -> Tensor:
    """Keep tokens drawn without replacement, each with a chance that grows as its entropy.

    Formula: log max(H(p), 1e-12) - log(-log u), the Gumbel form of drawing ∝ H(p)

    Source: arXiv 2604.14084 (the entropy rows of its Table 3 are sampled).
    """
    gumbel_BT = -(-signals.uniform_BT.clamp(min=1e-12).log()).log()
    return signals.student_entropy_BT.clamp(min=1e-12).log() + gumbel_BT


@selector("low_teacher_logprob", needs=("teacher_logprob_BT",), keep=1.0, abstains=True,
          reads_sampled_token=True)  # fmt: skip
def low_teacher_logprob(signals: TokenSignals, share: float = 0.1, around: int = 1) -> Tensor:
    """Keep the tokens that the teacher finds least likely in each response, and their neighbours.

    Formula: log q(y) ≤ Q_0.10 of the response, and ±1 token

    Source: arXiv 2609.15404 (VG-OPD's mask, which drops them: `bottom` is no form of it, since the
    rule sets its own budget; `high_teacher_logprob` keeps the rest).
    """
    return torch.where(_is_unlikely(signals, share, around), 1.0, -torch.inf)


@selector("high_teacher_logprob", needs=("teacher_logprob_BT",), keep=1.0, abstains=True,
          reads_sampled_token=True)  # fmt: skip
def high_teacher_logprob(signals: TokenSignals, share: float = 0.1, around: int = 1) -> Tensor:
    """Keep all but the tokens that the teacher finds least likely in each response, ±1 token.

    Formula: not (log q(y) ≤ Q_0.10 of the response, or next to such a token)

    Source: arXiv 2609.15404 (VG-OPD's mask).
    """
    return torch.where(_is_unlikely(signals, share, around), -torch.inf, 1.0)


def _is_unlikely(signals: TokenSignals, share: float, around: int) -> Tensor:
    """bool: log q(y) at or under its quantile of the response, or so near to such a token."""
    logprob_BT = signals.teacher_logprob_BT
    is_low_BT = (logprob_BT <= signals.quantile_of_each(logprob_BT, share)) & signals.mask_BT
    near_BT = is_low_BT.clone()
    for shift in range(1, around + 1):
        near_BT[:, shift:] |= is_low_BT[:, :-shift]
        near_BT[:, :-shift] |= is_low_BT[:, shift:]
    return near_BT & signals.mask_BT


@selector("teacher_entropy", needs=("teacher_entropy_BT",))
def teacher_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher's entropy H(q) is largest.

    Formula: H(q)

    Source: arXiv 2602.01395.
    """
    return signals.teacher_entropy_BT


@selector("low_student_logprob", needs=("student_logprob_BT",), reads_sampled_token=True)
def low_student_logprob(signals: TokenSignals) -> Tensor:
    """Keep tokens that the student itself found least likely: -log p(y). A strong, cheap null.

    Formula: -log p(y)

    Source: arXiv 2608.31046.
    """
    return -signals.student_logprob_BT


@selector("low_entropy", needs=("student_entropy_BT",))
def low_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the student's entropy H(p) is smallest.

    Formula: -H(p)

    Source: arXiv 2506.01939 (its control).
    """
    return -signals.student_entropy_BT


@selector("entropy_q05", needs=("student_entropy_BT",))
def entropy_q05(signals: TokenSignals) -> Tensor:
    """Keep tokens where Ĥ is largest: entropy clipped to its 5 % and 95 % quantiles.

    Formula: Ĥ = norm_q05(H(p))

    Source: arXiv 2605.26844 (its entropy baseline).

    Deviations: in the release H is that of the renormalised top K over log K: `entropy_topk`. The
    clipping ties 5 % of the tokens at 1, so at keep up to 0.05 the order is the tie rule's alone.
    """
    return signals.norm_q05(signals.student_entropy_BT)


@selector("entropy_topk", needs=("student_topk_logprob_BTK",))
def entropy_topk(signals: TokenSignals) -> Tensor:
    """Keep tokens where the entropy of the student's renormalised top K is largest.

    Formula: H(p|S)/log K

    Source: arXiv 2605.26844 (released code).

    Deviations: not clipped; `normalised(entropy_topk)` is.
    """
    logprob_BTK = signals.student_topk_logprob_BTK.log_softmax(-1)
    return -(logprob_BTK.exp() * logprob_BTK).sum(-1) / log(max(2, logprob_BTK.shape[-1]))


@selector("teacher_margin", needs=("teacher_topk_logprob_BTK",))
def teacher_margin(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher's two best candidates are closest.

    Formula: -(q₁ - q₂)

    Source: arXiv 2602.01395.
    """
    if signals.teacher_topk_logprob_BTK.shape[-1] < 2:
        raise ValueError("the margin needs k of at least 2")
    best_BTK = signals.teacher_topk_logprob_BTK[..., :2].exp()
    return best_BTK[..., 1] - best_BTK[..., 0]


@selector("teacher_least_confidence", needs=("teacher_topk_logprob_BTK",))
def teacher_least_confidence(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher's best candidate has the least probability.

    Formula: 1 - max q

    Source: arXiv 2602.01395.
    """
    return -torch.expm1(signals.teacher_topk_logprob_BTK[..., 0])
