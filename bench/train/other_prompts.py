"""Models on the same responses after other prompts: changed, reworded, or another problem's."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.core.logits import head_weight, log_softmax, project
from bench.core.processes import Processes
from bench.core.randomness import hash64
from bench.core.sampling import Vocabulary
from bench.tasks.prompts import Prompt
from bench.train.hidden_states import PassSettings, chunks, hidden_states
from bench.train.rollout import Rollout

JSD_K = 64
"""Top-K size of CROP's divergences (arXiv 2608.13387); the vocabulary, where that is smaller."""
NEGATIVE_SEED = 42
"""Of the prompt that stands for another problem (arXiv 2605.11613)."""


def after(rollout: Rollout, prompt_tokens: Sequence[Sequence[int]]) -> Rollout:
    """The same responses, each after other prompt tokens."""
    device = rollout.sequence_BL.device
    rows = []
    for row, tokens in enumerate(prompt_tokens):
        start = int(rollout.prompt_length_B[row])
        response = rollout.sequence_BL[row, start : start + rollout.length_B[row]]
        rows.append(torch.cat([torch.tensor(tokens, device=device), response]))
    return replace(
        rollout,
        sequence_BL=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        prompt_length_B=torch.tensor([len(tokens) for tokens in prompt_tokens], device=device),
    )


def negatives(prompts: Iterable[Prompt]) -> dict[str, Prompt]:
    """prompt id -> another prompt of the batch, whatever the order. Raises BenchError for one.

    Source: arXiv 2605.11613 (one negative of another group).
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    if len(by_id) < 2:
        raise BenchError(
            "prompts_per_step: 1 is not accepted with a rule that compares with another prompt of "
            "the batch: 2 or more"
        )
    found = {}
    for name in by_id:
        others = [other for other in by_id if other != name]
        chosen = min(others, key=lambda other: hash64(NEGATIVE_SEED, "negative", name, other))
        found[name] = by_id[chosen]
    return found


def topk_jsd(one_NV: Tensor, other_NV: Tensor, k: int = JSD_K) -> Tensor:
    """JSD_K in nats, float32 (N,), of two sets of log-probabilities.

    Over the union of both top-K lists and one residual bucket; an id outside a side's own top K
    counts 0 on that side. Source: arXiv 2608.13387.
    """
    sides = []
    for logprob_NV in (one_NV, other_NV):
        best = logprob_NV.topk(min(k, logprob_NV.shape[-1]), -1)
        probability_NK = best.values.double().exp()
        rest_N1 = (1 - probability_NK.sum(-1, keepdim=True)).clamp(min=0)
        spread_NV = torch.zeros(logprob_NV.shape, dtype=torch.float64, device=logprob_NV.device)
        spread_NV.scatter_(-1, best.indices, probability_NK)
        sides.append(torch.cat([spread_NV, rest_N1], -1))
    one, other = sides
    mean = ((one + other) / 2).clamp(min=torch.finfo(torch.float64).tiny)
    one_N, other_N = (torch.special.xlogy(side, side / mean).sum(-1) for side in sides)
    return ((one_N + other_N) / 2).clamp(min=0).float()


def prompt_jsd(
    model: nn.Module,
    rollout: Rollout,
    prompt_tokens: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    settings: PassSettings,
    processes: Processes,
    hidden_ND: Tensor | None = None,
) -> Tensor:
    """JSD_64 of a model after each response's own prompt and after another; float32 (N,).

    hidden_ND    the model's hidden states after the own prompts, where they are known.
    """
    mask_BT, head_VD = rollout.mask_BT, head_weight(model)
    with torch.no_grad():
        if hidden_ND is None:
            hidden_ND = hidden_states(model, rollout, mask_BT, settings, processes)
        moved = after(rollout, prompt_tokens)
        other_ND = hidden_states(model, moved, mask_BT, settings, processes)
        # Each position holds several vectors in float64 over the vocabulary.
        size = max(1, settings.positions(vocabulary.size) // 8)
        pieces = [
            topk_jsd(
                log_softmax(project(hidden_ND[piece], head_VD, vocabulary)),
                log_softmax(project(other_ND[piece], head_VD, vocabulary)),
            )
            for piece in chunks(int(mask_BT.sum()), size)
        ]
    return torch.cat(pieces)


def logprob_on_topk(
    model: nn.Module,
    student: nn.Module,
    rollout: Rollout,
    k: int,
    vocabulary: Vocabulary,
    settings: PassSettings,
    processes: Processes,
    student_hidden_ND: Tensor | None = None,
) -> Tensor:
    """A model's log-probabilities of the student's top-K ids, float32 (N, K)."""
    mask_BT = rollout.mask_BT
    with torch.no_grad():
        if student_hidden_ND is None:
            student_hidden_ND = hidden_states(student, rollout, mask_BT, settings, processes)
        hidden_ND = hidden_states(model, rollout, mask_BT, settings, processes)
        pieces = []
        for piece in chunks(int(mask_BT.sum()), settings.positions(vocabulary.size)):
            own_NV = project(student_hidden_ND[piece], head_weight(student), vocabulary)
            id_NK = log_softmax(own_NV).topk(k, -1).indices
            logit_NV = project(hidden_ND[piece], head_weight(model), vocabulary)
            pieces.append(log_softmax(logit_NV).gather(-1, id_NK))
    return torch.cat(pieces)
