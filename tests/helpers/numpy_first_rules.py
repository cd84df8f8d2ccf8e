"""The first rules and the teachability family by methods.md's formulas, in float64 NumPy."""

import numpy as np
from batch_signals import K
from numpy_rules import Distributions, kl, norm_mm, norm_q, rank, soft_or


class Tokens(Distributions):
    """What the formulas of methods.md are written in, over the N sampled tokens."""

    def __init__(self, batch, k: int = K):
        super().__init__(batch.log_p, batch.log_q, batch.token)
        self.mask, self.k = batch.mask, k
        self.top = np.argsort(-self.log_p, -1)[:, :k]
        log_q_S = np.take_along_axis(self.log_q, self.top, -1)
        log_p_S = np.take_along_axis(self.log_p, self.top, -1)
        self.mass = np.exp(log_q_S).sum(-1)
        self.conditional = kl(
            log_q_S - np.log(np.exp(log_q_S).sum(-1, keepdims=True)),
            log_p_S - np.log(np.exp(log_p_S).sum(-1, keepdims=True)),
        )

    @property
    def position(self) -> np.ndarray:
        return np.broadcast_to(np.arange(self.mask.shape[1]), self.mask.shape)[self.mask]

    @property
    def from_the_end(self) -> np.ndarray:
        end = np.where(self.mask, np.arange(self.mask.shape[1]), -1).max(1, keepdims=True)
        return (end - np.arange(self.mask.shape[1]))[self.mask]

    def released(self, floor: float = 1e-12) -> np.ndarray:
        """D̂·Ĉ of two top-K lists, token by token, id by id."""
        divergence, overlap = [], []
        for log_p, log_q in zip(self.log_p, self.log_q, strict=True):
            student = set(np.argsort(-log_p)[: self.k].tolist())
            teacher = set(np.argsort(-log_q)[: self.k].tolist())
            union = sorted(student | teacher)
            p = np.array([np.exp(log_p[v]) if v in student else 0 for v in union])
            q = np.array([np.exp(log_q[v]) if v in teacher else 0 for v in union])
            p, q = np.maximum(p / p.sum(), floor), np.maximum(q / q.sum(), floor)
            divergence.append((q * np.log(q / p)).sum())
            overlap.append(sum(np.exp(log_q[v]) for v in student & teacher))
        return norm_q(np.array(divergence)) * norm_q(np.array(overlap))


EXPECTED = {
    "full": lambda x: np.ones_like(x.forward),
    "first": lambda x: -x.position.astype(float),
    "last": lambda x: -x.from_the_end.astype(float),
    "entropy": lambda x: x.h_s,
    "teacher_entropy": lambda x: x.h_t,
    "forward_kl": lambda x: x.forward,
    "reverse_kl": lambda x: x.reverse,
    "jsd": lambda x: x.jsd(),
    "abs_gap": lambda x: np.abs(x.gap),
    "low_student_logprob": lambda x: -x.log_p_y,
    "teachability": lambda x: norm_q(x.forward) * norm_q(x.mass),
    "teachability_released": lambda x: x.released(),
    "teachability_conditional": lambda x: norm_q(x.conditional) * norm_q(x.mass),
    "teachability_rank": lambda x: rank(x.forward) * rank(x.mass),
    "teachability_raw": lambda x: x.forward * x.mass,
    "teachability_split": lambda x: x.mass * x.conditional,
    "compatibility": lambda x: x.mass,
    "incompatible": lambda x: norm_q(x.forward) * (1 - norm_q(x.mass)),
    "tip": lambda x: soft_or(norm_mm(x.h_s), norm_mm(x.reverse)),
    "teachability_entropy": lambda x: soft_or(norm_q(x.h_s), norm_q(x.forward * x.mass)),
}
