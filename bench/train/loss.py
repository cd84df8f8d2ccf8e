"""The passes over a rollout: scoring without gradient, the loss over a fixed selection, and what
the shadow panel reads besides.

Neither holds a (B, T, V) tensor: the backbone runs on micro-batches of responses, the head on
chunks of positions. Position t of a response is predicted at index `prompt_length + t - 1` of its
sequence; padding is on the right, where causal attention never looks.

With several processes, a rollout here is this process's own rows, and every process runs the same
number of forward passes: those that have fewer micro-batches run one token for nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from bench.core.processes import ALONE, Processes, inner, run
from bench.pairs.models import Vocabulary
from bench.selection.formulas import STUDENT_ONLY, Chunk, chunk_signals, log_softmax
from bench.train.hidden_states import micro_batches
from bench.train.logit_gradients import logit_gradient_norm
from bench.train.objectives import row_blocks, token_loss
from bench.train.rollout import Rollout


@dataclass(frozen=True)
class PassSettings:
    """How large the pieces are. Changes memory and speed, never a result."""

    micro_batch: int
    """Responses per backbone pass."""
    logit_chunk: int
    """Logits (positions x vocabulary) held at once."""
    micro_batch_tokens: int | None = None
    """Tokens per backbone pass, padding among them."""

    def positions(self, vocabulary: int) -> int:
        return max(1, self.logit_chunk // vocabulary)


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
        for piece in _chunks(token_N.numel(), chunk):
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
            for piece in _chunks(token_N1.shape[0], settings.positions(vocabulary.size))
        ]  # fmt: skip
    return torch.cat(pieces)


@dataclass(frozen=True)
class LossInputs:
    """A fixed selection and its scale: the loss is Σ scale · token loss over the global batch.

    scale_BT is of the rollout's own rows, its denominator of the whole batch."""

    objective: str
    objective_params: Mapping[str, float]
    scale_BT: Tensor
    teacher_hidden_ND: Tensor | None
    keeps_hidden: bool = False
    """Give the hidden states back, where the selection is every token under the mask."""


@dataclass(frozen=True)
class LossOutputs:
    """What the loss pass found."""

    loss: float
    """Of this process's rows."""
    scored: int
    """Positions that the teacher ran on."""
    student_hidden_ND: Tensor | None
    teacher_hidden_ND: Tensor | None
    """The last hidden states of the N masked tokens; None unless asked for and all selected."""


def accumulate_loss(
    student: nn.Module,
    teacher: nn.Module,
    rollout: Rollout,
    vocabulary: Vocabulary,
    inputs: LossInputs,
    settings: PassSettings,
    backward: Callable[[Tensor], None],
    processes: Processes = ALONE,
) -> LossOutputs:
    """Back-propagates the loss in micro-batches; every process gets the whole batch's gradient.

    Responses with nothing selected are skipped, and so is the tail after the last selected token.
    """
    # NaN-proof: a weight of 0 skips the token, it does not multiply it.
    active_BT = inputs.scale_BT > 0
    scale_N, token_N = inputs.scale_BT[active_BT], rollout.token_BT[active_BT]
    teacher_ND, scored = inputs.teacher_hidden_ND, 0
    if teacher_ND is not None:
        teacher_ND = teacher_ND[active_BT[rollout.mask_BT]]
    else:
        with torch.no_grad():
            teacher_ND = hidden_states(teacher, rollout, active_BT, settings, processes)
        scored = token_N.numel()
    # Every process keeps them or none does: the panel then runs the same passes on all.
    keeps_hidden = inputs.keeps_hidden and not processes.any(
        token_N.numel() != int(rollout.mask_BT.sum())
    )
    student_ND = teacher_ND.new_empty(0, inner(student).config.hidden_size)
    chunk = settings.positions(vocabulary.size)
    total = 0.0

    teacher_head_VD = head_weight(teacher)

    def loss_of(model: PreTrainedModel, rows_M: Tensor, batch_N: Tensor) -> tuple[Tensor, Tensor]:
        hidden_ND = _backbone(model, rollout, rows_M, active_BT)
        loss = ChunkedLoss.apply(
            hidden_ND,
            head_weight(model)[: vocabulary.size],
            lambda student_NV, piece: (
                scale_N[batch_N][piece]
                * token_loss(
                    inputs.objective,
                    vocabulary.cut(student_NV),
                    project(teacher_ND[batch_N][piece], teacher_head_VD, vocabulary),
                    token_N[batch_N][piece],
                    inputs.objective_params,
                )
            ),
            chunk,
        )
        return loss, hidden_ND.detach()

    batches = _micro_batches(active_BT, rollout.prompt_length_B, settings, processes)
    for number, (rows_M, batch_N) in enumerate(batches):
        # DDP decides in the forward pass whether the backward pass exchanges gradients.
        with processes.accumulating(student, number + 1 == len(batches)):
            loss, hidden_ND = run(student, partial(loss_of, rows_M=rows_M, batch_N=batch_N))
            if keeps_hidden:
                if not student_ND.numel():
                    student_ND = hidden_ND.new_empty(token_N.numel(), hidden_ND.shape[-1])
                student_ND[batch_N] = hidden_ND
            total += float(loss.detach())
            # DDP and FSDP take the mean over processes; the loss is a sum over them.
            backward(loss if processes.size == 1 else loss * processes.size)
    known = (student_ND, teacher_ND) if keeps_hidden else (None, None)
    return LossOutputs(total, scored, *known)


OBSERVED_CHUNK = 524_288
"""Logits (positions x vocabulary) at once in `observe_rollout`: small pieces stay in the cache."""
OBSERVED_POSITIONS = 256
"""Yet at least this many positions: the heads of large vocabularies want long matrices."""


def observe_rollout(
    student: nn.Module,
    teacher: nn.Module,
    rollout: Rollout,
    vocabulary: Vocabulary,
    names: Sequence[str],
    k: int,
    settings: PassSettings,
    *,
    objective: str,
    objective_params: Mapping[str, float],
    student_hidden_ND: Tensor | None = None,
    teacher_hidden_ND: Tensor | None = None,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """The named signals of every token under the mask, and `logit_gradient_norm`, for logging.

    Runs a backbone only where its hidden states are not given. Without gradient.
    """
    token_N = rollout.token_BT[rollout.mask_BT]
    positions = max(OBSERVED_POSITIONS, OBSERVED_CHUNK // vocabulary.size)
    pieces: list[dict[str, Tensor]] = []
    with torch.no_grad():
        if student_hidden_ND is None:
            student_hidden_ND = hidden_states(
                student, rollout, rollout.mask_BT, settings, processes
            )
        if teacher_hidden_ND is None:
            teacher_hidden_ND = hidden_states(
                teacher, rollout, rollout.mask_BT, settings, processes
            )
        student_head_VD, teacher_head_VD = head_weight(student), head_weight(teacher)
        for piece in _chunks(token_N.numel(), min(positions, settings.positions(vocabulary.size))):
            chunk = Chunk(
                project(student_hidden_ND[piece], student_head_VD, vocabulary),
                project(teacher_hidden_ND[piece], teacher_head_VD, vocabulary),
                token_N[piece],
                k,
            )
            found = chunk.signals(names)
            found["logit_gradient_norm"] = logit_gradient_norm(chunk, objective, objective_params)
            pieces.append(found)
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def head_logits(model: nn.Module, hidden_ND: Tensor, vocabulary: Vocabulary) -> Tensor:
    """logits over the shared vocabulary, (N, V); only its rows of the head are multiplied."""
    return project(hidden_ND, head_weight(model), vocabulary)


def project(
    hidden_ND: Tensor, weight_VD: Tensor, vocabulary: Vocabulary, space: Tensor | None = None
) -> Tensor:
    """`head_logits` of a head that may have outlived its model.

    They are written into `space`, if there is one, and last until it is written again.
    """
    return vocabulary.cut(product(hidden_ND, weight_VD[: vocabulary.size], space))


def product(hidden_ND: Tensor, weight_VD: Tensor, space: Tensor | None) -> Tensor:
    """hidden · weightᵀ, (N, V); in `space` if there is one, which has no derivative."""
    if space is None:
        return torch.nn.functional.linear(hidden_ND, weight_VD)
    rows, width = hidden_ND.shape[0], weight_VD.shape[0]
    return torch.mm(hidden_ND, weight_VD.T, out=space[: rows * width].view(rows, width))


def workspace(hidden_ND: Tensor, weight_VD: Tensor, chunk: int) -> Tensor | None:
    """Room for the logits of a chunk of positions, to be written again and again.

    A large new tensor costs a CPU a page fault every 4 KiB, more than most of what is done with it.
    None under autocast, which gives the product a type of its own.
    """
    if torch.is_autocast_enabled(hidden_ND.device.type):
        return None
    return hidden_ND.new_empty(min(chunk, hidden_ND.shape[0]) * weight_VD.shape[0])


def head_weight(model: nn.Module) -> Tensor:
    """weight_VD of the output layer (the embedding itself where they are tied), whole."""
    weight_VD = inner(model).get_output_embeddings().weight
    return weight_VD.full_tensor() if isinstance(weight_VD, DTensor) else weight_VD


def hidden_states(
    model: nn.Module,
    rollout: Rollout,
    wanted_BT: Tensor,
    settings: PassSettings,
    processes: Processes = ALONE,
) -> Tensor:
    """hidden_ND that predicts the wanted tokens, in row-major order, without gradient."""
    width = inner(model).config.hidden_size
    count = int(wanted_BT.sum())
    hidden_ND = torch.empty(0, width, device=wanted_BT.device)
    batches = _micro_batches(wanted_BT, rollout.prompt_length_B, settings, processes)
    for rows_M, batch_N in batches:
        found = run(model, partial(_backbone, rollout=rollout, rows_M=rows_M, wanted_BT=wanted_BT))
        if not hidden_ND.numel():
            hidden_ND = found.new_empty(count, width)
        hidden_ND[batch_N] = found
    return hidden_ND


def _micro_batches(
    wanted_BT: Tensor, prompt_length_B: Tensor, settings: PassSettings, processes: Processes
) -> list[tuple[Tensor, Tensor]]:
    """(rows, places of their wanted tokens among all wanted ones); rows of like length together.

    As many as the process with the most has; a surplus one is empty.
    """
    count_B = wanted_BT.sum(1)
    end_B = (wanted_BT * torch.arange(1, wanted_BT.shape[1] + 1, device=wanted_BT.device)).amax(1)
    length_B = prompt_length_B + end_B - 1
    order_B = torch.argsort(length_B, descending=True, stable=True)
    order_B = order_B[count_B[order_B] > 0]
    first_B = count_B.cumsum(0) - count_B
    batches = []
    lengths = length_B[order_B].tolist()
    for piece in micro_batches(lengths, settings.micro_batch, settings.micro_batch_tokens):
        rows_M = order_B[piece]
        places = [torch.arange(int(first_B[r]), int(first_B[r] + count_B[r])) for r in rows_M]
        batches.append((rows_M, torch.cat(places).to(wanted_BT.device)))
    surplus = processes.most(len(batches)) - len(batches)
    return batches + [(order_B[:0], order_B[:0])] * surplus


def _backbone(
    model: PreTrainedModel, rollout: Rollout, rows_M: Tensor, wanted_BT: Tensor
) -> Tensor:
    """hidden_ND at the indices that predict the rows' wanted tokens, row after row.

    Without rows, the model still runs, on one token, and the result depends on all its parameters.
    """
    if not rows_M.numel():
        output = model.base_model(input_ids=rollout.sequence_BL[:1, :1], use_cache=False)
        return output.last_hidden_state[0, :0]
    row_N, position_N = wanted_BT[rows_M].nonzero(as_tuple=True)
    index_N = rollout.prompt_length_B[rows_M][row_N] + position_N - 1
    length = int(index_N.max()) + 1
    output = model.base_model(
        input_ids=rollout.sequence_BL[rows_M, :length], attention_mask=None, use_cache=False
    )
    return output.last_hidden_state[row_N, index_N]


def _chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, max(1, count), size):
        yield slice(start, start + size)


class ChunkedLoss(torch.autograd.Function):
    """Σ loss over positions, with the head's logits held for one chunk at a time.

    The gradient of each chunk is taken during the forward pass, so that memory is that of one chunk
    and of the gradients themselves, and the backward pass only scales them.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, loss_of, chunk):  # type: ignore[override]
        """loss_of(logit_NV, piece) -> loss_N of a chunk; returns their sum, float32."""
        total = torch.zeros((), device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        weight = weight_VD.detach()
        space = workspace(hidden_ND, weight, chunk)
        for piece in _chunks(hidden_ND.shape[0], chunk):
            hidden = hidden_ND[piece].detach()
            with torch.enable_grad():
                logit_NV = product(hidden, weight, space).requires_grad_()
                loss = loss_of(logit_NV, piece).sum()
            (grad_NV,) = torch.autograd.grad(loss, (logit_NV,))
            grad_hidden_ND[piece] = grad_NV @ weight
            if grad_weight_VD is not None and space is not None:
                grad_weight_VD.addmm_(grad_NV.T, hidden)
            elif grad_weight_VD is not None:
                grad_weight_VD += grad_NV.T @ hidden
            total += loss.detach()
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx, grad_total):  # type: ignore[override]
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scaled = grad_weight_VD.mul_(grad_total) if grad_weight_VD is not None else None
        return grad_hidden_ND * grad_total, scaled, None, None
