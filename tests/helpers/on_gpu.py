"""The same steps on the CPU and on a GPU, and how far apart their numbers are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from steps import trainer
from torch import Tensor

from bench.train.metrics import Timer
from bench.train.setup import place_frozen
from bench.train.trainer import Trainer

T = TypeVar("T")
EMBEDDED = {
    "pair": "tiny-qwen3", "prompts_per_step": 16, "max_new_tokens": 48, "steps": 3, "k": 16,
    "eval_items": 8,
}  # fmt: skip
"""Steps of an embedded pair: large enough for a budget of 5 %."""


class Watched:
    """An observer that keeps what a trainer's steps did."""

    phase = "observe"

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def is_due(self, step: int) -> bool:
        return True

    def observe(self, setup: Any, taken: Any) -> None:
        self.taken.append(taken)


def embedded(folder: Path, device: str, **values: Any) -> Trainer:
    """A trainer on a device, its frozen models as training holds them, whose steps are kept in
    `observer.taken`."""
    found = trainer(folder, {"device": device, "checkpoint_every": 3}, **{**EMBEDDED, **values})
    place_frozen(found.setup, found.experiment, found.runtime)
    found.observer = Watched()
    return found


def on_both(folder: Path, act: Callable[[Trainer], T], **values: Any) -> tuple[T, T]:
    """What an act gives on the CPU and then on the GPU, where the responses are the CPU's.

    One after the other: accelerate has one device at a time.
    """
    cpu = embedded(folder / "cpu", "cpu", **values)
    rollouts, sample = {}, cpu.rollout

    def kept(step: int) -> Any:
        rollouts[step] = sample(step)
        return rollouts[step]

    cpu.rollout = kept  # type: ignore[method-assign]
    here = act(cpu)
    gpu = embedded(folder / "cuda", "cuda", **values)
    assert gpu.accelerator.device.type == "cuda"
    gpu.rollout = lambda step: rollouts[step].to("cuda")  # type: ignore[method-assign]
    return here, act(gpu)


@dataclass(frozen=True)
class Walked:
    """Three steps."""

    losses: list[float]
    trained_tokens: list[int]
    selected: list[Tensor]
    """selected_BT of each step, on the CPU."""
    way: dict[str, Tensor]
    """What the steps added to each parameter that is trained, on the CPU, float64."""


def walk(found: Trainer) -> Walked:
    start = trained(found)
    lines = [found.step(step) for step in range(found.experiment.steps)]
    taken = found.observer.taken  # type: ignore[union-attr]
    return Walked(
        [line["loss"] for line in lines],
        [line["trained_tokens"] for line in lines],
        [step.selection.selected_BT.cpu() for step in taken],
        minus(trained(found), start),
    )


def most_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two equally long rows of numbers."""
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def gradient(found: Trainer) -> dict[str, Tensor]:
    """Of step 0, on the CPU, float64."""
    with found.accelerator.autocast():
        rollout = found.rollout(0)
        signals, scored = found.signals(rollout, 0, Timer({}, found.accelerator.device))
        with torch.autocast(found.accelerator.device.type, enabled=False):
            selection = found.select(signals, rollout, 0)
        found.gradient(rollout, selection, scored.teacher_hidden_ND)
    own = found.pair.student.named_parameters()
    return {name: p.grad.double().cpu() for name, p in own if p.grad is not None}


def trained(found: Trainer) -> dict[str, Tensor]:
    """What the trainer trains, on the CPU, float64."""
    own = found.pair.student.named_parameters()
    return {name: p.detach().double().cpu() for name, p in own if p.requires_grad}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """‖one − other‖ / ‖other‖ over all tensors of the same names."""
    assert one.keys() == other.keys()
    away = sum(float((one[name] - value).square().sum()) for name, value in other.items())
    return (away / sum(float(value.square().sum()) for value in other.values())) ** 0.5


def minus(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value - other[name] for name, value in one.items()}
