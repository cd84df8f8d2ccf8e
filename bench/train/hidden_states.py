"""The backbone over a rollout, in micro-batches of responses: hidden states of wanted tokens.

Position t of a response is predicted at index `prompt_length + t - 1` of its sequence; padding is
on the right, where causal attention never looks.

With several processes, a rollout here is this process's own rows, and every process runs the same
number of forward passes: those that have fewer micro-batches run one token for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.core.processes import ALONE, Processes, inner, run
from bench.train.rollout import Rollout


def micro_batches(length_M: Sequence[int], rows: int, tokens: int | None = None) -> Iterator[slice]:
    """Runs of at most `rows` neighbours that, padded to their longest, hold at most `tokens`.

    Without `tokens`, only rows count. A response that alone exceeds `tokens` is a run by itself:
    nothing is left out. Sorted by length, long responses pass few at a time, short ones many.
    """
    start, longest = 0, 0
    for row, length in enumerate(length_M):
        longest = max(longest, length)
        count = row - start
        if count and (count == rows or (tokens is not None and longest * (count + 1) > tokens)):
            yield slice(start, row)
            start, longest = row, length
    if length_M:
        yield slice(start, len(length_M))


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
    batches = batches_of(wanted_BT, rollout.prompt_length_B, settings, processes)
    for rows_M, batch_N in batches:
        found = run(model, partial(backbone, rollout=rollout, rows_M=rows_M, wanted_BT=wanted_BT))
        if not hidden_ND.numel():
            hidden_ND = found.new_empty(count, width)
        hidden_ND[batch_N] = found
    return hidden_ND


def batches_of(
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


def backbone(model: PreTrainedModel, rollout: Rollout, rows_M: Tensor, wanted_BT: Tensor) -> Tensor:
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


def chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, max(1, count), size):
        yield slice(start, start + size)
