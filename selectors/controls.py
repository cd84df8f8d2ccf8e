"""Controls: every token, random tokens, and tokens chosen by position alone."""

import torch
from torch import Tensor

from bench.registry import selector
from bench.signals import TokenSignals


@selector("full", keep=1.0)
def full(signals: TokenSignals) -> Tensor:
    """Keep every sampled token: plain on-policy distillation.

    Source: arXiv 2306.13649.
    """
    return torch.ones_like(signals.uniform_BT)


@selector("random")
def random(signals: TokenSignals) -> Tensor:
    """Keep tokens at random, each with the same chance.

    Source: control of this project, keyed by (seed, step, response, position).
    """
    return signals.uniform_BT


@selector("random_stratified")
def random_stratified(signals: TokenSignals) -> Tensor:
    """Keep the same share of random tokens in every response.

    Each response's tokens are ordered at random; the r-th of n gets quantile (r + jitter)/n, one
    jitter a response, so a budget over the batch takes its share of each, rounded up or down.

    Source: control of this project.
    """
    uniform_BT = signals.uniform_BT.masked_fill(~signals.mask_BT, torch.inf)
    rank_BT = uniform_BT.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    # The low bits of a uniform number say nothing of its rank in the response.
    jitter_B1 = (signals.uniform_BT[:, :1] * 4096) % 1
    return -(rank_BT + jitter_B1) / signals.length_B.clamp(min=1)[:, None]


@selector("first")
def first(signals: TokenSignals) -> Tensor:
    """Keep the earliest positions of the responses.

    Source: arXiv 2602.15260; 2605.27028.
    """
    return -signals.position_BT.float()


@selector("last")
def last(signals: TokenSignals) -> Tensor:
    """Keep the latest positions, counted back from each response's last token.

    Source: suffix control of arXiv 2602.15260.
    """
    end_B1 = signals.position_BT.masked_fill(~signals.mask_BT, -1).amax(1, keepdim=True)
    return (signals.position_BT - end_B1).float()
