"""Rules that read how far student p and teacher q disagree."""

from torch import Tensor

from bench.registry import selector
from bench.signals import TokenSignals


@selector("forward_kl", needs=("forward_kl_BT",))
def forward_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(q‖p) is largest.

    Source: the divergence baseline of arXiv 2605.26844, without its clipping.
    """
    return signals.forward_kl_BT


@selector("reverse_kl", needs=("reverse_kl_BT",))
def reverse_kl(signals: TokenSignals) -> Tensor:
    """Keep tokens where KL(p‖q) is largest.

    Source: arXiv 2604.14084 (its disagreement axis).
    """
    return signals.reverse_kl_BT


@selector("jsd", needs=("jsd_BT",))
def jsd(signals: TokenSignals) -> Tensor:
    """Keep tokens where the Jensen-Shannon divergence of p and q is largest.

    Source: arXiv 2306.13649 (its divergence, here as a score).
    """
    return signals.jsd_BT


@selector("abs_gap", needs=("student_logprob_BT", "teacher_logprob_BT"), reads_sampled_token=True)
def abs_gap(signals: TokenSignals) -> Tensor:
    """Keep tokens where |log q(y) - log p(y)| is largest.

    Source: arXiv 2610.11659 (its reward-top baseline).
    """
    return (signals.teacher_logprob_BT - signals.student_logprob_BT).abs()
