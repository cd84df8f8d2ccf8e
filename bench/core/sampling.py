"""The ids that both models share, and how one of them is drawn at a keyed uniform number."""

from dataclasses import dataclass

import torch
from torch import Tensor

EXCLUDED_LOGIT = -1e4
"""Logit of an id that left the vocabulary: probability exactly 0 in float32, yet 0 · log 0 = 0."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids that both models share: the first `size`, without `excluded_ids`.

    Padded rows of an embedding (Qwen2.5 up to 3B has 151,936 logits, 7B and larger 152,064, the
    tokenizer fewer ids) and added tokens that differ leave both vocabularies before the softmax.
    """

    size: int
    excluded_ids: tuple[int, ...] = ()
    stop_class: tuple[int, ...] = ()
    """Stop tokens that count as one: the first stands for all, with the sum of their probabilities.
    Source: arXiv 2609.20511."""

    def cut(self, logit_NV: Tensor) -> Tensor:
        """Logits over this vocabulary, (N, size)."""
        logit_NV = logit_NV[..., : self.size]
        if self.excluded_ids:
            excluded = torch.tensor(self.excluded_ids, device=logit_NV.device)
            logit_NV = logit_NV.index_fill(-1, excluded, EXCLUDED_LOGIT)
        if self.stop_class:
            stops = torch.tensor(self.stop_class, device=logit_NV.device)
            whole_N1 = logit_NV.index_select(-1, stops).logsumexp(-1, keepdim=True)
            logit_NV = logit_NV.index_fill(-1, stops[1:], EXCLUDED_LOGIT)
            logit_NV = logit_NV.index_copy(-1, stops[:1], whole_N1.to(logit_NV.dtype))
        return logit_NV

    def standing_for(self, token_N: Tensor) -> Tensor:
        """The ids that these tokens have here: the first stop of the class for every one of it."""
        if not self.stop_class:
            return token_N
        stops = torch.tensor(self.stop_class, device=token_N.device)
        return torch.where(torch.isin(token_N, stops), stops[0], token_N)


def sample_tokens(
    logit_BV: Tensor,
    uniform_B: Tensor,
    vocabulary: Vocabulary,
    temperature: float,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(token_B, logprob_B): the distribution function inverted at one uniform number per row.

    Ids outside the shared vocabulary are never sampled. `top_p` below 1 is for evaluation alone: a
    rollout samples from the whole distribution.
    """
    logprob_BV = torch.log_softmax(vocabulary.cut(logit_BV).float() / temperature, -1)
    # Float64: over 150,000 entries a float32 sum would be off by more than rare tokens weigh.
    probability_BV = logprob_BV.double().exp()
    if top_p < 1:
        probability_BV = nucleus(probability_BV, top_p)
    cumulative_BV = probability_BV.cumsum(-1)
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    token_B1 = token_B1.clamp(max=vocabulary.size - 1)
    return token_B1[:, 0], logprob_BV.gather(-1, token_B1)[:, 0]


def nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    """Zero outside the fewest likeliest tokens whose mass reaches `top_p`; not renormalised.

    Equal probabilities at the cut: the smaller id stays. Source: arXiv 1904.09751.
    """
    sorted_BV, order_BV = torch.sort(probability_BV, dim=-1, descending=True, stable=True)
    mass_before_BV = sorted_BV.cumsum(-1) - sorted_BV
    outside_BV = torch.zeros_like(order_BV, dtype=torch.bool)
    outside_BV.scatter_(-1, order_BV, mass_before_BV >= top_p)
    return probability_BV.masked_fill(outside_BV, 0.0)
