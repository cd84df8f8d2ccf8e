"""The gain G of a context: the KL from the teacher that an update removes at the same prefix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DIVERGENCES = ("forward_kl", "reverse_kl")
KINDS = ("forward_absolute", "forward_relative", "reverse_absolute", "reverse_relative")
RESOLUTION = {"float32": 1e-5, "bfloat16": 1e-2}
"""Nats, by the precision of the passes: KLs closer than this are equal up to rounding, and a gain
under half of it is none. In bfloat16, nine tenths of the embedded pairs' KLs move by less."""
WINSOR = (1.0, 99.0)
"""Percentiles at which relative gains are cut off (arXiv 2605.26844, release)."""


def gains(
    before: Mapping[str, np.ndarray], after: Sequence[Mapping[str, np.ndarray]], resolution: float
) -> dict[str, np.ndarray]:
    """kind -> gain_SN, float64, a row an update seed.

    absolute   G = KL_before - KL_after, nats; a multiple of `resolution`.
    relative   G / (KL_before + 1e-12), winsorised at 1 % and 99 % in each seed.
    forward is KL(q‖p), reverse KL(p‖q). Source: arXiv 2605.26844 and its release.
    """
    found = {}
    for divergence in DIVERGENCES:
        name = divergence.removesuffix("_kl")
        before_N = before[divergence].astype(float)
        after_SN = np.array([values[divergence] for values in after], dtype=float)
        gain_SN = on_grid(before_N - after_SN, resolution)
        ratio_SN = gain_SN / (before_N + 1e-12)
        low_S1, high_S1 = np.percentile(ratio_SN, WINSOR, axis=1)[..., None]
        found[f"{name}_absolute"] = gain_SN
        found[f"{name}_relative"] = np.clip(ratio_SN, low_S1, high_S1)
    return {kind: found[kind] for kind in KINDS}


def on_grid(value: np.ndarray, step: float) -> np.ndarray:
    """Values to the nearest multiple of `step`: what rounding alone tells apart becomes equal."""
    return np.round(value / step) * step + 0.0


MAIN = KINDS[0]


@dataclass(frozen=True)
class Measured:
    """Every context with what was known before the update, and what each update removed there."""

    prompt_N: np.ndarray
    position_N: np.ndarray
    entropy_N: np.ndarray
    """H(p), nats."""
    teacher_entropy_N: np.ndarray
    divergence_N: np.ndarray
    """D = KL(q‖p), nats."""
    compatibility_N: Mapping[int, np.ndarray]
    """K -> C, the teacher's mass on the student's top K."""
    proxy_N: Mapping[str, Mapping[int, np.ndarray]]
    """Proxy of C -> K -> its value."""
    score_N: Mapping[str, np.ndarray]
    """Selector -> its score at the main K."""
    gain_SN: Mapping[str, np.ndarray]
    """Kind -> gain, a row an update seed."""
    tie_N: np.ndarray
    """A hash that orders equal scores."""
    k: int
    resolution: float
    weights: frozenset[str] = frozenset()
    """Selectors that weight tokens; ranked by their weight."""
    gradient_N: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Objective -> norm of its gradient with respect to the student's logits."""

    @property
    def seeds(self) -> int:
        return len(self.gain_SN[MAIN])
