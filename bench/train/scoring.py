"""The scoring pass: signals of every sampled token, without gradient, in chunks of positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.core.clock import now
from bench.core.logits import head_weight, log_softmax, project, workspace
from bench.core.processes import ALONE, Processes
from bench.core.sampling import Vocabulary
from bench.selection.formulas import chunk_signals
from bench.selection.signals import STUDENT_ONLY
from bench.train.hidden_states import PassSettings, chunks, hidden_states
from bench.train.objectives import row_blocks
from bench.train.rollout import Rollout


@dataclass(frozen=True)
class Scored:
    """What the scoring pass found for the N masked tokens, in row-major order."""

    values: dict[str, Tensor]
    student_hidden_ND: Tensor | None
    teacher_hidden_ND: Tensor | None
    """The last hidden states, of the models that a signal needed."""
    seconds: dict[str, float]


def score_rollout(
    student: nn.Module,
    teacher: nn.Module,
    rollout: Rollout,
    vocabulary: Vocabulary,
    names: Sequence[str],
    k: int,
    settings: PassSettings,
    student_hidden_ND: Tensor | None = None,
    processes: Processes = ALONE,
    teacher_hidden_ND: Tensor | None = None,
) -> Scored:
    """The named signals of every sampled token. Runs only the models that the names call for, and
    a backbone only where its hidden states are not given.
    """
    if not names:
        return Scored({}, None, None, {"score": 0.0, "teacher": 0.0})
    mask_BT, student_ND, teacher_ND, teacher_head = rollout.mask_BT, student_hidden_ND, None, None
    if any(name not in STUDENT_ONLY for name in names):
        teacher_ND = teacher_hidden_ND
    with torch.no_grad():
        start = now(mask_BT.device)
        if teacher_ND is None and any(name not in STUDENT_ONLY for name in names):
            teacher_ND = hidden_states(teacher, rollout, mask_BT, settings, processes)
        middle = now(mask_BT.device)
        if student_ND is None:
            student_ND = hidden_states(student, rollout, mask_BT, settings, processes)
        student_head = _Head(student, student_ND, vocabulary, settings)
        if teacher_ND is not None:
            teacher_head = _Head(teacher, teacher_ND, vocabulary, settings)
        values = _signals(student_head, teacher_head, rollout.token_BT[mask_BT], names, k)
    seconds = {"teacher": middle - start, "score": now(mask_BT.device) - middle}
    return Scored(values, student_ND, teacher_ND, seconds)


class _Head:
    """A model's logits from its hidden states, written into one workspace again and again."""

    def __init__(
        self, model: nn.Module, hidden_ND: Tensor, vocabulary: Vocabulary, settings: PassSettings
    ):
        self.hidden_ND, self.vocabulary = hidden_ND, vocabulary
        self.chunk = settings.positions(vocabulary.size)
        self.weight_VD = head_weight(model)
        self.space = workspace(hidden_ND, self.weight_VD, self.chunk)

    def logits(self, piece: slice) -> Tensor:
        """Of a chunk of positions, (N, V); true until the next are asked for."""
        return project(self.hidden_ND[piece], self.weight_VD, self.vocabulary, self.space)


def _signals(
    student: _Head, teacher: _Head | None, token_N: Tensor, names: Sequence[str], k: int
) -> dict[str, Tensor]:
    # Kept in place from the first piece on: small tensors that outlive large ones fragment
    # the heap, which then grows with every piece.
    values: dict[str, Tensor] = {}
    for piece in chunks(token_N.numel(), student.chunk):
        student_NV = student.logits(piece)
        teacher_NV = None if teacher is None else teacher.logits(piece)
        for rows in row_blocks(student_NV):
            found = chunk_signals(
                student_NV[rows], None if teacher_NV is None else teacher_NV[rows],
                token_N[piece][rows], names, k,
            )  # fmt: skip
            for name, value_N in found.items():
                if name not in values:
                    values[name] = value_N.new_empty((token_N.numel(), *value_N.shape[1:]))
                values[name][piece][rows] = value_N
    return values


def sampled_logprob(
    model: nn.Module,
    rollout: Rollout,
    vocabulary: Vocabulary,
    settings: PassSettings,
    processes: Processes = ALONE,
    temperature: float = 1.0,
) -> Tensor:
    """log-probability of each sampled token under one model, float32 (N,), row-major."""
    with torch.no_grad():
        hidden_ND = hidden_states(model, rollout, rollout.mask_BT, settings, processes)
        token_N1 = rollout.token_BT[rollout.mask_BT][:, None]
        head_VD = head_weight(model)
        pieces = [
            log_softmax(project(hidden_ND[piece], head_VD, vocabulary).float() / temperature)
            .gather(-1, token_N1[piece])[:, 0]
            for piece in chunks(token_N1.shape[0], settings.positions(vocabulary.size))
        ]  # fmt: skip
    return torch.cat(pieces)
