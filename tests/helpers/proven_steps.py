"""Steps of the real trainer beside those of the dense reference."""

from dataclasses import dataclass

import pytest
import torch
from dense_step import DenseRun
from steps import trainer, weights
from torch import Tensor

STOPS = tuple(range(0, 657, 11))
"""Many stop tokens: responses of unequal length."""


@dataclass(frozen=True)
class Steps:
    """What some steps did: losses, norms, selections, and how far they moved the weights."""

    losses: list[float]
    norms: list[float]
    selected: list[Tensor]
    moved: Tensor

    def differs(self, other: "Steps") -> bool:
        """By more than the engine may differ from the reference."""
        if self.moved.shape != other.moved.shape or apart(self.moved, other.moved) > 0.02:
            return True
        numbers = zip(self.losses + self.norms, other.losses + other.norms, strict=True)
        return any(abs(a / b - 1) > 0.02 for a, b in numbers)


def apart(one: Tensor, other: Tensor) -> float:
    """The distance of two movements, relative to the second."""
    return float((one - other).norm() / other.norm())


def proven(tmp_path, count: int = 1, **values) -> Steps:
    """The trainer's first steps, each compared with the reference's of the same responses."""
    found = trainer(tmp_path, **{"stop_ids": STOPS, "learning_rate": 1e-3, "steps": 8, **values})
    start = weights(found)
    adapters = {name: value for name, value in start.items() if "lora_" in name}
    reference = DenseRun(found.experiment, adapters)
    samples, selections = _kept(found, "rollout"), _kept(found, "select")
    losses, norms, selected = [], [], []
    for step in range(count):
        line = found.step(step)
        loss, norm, chosen = reference.step(samples[-1], step)
        selected.append(selections[-1].selected_BT[samples[-1].mask_BT])
        assert torch.equal(selected[-1], chosen)
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-3)
        losses.append(line["loss"])
        norms.append(line["grad_norm"])
    end = weights(found)
    assert all(torch.equal(start[name], end[name]) for name in start.keys() - reference.trained)
    moved = _moved(start, {name: end[name] for name in reference.trained})
    expected = _moved(start, reference.trained)
    # Where the gradient is rounding alone, AdamW makes whole steps of it.
    assert apart(moved, expected) < (0.005 if found.experiment.dtype == "float32" else 0.1)
    return Steps(losses, norms, selected, moved)


def _kept(found, name: str) -> list:
    """What a method of the trainer returns from now on."""
    inner, kept = getattr(found, name), []

    def call(*given):
        kept.append(inner(*given))
        return kept[-1]

    setattr(found, name, call)
    return kept


def _moved(start: dict[str, Tensor], end: dict[str, Tensor]) -> Tensor:
    return torch.cat([(end[name].detach() - start[name]).flatten() for name in end])
