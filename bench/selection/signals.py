"""TokenSignals: what a selector may read of the tokens of a batch.

p is the student's next-token distribution, q the teacher's, y the sampled token, K the top-K size.
Everything is float32, without gradient, in nats; `formulas` computes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import cast

import torch
from torch import Tensor

from bench.core.randomness import RowKeys, keyed_uniform
from bench.selection import population

_ABSENT = cast(Tensor, None)
"""The value of a signal that was not asked for."""


@dataclass(frozen=True, eq=False)
class TokenSignals:
    """What a selector may read. A signal that it does not declare in `needs` is None.

    The first five fields are always there; the others are (B, T), or (B, T, K) with the best entry
    first, and 0 off the mask.
    """

    mask_BT: Tensor
    """bool: the student sampled this token (no prompt, padding, or anything after the stop)."""
    token_BT: Tensor
    """int64: the sampled token y."""
    position_BT: Tensor
    """int64: position in the response, from 0."""
    length_B: Tensor
    """int64 (B,): sampled tokens of the response."""
    uniform_BT: Tensor
    """float32 in [0, 1), keyed by (seed, step, response, position): the only randomness allowed."""

    student_logprob_BT: Tensor = _ABSENT
    """log p(y)."""
    teacher_logprob_BT: Tensor = _ABSENT
    """log q(y)."""
    student_entropy_BT: Tensor = _ABSENT
    """H(p) = -Σ p log p."""
    teacher_entropy_BT: Tensor = _ABSENT
    """H(q) = -Σ q log q."""
    reverse_kl_BT: Tensor = _ABSENT
    """KL(p‖q) = Σ p (log p - log q)."""
    forward_kl_BT: Tensor = _ABSENT
    """KL(q‖p) = Σ q (log q - log p)."""
    jsd_BT: Tensor = _ABSENT
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2."""
    hellinger_BT: Tensor = _ABSENT
    """(1/√2) ‖√p - √q‖, in [0, 1]."""
    total_variation_BT: Tensor = _ABSENT
    """½ Σ |p - q|, in [0, 1]."""
    student_topk_id_BTK: Tensor = _ABSENT
    """int64: the student's top-K ids S."""
    student_topk_logprob_BTK: Tensor = _ABSENT
    """log p on S."""
    teacher_topk_id_BTK: Tensor = _ABSENT
    """int64: the teacher's top-K ids T."""
    teacher_topk_logprob_BTK: Tensor = _ABSENT
    """log q on T."""
    teacher_logprob_on_student_topk_BTK: Tensor = _ABSENT
    """log q on S."""
    student_logprob_on_teacher_topk_BTK: Tensor = _ABSENT
    """log p on T."""
    teacher_mass_on_student_topk_BT: Tensor = _ABSENT
    """C = Σ_S q over the full softmax, in [0, 1] up to rounding."""
    student_mass_on_student_topk_BT: Tensor = _ABSENT
    """P_S = Σ_S p, in [0, 1] up to rounding."""
    student_entropy_slope_BT: Tensor = _ABSENT
    """Σ p² (log p + H(p)): how the mean step at a token of p moves the student's entropy."""
    mean_probability_gap_BT: Tensor = _ABSENT
    """Σ p (q - p)."""

    reference_logprob_BT: Tensor = _ABSENT
    """log q_ref(y) under a third model: `Experiment.reference`."""
    reference_logprob_on_student_topk_BTK: Tensor = _ABSENT
    """log q_ref on S."""
    counterfactual_logprob_BT: Tensor = _ABSENT
    """log p(y) of the student when every number in the prompt is another one."""
    one_change_logprob_BT: Tensor = _ABSENT
    """log p(y) of the student when one number of the prompt is another one (CROP's P^c)."""
    one_change_jsd_BT: Tensor = _ABSENT
    """JSD_64 of the student under the prompt and under the prompt with one number changed: over
    both top-64 lists and one residual bucket, nats. Source: arXiv 2608.13387."""
    paraphrase_jsd_BT: Tensor = _ABSENT
    """JSD_64 of the student under the prompt and under a paraphrase of it."""
    teacher_one_change_jsd_BT: Tensor = _ABSENT
    """`one_change_jsd_BT` of the teacher."""
    teacher_paraphrase_jsd_BT: Tensor = _ABSENT
    """`paraphrase_jsd_BT` of the teacher."""
    negative_logprob_BT: Tensor = _ABSENT
    """log q(y) of the teacher after another prompt of the batch."""
    stop_BT: Tensor = _ABSENT
    """float32: 1 where the token is a stop token, else 0."""
    gain_BT: Tensor = _ABSENT
    """KL(q‖p) before minus after one full-token update that is undone again."""
    reward_B: Tensor = _ABSENT
    """float32 (B,): 1 where the response's answer is right, else 0."""
    group_B: Tensor = _ABSENT
    """int64 (B,): responses to one prompt share a number."""

    def norm_q05(self, x_BT: Tensor) -> Tensor:
        """x clipped to its 5 % and 95 % quantiles and scaled to [0, 1], over the sampled tokens."""
        return population.norm_q05(x_BT, self.mask_BT)

    def norm_minmax(self, x_BT: Tensor) -> Tensor:
        """x scaled to [0, 1] by its least and greatest value over the sampled tokens."""
        return population.norm_minmax(x_BT, self.mask_BT)

    def percentile_rank(self, x_BT: Tensor) -> Tensor:
        """Rank of x in [0, 1] among the sampled tokens, ties averaged."""
        return population.percentile_rank(x_BT, self.mask_BT)

    def zscore(self, x_BT: Tensor) -> Tensor:
        """(x - mean)/sd over the sampled tokens."""
        return population.zscore(x_BT, self.mask_BT)

    def rank_from_best(self, x_BT: Tensor) -> Tensor:
        """1 for the highest x, 2 for the next ..., ties by the keyed uniform number; +inf off."""
        return population.rank_from_best(x_BT, self.mask_BT, self.uniform_BT)

    def quantile(self, x_BT: Tensor, probability: float) -> float:
        """A quantile over the sampled tokens, linear interpolation."""
        return population.quantiles(x_BT, self.mask_BT, probability)[0]

    def clipped_above(self, x_BT: Tensor, probability: float) -> Tensor:
        """x, or its quantile over the sampled tokens where it is higher."""
        return x_BT.clamp(max=self.quantile(x_BT, probability))

    def quantile_of_each(self, x_BT: Tensor, probability: float) -> Tensor:
        """A quantile over each response's sampled tokens, (B, 1); NaN for one without any."""
        return population.quantile_of_each(x_BT, self.mask_BT, probability)

    def best_of_each(self, x_BT: Tensor, share: float, rounding: str, least: int = 0) -> Tensor:
        """bool: the highest x of each response, `share` of the tokens that x does not exclude by
        -inf, rounded "up", "down" or to the "nearest" whole number (half to even), exactly, and at
        least `least`; ties by the keyed uniform number.
        """
        return population.best_of_each(x_BT, self.mask_BT, self.uniform_BT, share, rounding, least)

    def place_in_response(self) -> Tensor:
        """(r + ½)/n: the place of each sampled token in its response, in (0, 1)."""
        return population.place_in_response(self.mask_BT)

    def normalised(self, x_BT: Tensor, norm: str) -> Tensor:
        """x in [0, 1] by the named normalisation: one of population.UNIT_NORMS."""
        return population.UNIT_NORMS[norm](x_BT, self.mask_BT)

    def renormalised(self, norm: str) -> "TokenSignals":
        """The same signals, for a rule whose norm_q05 or norm_minmax shall be another one."""
        return _renormalised(type(self), norm)(**vars(self))

    def over_rows(self) -> "TokenSignals":
        """The same signals, whose statistics are over every position, padding as 0."""
        return _over_rows(type(self))(**vars(self))

    def only(self, names: Iterable[str]) -> "TokenSignals":
        """The same signals with all but the named ones absent."""
        keep = set(names)
        return replace(
            self, **{name: _ABSENT for name in (*SIGNAL_NAMES, *EXTRA_SIGNALS) if name not in keep}
        )

    def computed(self) -> dict[str, Tensor]:
        """The signals that were asked for, by name."""
        found = {name: getattr(self, name) for name in (*SIGNAL_NAMES, *EXTRA_SIGNALS)}
        return {name: value for name, value in found.items() if value is not None}


@cache
def _renormalised(kind: type[TokenSignals], norm: str) -> type[TokenSignals]:
    class Renormalised(kind):
        def norm_q05(self, x_BT: Tensor) -> Tensor:
            return self.normalised(x_BT, norm)

        norm_minmax = norm_q05

    return Renormalised


@cache
def _over_rows(kind: type[TokenSignals]) -> type[TokenSignals]:
    class OverRows(kind):
        def norm_q05(self, x_BT: Tensor) -> Tensor:
            return self.normalised(x_BT, "q05")

        def norm_minmax(self, x_BT: Tensor) -> Tensor:
            return self.normalised(x_BT, "minmax")

        def percentile_rank(self, x_BT: Tensor) -> Tensor:
            return self.normalised(x_BT, "rank")

        def zscore(self, x_BT: Tensor) -> Tensor:
            return population.over_rows(population.zscore, x_BT, self.mask_BT)

        def quantile(self, x_BT: Tensor, probability: float) -> float:
            filled_BT = x_BT.masked_fill(~self.mask_BT, 0)
            return population.quantiles(filled_BT, torch.ones_like(self.mask_BT), probability)[0]

        def normalised(self, x_BT: Tensor, norm: str) -> Tensor:
            return population.over_rows(population.UNIT_NORMS[norm], x_BT, self.mask_BT)

    return OverRows


BASE_SIGNALS: tuple[str, ...] = ("mask_BT", "token_BT", "position_BT", "length_B", "uniform_BT")
"""The fields every selector has without declaring them."""

EXTRA_SIGNALS: tuple[str, ...] = (
    "reference_logprob_BT",
    "reference_logprob_on_student_topk_BTK",
    "counterfactual_logprob_BT",
    "one_change_logprob_BT",
    "one_change_jsd_BT",
    "paraphrase_jsd_BT",
    "teacher_one_change_jsd_BT",
    "teacher_paraphrase_jsd_BT",
    "negative_logprob_BT",
    "stop_BT",
    "gain_BT",
    "reward_B",
    "group_B",
)
"""Signals of other passes and of the answers, which the engine gives only when a rule asks."""

REFERENCE_SIGNALS = frozenset(name for name in EXTRA_SIGNALS if name.startswith("reference_"))
"""Those of a third model."""

SIGNAL_NAMES: tuple[str, ...] = tuple(
    field.name
    for field in fields(TokenSignals)
    if field.name not in {*BASE_SIGNALS, *EXTRA_SIGNALS}
)
"""The signals of the two models' logits that a selector may declare in `needs`; `formulas` has a
formula for each."""

STUDENT_ONLY = frozenset(name for name in SIGNAL_NAMES if "teacher" not in name) - {
    "reverse_kl_BT",
    "forward_kl_BT",
    "jsd_BT",
    "hellinger_BT",
    "total_variation_BT",
    "mean_probability_gap_BT",
}
"""Signals that cost no pass of the teacher."""


def base_signals(
    token_BT: Tensor, mask_BT: Tensor, *, seed: int, step: int, row_key_B: RowKeys | None
) -> TokenSignals:
    """The five fields that need no logits."""
    rows, positions = mask_BT.shape
    position_BT = torch.arange(positions, device=mask_BT.device).expand(rows, positions)
    return TokenSignals(
        mask_BT=mask_BT,
        token_BT=token_BT.masked_fill(~mask_BT, 0),
        position_BT=position_BT,
        length_B=mask_BT.sum(1),
        uniform_BT=keyed_uniform(
            seed, "selector", step, row_key_B, (rows, positions), device=mask_BT.device
        ),
    )


def with_signals(base: TokenSignals, values: Mapping[str, Tensor]) -> TokenSignals:
    """`base` with the signals of its N masked tokens, in row-major order, put back in (B, T).

    Signals of whole responses, (B,), are taken as they are.
    """
    spread = {}
    for name, value_N in values.items():
        if name.endswith("_B"):
            spread[name] = value_N
            continue
        full_BT = value_N.new_zeros((*base.mask_BT.shape, *value_N.shape[1:]))
        full_BT[base.mask_BT] = value_N
        spread[name] = full_BT
    return replace(base, **spread)
