"""Contexts of planted worlds: what an update removes at each is known."""

from collections.abc import Callable

import numpy as np

from bench.diagnose.analysis import Analysis, normalised
from bench.diagnose.measured import KINDS, Measured

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def contexts(
    gain_of: Rule,
    *,
    compatibility: Callable[[np.random.Generator, int], np.ndarray] | None = None,
    prompts: int = 40,
    length: int = 20,
    seeds: int = 3,
    noise: float = 0.02,
    seed: int = 0,
    further: dict[str, np.ndarray] | None = None,
) -> Measured:
    """D is gamma, C has two humps unless given; each update removes gain_of(D, C) plus noise."""
    generator = np.random.default_rng(seed)
    n = prompts * length
    divergence = generator.gamma(0.5, 1.0, n)
    c = np.where(generator.random(n) < 0.5, 0.9, 0.1) + 0.05 * generator.random(n)
    if compatibility is not None:
        c = compatibility(generator, n)
    entropy, teacher_entropy = generator.gamma(1, 1, n), generator.gamma(1, 1, n)
    gain = gain_of(divergence, c) + noise * generator.normal(size=(seeds, n))
    scores = {
        "forward_kl": divergence,
        "entropy": entropy,
        "compatibility": c,
        "teachability": normalised(divergence) * normalised(c),
        "teachability_raw": divergence * c,
        "random": generator.random(n),
    }
    return Measured(
        prompt_N=np.repeat(np.arange(prompts), length),
        position_N=np.tile(np.arange(length), prompts),
        entropy_N=entropy,
        teacher_entropy_N=teacher_entropy,
        divergence_N=divergence,
        compatibility_N={16: c},
        proxy_N={"overlap": {16: c}},
        score_N=scores | (further or {}),
        gain_SN=dict.fromkeys(KINDS, gain),
        tie_N=generator.random(n),
        k=16,
        resolution=1e-5,
    )


def analyse(measured: Measured, keeps=(0.05, 0.2), draws: int = 100) -> Analysis:
    return Analysis(measured, keeps, draws, 0, lambda name, done, total: None)
