"""Controls: every token, random tokens, and tokens chosen by position alone."""

import torch
from torch import Tensor

from bench import TokenSignals
from bench.selection.registry import selector


@selector("full", keep=1.0)
def full(signals: TokenSignals) -> Tensor:
    """Keep every sampled token: plain on-policy distillation.

    Formula: 1

    Source: arXiv 2306.13649.
    """
    return torch.ones_like(signals.uniform_BT)


@selector("random")
def random(signals: TokenSignals) -> Tensor:
    """Keep tokens at random, each with the same chance.

    Formula: u, uniform in [0, 1)

    Source: control of this project, keyed by (seed, step, response, position).
    """
    return signals.uniform_BT


@selector("random_stratified")
def random_stratified(signals: TokenSignals) -> Tensor:
    """Keep the same share of random tokens in every response.

    Each response's tokens are ordered at random; the r-th of n gets quantile (r + jitter)/n, one
    jitter a response, so a budget over the batch takes its share of each, rounded up or down.

    Formula: -(r + jitter)/n, r the random rank in the response

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

    Formula: -t

    Source: arXiv 2602.15260; 2605.27028.
    """
    return -signals.position_BT.float()


@selector("last")
def last(signals: TokenSignals) -> Tensor:
    """Keep the latest positions, counted back from each response's last token.

    Formula: t - t_last

    Source: suffix control of arXiv 2602.15260.
    """
    end_B1 = signals.position_BT.masked_fill(~signals.mask_BT, -1).amax(1, keepdim=True)
    return (signals.position_BT - end_B1).float()


@selector("middle")
def middle(signals: TokenSignals) -> Tensor:
    """Keep the positions nearest to the middle of each response.

    Formula: -|t - t_last/2|

    Source: control of this project, between the prefix and the suffix of arXiv 2602.15260.
    """
    end_B1 = signals.position_BT.masked_fill(~signals.mask_BT, -1).amax(1, keepdim=True)
    return -(signals.position_BT - end_B1 / 2).abs()


@selector("first_n", keep=1.0, abstains=True)
def first_n(signals: TokenSignals, n: int = 100) -> Tensor:
    """Keep the first n positions of every response, whatever share of the tokens that is.

    Formula: t < n

    Source: arXiv 2605.27028 (the first 100 tokens).
    """
    return torch.where(signals.position_BT < n, 1.0, -torch.inf)


@selector("one_random", keep=1.0, abstains=True)
def one_random(signals: TokenSignals) -> Tensor:
    """Keep one random token of every response.

    Formula: argmax of u in the response

    Source: arXiv 2609.04565.
    """
    uniform_BT = signals.uniform_BT.masked_fill(~signals.mask_BT, -1)
    return torch.where(uniform_BT == uniform_BT.amax(1, keepdim=True), 1.0, -torch.inf)


@selector("not_middle", keep=1.0, abstains=True)
def not_middle(signals: TokenSignals, share: float = 0.2) -> Tensor:
    """Keep all but the middle of every response.

    Formula: |(r + ½)/n - ½| ≥ 0.1, r the place of the token among the response's n

    Source: arXiv 2609.07103 (naver-ai/revisiting-trace: the middle 20 %).

    Deviations: the middle of the tokens; the source also drops that of the reasoning steps.
    """
    distance_BT = (signals.place_in_response() - 0.5).abs()
    return torch.where(distance_BT >= share / 2, 1.0, -torch.inf)
