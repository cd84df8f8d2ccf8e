"""Rules that need more than the two models' logits on the responses: answers, or another pass."""

from math import log

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector


@selector("cc", needs=("teacher_logprob_BT", "reference_logprob_BT"), reads_sampled_token=True)
def cc(signals: TokenSignals) -> Tensor:
    """Keep tokens whose probability the teacher changed most against a smaller model of its family.

    Formula: |q(y) - q_ref(y)|

    Source: arXiv 2610.11659 (DIAL's CC-OPD baseline, adapted from Direct-OPD, 2607.05394; another
    thing than the CC-OPD of 2609.27421).

    Deviations: q_ref there is a smaller instruct model; here `--reference` names it, and without it
    q_ref is the student before training.
    """
    return (signals.teacher_logprob_BT.exp() - signals.reference_logprob_BT.exp()).abs()


@selector("prompt_reliance", needs=("student_logprob_BT", "counterfactual_logprob_BT"),
          reads_sampled_token=True)  # fmt: skip
def prompt_reliance(signals: TokenSignals) -> Tensor:
    """Keep tokens whose log-probability changes most when the prompt's numbers are others.

    Formula: |log p(y | prompt) - log p(y | counterfactual prompt)|

    Source: arXiv 2608.13387 (CROP's ablation CS-OPD).

    Deviations: every number of the prompt is another one, which needs no set that writes
    counterfactuals; `cs` changes exactly one, as CROP does.
    """
    return (signals.student_logprob_BT - signals.counterfactual_logprob_BT).abs()


@selector("crop", needs=("one_change_jsd_BT", "paraphrase_jsd_BT"))
def crop(signals: TokenSignals) -> Tensor:
    """Keep tokens that hang on what the prompt says more than on how it says it.

    Formula: JSD_64(P^o, P^c) - JSD_64(P^o, P^p), the student under the prompt, under it with one
    condition changed, and under a paraphrase

    Source: arXiv 2608.13387 (CROP; at least one token of each response:
    `--min-keep-per-response 1`).

    Deviations: K is 64 or, where that is smaller, the vocabulary; the rewordings are the prompt
    set's own, there a language model's.
    """
    return signals.one_change_jsd_BT - signals.paraphrase_jsd_BT


@selector("crop_teacher", needs=("teacher_one_change_jsd_BT", "teacher_paraphrase_jsd_BT"))
def crop_teacher(signals: TokenSignals) -> Tensor:
    """Keep tokens that hang on what the prompt says more than on how, for the teacher.

    Formula: JSD_64(Q^o, Q^c) - JSD_64(Q^o, Q^p)

    Source: arXiv 2608.13387 (CROP's score by the teacher).
    """
    return signals.teacher_one_change_jsd_BT - signals.teacher_paraphrase_jsd_BT


@selector("crop_entropy",
          needs=("one_change_jsd_BT", "paraphrase_jsd_BT", "student_topk_logprob_BTK"))  # fmt: skip
def crop_entropy(signals: TokenSignals) -> Tensor:
    """Keep tokens where the student is unsure, or hangs on what the prompt says, or both.

    Formula: Ĥ + ŝ - Ĥŝ, norm_q05, s the score of `crop`, H(p|S)/log K

    Source: arXiv 2608.13387 (its hybrid with entropy; K = 16).
    """
    logprob_BTK = signals.student_topk_logprob_BTK.log_softmax(-1)
    entropy_BT = -(logprob_BTK.exp() * logprob_BTK).sum(-1) / log(max(2, logprob_BTK.shape[-1]))
    a_BT = signals.norm_q05(entropy_BT)
    b_BT = signals.norm_q05(signals.one_change_jsd_BT - signals.paraphrase_jsd_BT)
    return a_BT + b_BT - a_BT * b_BT


@selector("pc", needs=("paraphrase_jsd_BT",))
def pc(signals: TokenSignals) -> Tensor:
    """Keep tokens that a paraphrase of the prompt changes least.

    Formula: -JSD_64(P^o, P^p)

    Source: arXiv 2608.13387 (CROP's paraphrase consistency alone).
    """
    return -signals.paraphrase_jsd_BT


@selector("cs", needs=("student_logprob_BT", "one_change_logprob_BT"), reads_sampled_token=True)
def cs(signals: TokenSignals) -> Tensor:
    """Keep tokens whose log-probability changes most when one condition of the prompt does.

    Formula: |log p(y|x) - log p(y|x_c)|

    Source: arXiv 2608.13387 (CROP's ablation CS-OPD).
    """
    return (signals.student_logprob_BT - signals.one_change_logprob_BT).abs()


@selector("credit", needs=("teacher_logprob_BT", "negative_logprob_BT"), reads_sampled_token=True)
def credit(signals: TokenSignals, weight: float = 1.0) -> Tensor:
    """Keep tokens that the teacher finds likely after this prompt and not after another.

    Formula: log q(y|x) - λ·log q(y|x_neg), x_neg another prompt of the batch

    Source: arXiv 2605.11613 (λ = 1, one negative of another group), as CROP (2608.13387) compares.

    Deviations: the negative is drawn by a hash of the seed 42 and both prompts' ids.
    """
    return signals.teacher_logprob_BT - weight * signals.negative_logprob_BT


@selector(
    "reference_jsd",
    needs=("teacher_logprob_on_student_topk_BTK", "reference_logprob_on_student_topk_BTK"),
)
def reference_jsd(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher has moved furthest from a reference model.

    Formula: JSD(q, q_ref) over S and one residual bucket

    Source: arXiv 2609.29142 (S2D-OPD's selector; ⌈0.1 n⌉ of each response: `--scope response
    --keep 0.1`).

    Deviations: q_ref is the student before training unless `--reference` names a model; the KL
    anchor of the source is not part of a rule.
    """
    sides = []
    for logprob_BTK in (
        signals.teacher_logprob_on_student_topk_BTK,
        signals.reference_logprob_on_student_topk_BTK,
    ):
        inside_BTK = logprob_BTK.double().exp()
        rest_BT1 = (1 - inside_BTK.sum(-1, keepdim=True)).clamp(min=0)
        sides.append(torch.cat([inside_BTK, rest_BT1], -1))
    one, other = sides
    mean = (one + other) / 2
    part = [torch.special.xlogy(x, x / mean.clamp(min=1e-300)).sum(-1) for x in (one, other)]
    return ((part[0] + part[1]) / 2).float()


OPD2 = (
    "teacher_logprob_BT",
    "reference_logprob_BT",
    "student_logprob_BT",
    "student_topk_logprob_BTK",
    "teacher_logprob_on_student_topk_BTK",
    "reference_logprob_on_student_topk_BTK",
)


@selector("opd2_gate", needs=OPD2, keep=1.0, abstains=True, reads_sampled_token=True)
def opd2_gate(signals: TokenSignals) -> Tensor:
    """Keep tokens where the teacher's change and its gap to the student have one sign.

    Formula: s·d ≥ 0; s = log q(y)/q_base(y), d = Δ, each less its mean under p on S

    Source: arXiv 2607.15161 (OPD², naver-ai/opd2: its gate; the signal is `--objective opd2`).

    Deviations: q_base is the student before training unless `--reference` names a model; p is
    renormalised on S for the means: our reading.
    """
    p_BTK = signals.student_topk_logprob_BTK.softmax(-1)
    at_top_BTK = signals.teacher_logprob_on_student_topk_BTK
    change_BTK = at_top_BTK - signals.reference_logprob_on_student_topk_BTK
    gap_BTK = at_top_BTK - signals.student_topk_logprob_BTK
    change_BT = signals.teacher_logprob_BT - signals.reference_logprob_BT
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    change_BT = change_BT - (p_BTK * change_BTK).sum(-1)
    gap_BT = gap_BT - (p_BTK * gap_BTK).sum(-1)
    return torch.where(change_BT * gap_BT >= 0, 1.0, -torch.inf)


@selector("oracle_gain", needs=("gain_BT",))
def oracle_gain(signals: TokenSignals) -> Tensor:
    """Keep tokens whose divergence one update on all tokens lowers most. For diagnosis only.

    Formula: KL(q‖p) before - after one full-token update, which is then undone

    Source: this project: the upper bound of the matched top-N gain under that update, not of
    training.
    """
    return signals.gain_BT


@selector("correct", needs=("reward_B",), keep=1.0, abstains=True)
def correct(signals: TokenSignals) -> Tensor:
    """Keep every token of the responses with the right answer.

    Formula: reward = 1

    Source: this project: the verifier's gate; `gate(correct, X)` ranks inside it.
    """
    return torch.where(signals.reward_B[:, None] > 0.5, 1.0, -torch.inf).expand(
        signals.mask_BT.shape
    )


@selector("incorrect", needs=("reward_B",), keep=1.0, abstains=True)
def incorrect(signals: TokenSignals) -> Tensor:
    """Keep every token of the responses with a wrong answer.

    Formula: reward = 0

    Source: this project: the verifier's gate; `gate(incorrect, X)` ranks inside it.
    """
    return torch.where(signals.reward_B[:, None] > 0.5, -torch.inf, 1.0).expand(
        signals.mask_BT.shape
    )


SIGNED = ("student_logprob_BT", "teacher_logprob_BT", "reward_B")


@selector("opdvr", needs=SIGNED, keep=1.0, abstains=True, reads_sampled_token=True)
def opdvr(signals: TokenSignals) -> Tensor:
    """Keep the tokens on which the teacher agrees with the verifier.

    Formula: Δ > 0 in right responses, Δ < 0 in wrong ones

    Source: arXiv 2608.24696 (OPDVR; weighted by the group's advantage: `opdvr_advantage`).
    """
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    agrees_BT = gap_BT * (2 * signals.reward_B[:, None] - 1) > 0
    return torch.where(agrees_BT, 1.0, -torch.inf)


@selector("ra_response", needs=SIGNED, keep=1.0, abstains=True, reads_sampled_token=True)
def ra_response(signals: TokenSignals) -> Tensor:
    """Keep every token of the responses on which teacher and verifier agree.

    Formula: sign(Σ_t Δ_t) = sign(2R - 1)

    Source: arXiv 2608.27960 (RA-OPD).
    """
    gap_BT = signals.teacher_logprob_BT - signals.student_logprob_BT
    total_B1 = gap_BT.masked_fill(~signals.mask_BT, 0).sum(1, keepdim=True)
    agrees_B1 = total_B1 * (2 * signals.reward_B[:, None] - 1) > 0
    return torch.where(agrees_B1, 1.0, -torch.inf).expand(signals.mask_BT.shape)
