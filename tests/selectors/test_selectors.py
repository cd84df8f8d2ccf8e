"""Every registered rule against methods.md's formulas, worked out in float64 NumPy."""

from math import log

import numpy as np
import pytest
import torch
from numpy_rules import EXPECTED as CATALOGUE
from scipy.stats import rankdata

from bench import get_selector, select_tokens, selector_names, signals_from_logits

K = 3


def kl(log_a, log_b) -> np.ndarray:
    return (np.exp(log_a) * (log_a - log_b)).sum(-1)


def norm_q(x) -> np.ndarray:
    low, high = np.quantile(x, [0.05, 0.95])
    return np.clip((x - low) / (high - low), 0, 1) if high - low >= 1e-5 else np.full_like(x, 0.5)


def norm_mm(x) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def rank(x) -> np.ndarray:
    return (rankdata(x) - 1) / (x.size - 1)


class Tokens:
    """What the formulas of methods.md are written in, over the N sampled tokens."""

    def __init__(self, batch, k: int = K):
        self.mask = batch.mask
        log_p, log_q = batch.log_p, batch.log_q
        self.log_p, self.log_q, self.k = log_p, log_q, k
        rows = np.arange(len(batch.token))
        self.log_p_y, self.log_q_y = log_p[rows, batch.token], log_q[rows, batch.token]
        self.h_student = -(np.exp(log_p) * log_p).sum(-1)
        self.h_teacher = -(np.exp(log_q) * log_q).sum(-1)
        self.forward, self.reverse = kl(log_q, log_p), kl(log_p, log_q)
        self.top = np.argsort(-log_p, -1)[:, :k]
        log_q_S = np.take_along_axis(log_q, self.top, -1)
        log_p_S = np.take_along_axis(log_p, self.top, -1)
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

    def jsd(self) -> np.ndarray:
        log_m = np.log((np.exp(self.log_p) + np.exp(self.log_q)) / 2)
        return (kl(self.log_p, log_m) + kl(self.log_q, log_m)) / 2

    def released(self, floor: float = 1e-12) -> np.ndarray:
        """D̂·Ĉ of two top-K lists, token by token, id by id."""
        divergence, overlap = [], []
        for log_p, log_q in zip(self.log_p, self.log_q, strict=True):
            student = set(np.argsort(-log_p)[: self.k].tolist())
            teacher = set(np.argsort(-log_q)[: self.k].tolist())
            union = sorted(student | teacher)
            p = np.array([np.exp(log_p[v]) if v in student else floor for v in union])
            q = np.array([np.exp(log_q[v]) if v in teacher else floor for v in union])
            p, q = p / p.sum(), q / q.sum()
            divergence.append((q * np.log(q / p)).sum())
            overlap.append(sum(np.exp(log_q[v]) for v in student & teacher))
        return norm_q(np.array(divergence)) * norm_q(np.array(overlap))


def soft_or(a, b) -> np.ndarray:
    return a + b - a * b


EXPECTED = {
    "full": lambda x: np.ones_like(x.forward),
    "first": lambda x: -x.position.astype(float),
    "last": lambda x: -x.from_the_end.astype(float),
    "entropy": lambda x: x.h_student,
    "teacher_entropy": lambda x: x.h_teacher,
    "forward_kl": lambda x: x.forward,
    "reverse_kl": lambda x: x.reverse,
    "jsd": lambda x: x.jsd(),
    "abs_gap": lambda x: np.abs(x.log_q_y - x.log_p_y),
    "low_student_logprob": lambda x: -x.log_p_y,
    "teachability": lambda x: norm_q(x.forward) * norm_q(x.mass),
    "teachability_released": lambda x: x.released(),
    "teachability_conditional": lambda x: norm_q(x.conditional) * norm_q(x.mass),
    "teachability_rank": lambda x: rank(x.forward) * rank(x.mass),
    "teachability_raw": lambda x: x.forward * x.mass,
    "teachability_split": lambda x: x.mass * x.conditional,
    "compatibility": lambda x: x.mass,
    "incompatible": lambda x: norm_q(x.forward) * (1 - norm_q(x.mass)),
    "tip": lambda x: soft_or(norm_mm(x.h_student), norm_mm(x.reverse)),
    "teachability_entropy": lambda x: soft_or(norm_q(x.h_student), norm_q(x.forward * x.mass)),
}
AT_RANDOM = {"random", "random_stratified"}

FIRST_SELECTORS = [
    "full",
    "random",
    "random_stratified",
    "first",
    "last",
    "entropy",
    "teacher_entropy",
    "forward_kl",
    "reverse_kl",
    "jsd",
    "abs_gap",
    "low_student_logprob",
    "teachability",
    "teachability_released",
    "teachability_conditional",
    "teachability_rank",
    "teachability_raw",
    "teachability_split",
    "compatibility",
    "incompatible",
    "tip",
    "teachability_entropy",
]


def signals_of(batch, k: int = K, **keywords):
    return signals_from_logits(**vars(batch), k=k, **keywords)


def signals_of_probabilities(p, q, token, k):
    """One response whose tokens have these distributions."""
    logits = [torch.tensor(x, dtype=torch.float64).log()[None] for x in (p, q)]
    token_BT = torch.tensor([token])
    return signals_from_logits(*logits, token_BT, torch.ones_like(token_BT) > 0, k=k)


def test_the_first_selectors_are_registered_and_each_rule_has_its_example_here():
    assert set(FIRST_SELECTORS) <= set(selector_names())
    assert set(selector_names()) == {*EXPECTED, *AT_RANDOM, *CATALOGUE}


# Peaked masses tie at 1 in float32, and ranks see it.
CASES = [
    (name, scale)
    for name in sorted(EXPECTED)
    for scale in (1.0, 4.0, 30.0)
    if (name, scale) != ("teachability_rank", 30.0)
]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_a_score_is_its_formula(make_batch, name, scale):
    batch = make_batch(seed=4, vocabulary=16, scale=scale)
    expected = EXPECTED[name](Tokens(batch))
    actual = get_selector(name)(signals_of(batch))[batch.mask_BT].numpy()
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6 * max(1, scale))
    if name not in ("full", "first", "last"):
        assert np.ptp(expected) > 0.05  # the example tells tokens apart


# Numbers worked out by hand, on one token or a few

P = [0.5, 0.3, 0.15, 0.05]
Q = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("entropy", -(0.5 * log(0.5) + 0.3 * log(0.3) + 0.15 * log(0.15) + 0.05 * log(0.05))),
        ("teacher_entropy", -(0.1 * log(0.1) + 0.2 * log(0.2) + 0.3 * log(0.3) + 0.4 * log(0.4))),
        ("forward_kl", 0.1 * log(0.2) + 0.2 * log(2 / 3) + 0.3 * log(2) + 0.4 * log(8)),
        ("reverse_kl", 0.5 * log(5) + 0.3 * log(1.5) + 0.15 * log(0.5) + 0.05 * log(0.125)),
        ("abs_gap", log(1.5)),  # y = 1: q(y)/p(y) = 2/3
        ("low_student_logprob", -log(0.3)),
        ("compatibility", 0.3),  # S = {0, 1}
        (
            "teachability_raw",
            0.3 * (0.1 * log(0.2) + 0.2 * log(2 / 3) + 0.3 * log(2) + 0.4 * log(8)),
        ),
        # q|S = (1/3, 2/3), p|S = (5/8, 3/8)
        ("teachability_split", 0.3 * (log(8 / 15) / 3 + 2 * log(16 / 9) / 3)),
        # one token has no spread: both factors are neutral
        ("teachability", 0.25),
        ("teachability_conditional", 0.25),
        ("teachability_released", 0.25),
        ("teachability_rank", 0.25),
        ("incompatible", 0.25),
        ("tip", 0.75),
        ("teachability_entropy", 0.75),
    ],
)
def test_a_score_of_one_token_worked_out_by_hand(name, score):
    signals = signals_of_probabilities([P], [Q], [1], k=2)
    assert float(get_selector(name)(signals)) == pytest.approx(score, rel=1e-5)


def test_teachability_keeps_corrective_mass_within_reach_and_incompatible_the_rest():
    """The teacher's mass moves inside the student's top 2, or off it, or not at all."""
    p = [[0.6, 0.3, 0.08, 0.02], [0.6, 0.3, 0.08, 0.02], [0.7, 0.1, 0.1, 0.1]]
    q = [[0.02, 0.9, 0.06, 0.02], [0.6, 0.06, 0.02, 0.32], [0.7, 0.1, 0.1, 0.1]]
    signals = signals_of_probabilities(p, q, [0, 0, 0], k=2)
    assert get_selector("teachability")(signals)[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    incompatible = get_selector("incompatible")(signals)[0].tolist()
    assert incompatible[0] == 0 and incompatible[1] > 0.8 and incompatible[2] == 0


def test_the_released_divergence_is_mostly_a_meter_of_the_floor():
    """Three tokens, K = 3: S∖T = {0}, none, {3}; T∖S = {3}, none, {1}."""
    p = [P, [0.4, 0.3, 0.2, 0.1], [0.25, 0.15, 0.34, 0.26]]
    q = [Q, [0.4, 0.35, 0.15, 0.1], [0.4, 0.26, 0.24, 0.1]]
    floor = 1e-12
    q_bar = np.array([floor, 0.2, 0.3, 0.4]) / (0.9 + floor)
    p_bar = np.array([0.5, 0.3, 0.15, floor]) / (0.95 + floor)
    with_a_missing_token = (q_bar * np.log(q_bar / p_bar)).sum()
    assert q_bar[3] * (log(q_bar[3]) + 27.6) > 0.9 * with_a_missing_token
    q_bar, p_bar = np.array([0.4, 0.35, 0.15]) / 0.9, np.array([0.4, 0.3, 0.2]) / 0.9
    without = (q_bar * np.log(q_bar / p_bar)).sum()
    q_bar = np.array([0.4, 0.26, 0.24, floor]) / (0.9 + floor)
    p_bar = np.array([0.25, floor, 0.34, 0.26]) / (0.85 + floor)
    third = (q_bar * np.log(q_bar / p_bar)).sum()
    divergence = norm_q(np.array([with_a_missing_token, without, third]))
    overlap = norm_q(np.array([0.2 + 0.3, 0.4 + 0.35 + 0.15, 0.4 + 0.24]))
    signals = signals_of_probabilities(p, q, [0, 0, 0], k=3)
    actual = get_selector("teachability_released")(signals)[0].numpy()
    np.testing.assert_allclose(actual, divergence * overlap, rtol=1e-4, atol=1e-6)


def test_the_released_floor_is_a_parameter(make_batch):
    batch = make_batch(seed=4, vocabulary=16)
    actual = get_selector("teachability_released", floor=1e-3)(signals_of(batch))[batch.mask_BT]
    np.testing.assert_allclose(actual, Tokens(batch).released(1e-3), rtol=1e-4, atol=1e-5)
    assert np.abs(Tokens(batch).released(1e-3) - Tokens(batch).released()).max() > 0.01


def test_raw_teachability_becomes_divergence_as_k_grows(make_batch):
    batch = make_batch(vocabulary=16)
    signals = signals_of(batch, k=16)
    torch.testing.assert_close(
        get_selector("teachability_raw")(signals), get_selector("forward_kl")(signals)
    )
    torch.testing.assert_close(
        get_selector("teachability_split")(signals), get_selector("forward_kl")(signals)
    )


def test_tip_is_unclipped_and_reads_the_reverse_divergence(make_batch):
    batch = make_batch(seed=4, vocabulary=16)
    x = Tokens(batch)
    tip = EXPECTED["tip"](x)
    assert np.abs(tip - soft_or(norm_q(x.h_student), norm_q(x.reverse))).max() > 0.01
    assert np.abs(tip - soft_or(norm_mm(x.h_student), norm_mm(x.forward))).max() > 0.01
    score = get_selector("tip")(signals_of(batch))[batch.mask_BT].numpy()
    assert (score == 1).sum() <= 2  # the argmax of each axis, nothing clipped to it
    np.testing.assert_allclose(score, tip, atol=1e-5)


def test_first_and_last_select_prefixes_and_suffixes():
    mask_BT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]) > 0
    logits = torch.zeros(2, 5, 4)
    signals = signals_from_logits(logits, logits, mask_BT.long(), mask_BT, k=2)
    first = select_tokens(get_selector("first")(signals), mask_BT, keep=0.5)  # 4 of 8
    assert first.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
    last = select_tokens(get_selector("last")(signals), mask_BT, keep=0.5)
    assert last.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]


# Rules at random


def lengths_batch(lengths, step=0):
    mask_BT = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    logits = torch.zeros(*mask_BT.shape, 2)
    return signals_from_logits(logits, logits, mask_BT.long(), mask_BT, k=1, seed=5, step=step)


def test_random_is_the_keyed_uniform_number(make_batch):
    batch = make_batch()
    signals = signals_of(batch, seed=3, step=2)
    score_BT = get_selector("random")(signals)
    assert torch.equal(score_BT[batch.mask_BT], signals.uniform_BT[batch.mask_BT])
    other_BT = get_selector("random")(signals_of(batch, seed=3, step=3))
    assert not torch.equal(score_BT, other_BT)


def test_random_chooses_every_token_with_the_same_chance():
    steps, lengths = 400, [40, 10, 25, 25]
    count_BT = torch.zeros(4, 40)
    for step in range(steps):
        signals = lengths_batch(lengths, step)
        count_BT += select_tokens(get_selector("random")(signals), signals.mask_BT, keep=0.2)
    share_N = count_BT[signals.mask_BT] / steps
    error = (0.2 * 0.8 / steps) ** 0.5
    assert float((share_N - 0.2).abs().max()) < 4.5 * error
    # Var(share) of independent choices, within the spread of a variance over 100 tokens.
    assert 0.6 < float(share_N.var()) / error**2 < 1.5


@pytest.mark.parametrize("keep", [0.03, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_random_stratified_gives_each_response_its_share_within_one_token(keep):
    lengths = [60, 33, 47, 20, 5, 51, 38, 1, 29, 44]
    for step in range(30):
        signals = lengths_batch(lengths, step)
        score_BT = get_selector("random_stratified")(signals)
        selected_BT = select_tokens(score_BT, signals.mask_BT, keep=keep, step=step)
        for length, kept in zip(lengths, selected_BT.sum(1).tolist(), strict=True):
            # The batch's own budget moves the common share a little off keep.
            assert abs(kept - keep * length) < 1 + 0.02 * length, (length, kept)


def test_random_stratified_rounds_each_share_up_or_down_whatever_the_lengths():
    lengths = [2000] + [10] * 63
    for keep in (0.03, 0.25):
        signals = lengths_batch(lengths, 0)
        score_BT = get_selector("random_stratified")(signals)
        kept_B = select_tokens(score_BT, signals.mask_BT, keep=keep).sum(1)
        assert abs(int(kept_B[0]) - keep * 2000) < 1 + 0.01 * 2000
        assert set(kept_B[1:].tolist()) <= {int(keep * 10), int(keep * 10) + 1}


@pytest.mark.parametrize("keep", [0.05, 0.2])
def test_random_stratified_is_random_inside_a_response_and_fair_between_them(keep):
    steps, lengths = 400, [40, 10, 25, 25]
    count_BT = torch.zeros(4, 40)
    for step in range(steps):
        signals = lengths_batch(lengths, step)
        score_BT = get_selector("random_stratified")(signals)
        count_BT += select_tokens(score_BT, signals.mask_BT, keep=keep, step=step)
    share_BT = count_BT / steps
    error = (keep * (1 - keep) / steps) ** 0.5
    assert float((share_BT[signals.mask_BT] - keep).abs().max()) < 4.5 * error
    for row, length in enumerate(lengths):
        # Half a token of ten, for instance, is one token every other step.
        assert float(share_BT[row, :length].mean()) == pytest.approx(keep, abs=0.01)
