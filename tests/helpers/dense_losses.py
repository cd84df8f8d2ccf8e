"""Every objective from log p and log q over the whole vocabulary, float64 (N, V), y sampled."""

import torch
from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    return -(p.exp() * p).sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def at(p: Tensor, y: Tensor) -> Tensor:
    return p[torch.arange(len(y)), y]


def among_top(p: Tensor, k: float) -> Tensor:
    """1.0 at each row's k largest entries, by sorting."""
    return (p >= p.detach().sort(-1, descending=True).values[:, int(k) - 1, None]).double()


def within(p: Tensor, among: Tensor) -> Tensor:
    """log p(v|S), with 0 off S."""
    return among * (p - (among * p.exp()).sum(-1, keepdim=True).log())


def topk_reverse_kl(p, q, y, k=16):
    among = among_top(p, k)
    inside = within(p, among)
    return (among * inside.exp() * (inside - within(q, among))).sum(-1)


def topk_reverse_kl_tail(p, q, y, k=16):
    among = among_top(p, k)
    tail, teacher_tail = (1 - (among * x.exp()).sum(-1) for x in (p, q))
    return (among * p.exp() * (p - q)).sum(-1) + tail * (tail / teacher_tail).log()


def topk_reverse_kl_clamped(p, q, y, k=16):
    return (among_top(p, k) * p.exp() * (p - q)).sum(-1).relu()


def topk_forward_kl(p, q, y, k=16):
    among = among_top(q, k)
    inside = within(q, among)
    return (among * inside.exp() * (inside - p)).sum(-1)


def jsd(p, q, y, beta=0.5):
    m = (beta * q.exp() + (1 - beta) * p.exp()).log()
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def skew_reverse_kl(p, q, y, alpha=0.1):
    return kl(p, (alpha * p.exp() + (1 - alpha) * q.exp()).log())


def sampled_reverse_kl(p, q, y):
    return (at(p, y) - at(q, y)).detach() * at(p, y)


def eopd(p, q, y, threshold=0.8, k=16):
    return sampled_reverse_kl(p, q, y) + (entropy(q) > threshold) * topk_forward_kl(p, q, y, k)


def todi(p, q, y, beta=1.0):
    a = 1 / (1 + (-beta * (q - p)).exp()).detach()
    return (a * q.exp() * (q - p) + (1 - a) * p.exp() * (p - q)).sum(-1)


def gap(p, q, y):
    return (at(q, y) - at(p, y)).detach()


def tv_advantage(p, q, y):
    distance = (p.exp() - q.exp()).abs().sum(-1).detach() / 2
    return -gap(p, q, y).sign() * distance * at(p, y)


def aopd(p, q, y, threshold=0.0, renormalised=1, k=16):
    among = among_top(q, k)
    teacher = within(q, among)
    student = within(p, among) if renormalised else among * p
    forward = (among * teacher.exp() * (teacher - student)).sum(-1)
    is_forward = (at(q, y).exp() - at(p, y).exp()).detach() <= threshold
    return torch.where(is_forward, forward, sampled_reverse_kl(p, q, y))


def tail_aware_sc(p, q, y, k=16):
    among = among_top(q, k)
    P, Q = (1 - (among * x.exp()).sum(-1) for x in (p, q))
    inner = (at(p, y) - P.log() - at(q, y) + Q.log()).detach()
    score = at(p, y).exp() / at(p, y).exp().detach() * inner
    outside = 1 - at(among, y)
    return (among * p.exp() * (p - q)).sum(-1) + P * (P / Q).log() + outside * score


LOSSES = {
    "reverse_kl": lambda p, q, y: kl(p, q),
    "forward_kl": lambda p, q, y: kl(q, p),
    "jsd": jsd,
    "sampled_reverse_kl": sampled_reverse_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "topk_reverse_kl": topk_reverse_kl,
    "topk_reverse_kl_tail": topk_reverse_kl_tail,
    "topk_reverse_kl_clamped": topk_reverse_kl_clamped,
    "topk_forward_kl": topk_forward_kl,
    "k2": lambda p, q, y: (at(p, y) - at(q, y)) ** 2 / 2,
    "eopd": eopd,
    "todi": todi,
    "tv_advantage": tv_advantage,
    "aopd": aopd,
    "tail_aware_sc": tail_aware_sc,
}
