"""Rules that join uncertainty with disagreement or teachability by a soft-OR, a + b - ab."""

from torch import Tensor

from bench.registry import selector
from bench.signals import TokenSignals


@selector("tip", needs=("student_entropy_BT", "reverse_kl_BT"))
def tip(signals: TokenSignals) -> Tensor:
    """Keep tokens where ĥ + δ̂ - ĥδ̂ is largest: the student is unsure, or disagrees, or both.

    h = H(p), δ = KL(p‖q), each scaled by its least and greatest value in the batch.

    Source: arXiv 2604.14084.
    """
    entropy_BT = signals.norm_minmax(signals.student_entropy_BT)
    disagreement_BT = signals.norm_minmax(signals.reverse_kl_BT)
    return soft_or(entropy_BT, disagreement_BT)


@selector(
    "teachability_entropy",
    needs=("student_entropy_BT", "forward_kl_BT", "teacher_mass_on_student_topk_BT"),
)
def teachability_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where Ĥ + N - ĤN is largest, N = norm_q05(D·C): unsure or teachable.

    The documentation of the release says D̂·Ĉ in place of N.

    Source: arXiv 2605.26844 (its hybrid).
    """
    entropy_BT = signals.norm_q05(signals.student_entropy_BT)
    teachable_BT = signals.norm_q05(signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT)
    return soft_or(entropy_BT, teachable_BT)


def soft_or(a_BT: Tensor, b_BT: Tensor) -> Tensor:
    """a + b - ab, in [0, 1] for arguments in [0, 1]."""
    return a_BT + b_BT - a_BT * b_BT
