"""The rules of the catalogue by methods.md's formulas, in float64 NumPy."""

from math import log

import numpy as np
from numpy_more_rules import MORE
from scipy.special import expit
from scipy.stats import rankdata

from bench import get_selector
from bench.selection.contract_batch import K

NEVER = -np.inf


def norm_q(x) -> np.ndarray:
    low, high = np.quantile(x, [0.05, 0.95])
    return np.clip((x - low) / (high - low), 0, 1) if high - low >= 1e-5 else np.full_like(x, 0.5)


def norm_mm(x) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def rank(x) -> np.ndarray:
    return (rankdata(x) - 1) / (x.size - 1)


def z(x) -> np.ndarray:
    return (x - x.mean()) / x.std()


def soft_or(a, b) -> np.ndarray:
    return a + b - a * b


def kl(log_a, log_b) -> np.ndarray:
    return (np.exp(log_a) * (log_a - log_b)).sum(-1)


def log_softmax(logits) -> np.ndarray:
    x = logits.numpy().astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Distributions:
    """The student's p, the teacher's q and the sampled token y, over N tokens."""

    def __init__(self, log_p, log_q, y):
        self.log_p, self.log_q, self.y = log_p, log_q, y
        self.log_p_y, self.log_q_y = self.at_y(log_p), self.at_y(log_q)
        self.gap = self.log_q_y - self.log_p_y
        self.h_s = -(np.exp(log_p) * log_p).sum(-1)
        self.h_t = -(np.exp(log_q) * log_q).sum(-1)
        self.forward, self.reverse = kl(log_q, log_p), kl(log_p, log_q)

    def at_y(self, log_p) -> np.ndarray:
        return log_p[np.arange(len(self.y)), self.y]

    def jsd(self) -> np.ndarray:
        log_m = np.log((np.exp(self.log_p) + np.exp(self.log_q)) / 2)
        return (kl(self.log_p, log_m) + kl(self.log_q, log_m)) / 2


class Tokens(Distributions):
    """What the formulas are written in, over the N sampled tokens in row-major order."""

    def __init__(self, batch):
        mask_BT = batch.mask_BT
        super().__init__(
            log_softmax(batch.student_logits_BTV[mask_BT]),
            log_softmax(batch.teacher_logits_BTV[mask_BT]),
            batch.token_BT[mask_BT].numpy(),
        )
        self.uniform = batch.signals().uniform_BT[mask_BT].numpy()
        self.row, self.t = (x.numpy() for x in mask_BT.nonzero(as_tuple=True))
        self.log_ref_y = self.at_y(log_softmax(batch.reference_logits_BTV[mask_BT]))
        self.log_cf_y = self.at_y(log_softmax(batch.counterfactual_logits_BTV[mask_BT]))
        self.log_ref = log_softmax(batch.reference_logits_BTV[mask_BT])
        self.log_one_change_y = self.at_y(log_softmax(batch.one_change_logits_BTV[mask_BT]))
        self.log_negative_y = self.at_y(log_softmax(batch.negative_logits_BTV[mask_BT]))
        self.jsd4 = batch.jsd_BT4[mask_BT].double().numpy().T
        self.stop = batch.stop_BT[mask_BT].numpy()
        self.gain = batch.gain_BT[mask_BT].numpy()
        self.reward = batch.reward_B.numpy()[self.row]
        self.group = batch.group_B.numpy()[self.row]
        self.S = [set(np.argsort(-row)[:K].tolist()) for row in self.log_p]
        self.T = [set(np.argsort(-row)[:K].tolist()) for row in self.log_q]
        self.mass = self.each(lambda i: sum(np.exp(self.log_q[i, v]) for v in self.S[i]))
        self.overlap = self.each(lambda i: len(self.S[i] & self.T[i]) / K)

    def each(self, value) -> np.ndarray:
        return np.array([value(i) for i in range(len(self.y))])

    def responses(self):
        for row in np.unique(self.row):
            yield np.flatnonzero(self.row == row)

    def in_responses(self, value) -> np.ndarray:
        """value(indices of a response) -> its tokens' values."""
        out = np.zeros(len(self.y))
        for where in self.responses():
            out[where] = value(where)
        return out

    def hellinger(self) -> np.ndarray:
        root = np.exp(self.log_p / 2) - np.exp(self.log_q / 2)
        return np.sqrt((root**2).sum(-1) / 2)

    def total_variation(self) -> np.ndarray:
        return np.abs(np.exp(self.log_p) - np.exp(self.log_q)).sum(-1) / 2

    def teachable(self) -> np.ndarray:
        return norm_q(self.forward * self.mass)

    def bhattacharyya(self) -> np.ndarray:
        def one(i):
            union = sorted(self.S[i] | self.T[i])
            p, q = np.exp(self.log_p[i, union]), np.exp(self.log_q[i, union])
            return np.sqrt(p / p.sum() * q / q.sum()).sum()

        return self.each(one)

    def ema(self, decay=0.9) -> np.ndarray:
        def one(where):
            values = [self.mass[where[0]]]
            for i in where[1:]:
                values.append(decay * values[-1] + (1 - decay) * self.mass[i])
            return values

        return self.in_responses(one)

    def tide_deficit(self) -> np.ndarray:
        def one(i):
            ids = sorted(self.T[i])
            q = np.exp(self.log_q[i, ids])
            q /= q.sum()
            return (q * (np.log(q) - self.log_p[i, ids])).sum()

        return self.each(one)

    def is_extreme(self, sign) -> np.ndarray:
        def one(where):
            best = np.argmax(sign * self.gap[where])
            return np.arange(len(where)) == best

        return self.in_responses(one).astype(bool)

    def quadrant(self) -> np.ndarray:
        h, d = norm_q(self.h_s), norm_q(self.forward)
        return 4 - 2 * (h >= np.median(h)) - (d >= np.median(d))

    def from_best(self, x) -> np.ndarray:
        order = np.lexsort((self.uniform, -x))
        ranks = np.empty(len(x))
        ranks[order] = np.arange(1, len(x) + 1)
        return ranks

    def fire(self, alpha=1, beta=1, drop=0.2) -> np.ndarray:
        weight = (1 + alpha * (1 - self.h_t / self.h_t.max())) * (
            1 + beta * self.h_s / self.h_s.max()
        )
        means = {where[0]: self.log_q_y[where].mean() for where in self.responses()}
        worst = sorted(means, key=means.get)[: int(drop * len(means))]
        for first in worst:
            weight[self.row == self.row[first]] = 0
        return weight / weight[weight > 0].mean()

    def scope(self, tau=1) -> np.ndarray:
        ppl = {}
        for where in self.responses():
            right = self.reward[where[0]] > 0.5
            own = self.log_p_y if right else self.log_q_y
            perplexity = np.exp(-own[where].mean())
            key = (self.group[where[0]], right)
            value = perplexity ** (1 / tau if right else -1 / tau)
            ppl.setdefault(key, {})[self.row[where[0]]] = value
        out = np.zeros(len(self.y))
        for values in ppl.values():
            mean = np.mean(list(values.values()))
            for row, value in values.items():
                out[self.row == row] = value / mean
        return out

    def rock(self, share=0.18) -> np.ndarray:
        loss = {v: self.reverse[self.y == v].sum() for v in set(self.y.tolist())}
        dropped, count = set(), 0
        for v in sorted(loss, key=lambda v: -loss[v]):
            count += (self.y == v).sum()
            if count > share * len(self.y):
                break
            dropped.add(v)
        return kept(np.array([v not in dropped for v in self.y.tolist()]))


def kept(condition) -> np.ndarray:
    return np.where(condition, 1.0, NEVER)


def prefix_sums(x, where):
    """F_{t-1} of iw_prefix."""
    return (np.cumsum(x[where]) - x[where]) / x[where].sum()


def last_of(x):
    return x.in_responses(lambda where: x.t[where].max())


EXPECTED = {
    "middle": lambda x: -np.abs(x.t - last_of(x) / 2),
    "first_n": lambda x: kept(x.t < 100),
    "one_random": lambda x: kept(
        x.in_responses(lambda w: np.arange(len(w)) == np.argmax(x.uniform[w])) > 0
    ),
    "low_entropy": lambda x: -x.h_s,
    "entropy_q05": lambda x: norm_q(x.h_s),
    "entropy_topk": lambda x: x.each(
        lambda i: (lambda p: -(p * np.log(p)).sum())(
            np.exp(x.log_p[i, sorted(x.S[i])]) / np.exp(x.log_p[i, sorted(x.S[i])]).sum()
        )
    ) / log(K),
    "teacher_margin": lambda x: -np.abs(np.diff(np.sort(np.exp(x.log_q), -1)[:, -2:]))[:, 0],
    "teacher_least_confidence": lambda x: 1 - np.exp(x.log_q).max(-1),
    "total_variation": Tokens.total_variation,
    "hellinger": Tokens.hellinger,
    "low_forward_kl": lambda x: -x.forward,
    "low_reverse_kl": lambda x: -x.reverse,
    "low_jsd": lambda x: -x.jsd(),
    "low_total_variation": lambda x: -x.total_variation(),
    "low_hellinger": lambda x: -x.hellinger(),
    "divergence_q05": lambda x: norm_q(x.forward),
    "tide_deficit": Tokens.tide_deficit,
    "abs_gap_no_lowlow": lambda x: np.where(
        (np.exp(x.log_p_y) <= 0.01) & (np.exp(x.log_q_y) <= 0.01), NEVER, np.abs(x.gap)
    ),
    "excess_loss": lambda x: x.gap,
    "tide_excess": lambda x: np.where(x.gap < 0, -x.gap, NEVER),
    "sign_gate": lambda x: kept(np.exp(x.log_q_y) - np.exp(x.log_p_y) <= 0),
    "min_gap": lambda x: kept(x.is_extreme(-1)),
    "max_gap": lambda x: kept(x.is_extreme(1)),
    "minmax_gap": lambda x: kept(x.is_extreme(1) | x.is_extreme(-1)),
    "tail_gap": lambda x: kept(
        (x.gap <= np.quantile(x.gap, 0.0005)) | (x.gap >= np.quantile(x.gap, 0.9995))
    ),
    "overlap": lambda x: x.overlap,
    "bhattacharyya": Tokens.bhattacharyya,
    "compatibility_ema": Tokens.ema,
    "overlap_drift": lambda x: kept(
        x.in_responses(lambda w: np.minimum.accumulate(x.overlap[w] >= 0.5)) > 0
    ),
    "tip_q05": lambda x: soft_or(norm_q(x.h_s), norm_q(x.forward)),
    "teachability_entropy_docs": lambda x: soft_or(
        norm_q(x.h_s), norm_q(x.forward) * norm_q(x.mass)
    ),
    "q3": lambda x: np.where(x.quadrant() == 3, (1 - norm_q(x.h_s)) * x.teachable(), NEVER),
    "quadrant": lambda x: np.where(x.quadrant() == 1, x.uniform, NEVER),
    "split_budget": lambda x: -np.minimum(
        2 * x.from_best(norm_q(x.h_s)), 2 * x.from_best((1 - norm_q(x.h_s)) * x.teachable())
    ),
    "zscore_mix": lambda x: z(x.h_s) + z(-x.log_p_y) + z(x.forward),
    "spot": lambda x: norm_q(x.h_t) * x.mass * np.abs(x.gap),
    "entropy_gap": lambda x: expit(x.h_s - x.h_t),
    "acceptance": lambda x: np.minimum(1, np.exp(x.gap)),
    "sure": lambda x: 1 + 1 * (1 - np.exp(x.log_p_y)),
    "iw_prefix": lambda x: 1 + 0.5 * (
        1 - x.in_responses(lambda w: prefix_sums(np.abs(x.gap), w))
    ),
    "position_sigmoid": lambda x: 0.25 + 0.75 * expit(
        (x.t / x.in_responses(lambda w: np.full(len(w), len(w))) - 0.3) / 0.1
    ),
    "selectkd": lambda x: x.each(
        lambda i: 1 if np.argmax(x.log_p[i]) in np.argsort(-x.log_q[i])[:5] else 0.01
    ),
    "fire": Tokens.fire,
    "scope": Tokens.scope,
    "adakd": Tokens.hellinger,
    "reopold": lambda x: kept(x.gap >= log(0.1 / 0.9)),
    "rock": Tokens.rock,
    "cc": lambda x: np.abs(np.exp(x.log_q_y) - np.exp(x.log_ref_y)),
    "prompt_reliance": lambda x: np.abs(x.log_p_y - x.log_cf_y),
    "oracle_gain": lambda x: x.gain,
    "correct": lambda x: kept(x.reward == 1),
    "incorrect": lambda x: kept(x.reward == 0),
    **MORE,
}  # fmt: skip


def score_of(name, batch, **params) -> np.ndarray:
    return get_selector(name, **params)(batch.signals())[batch.mask_BT].double().numpy()
