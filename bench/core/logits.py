"""Hidden states -> logits over the shared vocabulary -> log-probabilities, a chunk at a time."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bench.core.processes import inner
from bench.core.sampling import Vocabulary


def log_softmax(logit_NV: Tensor) -> Tensor:
    """log p, float32: on CPU off by 2e-6 over 150,000 entries, torch.log_softmax by 2e-5."""
    logit_NV = logit_NV.float()
    logit_NV = logit_NV - logit_NV.amax(-1, keepdim=True).detach()
    return logit_NV - logit_NV.exp().sum(-1, keepdim=True).log()


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
