"""How far a position's teacher mass lies within the student's reach: proxies of C, and gradients.

S and T are the top-K ids of student p and teacher q at one position, U = S ∪ T. All functions take
chunks of N positions and return float32 (N,). Proxies need the two lists alone; the exact mass
C = Σ_S q is a signal (`teacher_mass_on_student_topk_BT`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopLists:
    """The two top-K lists of N positions, best first, and each model's view of the other's."""

    student_id_NK: Tensor
    teacher_id_NK: Tensor
    student_logprob_NK: Tensor
    """log p on S."""
    teacher_logprob_NK: Tensor
    """log q on T."""
    teacher_logprob_on_student_NK: Tensor
    """log q on S."""
    student_logprob_on_teacher_NK: Tensor
    """log p on T."""

    def cut(self, k: int) -> "TopLists":
        """The lists of a smaller K."""
        return TopLists(*(value_NK[:, :k] for value_NK in vars(self).values()))

    def in_student_NK(self) -> Tensor:
        """bool: the entry of T is in S too."""
        return (self.teacher_id_NK[:, :, None] == self.student_id_NK[:, None, :]).any(-1)


def overlap(lists: TopLists) -> Tensor:
    """|S ∩ T| / K. Source: arXiv 2605.26844."""
    return lists.in_student_NK().float().mean(-1)


def jaccard(lists: TopLists) -> Tensor:
    """|S ∩ T| / |S ∪ T|."""
    shared_N = lists.in_student_NK().float().sum(-1)
    return shared_N / (2 * lists.teacher_id_NK.shape[1] - shared_N)


def bhattacharyya(lists: TopLists) -> Tensor:
    """Σ_U √(p̄ q̄), p̄ and q̄ the exact probabilities renormalised on U. Source: arXiv 2605.26844."""
    only_teacher_NK = ~lists.in_student_NK()
    off = -torch.inf
    student_NU = torch.cat(
        [lists.student_logprob_NK,
         lists.student_logprob_on_teacher_NK.masked_fill(~only_teacher_NK, off)], -1
    )  # fmt: skip
    teacher_NU = torch.cat(
        [lists.teacher_logprob_on_student_NK,
         lists.teacher_logprob_NK.masked_fill(~only_teacher_NK, off)], -1
    )  # fmt: skip
    root_NU = 0.5 * (student_NU.log_softmax(-1) + teacher_NU.log_softmax(-1))
    return root_NU.exp().sum(-1)


def teacher_top1(lists: TopLists) -> Tensor:
    """1 where the teacher's most likely token is in S, else 0."""
    return (lists.teacher_id_NK[:, :1] == lists.student_id_NK).any(-1).float()


PROXIES = {
    "overlap": overlap,
    "bhattacharyya": bhattacharyya,
    "teacher_top1": teacher_top1,
    "jaccard": jaccard,
}
"""Stand-ins for the exact mass in D·C."""
