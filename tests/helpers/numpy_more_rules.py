"""More rules by methods2.md's formulas, in float64 NumPy. `x` is numpy_rules.Tokens."""

from fractions import Fraction
from math import floor, log

import numpy as np

NEVER = -np.inf


def kept(condition) -> np.ndarray:
    return np.where(condition, 1.0, NEVER)


def norm_q(x) -> np.ndarray:
    low, high = np.quantile(x, [0.05, 0.95])
    return np.clip((x - low) / (high - low), 0, 1)


def norm_mm(x) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def soft_or(a, b) -> np.ndarray:
    return a + b - a * b


def best_of_each(x, score, count_of, eligible=None) -> np.ndarray:
    """The score where it is among the best of its response, never elsewhere."""
    out = np.full(len(score), NEVER)
    for where in x.responses():
        where = where if eligible is None else where[eligible[where]]
        order = where[np.lexsort((x.uniform[where], -score[where]))]
        best = order[: count_of(len(where))]
        out[best] = score[best]
    return out


def clipped_entropy(x) -> np.ndarray:
    return np.minimum(x.h_s, np.quantile(x.h_s, 0.98))


def half_down(n) -> int:
    return floor(Fraction(n, 2))


def dial(x, share=Fraction(1, 5)) -> np.ndarray:
    change = np.abs(np.exp(x.log_q_y) - np.exp(x.log_p_y))
    return best_of_each(x, change, lambda n: max(1, round(share * n)), x.stop == 0)


def ier(x, floor_at=-12.0) -> np.ndarray:
    def one(i):
        y = x.y[i]
        ids = sorted(x.S[i] | x.T[i] | {y})
        log_p = np.array([x.log_p[i, v] if v in x.S[i] | {y} else floor_at for v in ids])
        log_q = np.array([x.log_q[i, v] if v in x.T[i] | {y} else floor_at for v in ids])
        log_p = log_p - np.log(np.exp(log_p).sum())
        log_q = log_q - np.log(np.exp(log_q).sum())
        p, r = np.exp(log_p), np.clip(log_q - log_p, -30, 30)
        L = 1 / np.maximum(p, 1e-8) - 1
        base = (p * L * r).sum() / (p * L).sum()
        variance = (p * (r - (p * r).sum()) ** 2).sum()
        return variance / max((p * (r - base) ** 2 * L).sum() - variance, 1e-8)

    return x.each(one)


def pgt(x) -> np.ndarray:
    def one(i):
        ids = sorted(x.S[i] | x.T[i])
        p, q = np.exp(x.log_p[i, ids]), np.exp(x.log_q[i, ids])
        p, q = p / p.sum(), q / q.sum()
        r = np.log(q) - np.log(p)
        return (p * r**2).sum() - (p * r).sum() ** 2

    return x.each(one)


def top_entropy(x) -> np.ndarray:
    def one(i):
        p = np.exp(x.log_p[i, sorted(x.S[i])])
        p /= p.sum()
        return -(p * np.log(p)).sum() / log(len(p))

    return x.each(one)


def reference_jsd(x) -> np.ndarray:
    def one(i):
        ids = sorted(x.S[i])
        q, r = (np.exp(log_x[i, ids]) for log_x in (x.log_q, x.log_ref))
        q, r = np.append(q, 1 - q.sum()), np.append(r, 1 - r.sum())
        m = (q + r) / 2
        return ((q * np.log(q / m)).sum() + (r * np.log(r / m)).sum()) / 2

    return x.each(one)


def opd2_parts(x) -> tuple[np.ndarray, np.ndarray]:
    """(s, d) of OPD²."""

    def centred(log_a, log_b, i):
        ids = sorted(x.S[i])
        p = np.exp(x.log_p[i, ids])
        p /= p.sum()
        ratio = log_a[i] - log_b[i]
        return ratio[x.y[i]] - (p * ratio[ids]).sum()

    return (
        x.each(lambda i: centred(x.log_q, x.log_ref, i)),
        x.each(lambda i: centred(x.log_q, x.log_p, i)),
    )


def bellman_rac(x, gamma=0.995) -> np.ndarray:
    g, a = norm_q(x.forward) * norm_q(x.mass), np.minimum(1, np.exp(x.gap))
    value = np.zeros(len(g))
    for where in x.responses():
        for place, i in enumerate(where):
            reward, mass, reached = 0.0, 0.0, 1.0
            for j in where[place:]:
                reward += reached * g[j]
                mass += reached
                reached *= gamma * a[j]
            value[i] = reward / mass
    return 0.1 + 0.9 * norm_q(value) ** 2


def entropy_effect(x) -> np.ndarray:
    """The derivative of H along the logit step of y against the mean step of p, by differences."""

    def one(i):
        logits = x.log_p[i]
        p = np.exp(logits)

        def entropy(step):
            z = np.exp(logits + step)
            z /= z.sum()
            return -(z * np.log(z)).sum()

        def slope(direction, h=1e-5):
            return (entropy(h * direction) - entropy(-h * direction)) / (2 * h)

        # dH/dlogit_v = -p_v (log p_v + H); D is its p-weighted mean's negative, less that at y.
        return slope(np.eye(len(p))[x.y[i]]) - slope(p)

    return x.each(one)


def ida(x) -> np.ndarray:
    p, q = np.exp(x.log_p_y), np.exp(x.log_q_y)
    return np.where(x.gap * entropy_effect(x) >= 0, 1, np.abs(q - p) / (q + p))


def pass_rate(x) -> np.ndarray:
    """The share of right responses to each token's prompt, over responses."""
    right: dict[int, list[float]] = {}
    for where in x.responses():
        right.setdefault(x.group[where[0]], []).append(x.reward[where[0]])
    return np.array([np.mean(right[g]) for g in x.group])


def opdvr_advantage(x) -> np.ndarray:
    rate = pass_rate(x)
    spread = np.sqrt(rate * (1 - rate))
    advantage = np.divide(x.reward - rate, spread, out=np.zeros(len(rate)), where=spread > 0)
    return np.where((x.gap > 0) == (x.reward == 1), np.abs(advantage), 0)


def unlikely(x, share=0.1) -> np.ndarray:
    out = np.zeros(len(x.y), bool)
    for where in x.responses():
        low = x.log_q_y[where] <= np.quantile(x.log_q_y[where], share)
        at = x.t[where]
        out[where] = [any(abs(t - u) <= 1 for u in at[low]) for t in at]
    return out


def middle(x) -> np.ndarray:
    place = x.in_responses(lambda w: (np.arange(len(w)) + 0.5) / len(w))
    return np.abs(place - 0.5) < 0.1 - 1e-9


MORE = {
    "entropy_p98": lambda x: best_of_each(x, clipped_entropy(x), half_down),
    "tip_p98": lambda x: best_of_each(
        x, soft_or(norm_mm(clipped_entropy(x)), norm_mm(x.reverse)), half_down
    ),
    "entropy_sample": lambda x: np.log(x.h_s) - np.log(-np.log(x.uniform)),
    "tip_q3": lambda x: (1 - norm_mm(x.h_s)) * norm_mm(x.forward),
    "dial": dial,
    "ier": ier,
    "pgt": pgt,
    "sampled_rkl_max": lambda x: -x.gap,
    "low_teacher_logprob": lambda x: kept(unlikely(x)),
    "high_teacher_logprob": lambda x: kept(~unlikely(x)),
    "not_middle": lambda x: kept(~middle(x)),
    "crop": lambda x: x.jsd4[0] - x.jsd4[1],
    "crop_teacher": lambda x: x.jsd4[2] - x.jsd4[3],
    "crop_entropy": lambda x: soft_or(norm_q(top_entropy(x)), norm_q(x.jsd4[0] - x.jsd4[1])),
    "pc": lambda x: -x.jsd4[1],
    "cs": lambda x: np.abs(x.log_p_y - x.log_one_change_y),
    "credit": lambda x: x.log_q_y - x.log_negative_y,
    "reference_jsd": reference_jsd,
    "opd2_gate": lambda x: kept(np.prod(opd2_parts(x), 0) >= 0),
    "opdvr": lambda x: kept((x.gap > 0) == (x.reward == 1)),
    "ra_response": lambda x: kept(
        (x.in_responses(lambda w: x.gap[w].sum()) > 0) == (x.reward == 1)
    ),
    "bellman_rac": bellman_rac,
    "ida": ida,
    "problem": lambda x: pass_rate(x) * (1 - pass_rate(x)),
    "opdvr_advantage": opdvr_advantage,
}  # fmt: skip
"""rule -> its scores, as in numpy_rules.EXPECTED."""
