"""Signals of tokens whose distributions are written out."""

import torch

from bench import signals_from_logits

P = [0.5, 0.3, 0.15, 0.05]
Q = [0.1, 0.2, 0.3, 0.4]


def signals_of_probabilities(p, q, token, k):
    """One response whose tokens have these distributions."""
    logits = [torch.tensor(x, dtype=torch.float64).log()[None] for x in (p, q)]
    token_BT = torch.tensor([token])
    return signals_from_logits(*logits, token_BT, torch.ones_like(token_BT) > 0, k=k)
