"""How each signal is computed from two chunks of logits.

p is the student's next-token distribution, q the teacher's, y the sampled token, K the top-K size.
Everything is float32, without gradient, in nats, and computed position by position: a chunk of N
positions gives `[N]` or `[N, K]` statistics, so no (B, T, V) tensor is ever needed.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from bench.core.logits import log_softmax
from bench.core.randomness import RowKeys
from bench.selection.signals import (
    EXTRA_SIGNALS,
    SIGNAL_NAMES,
    TokenSignals,
    base_signals,
    with_signals,
)


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
            return {name: FORMULAS[name](self) for name in names}

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

    def entropy_slope_N(self) -> Tensor:
        entropy_N1 = -_dot(self.student_NV, self.student_logprob_NV)[:, None]
        return _dot(self.student_NV.square(), self.student_logprob_NV + entropy_N1)


def _dot(x_NV: Tensor, y_NV: Tensor) -> Tensor:
    return torch.linalg.vecdot(x_NV, y_NV)


FORMULAS: dict[str, Callable[[Chunk], Tensor]] = {
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
    "student_entropy_slope_BT": Chunk.entropy_slope_N,
    "mean_probability_gap_BT": lambda c: _dot(c.student_NV, c.teacher_NV - c.student_NV),
}
"""signal -> its value at each of N positions."""


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
    extra        any of EXTRA_SIGNALS, (B, T), (B, T, K) or (B,), for the rules that need them.

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
        rows, positions = mask_BT.shape
        expected = (rows,) if name.endswith("_B") else (rows, positions)
        if name.endswith("_BTK"):
            expected = (rows, positions, k)
        if value.shape != expected:
            raise ValueError(f"extra: {name} {tuple(value.shape)} is not {expected}")
        values[name] = value if name.endswith("_B") else value[mask_BT]
    return with_signals(base, values)
