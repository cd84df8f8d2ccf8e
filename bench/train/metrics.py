"""What a step and a run cost and did: totals, phases, and the means of signals."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from bench.selection.population import quantiles
from bench.selection.signals import TokenSignals


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

    def __init__(self, totals: dict[str, float]):
        self.totals = totals
        self.step: dict[str, float] = dict.fromkeys(totals, 0.0)

    def add(self, phase: str, seconds: float) -> None:
        self.step[phase] = self.step.get(phase, 0.0) + seconds
        self.totals[phase] = self.totals.get(phase, 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.add(name, perf_counter() - start)
