"""Rules that need more than the two models' logits on the responses: answers, or another pass."""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector


@selector("cc", needs=("teacher_logprob_BT", "reference_logprob_BT"), reads_sampled_token=True)
def cc(signals: TokenSignals) -> Tensor:
    """Keep tokens whose probability the teacher changed most against a reference model.

    Formula: |q(y) - q_ref(y)|

    Source: known to us by its formula alone (no paper named in what we read).

    Deviations: which reference is meant is not stated in what we read; `--reference` names one, and
    without it q_ref is the student before training.
    """
    return (signals.teacher_logprob_BT.exp() - signals.reference_logprob_BT.exp()).abs()


@selector("prompt_reliance", needs=("student_logprob_BT", "counterfactual_logprob_BT"),
          reads_sampled_token=True)  # fmt: skip
def prompt_reliance(signals: TokenSignals) -> Tensor:
    """Keep tokens whose log-probability changes most when the prompt's numbers are others.

    Formula: |log p(y | prompt) - log p(y | counterfactual prompt)|

    Source: this project: a second student pass, as CROP (arXiv 2608.13387) makes; not its score.
    """
    return (signals.student_logprob_BT - signals.counterfactual_logprob_BT).abs()


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
