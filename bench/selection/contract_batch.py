"""The small random batch that selectors are checked on."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bench.core.logits import log_softmax
from bench.selection.formulas import signals_from_logits
from bench.selection.signals import TokenSignals

LENGTHS = (9, 4, 7, 1, 0, 6, 8, 5)
HOLE = (0, 7)
"""A position inside a response that the student did not sample (an excluded stop token)."""
VOCABULARY = 20
K = 6
SEED, STEP = 2, 5
JSDS = (
    "one_change_jsd_BT", "paraphrase_jsd_BT", "teacher_one_change_jsd_BT",
    "teacher_paraphrase_jsd_BT",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Logits of four models over one vocabulary, with garbage off the mask."""

    student_logits_BTV: Tensor
    teacher_logits_BTV: Tensor
    reference_logits_BTV: Tensor
    counterfactual_logits_BTV: Tensor
    one_change_logits_BTV: Tensor
    negative_logits_BTV: Tensor
    jsd_BT4: Tensor
    """The four of two wordings each, in the order of JSDS."""
    stop_BT: Tensor
    gain_BT: Tensor
    reward_B: Tensor
    group_B: Tensor
    token_BT: Tensor
    mask_BT: Tensor
    row_key_B: tuple[str, ...]

    def signals(self, step: int = STEP, k: int = K) -> TokenSignals:
        """Every signal that a rule may read; `k` is at most VOCABULARY."""
        token_BT1 = self.token_BT[..., None].clamp(min=0)
        return signals_from_logits(
            self.student_logits_BTV,
            self.teacher_logits_BTV,
            self.token_BT,
            self.mask_BT,
            k=k,
            seed=SEED,
            step=step,
            row_key_B=self.row_key_B,
            extra={
                "reference_logprob_BT": _picked(self.reference_logits_BTV, token_BT1),
                "counterfactual_logprob_BT": _picked(self.counterfactual_logits_BTV, token_BT1),
                "one_change_logprob_BT": _picked(self.one_change_logits_BTV, token_BT1),
                "negative_logprob_BT": _picked(self.negative_logits_BTV, token_BT1),
                "reference_logprob_on_student_topk_BTK": _on_top(
                    self.reference_logits_BTV, self.student_logits_BTV, self.mask_BT, k
                ),
                **dict(zip(JSDS, self.jsd_BT4.unbind(-1), strict=True)),
                "stop_BT": self.stop_BT,
                "gain_BT": self.gain_BT,
                "reward_B": self.reward_B,
                "group_B": self.group_B,
            },
        )

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "row_key_B"}

    def rows(self, order: list[int]) -> "Batch":
        """The same responses in another order, row keys along."""
        moved = {name: value[order] for name, value in self.tensors().items()}
        return Batch(**moved, row_key_B=tuple(self.row_key_B[row] for row in order))

    def padded(self, rows: int, positions: int) -> "Batch":
        """The same batch with that much more garbage around it."""
        wide = {}
        for name, value in self.tensors().items():
            shape = [value.shape[0] + rows, *value.shape[1:]]
            if value.ndim > 1:
                shape[1] += positions
            filler = {"mask_BT": False, "token_BT": 7, "group_B": 0}.get(name, torch.nan)
            wide[name] = torch.full(shape, filler, dtype=value.dtype)
            if value.ndim > 1:
                wide[name][: value.shape[0], : value.shape[1]] = value
            else:
                wide[name][: value.shape[0]] = value
        wide["reward_B"] = wide["reward_B"].nan_to_num(0)
        keys = (*self.row_key_B, *(f"dummy{row}" for row in range(rows)))
        return Batch(**wide, row_key_B=keys)


def _picked(logits_BTV: Tensor, token_BT1: Tensor) -> Tensor:
    return log_softmax(logits_BTV).gather(-1, token_BT1)[..., 0]


def _on_top(logits_BTV: Tensor, of_BTV: Tensor, mask_BT: Tensor, k: int) -> Tensor:
    """Log-probabilities at the K best ids of other logits, as the engine finds those."""
    best_NK = log_softmax(of_BTV[mask_BT]).topk(k, -1).indices
    found_BTK = torch.full((*mask_BT.shape, k), torch.nan)
    found_BTK[mask_BT] = log_softmax(logits_BTV[mask_BT]).gather(-1, best_NK)
    return found_BTK


def make_batch(seed: int = 8, scale: float = 4.0) -> Batch:
    """Normal logits of the given standard deviation; the teacher's are half the student's own."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))

    def normal() -> Tensor:
        return scale * torch.randn(*shape, VOCABULARY, generator=generator)

    student, others = normal(), [normal() for _ in range(3)]
    teacher, reference, counterfactual = (0.5 * student + other for other in others)
    token = torch.randint(VOCABULARY, shape, generator=generator)
    mask = torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    mask[HOLE] = False
    student[~mask] = 1e4 * torch.randn(int((~mask).sum()), VOCABULARY, generator=generator)
    teacher[~mask] = torch.nan
    gain = torch.randn(shape, generator=generator).masked_fill(~mask, torch.nan)
    one_change, negative = (0.5 * student + normal() for _ in range(2))
    jsd = torch.rand(*shape, 4, generator=generator).masked_fill(~mask[..., None], torch.nan)
    rows = range(shape[0])
    last = torch.tensor(LENGTHS)[:, None] - 1
    stop = (torch.arange(shape[1])[None] == last) & (torch.arange(shape[0])[:, None] % 4 != 1)
    return Batch(
        student,
        teacher,
        reference,
        counterfactual,
        one_change,
        negative,
        jsd,
        stop.float(),
        gain,
        reward_B=torch.tensor([float(row % 3 != 0) for row in rows]),
        group_B=torch.tensor([row // 4 for row in rows]),
        token_BT=token,
        mask_BT=mask,
        row_key_B=tuple(f"prompt{row // 4}/{row % 4}" for row in rows),
    )
