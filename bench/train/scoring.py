"""The scoring pass: signals of every sampled token, without gradient, in chunks of positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

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
) -> Scored:
    """The named signals of every sampled token. Runs only the models that the names call for, and
    the student's backbone only where its hidden states are not given.
    """
    needs_teacher = any(name not in STUDENT_ONLY for name in names)
    seconds = {"score": 0.0, "teacher": 0.0}
    if not names:
        return Scored({}, None, None, seconds)
    with torch.no_grad():
        start = perf_counter()
        teacher_ND = (
            hidden_states(teacher, rollout, rollout.mask_BT, settings, processes)
            if needs_teacher
            else None
        )
        middle = perf_counter()
        student_ND = student_hidden_ND
        if student_ND is None:
            student_ND = hidden_states(student, rollout, rollout.mask_BT, settings, processes)
        token_N = rollout.token_BT[rollout.mask_BT]
        # Kept in place from the first piece on: small tensors that outlive large ones fragment
        # the heap, which then grows with every piece.
        values: dict[str, Tensor] = {}
        chunk = settings.positions(vocabulary.size)
        student_head_VD = head_weight(student)
        student_space = workspace(student_ND, student_head_VD, chunk)
        teacher_head_VD = teacher_space = None
        if teacher_ND is not None:
            teacher_head_VD = head_weight(teacher)
            teacher_space = workspace(teacher_ND, teacher_head_VD, chunk)
        for piece in chunks(token_N.numel(), chunk):
            student_NV = project(student_ND[piece], student_head_VD, vocabulary, student_space)
            teacher_NV = None
            if teacher_ND is not None and teacher_head_VD is not None:
                teacher_NV = project(teacher_ND[piece], teacher_head_VD, vocabulary, teacher_space)
            for rows in row_blocks(student_NV):
                found = chunk_signals(
                    student_NV[rows], None if teacher_NV is None else teacher_NV[rows],
                    token_N[piece][rows], names, k,
                )  # fmt: skip
                for name, value_N in found.items():
                    if name not in values:
                        values[name] = value_N.new_empty((token_N.numel(), *value_N.shape[1:]))
                    values[name][piece][rows] = value_N
    seconds = {"teacher": middle - start, "score": perf_counter() - middle}
    return Scored(values, student_ND, teacher_ND, seconds)


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
