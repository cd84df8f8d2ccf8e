"""TokenSignals, and how each signal is computed from two chunks of logits.

p is the student's next-token distribution, q the teacher's, y the sampled token, K the top-K size.
Everything is float32, without gradient, in nats, and computed position by position: a chunk of N
positions gives `[N]` or `[N, K]` statistics, so no (B, T, V) tensor is ever needed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
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

    reference_logprob_BT: Tensor = _ABSENT
    """log q_ref(y) under a third model: `Experiment.reference`."""
    counterfactual_logprob_BT: Tensor = _ABSENT
    """log p(y) of the student when every number in the prompt is another one."""
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

    def normalised(self, x_BT: Tensor, norm: str) -> Tensor:
        """x in [0, 1] by the named normalisation: one of population.UNIT_NORMS."""
        return population.UNIT_NORMS[norm](x_BT, self.mask_BT)

    def renormalised(self, norm: str) -> "TokenSignals":
        """The same signals, for a rule whose norm_q05 or norm_minmax shall be another one."""
        return _renormalised(type(self), norm)(**vars(self))

    def only(self, names: Iterable[str]) -> "TokenSignals":
        """The same signals with all but the named ones absent."""
        keep = set(names)
        return replace(
            self, **{name: _ABSENT for name in (*_FORMULAS, *EXTRA_SIGNALS) if name not in keep}
        )

    def computed(self) -> dict[str, Tensor]:
        """The signals that were asked for, by name."""
        found = {name: getattr(self, name) for name in (*_FORMULAS, *EXTRA_SIGNALS)}
        return {name: value for name, value in found.items() if value is not None}


@cache
def _renormalised(kind: type[TokenSignals], norm: str) -> type[TokenSignals]:
    class Renormalised(kind):
        def norm_q05(self, x_BT: Tensor) -> Tensor:
            return self.normalised(x_BT, norm)

        norm_minmax = norm_q05

    return Renormalised


class Chunk:
    """Log-probabilities of N positions, and what several signals share. All float32."""

    def __init__(
        self, student_logit_NV: Tensor, teacher_logit_NV: Tensor | None, token_N: Tensor, k: int
    ):
        vocabulary = student_logit_NV.shape[-1]
        if not 1 <= k <= vocabulary:
            raise ValueError(f"k: {k} is not accepted: 1 to {vocabulary}, the vocabulary")
        self.student_logprob_NV = log_softmax(student_logit_NV)
        self._teacher_logit_NV = teacher_logit_NV
        self.token_N1 = token_N[:, None]
        self.k = k

    @cached_property
    def teacher_logprob_NV(self) -> Tensor:
        if self._teacher_logit_NV is None:
            raise ValueError("a signal of the teacher was asked for without the teacher's logits")
        return log_softmax(self._teacher_logit_NV)

    @cached_property
    def student_NV(self) -> Tensor:
        return self.student_logprob_NV.exp()

    @cached_property
    def teacher_NV(self) -> Tensor:
        return self.teacher_logprob_NV.exp()

    @cached_property
    def log_ratio_NV(self) -> Tensor:
        """log p - log q."""
        return self.student_logprob_NV - self.teacher_logprob_NV

    @cached_property
    def student_topk(self) -> tuple[Tensor, Tensor]:
        """(log p on S, S), best first."""
        value_NK, id_NK = self.student_logprob_NV.topk(self.k, -1)
        return value_NK, id_NK

    @cached_property
    def teacher_topk(self) -> tuple[Tensor, Tensor]:
        """(log q on T, T), best first."""
        value_NK, id_NK = self.teacher_logprob_NV.topk(self.k, -1)
        return value_NK, id_NK

    @cached_property
    def teacher_logprob_on_student_topk_NK(self) -> Tensor:
        return self.teacher_logprob_NV.gather(-1, self.student_topk[1])

    def signals(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named signals: `[N]` or `[N, K]`, float32 (ids int64)."""
        # Autocast, where it is on, would take the sums over the vocabulary in half precision.
        with torch.autocast(self.token_N1.device.type, enabled=False):
            return {name: _FORMULAS[name](self) for name in names}

    def jsd_N(self) -> Tensor:
        mixture_NV = torch.logaddexp(self.student_logprob_NV, self.teacher_logprob_NV)
        mixture_NV -= torch.log(torch.tensor(2.0))
        to_student_N = _dot(self.student_NV, self.student_logprob_NV - mixture_NV)
        to_teacher_N = _dot(self.teacher_NV, self.teacher_logprob_NV - mixture_NV)
        return 0.5 * (to_student_N + to_teacher_N)

    def hellinger_N(self) -> Tensor:
        # √p = exp(½ log p) keeps the tails that p itself has lost to rounding.
        root_NV = (0.5 * self.student_logprob_NV).exp() - (0.5 * self.teacher_logprob_NV).exp()
        return (0.5 * root_NV.square().sum(-1)).sqrt()


def log_softmax(logit_NV: Tensor) -> Tensor:
    """log p, float32: on CPU off by 2e-6 over 150,000 entries, torch.log_softmax by 2e-5."""
    logit_NV = logit_NV.float()
    logit_NV = logit_NV - logit_NV.amax(-1, keepdim=True).detach()
    return logit_NV - logit_NV.exp().sum(-1, keepdim=True).log()


def _dot(x_NV: Tensor, y_NV: Tensor) -> Tensor:
    return torch.linalg.vecdot(x_NV, y_NV)


_FORMULAS: dict[str, Callable[[Chunk], Tensor]] = {
    "student_logprob_BT": lambda c: c.student_logprob_NV.gather(-1, c.token_N1)[:, 0],
    "teacher_logprob_BT": lambda c: c.teacher_logprob_NV.gather(-1, c.token_N1)[:, 0],
    "student_entropy_BT": lambda c: -_dot(c.student_NV, c.student_logprob_NV),
    "teacher_entropy_BT": lambda c: -_dot(c.teacher_NV, c.teacher_logprob_NV),
    "reverse_kl_BT": lambda c: _dot(c.student_NV, c.log_ratio_NV),
    "forward_kl_BT": lambda c: -_dot(c.teacher_NV, c.log_ratio_NV),
    "jsd_BT": Chunk.jsd_N,
    "hellinger_BT": Chunk.hellinger_N,
    "total_variation_BT": lambda c: 0.5 * (c.student_NV - c.teacher_NV).abs().sum(-1),
    "student_topk_id_BTK": lambda c: c.student_topk[1],
    "student_topk_logprob_BTK": lambda c: c.student_topk[0],
    "teacher_topk_id_BTK": lambda c: c.teacher_topk[1],
    "teacher_topk_logprob_BTK": lambda c: c.teacher_topk[0],
    "teacher_logprob_on_student_topk_BTK": lambda c: c.teacher_logprob_on_student_topk_NK,
    "student_logprob_on_teacher_topk_BTK": lambda c: c.student_logprob_NV.gather(
        -1, c.teacher_topk[1]
    ),
    "teacher_mass_on_student_topk_BT": lambda c: c.teacher_logprob_on_student_topk_NK.exp().sum(-1),
    "student_mass_on_student_topk_BT": lambda c: c.student_topk[0].exp().sum(-1),
}

SIGNAL_NAMES: tuple[str, ...] = tuple(_FORMULAS)
"""The signals of the two models' logits that a selector may declare in `needs`."""

EXTRA_SIGNALS: tuple[str, ...] = (
    "reference_logprob_BT",
    "counterfactual_logprob_BT",
    "gain_BT",
    "reward_B",
    "group_B",
)
"""Signals of other passes and of the answers, which the engine gives only when a rule asks."""

BASE_SIGNALS: tuple[str, ...] = tuple(
    field.name for field in fields(TokenSignals) if field.name not in {*_FORMULAS, *EXTRA_SIGNALS}
)
"""The fields every selector has without declaring them."""

STUDENT_ONLY = frozenset(name for name in _FORMULAS if "teacher" not in name) - {
    "reverse_kl_BT",
    "forward_kl_BT",
    "jsd_BT",
    "hellinger_BT",
    "total_variation_BT",
}
"""Signals that cost no pass of the teacher."""


def chunk_signals(
    student_logit_NV: Tensor,
    teacher_logit_NV: Tensor | None,
    token_N: Tensor,
    names: Iterable[str],
    k: int,
) -> dict[str, Tensor]:
    """The named signals of N positions: `[N]` or `[N, K]`, float32 (ids int64), detached.

    Both logits end at the shared real vocabulary. Raises ValueError for a K beyond the vocabulary.
    """
    with torch.no_grad():
        return Chunk(student_logit_NV, teacher_logit_NV, token_N, k).signals(names)


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


def signals_from_logits(
    student_logits_BTV: Tensor,
    teacher_logits_BTV: Tensor,
    token_BT: Tensor,
    mask_BT: Tensor,
    *,
    k: int = 16,
    seed: int = 0,
    step: int = 0,
    row_key_B: RowKeys | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> TokenSignals:
    """All signals from dense logits, for tests, notebooks and one's own trainer.

    student_logits_BTV, teacher_logits_BTV
                 float (B, T, V) over the same vocabulary, already shifted: `token_BT[b, t]` was
                 sampled from the distribution in `student_logits_BTV[b, t]`.
    token_BT     int64 (B, T).  mask_BT: bool (B, T), True where the student sampled the token.
    k            size of the top-K sets.
    row_key_B    one key per response; the row number when not given.
    extra        any of EXTRA_SIGNALS, (B, T) or (B,), for the rules that need them.

    Raises ValueError for shapes or dtypes that do not fit.
    """
    if student_logits_BTV.shape != teacher_logits_BTV.shape:
        raise ValueError(
            f"student and teacher logits differ in shape: {tuple(student_logits_BTV.shape)} and "
            f"{tuple(teacher_logits_BTV.shape)}; cut both to the shared vocabulary first"
        )
    if student_logits_BTV.shape[:2] != mask_BT.shape or token_BT.shape != mask_BT.shape:
        raise ValueError(
            f"logits {tuple(student_logits_BTV.shape)}, token_BT {tuple(token_BT.shape)} and "
            f"mask_BT {tuple(mask_BT.shape)} do not share (B, T)"
        )
    if mask_BT.dtype != torch.bool:
        raise ValueError(f"mask_BT: {mask_BT.dtype} is not bool")
    base = base_signals(token_BT, mask_BT, seed=seed, step=step, row_key_B=row_key_B)
    values = chunk_signals(
        student_logits_BTV[mask_BT], teacher_logits_BTV[mask_BT], token_BT[mask_BT], SIGNAL_NAMES, k
    )
    for name, value in (extra or {}).items():
        if name not in EXTRA_SIGNALS:
            raise ValueError(f"extra: {name!r} is not one of {', '.join(EXTRA_SIGNALS)}")
        expected = mask_BT.shape[: 1 if name.endswith("_B") else 2]
        if value.shape != expected:
            raise ValueError(f"extra: {name} {tuple(value.shape)} is not {tuple(expected)}")
        values[name] = value if name.endswith("_B") else value[mask_BT]
    return with_signals(base, values)
