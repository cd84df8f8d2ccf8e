"""Rules that read the sampled token y: Δ = log q(y) - log p(y), and its probabilities."""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector

BOTH = ("student_logprob_BT", "teacher_logprob_BT")


@selector("abs_gap_no_lowlow", needs=BOTH, abstains=True, reads_sampled_token=True)
def abs_gap_no_lowlow(signals: TokenSignals, low: float = 0.01) -> Tensor:
    """Keep tokens where |Δ| is largest, but none that both models find improbable.

    Formula: |Δ|, never where p(y) ≤ 0.01 and q(y) ≤ 0.01

    Source: arXiv 2610.11659.
    """
    both_low_BT = (signals.student_logprob_BT.exp() <= low) & (
        signals.teacher_logprob_BT.exp() <= low
    )
    return gap(signals).abs().masked_fill(both_low_BT, -torch.inf)


@selector("dial", needs=(*BOTH, "stop_BT"), keep=1.0, abstains=True, reads_sampled_token=True)
def dial(signals: TokenSignals, beta: float = 1.0, share: float = 0.2) -> Tensor:
    """Keep the tokens of each response whose gap is largest in probability, never a stop token.

    Formula: |Δ|^(1-β) · |q(y) - p(y)|^β, 0 where Δ = 0; the max(1, round(ρn)) best of each
    response's n tokens that do not end it

    Source: arXiv 2610.11659 (β = 1; also 1.2; ρ = 0.2; EIT-NLP/DIAL-OPD).

    Deviations: whether n counts the stop token is not stated in what we read: it does not.
    """
    gap_BT = gap(signals).abs()
    change_BT = (signals.teacher_logprob_BT.exp() - signals.student_logprob_BT.exp()).abs()
    score_BT = gap_BT.clamp(min=1e-30) ** (1 - beta) * change_BT**beta
    score_BT = torch.where(gap_BT == 0, 0, score_BT)
    score_BT = score_BT.masked_fill(signals.stop_BT > 0, -torch.inf)
    kept_BT = signals.best_of_each(score_BT, share, "nearest", least=1)
    return torch.where(kept_BT, score_BT, -torch.inf)


@selector("excess_loss", needs=BOTH, reads_sampled_token=True)
def excess_loss(signals: TokenSignals) -> Tensor:
    """Keep tokens that the student finds less likely than the teacher does.

    Formula: -log p(y) + log q(y)

    Source: arXiv 2404.07965 (Rho-1: the top 60 %, the teacher as its reference model).
    """
    return gap(signals)


@selector("sampled_rkl_max", needs=BOTH, reads_sampled_token=True)
def sampled_rkl_max(signals: TokenSignals) -> Tensor:
    """Keep tokens that the student finds more likely than the teacher does.

    Formula: log p(y) - log q(y)

    Source: BruceSheng1202/IER-OPD (its sampled-RKL-max baseline; the mirror of `excess_loss`).
    """
    return -gap(signals)


@selector("tide_excess", needs=BOTH, abstains=True, reads_sampled_token=True)
def tide_excess(signals: TokenSignals) -> Tensor:
    """Keep tokens that the student finds more likely than the teacher does, and no others.

    Formula: -Δ where Δ < 0, never elsewhere

    Source: arXiv 2608.09836.

    Deviations: the threshold Q_{1-ρ} is the budget; its reward 2(e^{Δ/2} - 1) is part of the
    objective `tide`.
    """
    gap_BT = gap(signals)
    return torch.where(gap_BT < 0, -gap_BT, -torch.inf)


@selector("sign_gate", needs=BOTH, keep=1.0, abstains=True, reads_sampled_token=True)
def sign_gate(signals: TokenSignals) -> Tensor:
    """Keep every token that the teacher finds no more likely than the student does.

    Formula: q(y) - p(y) ≤ 0

    Source: arXiv 2605.06387 (AOPD).

    Deviations: there the sign also chooses the objective (`--objective aopd`); here all kept
    tokens have the run's.
    """
    return torch.where(gap(signals) <= 0, 1.0, -torch.inf)


@selector("min_gap", needs=BOTH, keep=1.0, abstains=True, reads_sampled_token=True)
def min_gap(signals: TokenSignals) -> Tensor:
    """Keep the one token of every response that the teacher likes least, against the student.

    Formula: argmin Δ in the response

    Source: arXiv 2609.04565.
    """
    return only(highest(-gap(signals), signals))


@selector("max_gap", needs=BOTH, keep=1.0, abstains=True, reads_sampled_token=True)
def max_gap(signals: TokenSignals) -> Tensor:
    """Keep the one token of every response that the teacher likes most, against the student.

    Formula: argmax Δ in the response

    Source: arXiv 2609.04565.
    """
    return only(highest(gap(signals), signals))


@selector("minmax_gap", needs=BOTH, keep=1.0, abstains=True, reads_sampled_token=True)
def minmax_gap(signals: TokenSignals) -> Tensor:
    """Keep the tokens of lowest and of highest Δ of every response.

    Formula: argmin Δ and argmax Δ in the response

    Source: arXiv 2609.04565.
    """
    gap_BT = gap(signals)
    return only(highest(-gap_BT, signals) | highest(gap_BT, signals))


@selector("tail_gap", needs=BOTH, keep=1.0, abstains=True, reads_sampled_token=True)
def tail_gap(signals: TokenSignals, tail: float = 0.0005) -> Tensor:
    """Keep the tokens in both tails of Δ over the batch.

    Formula: Δ ≤ Q_0.0005 or Δ ≥ Q_0.9995

    Source: arXiv 2609.04565 (0.05 % a side).
    """
    gap_BT = gap(signals)
    low, high = (signals.quantile(gap_BT, p) for p in (tail, 1 - tail))
    return only((gap_BT <= low) | (gap_BT >= high))


def gap(signals: TokenSignals) -> Tensor:
    """Δ = log q(y) - log p(y)."""
    return signals.teacher_logprob_BT - signals.student_logprob_BT


def highest(x_BT: Tensor, signals: TokenSignals) -> Tensor:
    """bool: the one token of each response where x is highest, ties by the keyed number."""
    x_BT = x_BT.masked_fill(~signals.mask_BT, -torch.inf)
    is_best_BT = (x_BT == x_BT.amax(1, keepdim=True)) & signals.mask_BT
    uniform_BT = signals.uniform_BT.masked_fill(~is_best_BT, -1)
    return is_best_BT & (uniform_BT == uniform_BT.amax(1, keepdim=True))


def only(kept_BT: Tensor) -> Tensor:
    """Scores of a rule that decides by itself: 1 for kept, never for the rest."""
    return torch.where(kept_BT, 1.0, -torch.inf)
