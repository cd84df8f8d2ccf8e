"""Statistics over the sampled tokens of a batch: quantiles, ranks and the normalisations of scores.

Only tokens under the mask count; values off the mask come back as 0. Imports no sibling.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor

import torch
from torch import Tensor

NEUTRAL = 0.5
"""What every token becomes when the population has no spread: neutral in products and soft-ORs."""

SMALLEST_RANGE = 1e-5
"""A quantile range under this is rounding noise, not signal."""


def quantiles(x_BT: Tensor, mask_BT: Tensor, *probabilities: float) -> list[float]:
    """Quantiles over the mask, linear interpolation; torch.quantile stops at 16 M values."""
    sorted_N = x_BT[mask_BT].sort().values
    if not sorted_N.numel():
        return [float("nan")] * len(probabilities)
    values = []
    for probability in probabilities:
        place = probability * (sorted_N.numel() - 1)
        low = int(place)
        high = min(low + 1, sorted_N.numel() - 1)
        at_low, at_high = float(sorted_N[low]), float(sorted_N[high])
        values.append(at_low + (place - low) * (at_high - at_low))
    return values


def _scaled(x_BT: Tensor, mask_BT: Tensor, low: float, high: float) -> Tensor:
    if not mask_BT.any() or high - low < SMALLEST_RANGE:
        return torch.full_like(x_BT, NEUTRAL).masked_fill(~mask_BT, 0)
    return ((x_BT - low) / (high - low)).clamp(0, 1).masked_fill(~mask_BT, 0)


def over_rows(
    statistic: Callable[[Tensor, Tensor], Tensor], x_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    """A normalisation over every position of every row, padding too, whose x counts as 0.

    What the release of arXiv 2605.26844 does (population = "rows"); 0 off the mask again.
    """
    filled_BT = x_BT.masked_fill(~mask_BT, 0)
    return statistic(filled_BT, torch.ones_like(mask_BT)).masked_fill(~mask_BT, 0)


def norm_q05(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """clip((x - Q05)/(Q95 - Q05), 0, 1), float, in [0, 1]. Source: arXiv 2605.26844."""
    return _scaled(x_BT, mask_BT, *quantiles(x_BT, mask_BT, 0.05, 0.95))


def norm_minmax(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(x - min)/(max - min), float, in [0, 1]. Source: arXiv 2604.14084."""
    return _scaled(x_BT, mask_BT, *quantiles(x_BT, mask_BT, 0.0, 1.0))


def percentile_rank(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Average rank in [0, 1]: 0 the lowest, 1 the highest, ties share the mean of their ranks."""
    value_N = x_BT[mask_BT]
    rank_N = average_ranks(value_N[None])[0]
    rank_BT = torch.zeros(x_BT.shape, dtype=torch.float64, device=x_BT.device)
    rank_BT[mask_BT] = rank_N / (value_N.numel() - 1) if value_N.numel() > 1 else rank_N + NEUTRAL
    return rank_BT.to(x_BT.dtype)


def average_ranks(value_RN: Tensor) -> Tensor:
    """Rank from 0 of each value in its row, the mean of its ranks for a tie; float64 (R, N)."""
    sorted_RN, order_RN = value_RN.sort(dim=1)
    place_1N = torch.arange(value_RN.shape[1], device=value_RN.device)[None]
    new_RN = torch.ones_like(sorted_RN, dtype=torch.bool)
    new_RN[:, 1:] = sorted_RN[:, 1:] != sorted_RN[:, :-1]
    last_RN = torch.ones_like(new_RN)
    last_RN[:, :-1] = new_RN[:, 1:]
    first_RN = torch.where(new_RN, place_1N, 0).cummax(1).values
    end_RN = torch.where(last_RN, place_1N, value_RN.shape[1]).flip(1).cummin(1).values.flip(1)
    rank_RN = torch.empty(value_RN.shape, dtype=torch.float64, device=value_RN.device)
    return rank_RN.scatter_(1, order_RN, (first_RN + end_RN).double() / 2)


def quantile_of_each(x_BT: Tensor, mask_BT: Tensor, probability: float) -> Tensor:
    """A quantile over each row's tokens under the mask, (B, 1), linear interpolation; else NaN."""
    found = [quantiles(x_T, mask_T, probability) for x_T, mask_T in zip(x_BT, mask_BT, strict=True)]
    return x_BT.new_tensor(found).view(-1, 1)


ROUNDINGS: dict[str, Callable[[Fraction], int]] = {"up": ceil, "down": floor, "nearest": round}
"""How a share of a response's tokens becomes a whole number."""


def best_of_each(
    x_BT: Tensor, mask_BT: Tensor, tie_BT: Tensor, share: float, rounding: str, least: int
) -> Tensor:
    """bool: of each row, the highest x, as many as `share` of those above -inf, counted exactly.

    Equal scores are ordered by `tie_BT`, lowest first.
    """
    x_BT = x_BT.masked_fill(~mask_BT, -torch.inf)
    exact, whole = Fraction(str(share)), ROUNDINGS[rounding]
    eligible_B = (x_BT > -torch.inf).sum(1).tolist()
    counts = [min(n, max(least, whole(exact * n))) for n in eligible_B]
    count_B1 = torch.tensor(counts, device=x_BT.device).view(-1, 1)
    by_tie_BT = tie_BT.argsort(dim=1, stable=True)
    by_score_BT = x_BT.gather(1, by_tie_BT).argsort(dim=1, descending=True, stable=True)
    order_BT = by_tie_BT.gather(1, by_score_BT)
    place_BT = torch.arange(x_BT.shape[1], device=x_BT.device).expand_as(order_BT)
    return torch.zeros_like(mask_BT).scatter(1, order_BT, place_BT < count_B1) & mask_BT


def place_in_response(mask_BT: Tensor) -> Tensor:
    """(r + ½)/n of the r-th (from 0) of a row's n tokens under the mask; float32, 0 off it."""
    rank_BT = mask_BT.cumsum(1) - 0.5
    return (rank_BT / mask_BT.sum(1, keepdim=True).clamp(min=1)).masked_fill(~mask_BT, 0)


def rank_from_best(x_BT: Tensor, mask_BT: Tensor, tie_BT: Tensor) -> Tensor:
    """1 for the highest score, 2 for the next ...; float32, +inf for -inf and off the mask.

    Equal scores are ordered by `tie_BT`, lowest first.
    """
    eligible_BT = mask_BT & (x_BT > -torch.inf)
    by_tie_N = tie_BT[eligible_BT].argsort(stable=True)
    x_N = x_BT[eligible_BT]
    order_N = by_tie_N[x_N[by_tie_N].argsort(descending=True, stable=True)]
    rank_N = torch.empty(x_N.shape, dtype=torch.float32, device=x_N.device)
    rank_N[order_N] = torch.arange(1, x_N.numel() + 1, dtype=torch.float32, device=x_N.device)
    rank_BT = torch.full(x_BT.shape, torch.inf, device=x_BT.device)
    rank_BT[eligible_BT] = rank_N
    return rank_BT


def zscore(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(x - mean)/sd, population sd; 0 everywhere where the sd is under SMALLEST_RANGE."""
    value_N = x_BT[mask_BT].double()
    if not value_N.numel():
        return torch.zeros_like(x_BT)
    mean, sd = float(value_N.mean()), float(value_N.std(correction=0))
    if sd < SMALLEST_RANGE:
        return torch.zeros_like(x_BT)
    return ((x_BT - mean) / sd).masked_fill(~mask_BT, 0)


def _zscore_in_unit(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.special.ndtr(zscore(x_BT, mask_BT)).masked_fill(~mask_BT, 0)


UNIT_NORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "q05": norm_q05,
    "minmax": norm_minmax,
    "rank": percentile_rank,
    "zscore": _zscore_in_unit,
}
"""Normalisations onto [0, 1], by name. `zscore` goes through the normal distribution function: the
product of two negative z-scores would be high."""
