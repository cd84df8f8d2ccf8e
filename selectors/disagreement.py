"""Rules that read how far student p and teacher q disagree."""

from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector


@selector("forward_kl", needs=("forward_kl_BT",))
def forward_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(q‖p) is largest.

    Formula: Σ_v q log(q/p)

    Source: the divergence baseline of arXiv 2605.26844, without its clipping.
    """
    return signals.forward_kl_BT


@selector("reverse_kl", needs=("reverse_kl_BT",))
def reverse_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(p‖q) is largest.

    Formula: Σ_v p log(p/q)

    Source: arXiv 2604.14084 (its disagreement axis).
    """
    return signals.reverse_kl_BT


@selector("jsd", needs=("jsd_BT",))
def jsd(signals: TokenSignals) -> Tensor:
    """Keep tokens where the Jensen-Shannon divergence of p and q is largest.

    Formula: ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2

    Source: arXiv 2306.13649 (its divergence, here as a score).
    """
    return signals.jsd_BT


@selector("abs_gap", needs=("student_logprob_BT", "teacher_logprob_BT"), reads_sampled_token=True)
def abs_gap(signals: TokenSignals) -> Tensor:
    """Keep tokens where |log q(y) - log p(y)| is largest.

    Formula: |Δ|

    Source: arXiv 2610.11659 (its reward-top baseline).
    """
    return (signals.teacher_logprob_BT - signals.student_logprob_BT).abs()


@selector("total_variation", needs=("total_variation_BT",))
def total_variation(signals: TokenSignals) -> Tensor:
    """Keep tokens where ½ Σ |p - q| is largest.

    Formula: ½ Σ_v |p - q|

    Source: this project (the divergence that speculative decoding accepts by, as a score).
    """
    return signals.total_variation_BT


@selector("hellinger", needs=("hellinger_BT",))
def hellinger(signals: TokenSignals) -> Tensor:
    """Keep tokens where the Hellinger distance of p and q is largest.

    Formula: (1/√2) ‖√p - √q‖

    Source: arXiv 2510.11615 (its difficulty; `adakd` adds its changing ratio).
    """
    return signals.hellinger_BT


@selector("low_forward_kl", needs=("forward_kl_BT",))
def low_forward_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(q‖p) is smallest.

    Formula: -KL(q‖p)

    Source: control of this project.
    """
    return -signals.forward_kl_BT


@selector("low_reverse_kl", needs=("reverse_kl_BT",))
def low_reverse_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(p‖q) is smallest.

    Formula: -KL(p‖q)

    Source: control of this project.
    """
    return -signals.reverse_kl_BT


@selector("low_jsd", needs=("jsd_BT",))
def low_jsd(signals: TokenSignals) -> Tensor:
    """Keep tokens where the Jensen-Shannon divergence of p and q is smallest.

    Formula: -JSD(p, q)

    Source: control of this project.
    """
    return -signals.jsd_BT


@selector("low_total_variation", needs=("total_variation_BT",))
def low_total_variation(signals: TokenSignals) -> Tensor:
    """Keep tokens where ½ Σ |p - q| is smallest.

    Formula: -½ Σ_v |p - q|

    Source: control of this project.
    """
    return -signals.total_variation_BT


@selector("low_hellinger", needs=("hellinger_BT",))
def low_hellinger(signals: TokenSignals) -> Tensor:
    """Keep tokens where the Hellinger distance of p and q is smallest.

    Formula: -(1/√2) ‖√p - √q‖

    Source: control of this project.
    """
    return -signals.hellinger_BT


@selector("divergence_q05", needs=("forward_kl_BT",))
def divergence_q05(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂ is largest: KL(q‖p) clipped to its 5 % and 95 % quantiles.

    Formula: D̂ = norm_q05(KL(q‖p))

    Source: arXiv 2605.26844 (its divergence baseline).

    Deviations: D is the exact one, not the release's of two top-K lists. The clipping ties 5 % of
    the tokens at 1, so at keep up to 0.05 the order is the tie rule's alone.
    """
    return signals.norm_q05(signals.forward_kl_BT)


@selector("tide_deficit", needs=("teacher_topk_logprob_BTK", "student_logprob_on_teacher_topk_BTK"))
def tide_deficit(signals: TokenSignals) -> Tensor:
    """Keep tokens where the student lacks what the teacher's top K holds.

    Formula: Σ_T q̄ (log q̄ - log p), q̄ = q/Σ_T q; the student is not renormalised

    Source: arXiv 2608.09836.
    """
    teacher_BTK = signals.teacher_topk_logprob_BTK.log_softmax(-1)
    gap_BTK = teacher_BTK - signals.student_logprob_on_teacher_topk_BTK
    return (teacher_BTK.exp() * gap_BTK).sum(-1)
