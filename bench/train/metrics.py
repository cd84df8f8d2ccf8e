"""What a step and a run cost and did: totals, phases, and the means of signals."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.core.clock import now
from bench.selection.budget import Selection
from bench.selection.population import quantiles
from bench.selection.signals import TokenSignals
from bench.train.displacement import Moved
from bench.train.loss import LossOutputs
from bench.train.rollout import Rollout
from bench.train.scoring import Scored
from bench.train.setup import Setup


@dataclass
class Totals:
    """Sums over the steps of a run; saved with each checkpoint."""

    sampled: int = 0
    scored: int = 0
    trained: int = 0
    effective: float = 0.0
    clipped_steps: int = 0
    wall: float = 0.0
    """Seconds spent training, over all sessions of a resumed run."""
    seconds: dict[str, float] = field(
        default_factory=lambda: {"rollout": 0.0, "teacher": 0.0, "score": 0.0, "loss": 0.0}
    )

    def add(self, taken: "StepTaken") -> None:
        """Count a step's tokens."""
        self.sampled += taken.sampled
        self.trained += taken.trained
        self.effective += taken.selection.effective_sample_size


@dataclass(frozen=True)
class StepTaken:
    """What a step did, up to its update."""

    step: int
    """From 0."""
    rollout: Rollout
    """Of the whole batch, as are the signals and the selection."""
    signals: TokenSignals
    scored: Scored
    """What the scoring pass over this process's own rows left behind."""
    selection: Selection
    outputs: LossOutputs
    """Likewise of the loss pass; the loss itself is the whole batch's."""
    overlap_with_initial: float | None = None
    """The share of the selection that the student before training would have made as well; None
    where this step does not look."""

    @property
    def sampled(self) -> int:
        return int(self.rollout.mask_BT.sum())

    @property
    def trained(self) -> int:
        return int(self.selection.selected_BT.sum())


def line_of(
    taken: StepTaken, moved: Moved, setup: Setup, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """A step's line of metrics.jsonl."""
    rollout, selection = taken.rollout, taken.selection
    sampled, trained, vllm = taken.sampled, taken.trained, setup.vllm
    overlap = taken.overlap_with_initial
    return {
        "step": taken.step + 1,
        "loss": taken.outputs.loss,
        "grad_norm": moved.grad_norm,
        "displacement": moved.displacement,
        **({} if overlap is None else {"overlap_with_initial": overlap}),
        "learning_rate": setup.optimizer.param_groups[0]["lr"],
        "sampled_tokens": sampled,
        "trained_tokens": trained,
        "keep": selection.keep,
        "realised_keep": trained / sampled,
        "effective_sample_size": selection.effective_sample_size,
        "reused_hidden": rollout.student_hidden_ND is not None,
        **({"vllm_difference": vllm.difference} if vllm is not None else {}),
        # -log p(y) of tokens drawn from p: its mean is that of H(p).
        "entropy": -float(rollout.student_logprob_BT[rollout.mask_BT].double().mean()),
        "response_length": sampled / len(rollout.finish_reason_B),
        "stop_rate": rollout.finish_reason_B.count("stop") / len(rollout.finish_reason_B),
        "signals": summarise(taken.signals, selection.selected_BT),
        "seconds": seconds,
        "peak_memory_bytes": setup.peak_memory_bytes(),
    }


def summarise(signals: TokenSignals, selected_BT: Tensor) -> dict[str, dict[str, float]]:
    """Each computed (B, T) signal: mean over all and over selected tokens, and its 5-95 % range."""
    summary = {}
    for name, value_BT in signals.computed().items():
        if value_BT.ndim != 2:
            continue
        low, high = quantiles(value_BT, signals.mask_BT, 0.05, 0.95)
        summary[name] = {
            "all": float(value_BT[signals.mask_BT].mean()),
            "selected": float(value_BT[selected_BT].mean()) if selected_BT.any() else None,
            "q05": low,
            "q95": high,
        }
    return summary


class Timer:
    """Seconds of one step by phase, added to the run's as they pass."""

    def __init__(self, totals: dict[str, float], device: torch.device):
        self.totals, self.device = totals, device
        self.step: dict[str, float] = dict.fromkeys(totals, 0.0)

    def add(self, phase: str, seconds: float) -> None:
        self.step[phase] = self.step.get(phase, 0.0) + seconds
        self.totals[phase] = self.totals.get(phase, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = now(self.device)
        yield
        self.add(name, now(self.device) - start)
