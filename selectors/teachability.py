"""Token teachability (arXiv 2605.26844): disagreement D times compatibility C, and its readings.

S and T are the top-K ids of student p and teacher q; U = S ∪ T; a hat is `norm_q05` over the batch.
"""

import torch
from torch import Tensor

from bench.registry import selector
from bench.signals import TokenSignals

EXACT = ("forward_kl_BT", "teacher_mass_on_student_topk_BT")
ON_STUDENT_TOPK = ("student_topk_logprob_BTK", "teacher_logprob_on_student_topk_BTK")


@selector("teachability", needs=EXACT)
def teachability(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·Ĉ is largest, D = KL(q‖p), C = Σ_S q: corrective mass within reach.

    The exact form: full vocabulary, exact mass, each normalised over the batch before the product.

    Source: arXiv 2605.26844.
    """
    disagreement_BT = signals.norm_q05(signals.forward_kl_BT)
    compatibility_BT = signals.norm_q05(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * compatibility_BT


@selector("teachability_raw", needs=EXACT)
def teachability_raw(signals: TokenSignals) -> Tensor:
    """Keep tokens where D·C is largest, without normalisation.

    Source: arXiv 2605.26844 (its product, unnormalised).
    """
    return signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT


@selector("teachability_rank", needs=EXACT)
def teachability_rank(signals: TokenSignals) -> Tensor:
    """Keep tokens where the product of the percentile ranks of D and C is largest.

    Source: arXiv 2605.26844 (its product, on ranks).
    """
    disagreement_BT = signals.percentile_rank(signals.forward_kl_BT)
    compatibility_BT = signals.percentile_rank(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * compatibility_BT


@selector("teachability_conditional", needs=(*ON_STUDENT_TOPK, "teacher_mass_on_student_topk_BT"))
def teachability_conditional(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·Ĉ is largest, D = KL(q|S ‖ p|S) between the conditionals on S.

    Source: arXiv 2605.26844 (the reading that compares the models on S alone).
    """
    disagreement_BT = signals.norm_q05(conditional_kl(signals))
    compatibility_BT = signals.norm_q05(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * compatibility_BT


@selector("teachability_split", needs=(*ON_STUDENT_TOPK, "teacher_mass_on_student_topk_BT"))
def teachability_split(signals: TokenSignals) -> Tensor:
    """Keep tokens where C·KL(q|S ‖ p|S) is largest: the learnable part of KL(q‖p), in nats.

    KL(q‖p) = C·KL(q|S ‖ p|S) + (1-C)·KL(q|Sᶜ ‖ p|Sᶜ) + kl_bernoulli(C ‖ P_S); this is the first
    term, with no normalisation.

    Source: exact decomposition of the disagreement of arXiv 2605.26844, this project.
    """
    return signals.teacher_mass_on_student_topk_BT * conditional_kl(signals)


@selector(
    "teachability_released",
    needs=(
        "student_topk_id_BTK",
        "student_topk_logprob_BTK",
        "teacher_topk_id_BTK",
        "teacher_topk_logprob_BTK",
    ),
)
def teachability_released(signals: TokenSignals, floor: float = 1e-12) -> Tensor:
    """Keep tokens where D̂·Ĉ is largest, as the released code computes D and C from two top-K lists.

    D = Σ_U q̄ log(q̄/p̄): each side is cut to its own top-K, entries missing from a side are set to
    `floor`, and both are renormalised on U. C = Σ_{S∩T} q, a lower bound of the mass on S.

    Source: arXiv 2605.26844 (released code, K = 16).
    """
    student_BTK = signals.student_topk_logprob_BTK.exp()
    teacher_BTK = signals.teacher_topk_logprob_BTK.exp()
    same_BTKK = (
        signals.teacher_topk_id_BTK[..., :, None] == signals.student_topk_id_BTK[..., None, :]
    )
    shared_by_teacher_BTK = same_BTKK.any(-1)
    shared_by_student_BTK = same_BTKK.any(-2)
    # U as T followed by the rest of S.
    teacher_on_union = torch.cat([teacher_BTK, torch.full_like(student_BTK, floor)], -1)
    student_on_teacher_BTK = (same_BTKK * student_BTK[..., None, :]).sum(-1)
    student_on_teacher_BTK = student_on_teacher_BTK.masked_fill(~shared_by_teacher_BTK, floor)
    student_on_union = torch.cat([student_on_teacher_BTK, student_BTK], -1)
    in_union = torch.cat([torch.ones_like(shared_by_teacher_BTK), ~shared_by_student_BTK], -1)
    q_bar = torch.where(in_union, teacher_on_union, 0)
    p_bar = torch.where(in_union, student_on_union, 0)
    q_bar = q_bar / q_bar.sum(-1, keepdim=True)
    p_bar = p_bar / p_bar.sum(-1, keepdim=True)
    term = q_bar * (q_bar.clamp(min=1e-38).log() - p_bar.clamp(min=1e-38).log())
    disagreement_BT = torch.where(in_union, term, 0).sum(-1)
    compatibility_BT = (teacher_BTK * shared_by_teacher_BTK).sum(-1)
    return signals.norm_q05(disagreement_BT) * signals.norm_q05(compatibility_BT)


@selector("compatibility", needs=("teacher_mass_on_student_topk_BT",))
def compatibility(signals: TokenSignals) -> Tensor:
    """Keep tokens where C = Σ_S q is largest: the teacher agrees on what is possible.

    Source: arXiv 2605.26844 (its compatibility axis; unclipped, since clipping only adds ties).
    """
    return signals.teacher_mass_on_student_topk_BT


@selector("incompatible", needs=EXACT)
def incompatible(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·(1-Ĉ) is largest: disagreement off the student's support.

    Source: arXiv 2605.26844 (its control).
    """
    disagreement_BT = signals.norm_q05(signals.forward_kl_BT)
    compatibility_BT = signals.norm_q05(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * (1 - compatibility_BT)


def conditional_kl(signals: TokenSignals) -> Tensor:
    """KL(q|S ‖ p|S) = Σ_S q(v|S) [log q(v|S) - log p(v|S)], (B, T), nats."""
    teacher_BTK = signals.teacher_logprob_on_student_topk_BTK.log_softmax(-1)
    student_BTK = signals.student_topk_logprob_BTK.log_softmax(-1)
    return (teacher_BTK.exp() * (teacher_BTK - student_BTK)).sum(-1)
