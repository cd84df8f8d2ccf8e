"""Token teachability (arXiv 2605.26844): disagreement D times compatibility C, and its readings.

S and T are the top-K ids of student p and teacher q; U = S ∪ T; a hat is `norm_q05` over the batch.
"""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import norm_parameter, selector

EXACT = ("forward_kl_BT", "teacher_mass_on_student_topk_BT")
ON_STUDENT_TOPK = ("student_topk_logprob_BTK", "teacher_logprob_on_student_topk_BTK")


@selector("teachability", needs=EXACT)
def teachability(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·Ĉ is largest, D = KL(q‖p), C = Σ_S q: corrective mass within reach.

    The exact form: full vocabulary, exact mass, each normalised over the batch before the product.

    Formula: D̂·Ĉ, D = KL(q‖p), C = Σ_S q

    Source: arXiv 2605.26844.
    """
    disagreement_BT = signals.norm_q05(signals.forward_kl_BT)
    compatibility_BT = signals.norm_q05(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * compatibility_BT


@selector("teachability_raw", needs=EXACT)
def teachability_raw(signals: TokenSignals) -> Tensor:
    """Keep tokens where D·C is largest, without normalisation.

    Formula: D·C

    Source: arXiv 2605.26844 (its product, unnormalised).
    """
    return signals.forward_kl_BT * signals.teacher_mass_on_student_topk_BT


@selector("teachability_rank", needs=EXACT)
def teachability_rank(signals: TokenSignals) -> Tensor:
    """Keep tokens where the product of the percentile ranks of D and C is largest.

    Formula: rank(D)·rank(C)

    Source: arXiv 2605.26844 (its product, on ranks).
    """
    disagreement_BT = signals.percentile_rank(signals.forward_kl_BT)
    compatibility_BT = signals.percentile_rank(signals.teacher_mass_on_student_topk_BT)
    return disagreement_BT * compatibility_BT


@selector("teachability_conditional", needs=(*ON_STUDENT_TOPK, "teacher_mass_on_student_topk_BT"))
def teachability_conditional(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·Ĉ is largest, D = KL(q|S ‖ p|S) between the conditionals on S.

    Formula: D̂·Ĉ, D = KL(q|S ‖ p|S)

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

    Formula: C·KL(q|S ‖ p|S)

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

    D = Σ_U q̄ log(q̄/p̄): each side is cut to its own top-K and divided by its sum over U, then what
    is below `floor` is set to it (so every entry that a side lacks), and nothing is renormalised
    again. C = Σ_{S∩T} q, a lower bound of the mass on S.

    Formula: D̂·Ĉ, D = Σ_U q̄ log(q̄/p̄), bars renormalised and then floored, C = Σ_{S∩T} q

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
    teacher_on_union = torch.cat([teacher_BTK, torch.zeros_like(student_BTK)], -1)
    student_on_teacher_BTK = (same_BTKK * student_BTK[..., None, :]).sum(-1)
    student_on_union = torch.cat([student_on_teacher_BTK, student_BTK], -1)
    in_union = torch.cat([torch.ones_like(shared_by_teacher_BTK), ~shared_by_student_BTK], -1)
    q_bar = torch.where(in_union, teacher_on_union, 0)
    p_bar = torch.where(in_union, student_on_union, 0)
    # Off the mask a signal of no mass would be divided by zero.
    q_bar = (q_bar / q_bar.sum(-1, keepdim=True).clamp(min=1e-38)).clamp(min=max(floor, 1e-38))
    p_bar = (p_bar / p_bar.sum(-1, keepdim=True).clamp(min=1e-38)).clamp(min=max(floor, 1e-38))
    term = q_bar * (q_bar.log() - p_bar.log())
    disagreement_BT = torch.where(in_union, term, 0).sum(-1)
    compatibility_BT = (teacher_BTK * shared_by_teacher_BTK).sum(-1)
    return signals.norm_q05(disagreement_BT) * signals.norm_q05(compatibility_BT)


@selector("compatibility", needs=("teacher_mass_on_student_topk_BT",))
def compatibility(signals: TokenSignals) -> Tensor:
    """Keep tokens where C = Σ_S q is largest: the teacher agrees on what is possible.

    Formula: C = Σ_S q

    Source: arXiv 2605.26844 (its compatibility axis; unclipped, since clipping only adds ties).
    """
    return signals.teacher_mass_on_student_topk_BT


@selector("incompatible", needs=EXACT)
def incompatible(signals: TokenSignals) -> Tensor:
    """Keep tokens where D̂·(1-Ĉ) is largest: disagreement off the student's support.

    Formula: D̂·(1 - Ĉ)

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


ON_BOTH_TOPK = (
    "student_topk_id_BTK",
    "student_topk_logprob_BTK",
    "teacher_topk_id_BTK",
    "teacher_topk_logprob_BTK",
    "teacher_logprob_on_student_topk_BTK",
    "student_logprob_on_teacher_topk_BTK",
)


@selector("overlap", needs=("student_topk_id_BTK", "teacher_topk_id_BTK"))
def overlap(signals: TokenSignals) -> Tensor:
    """Keep tokens where the two top-K sets share most ids.

    Formula: |S ∩ T|/K

    Source: arXiv 2605.26844 (a compatibility proxy).
    """
    same_BTKK = (
        signals.teacher_topk_id_BTK[..., :, None] == signals.student_topk_id_BTK[..., None, :]
    )
    return same_BTKK.any(-1).float().mean(-1)


@selector("bhattacharyya", needs=ON_BOTH_TOPK)
def bhattacharyya(signals: TokenSignals) -> Tensor:
    """Keep tokens where p and q are most alike on the union of their top K.

    Formula: Σ_U √(p̄ q̄), each renormalised on U = S ∪ T

    Source: arXiv 2605.26844 (a compatibility proxy).

    Deviations: both models' probabilities on U are exact, none is floored.
    """
    same_BTKK = (
        signals.student_topk_id_BTK[..., :, None] == signals.teacher_topk_id_BTK[..., None, :]
    )
    # U as T followed by the rest of S.
    rest_BTK = same_BTKK.any(-1)
    student = torch.cat(
        [
            signals.student_logprob_on_teacher_topk_BTK,
            signals.student_topk_logprob_BTK.masked_fill(rest_BTK, -torch.inf),
        ],
        -1,
    ).log_softmax(-1)
    teacher = torch.cat(
        [
            signals.teacher_topk_logprob_BTK,
            signals.teacher_logprob_on_student_topk_BTK.masked_fill(rest_BTK, -torch.inf),
        ],
        -1,
    ).log_softmax(-1)
    return (0.5 * (student + teacher)).exp().sum(-1)


@selector("compatibility_ema", needs=("teacher_mass_on_student_topk_BT",))
def compatibility_ema(signals: TokenSignals, decay: float = 0.9) -> Tensor:
    """Keep tokens where the running mean of C along the response is largest.

    Formula: e_t = 0.9 e_{t-1} + 0.1 C_t, e_0 = C_0

    Source: arXiv 2605.26844 (a compatibility proxy).
    """
    running_B = torch.full_like(signals.teacher_mass_on_student_topk_BT[:, 0], torch.nan)
    columns = []
    for position in range(signals.mask_BT.shape[1]):
        mass_B = signals.teacher_mass_on_student_topk_BT[:, position]
        moved_B = torch.where(running_B.isnan(), mass_B, decay * running_B + (1 - decay) * mass_B)
        running_B = torch.where(signals.mask_BT[:, position], moved_B, running_B)
        columns.append(running_B)
    return torch.stack(columns, 1)


@selector("overlap_drift", needs=("student_topk_id_BTK", "teacher_topk_id_BTK"), keep=1.0,
          abstains=True)  # fmt: skip
def overlap_drift(signals: TokenSignals, threshold: float = 0.5) -> Tensor:
    """Keep each response's prefix, up to where the two top-K sets first share too few ids.

    Formula: |S ∩ T|/K ≥ 0.5 at this and at every earlier position

    Source: arXiv 2605.07804.

    Deviations: the threshold, and that one position under it ends the prefix, are our reading.
    """
    same_BTKK = (
        signals.teacher_topk_id_BTK[..., :, None] == signals.student_topk_id_BTK[..., None, :]
    )
    shared_BT = same_BTKK.any(-1).float().mean(-1)
    is_near_BT = (shared_BT >= threshold) | ~signals.mask_BT
    return torch.where(is_near_BT.cumprod(1) > 0, 1.0, -torch.inf)


norm_parameter("q05", teachability, teachability_conditional, teachability_released, incompatible)
