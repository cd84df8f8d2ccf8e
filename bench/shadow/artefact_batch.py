"""A first rollout of the untrained student, with the padding after it scored too."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.core.config import Experiment
from bench.core.logits import head_logits
from bench.pairs.models import LoadedPair
from bench.selection.budget import select_each
from bench.selection.formulas import Chunk
from bench.selection.registry import get_selector
from bench.selection.signals import SIGNAL_NAMES, TokenSignals, base_signals, with_signals
from bench.tasks.prompt_sets import get_prompts
from bench.train.hidden_states import PassSettings, hidden_states
from bench.train.rollout import Rollout, Sampling, sample_rollout

KEEP = 0.05


@dataclass(frozen=True)
class Batch:
    """One rollout with all its signals, and both distributions of its N tokens under the mask."""

    seed: int
    rollout: Rollout
    signals: TokenSignals
    student_logprob_NV: Tensor
    teacher_logprob_NV: Tensor
    padded: TokenSignals
    """The same rollout with the padding after each response scored as if it were sampled."""

    @property
    def mask_BT(self) -> Tensor:
        return self.signals.mask_BT

    def spread(self, value_N: Tensor) -> Tensor:
        """Values of the N tokens, put back in (B, T)."""
        value_BT = value_N.new_zeros(self.mask_BT.shape)
        value_BT[self.mask_BT] = value_N
        return value_BT

    def select(self, score_BT: Tensor, keep: float = KEEP, **settings: Any) -> Tensor:
        """selected_N at a budget, everything else as in the default regime."""
        return self.spend(score_BT, keep, **settings).selected_RN[0]

    def spend(self, score_BT: Tensor, keep: float = KEEP, **settings: Any):
        return select_each(
            score_BT[self.mask_BT][None], self.mask_BT, keep=keep, seed=self.seed,
            row_key_B=self.rollout.row_key_B, **settings,
        )  # fmt: skip

    def score(self, rule: str) -> Tensor:
        return get_selector(rule)(self.signals)


def draw_batch(pair: LoadedPair, experiment: Experiment, seed: int) -> Batch:
    """A first rollout of the untrained student, scored under both models."""
    prompts = (
        get_prompts(experiment)
        .prepare(pair.tokenizer, pair.chat)
        .draw(0, experiment.prompts_per_step, seed)
    )
    rollout = sample_rollout(
        pair.student, pair.tokenizer, pair.vocabulary,
        Sampling(
            prompts, samples=1, max_new_tokens=experiment.max_new_tokens,
            temperature=experiment.temperature, stop_ids=pair.student_stop_ids,
            mask_stop=pair.stops_agree, seed=seed, step=0,
        ),
        batch=256,
    )  # fmt: skip
    student_NV, teacher_NV = _logits(pair, rollout)
    token_N = rollout.token_BT[rollout.mask_BT]
    signals = _signals(rollout, Chunk(student_NV, teacher_NV, token_N, experiment.k), seed)
    pad = pair.tokenizer.pad_token_id
    assert isinstance(pad, int)
    filled = _with_padding_as_tokens(rollout, pad)
    chunk = Chunk(*_logits(pair, filled), filled.token_BT[filled.mask_BT], experiment.k)
    return Batch(
        seed, rollout, signals, student_NV.log_softmax(-1), teacher_NV.log_softmax(-1),
        _signals(filled, chunk, seed),
    )  # fmt: skip


def _logits(pair: LoadedPair, rollout: Rollout) -> tuple[Tensor, Tensor]:
    settings = PassSettings(micro_batch=64, logit_chunk=1 << 22)
    with torch.no_grad():
        student_NV, teacher_NV = (
            head_logits(model, hidden_states(model, rollout, rollout.mask_BT, settings),
                        pair.vocabulary)
            for model in (pair.student, pair.teacher)
        )  # fmt: skip
    return student_NV, teacher_NV


def _signals(rollout: Rollout, chunk: Chunk, seed: int) -> TokenSignals:
    base = base_signals(
        rollout.token_BT, rollout.mask_BT, seed=seed, step=0, row_key_B=rollout.row_key_B
    )
    return with_signals(base, chunk.signals(SIGNAL_NAMES))


def _with_padding_as_tokens(rollout: Rollout, pad: int) -> Rollout:
    """The rollout with the padding id sampled at every position after a response's end."""
    rows, positions = rollout.mask_BT.shape
    width = int(rollout.prompt_length_B.max()) + positions
    sequence_BL = torch.full((rows, width), pad)
    sequence_BL[:, : rollout.sequence_BL.shape[1]] = rollout.sequence_BL[:, :width]
    token_BT = rollout.token_BT.masked_fill(~rollout.mask_BT, pad)
    for row, start in enumerate(rollout.prompt_length_B.tolist()):
        sequence_BL[row, start : start + positions] = token_BT[row]
        sequence_BL[row, start + positions :] = pad
    return replace(
        rollout, token_BT=token_BT, mask_BT=torch.ones_like(rollout.mask_BT),
        sequence_BL=sequence_BL,
    )  # fmt: skip
