"""scores + mask -> exactly the budgeted tokens. A selector ranks; this file spends."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from bench.core.randomness import RowKeys, keyed_bits


def budget(keep: float, tokens: int) -> int:
    """ceil(keep * tokens), exactly: in floating point 0.07 * 100 rounds up to 8."""
    return ceil(Fraction(str(keep)) * tokens)


def select_tokens(
    score_BT: Tensor,
    mask_BT: Tensor,
    *,
    keep: float = 0.05,
    scope: Literal["batch", "response"] = "batch",
    min_keep_per_response: int = 0,
    ties: Literal["hash", "earlier"] = "hash",
    seed: int = 0,
    step: int = 0,
    row_key_B: RowKeys | None = None,
    abstains: bool = False,
) -> Tensor:
    """bool (B, T): the highest-scored `ceil(keep * n)` of the n tokens under the mask.

    score_BT       float (B, T), higher is kept, -inf means never; ignored off the mask.
    mask_BT        bool (B, T), True where the student sampled the token.
    keep           fraction in (0, 1]; the budget is computed exactly.
    scope          "batch": one budget over all tokens; "response": `ceil(keep * n_b)` in each row.
    min_keep_per_response
                   then top up each row to this many tokens (or all it has) by the same score.
    ties           equal scores: "hash" orders them by a hash of (seed, "tie", step, row key,
                   position); "earlier" by position, then row (arXiv 2605.26844's release).
    row_key_B      one key per response (prompt id and sample); the row number when not given.
    abstains       the selector may leave budget unspent.

    Raises ValueError for a NaN under the mask, a wrong shape or dtype, a keep outside (0, 1], or
    fewer scores above -inf than the budget when the selector does not abstain.
    """
    _check(score_BT, mask_BT, keep, min_keep_per_response)
    score_N = score_BT.detach()[mask_BT]
    spent = select_each(
        score_N[None], mask_BT, keep=keep, scope=scope,
        min_keep_per_response=min_keep_per_response, ties=ties, seed=seed, step=step,
        row_key_B=row_key_B,
    )  # fmt: skip
    if not abstains:
        _refuse_shortage(score_N > -torch.inf, mask_BT, keep, scope)
    selected_BT = torch.zeros_like(mask_BT)
    selected_BT[mask_BT] = spent.selected_RN[0]
    return selected_BT


def refill_empty(
    selected_BT: Tensor,
    score_BT: Tensor,
    mask_BT: Tensor,
    *,
    count: int,
    ties: Literal["hash", "earlier"] = "hash",
    seed: int = 0,
    step: int = 0,
    row_key_B: RowKeys | None = None,
) -> Tensor:
    """bool (B, T): the selection, and of each response without any the `count` best by `score_BT`.

    Source: arXiv 2605.26844 (released code), where the score is another rule's. Raises ValueError
    as `select_tokens` does.
    """
    _check(score_BT, mask_BT, 1.0, count)
    if not bool(mask_BT.any()):
        return selected_BT
    best = select_each(
        score_BT.detach()[mask_BT][None], mask_BT, keep=1e-9, scope="response",
        min_keep_per_response=count, ties=ties, seed=seed, step=step, row_key_B=row_key_B,
    )  # fmt: skip
    is_empty_B1 = ~selected_BT.any(1, keepdim=True)
    filled_BT = selected_BT.clone()
    filled_BT[mask_BT] |= best.selected_RN[0] & is_empty_B1.expand_as(mask_BT)[mask_BT]
    return filled_BT


def _refuse_shortage(eligible_N: Tensor, mask_BT: Tensor, keep: float, scope: str) -> None:
    """Raise ValueError where fewer tokens may be kept than the budget asks for."""
    if scope == "batch":
        tokens, eligible = eligible_N.numel(), int(eligible_N.sum())
        if budget(keep, tokens) > eligible:
            raise ValueError(
                f"the budget is {budget(keep, tokens)} of {tokens} tokens (keep={keep}), "
                f"but only {eligible} have a score above -inf"
            )
        return
    eligible_BT = torch.zeros_like(mask_BT)
    eligible_BT[mask_BT] = eligible_N
    counts = zip(mask_BT.sum(1).tolist(), eligible_BT.sum(1).tolist(), strict=True)
    for row, (tokens, eligible) in enumerate(counts):
        if budget(keep, tokens) > eligible:
            raise ValueError(
                f"response {row}: the budget is {budget(keep, tokens)} of {tokens} "
                f"tokens (keep={keep}), but only {eligible} have a score above -inf"
            )


def _check(score_BT: Tensor, mask_BT: Tensor, keep: float, min_keep_per_response: int) -> None:
    if mask_BT.dtype != torch.bool or mask_BT.ndim != 2:
        raise ValueError(f"mask_BT: {mask_BT.dtype} {tuple(mask_BT.shape)} is not bool (B, T)")
    if score_BT.shape != mask_BT.shape or not score_BT.is_floating_point():
        raise ValueError(
            f"score_BT: {score_BT.dtype} {tuple(score_BT.shape)} is not float "
            f"{tuple(mask_BT.shape)}, the shape of the mask"
        )
    if not 0 < keep <= 1:
        raise ValueError(f"keep: {keep!r} is not accepted: a fraction in (0, 1]")
    if min_keep_per_response < 0:
        raise ValueError(f"min_keep_per_response: {min_keep_per_response} is negative")
    bad_BT = score_BT.isnan() & mask_BT
    if bool(bad_BT.any()):
        row, position = bad_BT.nonzero()[0].tolist()
        raise ValueError(
            f"score_BT: {int(bad_BT.sum())} NaN under the mask, the first at response {row}, "
            f"position {position}"
        )


def _tie_order(
    row_N: Tensor,
    position_N: Tensor,
    shape: tuple[int, int],
    ties: str,
    seed: int,
    step: int,
    row_key_B: RowKeys | None,
    device: torch.device,
) -> Tensor:
    """int64 (N,): of two tokens with one score, the one with the lower number is kept."""
    if ties == "hash":
        tie_BT = keyed_bits(seed, "tie", step, row_key_B, shape, device=device)
        return tie_BT[row_N, position_N]
    if ties == "earlier":
        return position_N * shape[0] + row_N
    raise ValueError(f"ties: {ties!r} is not accepted: 'hash' or 'earlier'")


@dataclass(frozen=True)
class Spent:
    """What each of R rules keeps of the N tokens under the mask, in row-major order."""

    selected_RN: Tensor
    """bool."""
    tied_R: Tensor
    """int64: kept tokens for which one of equal score was left out, so that the tie rule chose.
    Tokens that `min_keep_per_response` adds do not count."""


def select_each(
    score_RN: Tensor,
    mask_BT: Tensor,
    *,
    keep: float = 0.05,
    scope: Literal["batch", "response"] = "batch",
    min_keep_per_response: int = 0,
    ties: Literal["hash", "earlier"] = "hash",
    seed: int = 0,
    step: int = 0,
    row_key_B: RowKeys | None = None,
) -> Spent:
    """`select_tokens` of many rules at once: the same masks, one order of ties for all of them.

    score_RN    float (R, N): a rule's scores of the tokens under the mask, in row-major order; no
                NaN. A rule with too few scores above -inf keeps fewer tokens.
    """
    shape = (mask_BT.shape[0], mask_BT.shape[1])
    row_N, position_N = mask_BT.nonzero(as_tuple=True)
    length_B = mask_BT.sum(1)
    rules, tokens = score_RN.shape
    tie_N = _tie_order(row_N, position_N, shape, ties, seed, step, row_key_B, mask_BT.device)
    by_tie_N = torch.argsort(tie_N, stable=True)
    by_score_RN = torch.argsort(score_RN[:, by_tie_N], dim=1, descending=True, stable=True)
    order_RN = by_tie_N[by_score_RN]  # best first
    place_1N = torch.arange(tokens, device=mask_BT.device)[None]
    selected_RN = torch.zeros(rules, tokens, dtype=torch.bool, device=mask_BT.device)
    within_RN = torch.zeros_like(order_RN)
    if scope == "response" or min_keep_per_response:
        by_row_RN = order_RN.gather(1, torch.argsort(row_N[order_RN], dim=1, stable=True))
        first_B = length_B.cumsum(0) - length_B
        within_RN.scatter_(1, by_row_RN, (place_1N - first_B[row_N]).expand(rules, tokens))
    if scope == "batch":
        spend = budget(keep, tokens)
        selected_RN.scatter_(1, order_RN, (place_1N < spend).expand(rules, tokens))
        unit_N, units = torch.zeros_like(row_N), 1
    elif scope == "response":
        spend_B = torch.tensor([budget(keep, n) for n in length_B.tolist()]).to(row_N.device)
        selected_RN = within_RN < spend_B[row_N]
        unit_N, units = row_N, shape[0]
    else:
        raise ValueError(f"scope: {scope!r} is not accepted: 'batch' or 'response'")
    selected_RN &= score_RN > -torch.inf
    tied_R = _tied(score_RN, selected_RN, unit_N, units)
    if min_keep_per_response:
        selected_RN |= (within_RN < min_keep_per_response) & (score_RN > -torch.inf)
    return Spent(selected_RN, tied_R)


def _tied(score_RN: Tensor, selected_RN: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """Kept tokens whose score is that of the best token left out of the same unit."""
    unit_RN = unit_N.expand_as(score_RN)
    left_RN = score_RN.masked_fill(selected_RN, -torch.inf)
    best_RU = score_RN.new_full((score_RN.shape[0], units), -torch.inf)
    best_RU = best_RU.scatter_reduce(1, unit_RN, left_RN, "amax")
    return (selected_RN & (score_RN == best_RU.gather(1, unit_RN))).sum(1)


@dataclass(frozen=True)
class Selection:
    """Which tokens a step trains on, and how much."""

    selected_BT: Tensor
    weight_BT: Tensor
    effective_sample_size: float
    keep: float = 1.0
    """The budget of the step."""

    @classmethod
    def of_weights(cls, weight_BT: Tensor, keep: float = 1.0) -> "Selection":
        """Every token that has a weight, at that weight; the size is (Σw)²/Σw²."""
        square = float(weight_BT.double().square().sum())
        size = float(weight_BT.double().sum()) ** 2 / square if square else 0.0
        return cls(weight_BT > 0, weight_BT, size, keep)
