"""Rules that read one model's own uncertainty."""

from torch import Tensor

from bench.registry import selector
from bench.signals import TokenSignals


@selector("entropy", needs=("student_entropy_BT",))
def entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the student's entropy H(p) is largest.

    Source: arXiv 2506.01939; 2604.14084.
    """
    return signals.student_entropy_BT


@selector("teacher_entropy", needs=("teacher_entropy_BT",))
def teacher_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher's entropy H(q) is largest.

    Source: arXiv 2602.01395.
    """
    return signals.teacher_entropy_BT


@selector("low_student_logprob", needs=("student_logprob_BT",), reads_sampled_token=True)
def low_student_logprob(signals: TokenSignals) -> Tensor:
    """Keep tokens that the student itself found least likely: -log p(y). A strong, cheap null.

    Source: arXiv 2608.31046.
    """
    return -signals.student_logprob_BT
