"""A token's loss and its gradient at the logits, in float64 NumPy and as the engine has them."""

import numpy as np
import torch

from bench.core.objectives import OBJECTIVES
from bench.train.objectives import token_loss

K = 3


PARAMS = {name: {"k": K} for name, defaults in OBJECTIVES.items() if "k" in defaults}
"""The default K is larger than the vocabulary of these tests."""


CONTEXT = {
    "advantage": torch.linspace(-1, 1, 6),
    "excess": torch.linspace(-1, 0, 6),
    "deficit": torch.tensor([1.0, 0, 1, 1, 0, 1]),
    "temperature": torch.linspace(0.7, 1.4, 6),
    "right": torch.tensor([1.0, 0, 1, 0, 1, 0]),
}
"""What objectives read of a batch, at its N tokens: any numbers of the right kind."""


def softmax(x) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(a, b) -> np.ndarray:
    """Σ_v a (log a - log b), keeping the axis."""
    return (a * np.log(a / b)).sum(-1, keepdims=True)


def loss_and_gradient(objective, student, teacher, token, params=None):
    """loss_N and d(Σ loss)/d(student logits), as float64 NumPy."""
    student = student.clone().requires_grad_()
    params = {**PARAMS.get(objective, {}), **(params or {})}
    loss_N = token_loss(objective, student, teacher, token, params, CONTEXT)
    (gradient_NV,) = torch.autograd.grad(loss_N.sum(), student)
    return loss_N.detach().double().numpy(), gradient_NV.double().numpy()


def distributions(logits):
    return softmax(logits[0].double().numpy()), softmax(logits[1].double().numpy())


def through_softmax(p, gradient_p) -> np.ndarray:
    """dL/dlogits from dL/dp: p_v (g_v - Σ_u p_u g_u)."""
    return p * (gradient_p - (p * gradient_p).sum(-1, keepdims=True))


N, V = 6, 9
