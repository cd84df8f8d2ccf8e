"""Conventions of published code, each measured on one batch: what they do to a selection.

Every measure gives rows of numbers by what names them; `artefacts` joins those of many batches.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.selection.population import SMALLEST_RANGE, norm_q05, quantiles
from bench.selection.signals import TokenSignals
from bench.shadow.artefact_batch import Batch

FLOORS = (1e-12, 1e-8, 1e-6, 1e-4)
TIE_KEEPS = (0.01, 0.03, 0.05, 0.1)
REFILL_KEEPS = (0.01, 0.02, 0.05, 0.1)
SCOPE_KEEPS = (0.05, 0.2)
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sizes of the top-K sets, besides the whole vocabulary."""
SCOPE_RULES = ("teachability", "entropy", "tip", "forward_kl", "reverse_kl", "random")
Row = dict[str, float]


def jaccard(one_N: Tensor, other_N: Tensor) -> float:
    return float((one_N & other_N).sum() / (one_N | other_N).sum())


def shared(one_N: Tensor, other_N: Tensor) -> float:
    """Share of the first selection that the second keeps too."""
    return float((one_N & other_N).sum() / one_N.sum())


def batch_facts(batch: Batch) -> dict[tuple[Any, ...], Row]:
    length_B = batch.signals.length_B.double()
    mass_N = batch.signals.teacher_mass_on_student_topk_BT[batch.mask_BT]
    return {
        (): {
            "tokens": float(length_B.sum()),
            "response_length": float(length_B.mean()),
            "padding_share": 1 - float(batch.mask_BT.double().mean()),
            "off_support_mass": float((1 - mass_N).mean()),
        }
    }


def axes_of(signals: TokenSignals) -> dict[str, Tensor]:
    """Scores whose clipping is asked about, clipped by norm_q05, and two unclipped ones."""
    entropy_BT = signals.norm_q05(signals.student_entropy_BT)
    divergence_BT = signals.norm_q05(signals.forward_kl_BT)
    compatibility_BT = signals.norm_q05(signals.teacher_mass_on_student_topk_BT)
    return {
        "Ĥ (entropy, clipped)": entropy_BT,
        "D̂ (forward KL, clipped)": divergence_BT,
        "Ĉ (compatibility, clipped)": compatibility_BT,
        "Ĥ + D̂ − ĤD̂ (tip, clipped)": entropy_BT + divergence_BT - entropy_BT * divergence_BT,
        "D̂·Ĉ (teachability)": divergence_BT * compatibility_BT,
        "H (entropy)": signals.student_entropy_BT,
        "D (forward KL)": signals.forward_kl_BT,
    }


def ties(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """Tokens that share the score of the cut, and what the tie rule makes of them."""
    length_BT = batch.signals.length_B[:, None].expand(batch.mask_BT.shape)
    relative_N = (batch.signals.position_BT / length_BT.clamp(min=1))[batch.mask_BT]
    rows = {}
    for name, score_BT in axes_of(batch.signals).items():
        score_N = score_BT[batch.mask_BT]
        for keep in TIE_KEEPS:
            hashed = batch.spend(score_BT, keep)
            hash_N, tied = hashed.selected_RN[0], int(hashed.tied_R[0])
            earlier_N = batch.select(score_BT, keep, ties="earlier")
            cut = score_N[hash_N].min()
            rows[name, keep] = {
                "at_cut": float((score_N == cut).double().mean()),
                "by_tie_rule": tied / int(hash_N.sum()),
                "jaccard": jaccard(hash_N, earlier_N),
                "position_hash": float(relative_N[hash_N].mean()),
                "position_earlier": float(relative_N[earlier_N].mean()),
            }
    return rows


@dataclass(frozen=True)
class UnionKl:
    """Σ_U q̄ log(q̄/p̄) of each token, and the part of it from teacher ids outside S; Σ_{S∩T} q."""

    total_N: Tensor
    off_support_N: Tensor
    shared_mass_N: Tensor
    has_off_support_N: Tensor


def union_kl(batch: Batch, floor: float | None) -> UnionKl:
    """The released divergence on U = S ∪ T: each side cut to its own top-K, renormalised on U, then
    floored, so that entries missing from a side are `floor`.

    None: no floor; every entry of U has its own probability. Float64.
    """
    student_id = batch.signals.student_topk_id_BTK[batch.mask_BT]
    teacher_id = batch.signals.teacher_topk_id_BTK[batch.mask_BT]
    log_p_NV, log_q_NV = batch.student_logprob_NV.double(), batch.teacher_logprob_NV.double()
    in_student_NV = torch.zeros_like(log_p_NV, dtype=torch.bool).scatter_(1, student_id, True)
    in_teacher_NV = torch.zeros_like(in_student_NV).scatter_(1, teacher_id, True)
    in_union_NV = in_student_NV | in_teacher_NV
    p_NV, q_NV = log_p_NV.exp(), log_q_NV.exp()
    if floor is not None:
        p_NV = torch.where(in_student_NV, p_NV, 0)
        q_NV = torch.where(in_teacher_NV, q_NV, 0)
    p_NV, q_NV = torch.where(in_union_NV, p_NV, 0), torch.where(in_union_NV, q_NV, 0)
    p_NV, q_NV = p_NV / p_NV.sum(1, keepdim=True), q_NV / q_NV.sum(1, keepdim=True)
    if floor is not None:
        p_NV, q_NV = p_NV.clamp(min=floor), q_NV.clamp(min=floor)
    term_NV = torch.where(in_union_NV, q_NV * (q_NV.log() - p_NV.log()), 0)
    off_NV = in_teacher_NV & ~in_student_NV
    shared_NV = torch.where(in_teacher_NV & in_student_NV, log_q_NV.exp(), 0)
    return UnionKl(
        term_NV.sum(1), torch.where(off_NV, term_NV, 0).sum(1), shared_NV.sum(1), off_NV.any(1)
    )


def floors(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """How much of the union KL is off-support, and what it keeps, by the floor."""
    exact_N = batch.select(batch.score("teachability"))
    exact_divergence_N = batch.select(batch.signals.forward_kl_BT)
    rows = {}
    for floor in (*FLOORS, None):
        found = union_kl(batch, floor)
        divergence_BT = batch.spread(found.total_N)
        score_BT = norm_q05(divergence_BT, batch.mask_BT) * norm_q05(
            batch.spread(found.shared_mass_N), batch.mask_BT
        )
        divergent_N = batch.select(divergence_BT)
        rows["none" if floor is None else f"{floor:g}",] = {
            "off_support_share": float(found.off_support_N.sum() / found.total_N.sum()),
            "off_support_share_of_top": float(
                found.off_support_N[divergent_N].sum() / found.total_N[divergent_N].sum()
            ),
            "tokens_with_off_support_id": float(found.has_off_support_N.double().mean()),
            "score_overlap": shared(batch.select(score_BT), exact_N),
            "divergence_overlap": shared(divergent_N, exact_divergence_N),
        }
    return rows


def padding(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """Quantiles over all rows and positions in place of the sampled tokens alone."""
    mask_BT = batch.mask_BT
    everywhere_BT = torch.ones_like(mask_BT)
    inputs = ("student_entropy_BT", "forward_kl_BT", "teacher_mass_on_student_topk_BT")
    sampled = [getattr(batch.signals, name) for name in inputs]
    filled = [
        torch.where(mask_BT, value_BT, getattr(batch.padded, name))
        for name, value_BT in zip(inputs, sampled, strict=True)
    ]
    rows = {}
    own: dict[str, Tensor] = {}
    for name, values, over_BT in (
        ("sampled tokens", sampled, mask_BT),
        ("all positions, padding 0", sampled, everywhere_BT),
        ("all positions, padding scored", filled, everywhere_BT),
    ):
        entropy_BT, divergence_BT, mass_BT = (norm_q05(value_BT, over_BT) for value_BT in values)
        scores = {
            "teachability": divergence_BT * mass_BT,
            "tip": entropy_BT + divergence_BT - entropy_BT * divergence_BT,
        }
        kept = {rule: batch.select(score_BT) for rule, score_BT in scores.items()}
        own = own or kept
        low, high = quantiles(values[1], over_BT, 0.05, 0.95)
        mass_low, mass_high = quantiles(values[2], over_BT, 0.05, 0.95)
        rows[name,] = {
            "divergence_range": high - low,
            "mass_range": mass_high - mass_low,
            "teachability_overlap": shared(kept["teachability"], own["teachability"]),
            "tip_overlap": shared(kept["tip"], own["tip"]),
            "teachability_tied": int(batch.spend(scores["teachability"]).tied_R[0])
            / int(kept["teachability"].sum()),
        }
    return rows


def refill(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """One token of every response at least: the realised keep, and whose score picks the token."""
    teachability_BT = batch.score("teachability")
    row_N = batch.mask_BT.nonzero()[:, 0]
    rows = {}
    for rule in ("teachability", "entropy", "random"):
        score_BT = batch.score(rule)
        for keep in REFILL_KEEPS:
            budgeted_N = batch.select(score_BT, keep)
            filled_N = batch.select(score_BT, keep, min_keep_per_response=1)
            added_N = filled_N & ~budgeted_N
            is_empty_B = torch.bincount(row_N[budgeted_N], minlength=len(batch.mask_BT)) == 0
            # The refill by another score: the best token of each response that has none.
            best_N = batch.select(
                teachability_BT, 1e-9, scope="response", min_keep_per_response=1
            ) & is_empty_B[row_N]  # fmt: skip
            added = int(added_N.sum())
            rows[rule, keep] = {
                "realised_keep": float(filled_N.double().mean()),
                "responses_refilled": added / len(batch.mask_BT),
                "other_token_by_teachability": (
                    1 - float((added_N & best_N).sum()) / added if added else 0.0
                ),
            }
    return rows


def top_k(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """What the compatibility C has left as K grows, and how far D·C and D̂·Ĉ are from D."""
    size = batch.student_logprob_NV.shape[1]
    divergence_BT = batch.signals.forward_kl_BT
    by_divergence_N = batch.select(divergence_BT)
    rows = {}
    for k in (*(k for k in KS if k < size), size):
        id_NK = batch.student_logprob_NV.topk(k, -1).indices
        mass_BT = batch.spread(batch.teacher_logprob_NV.gather(-1, id_NK).exp().sum(-1))
        low, high = quantiles(mass_BT, batch.mask_BT, 0.05, 0.95)
        normalised_BT = norm_q05(divergence_BT, batch.mask_BT) * norm_q05(mass_BT, batch.mask_BT)
        rows[k,] = {
            "mass": float(mass_BT[batch.mask_BT].mean()),
            "mass_range": high - low,
            "is_neutral": float(high - low < SMALLEST_RANGE),
            "raw_overlap": shared(batch.select(divergence_BT * mass_BT), by_divergence_N),
            "normalised_overlap": shared(batch.select(normalised_BT), by_divergence_N),
        }
    return rows


def scope(batch: Batch) -> dict[tuple[Any, ...], Row]:
    """One budget over the batch against one in each response."""
    row_N = batch.mask_BT.nonzero()[:, 0]
    rows = {}
    for rule in SCOPE_RULES:
        score_BT = batch.score(rule)
        for keep in SCOPE_KEEPS:
            batch_N = batch.select(score_BT, keep)
            response_N = batch.select(score_BT, keep, scope="response")
            kept_B = torch.bincount(row_N[batch_N], minlength=len(batch.mask_BT))
            divergence_N = batch.signals.reverse_kl_BT[batch.mask_BT]
            rows[rule, keep] = {
                "jaccard": jaccard(batch_N, response_N),
                "realised_keep_response": float(response_N.double().mean()),
                "responses_without_token": float((kept_B == 0).double().mean()),
                "kl_covered_batch": float(divergence_N[batch_N].sum() / divergence_N.sum()),
                "kl_covered_response": float(divergence_N[response_N].sum() / divergence_N.sum()),
            }
    return rows
