"""Scores of several rules -> one score: what the words of a selector expression compute.

Each function takes the signals, for the mask and the keyed random numbers, and the rules' scores,
(B, T) each. A score of -inf means never, and a rule that abstains leaves such tokens out of the
population that its scores are normalised over.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.selection.population import UNIT_NORMS, quantiles, rank_from_best, zscore
from bench.selection.signals import TokenSignals

Scores = Sequence[Tensor]
Takes = Literal["rules", "weighted", "share", "two", "one"]

NORMS = (*UNIT_NORMS, "none")
WITHIN = ("batch", "response", "decile")


@dataclass(frozen=True)
class Combination:
    """A word of the expression language."""

    name: str
    form: str
    takes: Takes
    """rules: two or more. weighted: number, rule, number, rule ... share: number, rule, rule."""
    function: Callable[..., Tensor]
    keywords: Mapping[str, Any]
    """Parameters with their defaults."""
    accepts: Mapping[str, tuple[str, ...]]
    """The values of parameters that are words."""
    abstains: bool = False
    """It leaves tokens out by itself."""

    @property
    def formula(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]


def normalise(x_BT: Tensor, mask_BT: Tensor, norm: str) -> Tensor:
    """x in [0, 1] over the tokens that may be kept; as it is for "none". 0 for never."""
    eligible_BT = may_keep(x_BT, mask_BT)
    if norm == "none":
        return torch.where(eligible_BT, x_BT, 0)
    return UNIT_NORMS[norm](torch.where(eligible_BT, x_BT, 0), eligible_BT)


def may_keep(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sampled tokens whose score is above -inf."""
    return mask_BT & (x_BT > -torch.inf)


def _never(score_BT: Tensor, signals: TokenSignals, scores: Scores) -> Tensor:
    """-inf where any of the scores says never."""
    for x_BT in scores:
        score_BT = score_BT.masked_fill(signals.mask_BT & (x_BT == -torch.inf), -torch.inf)
    return score_BT


def product(signals: TokenSignals, scores: Scores, norm: str) -> Tensor:
    """Π x̂ᵢ: high where all are high."""
    factors = [normalise(x_BT, signals.mask_BT, norm) for x_BT in scores]
    total_BT = factors[0]
    for factor_BT in factors[1:]:
        total_BT = total_BT * factor_BT
    return _never(total_BT, signals, scores)


def soft_or(signals: TokenSignals, scores: Scores, norm: str) -> Tensor:
    """a + b - ab of the x̂ᵢ, one after another: high where any is high.

    A token is never kept only where all rules say so.
    """
    parts = [normalise(x_BT, signals.mask_BT, norm) for x_BT in scores]
    total_BT = parts[0]
    for part_BT in parts[1:]:
        total_BT = total_BT + part_BT - total_BT * part_BT
    never_BT = torch.stack([x_BT == -torch.inf for x_BT in scores]).all(0) & signals.mask_BT
    return total_BT.masked_fill(never_BT, -torch.inf)


def mix(signals: TokenSignals, scores: Scores, norm: str, weights: Sequence[float]) -> Tensor:
    """Σ wᵢ x̂ᵢ."""
    total_BT = torch.zeros_like(scores[0])
    for weight, x_BT in zip(weights, scores, strict=True):
        eligible_BT = may_keep(x_BT, signals.mask_BT)
        if norm == "zscore":
            part_BT = zscore(torch.where(eligible_BT, x_BT, 0), eligible_BT)
        else:
            part_BT = normalise(x_BT, signals.mask_BT, norm)
        total_BT = total_BT + weight * part_BT
    return _never(total_BT, signals, scores)


def split(signals: TokenSignals, scores: Scores, weights: Sequence[float]) -> Tensor:
    """-min(rank_a/s, rank_b/(1-s)): a share s of the budget by a's order, the rest by b's.

    Ranks count from 1 for the best; a's ties and b's are broken by the keyed uniform number. For
    every budget the kept tokens are the best of a together with the best of b, in numbers that
    stand as s to 1 - s; a token that is among both counts for both.
    """
    (share,) = weights
    times = [
        rank_from_best(x_BT, signals.mask_BT, signals.uniform_BT) / part
        for x_BT, part in zip(scores, (share, 1 - share), strict=True)
    ]
    return -torch.minimum(*times)


def gate(signals: TokenSignals, scores: Scores, at: float) -> Tensor:
    """b where a is at or above its `at`-quantile of the batch, never elsewhere."""
    condition_BT, score_BT = scores
    eligible_BT = may_keep(condition_BT, signals.mask_BT)
    (threshold,) = quantiles(condition_BT, eligible_BT, at)
    open_BT = eligible_BT & (condition_BT >= threshold)
    return score_BT.masked_fill(signals.mask_BT & ~open_BT, -torch.inf)


def shuffled(signals: TokenSignals, scores: Scores, within: str) -> Tensor:
    """x with its values dealt out anew at random among the sampled tokens.

    within   "batch": among all of them; "response": among those of each response; "decile": among
             those of the batch in one tenth of their responses.
    """
    (x_BT,) = scores
    mask_BT = signals.mask_BT
    x_N, group_N = x_BT[mask_BT], _groups(signals, within)[mask_BT]
    by_chance_N, by_value_N = signals.uniform_BT[mask_BT].argsort(stable=True), x_N.argsort()
    by_chance_N = by_chance_N[group_N[by_chance_N].argsort(stable=True)]
    by_value_N = by_value_N[group_N[by_value_N].argsort(stable=True)]
    dealt_N = torch.empty_like(x_N)
    dealt_N[by_chance_N] = x_N[by_value_N]
    return torch.zeros_like(x_BT).masked_scatter(mask_BT, dealt_N)


def _groups(signals: TokenSignals, within: str) -> Tensor:
    """int64 (B, T): tokens with one number are dealt out, or counted, together."""
    mask_BT = signals.mask_BT
    match within:
        case "response":
            return torch.arange(mask_BT.shape[0], device=mask_BT.device)[:, None].expand_as(mask_BT)
        case "decile":
            return (10 * signals.place_in_response()).long().clamp(max=9)
    return torch.zeros_like(mask_BT, dtype=torch.int64)


def matched(signals: TokenSignals, scores: Scores, within: str) -> Tensor:
    """u for as many random tokens as x may keep, never elsewhere.

    The budget then takes as many of them as it takes of x. `within` "response" (for budgets per
    response) or "decile" matches the number in each.
    """
    (x_BT,) = scores
    mask_BT = signals.mask_BT
    group_N, keeps_N = _groups(signals, within)[mask_BT], may_keep(x_BT, mask_BT)[mask_BT]
    uniform_N = signals.uniform_BT[mask_BT]
    order_N = uniform_N.argsort(descending=True, stable=True)
    order_N = order_N[group_N[order_N].argsort(stable=True)]
    count_G, size_G = (
        torch.bincount(group_N, weights=weights) for weights in (keeps_N.double(), None)
    )
    first_G = size_G.cumsum(0) - size_G
    place_N = torch.empty_like(group_N)
    place_N[order_N] = torch.arange(len(group_N), device=group_N.device)
    is_kept_N = place_N - first_G[group_N] < count_G[group_N]
    never_BT = torch.full_like(signals.uniform_BT, -torch.inf)
    return never_BT.masked_scatter(mask_BT, uniform_N.masked_fill(~is_kept_N, -torch.inf))


def reverse(signals: TokenSignals, scores: Scores) -> Tensor:
    """min + max - x: the same range of values in the opposite order. Never stays never."""
    (x_BT,) = scores
    eligible_BT = may_keep(x_BT, signals.mask_BT)
    low, high = quantiles(x_BT, eligible_BT, 0.0, 1.0)
    mirrored_BT = (low + high - x_BT).clamp(min=low, max=high) if eligible_BT.any() else x_BT
    return torch.where(eligible_BT, mirrored_BT, x_BT)


def bottom(signals: TokenSignals, scores: Scores) -> Tensor:
    """-x: the tokens that the rule would drop last are dropped first. Never stays never."""
    (x_BT,) = scores
    return torch.where(may_keep(x_BT, signals.mask_BT), -x_BT, x_BT)


def complement(signals: TokenSignals, scores: Scores, norm: str) -> Tensor:
    """1 - x̂."""
    (x_BT,) = scores
    return _never(1 - normalise(x_BT, signals.mask_BT, norm), signals, scores)


def normalised(signals: TokenSignals, scores: Scores, norm: str) -> Tensor:
    """x̂."""
    (x_BT,) = scores
    return _never(normalise(x_BT, signals.mask_BT, norm), signals, scores)


def _combination(name: str, form: str, takes: Takes, function, **keywords) -> Combination:
    accepts = {"norm": NORMS, "within": WITHIN}
    return Combination(
        name, form, takes, function, keywords,
        {key: values for key, values in accepts.items() if key in keywords},
        abstains=function in (gate, matched),
    )  # fmt: skip


COMBINATIONS: dict[str, Combination] = {
    found.name: found
    for found in (
        _combination("product", "product(a, b, ...)", "rules", product, norm="q05"),
        _combination("soft_or", "soft_or(a, b, ...)", "rules", soft_or, norm="q05"),
        _combination("mix", "mix(w, a, v, b, ...)", "weighted", mix, norm="zscore"),
        _combination("split", "split(s, a, b)", "share", split),
        _combination("gate", "gate(a, b)", "two", gate, at=0.5),
        _combination("complement", "complement(a)", "one", complement, norm="q05"),
        _combination("normalised", "normalised(a)", "one", normalised, norm="q05"),
        _combination("shuffled", "shuffled(a)", "one", shuffled, within="batch"),
        _combination("reversed", "reversed(a)", "one", reverse),
        _combination("bottom", "bottom(a)", "one", bottom),
        _combination("matched", "matched(a)", "one", matched, within="batch"),
    )
}
"""The words that stand for a combination of rules, in the order in which they are listed."""


def check_number(name: str, value: float) -> str | None:
    """What is wrong with a combination's number, if anything."""
    if name in ("share", "at") and not 0 < value < 1:
        return f"{value:g} is not accepted: a share between 0 and 1"
    return None if math.isfinite(value) else f"{value} is not a finite number"
