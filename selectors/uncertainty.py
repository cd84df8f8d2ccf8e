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
