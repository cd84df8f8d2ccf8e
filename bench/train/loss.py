"""The gradient pass: the loss over a fixed selection, with one denominator for the whole batch.

It never holds a (B, T, V) tensor: the backbone runs on micro-batches of responses
(`hidden_states`), the head on chunks of positions (`ChunkedLoss`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.logits import head_weight, product, project, workspace
from bench.core.processes import ALONE, Processes, inner, run
from bench.core.sampling import Vocabulary
from bench.train.hidden_states import (
    PassSettings,
    backbone,
    batches_of,
    chunks,
    hidden_states,
)
from bench.train.objectives import needs_teacher, token_loss
from bench.train.rollout import Rollout


@dataclass(frozen=True)
class LossInputs:
    """A fixed selection and its scale: the loss is Σ scale · token loss over the global batch.

    scale_BT is of the rollout's own rows, its denominator of the whole batch."""

    objective: str
    objective_params: Mapping[str, float]
    scale_BT: Tensor
    teacher_hidden_ND: Tensor | None
    context_BT: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective reads of the whole batch, of the rollout's own rows."""
    keeps_hidden: bool = False
    """Give the hidden states back, where the selection is every token under the mask."""


@dataclass(frozen=True)
class LossOutputs:
    """What the loss pass found."""

    loss: float
    """Of the whole batch."""
    scored: int
    """Positions that the teacher ran on, on all processes."""
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
    teacher_ND, scored = inputs.teacher_hidden_ND, 0
    has_teacher = needs_teacher(inputs.objective)
    if not has_teacher:
        teacher_ND = rollout.student_logprob_BT.new_empty(0, 0)
    elif teacher_ND is not None:
        teacher_ND = teacher_ND[active_BT[rollout.mask_BT]]
    else:
        with torch.no_grad():
            teacher_ND = hidden_states(teacher, rollout, active_BT, settings, processes)
        scored = teacher_ND.shape[0]
    tokens = _Tokens(
        rollout, vocabulary, inputs, active_BT, inputs.scale_BT[active_BT],
        rollout.token_BT[active_BT], teacher_ND, head_weight(teacher) if has_teacher else None,
        {name: value_BT[active_BT] for name, value_BT in inputs.context_BT.items()},
        settings.positions(vocabulary.size),
    )  # fmt: skip
    count = tokens.token_N.numel()
    # Every process keeps them or none does: the panel then runs the same passes on all.
    keeps_hidden = inputs.keeps_hidden and not processes.any(count != int(rollout.mask_BT.sum()))
    student_ND = teacher_ND.new_empty(0, inner(student).config.hidden_size)
    total = 0.0
    batches = batches_of(active_BT, rollout.prompt_length_B, settings, processes)
    for number, (rows_M, batch_N) in enumerate(batches):
        # DDP decides in the forward pass whether the backward pass exchanges gradients.
        with processes.accumulating(student, number + 1 == len(batches)):
            loss, hidden_ND = run(student, partial(tokens.loss, rows_M=rows_M, batch_N=batch_N))
            if keeps_hidden:
                if not student_ND.numel():
                    student_ND = hidden_ND.new_empty(count, hidden_ND.shape[-1])
                student_ND[batch_N] = hidden_ND
            total += float(loss.detach())
            # DDP and FSDP take the mean over processes; the loss is a sum over them.
            backward(loss if processes.size == 1 else loss * processes.size)
    shares = processes.join_objects([(total, scored)])
    return LossOutputs(
        loss=sum(loss for loss, _ in shares),
        scored=sum(n for _, n in shares),
        student_hidden_ND=student_ND if keeps_hidden else None,
        teacher_hidden_ND=teacher_ND if keeps_hidden and has_teacher else None,
    )


@dataclass(frozen=True)
class _Tokens:
    """The N tokens that have a weight, and what their losses are computed from."""

    rollout: Rollout
    vocabulary: Vocabulary
    inputs: LossInputs
    active_BT: Tensor
    scale_N: Tensor
    token_N: Tensor
    teacher_ND: Tensor
    teacher_head_VD: Tensor | None
    """None for an objective without a teacher."""
    context_N: Mapping[str, Tensor]
    chunk: int
    """Positions whose logits are held at once."""

    def loss(
        self, model: PreTrainedModel, rows_M: Tensor, batch_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(Σ scale · loss, hidden_ND) of the responses `rows_M`, whose tokens are `batch_N`."""
        hidden_ND = backbone(model, self.rollout, rows_M, self.active_BT)
        weight_VD = head_weight(model)[: self.vocabulary.size]
        loss_of = partial(self._loss_of_chunk, batch_N)
        return ChunkedLoss.apply(hidden_ND, weight_VD, loss_of, self.chunk), hidden_ND.detach()

    def _loss_of_chunk(self, batch_N: Tensor, student_NV: Tensor, piece: slice) -> Tensor:
        teacher_NV = None
        if self.teacher_head_VD is not None:
            teacher_ND = self.teacher_ND[batch_N][piece]
            teacher_NV = project(teacher_ND, self.teacher_head_VD, self.vocabulary)
        return self.scale_N[batch_N][piece] * token_loss(
            self.inputs.objective,
            self.vocabulary.cut(student_NV),
            teacher_NV,
            self.token_N[batch_N][piece],
            self.inputs.objective_params,
            {name: value_N[batch_N][piece] for name, value_N in self.context_N.items()},
        )


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
        for piece in chunks(hidden_ND.shape[0], chunk):
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


def token_scale(weight_BT: Tensor, mask_BT: Tensor, normalize: str) -> Tensor:
    """scale_BT, float32, such that the loss of the global batch is Σ scale · loss.

    weight_BT   float >= 0, 0 off the selection; a mask is the 0/1 case. Weights count as fractions
                of a token in every denominator.
    normalize   "selected": Σ w·loss / Σ w.  "all": Σ w·loss / sampled tokens.
                "per_response": the weighted mean of each response, then the mean over the
                responses that have any weight.

    A batch with no weight has scale 0 everywhere (loss 0), never NaN.
    """
    weight_BT = torch.where(mask_BT, weight_BT.double(), 0)
    match normalize:
        case "selected":
            scale_BT = weight_BT / _positive(weight_BT.sum())
        case "all":
            scale_BT = weight_BT / _positive(mask_BT.sum().double())
        case "per_response":
            sum_B1 = weight_BT.sum(1, keepdim=True)
            responses = (sum_B1 > 0).sum().double()
            scale_BT = weight_BT / _positive(sum_B1) / _positive(responses)
        case _:
            raise ValueError(f"normalize: {normalize!r} is not one of selected, all, per_response")
    return scale_BT.float()


def _positive(x: Tensor) -> Tensor:
    """x, or 1 where there is nothing to divide by (and the numerator is 0 too)."""
    return torch.where(x > 0, x, 1.0)
