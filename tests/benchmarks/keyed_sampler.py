"""Keyed sampling inside transformers' own `generate`: what the decoding loop is compared with."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from bench.core.sampling import Vocabulary, sample_tokens


class KeyedSampler(LogitsProcessor):
    """`sample_tokens` inside `generate`: leaves only the sampled token possible, so
    that `generate` picks it greedily, and records its log-probability.
    """

    def __init__(
        self, uniform_BT: Tensor, vocabulary: Vocabulary, temperature: float, top_p: float = 1.0
    ):
        self.uniform_BT = uniform_BT
        self.vocabulary = vocabulary
        self.temperature = temperature
        self.top_p = top_p
        self.logprob_TB: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token_B, logprob_B = sample_tokens(
            scores, self.uniform_BT[:, len(self.logprob_TB)], self.vocabulary, self.temperature,
            self.top_p,
        )  # fmt: skip
        self.logprob_TB.append(logprob_B)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_B[:, None], 0.0)
