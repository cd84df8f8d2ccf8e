"""How far one optimizer step moves the parameters, without a copy of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.core.processes import full_number


@dataclass(frozen=True)
class Moved:
    """What one update did."""

    grad_norm: float
    """Global norm of the gradient before clipping."""
    displacement: float
    """‖θ_t - θ_{t-1}‖."""


def displacement(optimizer: Any) -> float:
    """‖θ_t - θ_{t-1}‖ of the AdamW step just taken, found from its moments.

    The step is -lr (λ θ_{t-1} + m̂/(√v̂ + ε)). Call it before the schedule moves the rate. Exact up
    to rounding, whatever the gradient was; equal on all processes. Source of the measure: arXiv
    2609.22109.
    """
    squares: list[Tensor] = []
    for group in optimizer.param_groups:
        rate, decay = group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:
                continue
            step = float(state["step"])
            moved = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
            moved = torch.div(state["exp_avg"], moved).mul_(rate / (1 - beta1**step))
            if decay:
                before = (parameter.detach() + moved) / (1 - rate * decay)
                moved = moved + rate * decay * before
            squares.append(moved.double().square().sum())
    return sum(full_number(square) for square in squares) ** 0.5
