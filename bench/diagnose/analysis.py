"""Measured contexts -> the diagnostic's record: every analysis, interval and verdict. Pure.

What is asked: does a score, computed before an update, order contexts by the KL that the update
removes there? Scores and gains are compared on the grid of `measured.RESOLUTION`: differences that
rounding alone can make are ties. `random` is its own expectation, not one draw: Spearman 0, AUROC
1/2, and the mean gain of all contexts.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bench.diagnose.bootstrap import Draws, Resampled, make_draws, resampled
from bench.diagnose.measured import KINDS, Measured, on_grid
from bench.diagnose.orderings import Association, Kept, associate, budgets, keep_top, make_order
from bench.diagnose.regression import Fit, Moments
from bench.selection.population import NEUTRAL, SMALLEST_RANGE, norm_q05, quantiles

TEACHABLE, RAW, REFERENCE, RANDOM = "teachability", "teachability_raw", "forward_kl", "random"
ORACLE, ORACLE_OTHERS = "oracle", "oracle_other_seeds"

MODELS: dict[str, tuple[str, ...]] = {
    "base": ("entropy", "divergence", "entropy_x_divergence", "position", "teacher_entropy"),
    "with_compatibility": (
        "entropy", "divergence", "entropy_x_divergence", "position", "teacher_entropy",
        "compatibility",
    ),
    "split": ("entropy", "learnable", "incompatible", "position", "teacher_entropy"),
}  # fmt: skip
"""Regressors of the three models of arXiv 2605.26844: learnable is D·C, incompatible D·(1-C)."""
Advance = Callable[[str, int, int], None]
"""Hears of a phase's name, its pieces done, and its pieces."""


def spread(value_N: np.ndarray) -> float:
    """Q95 - Q05."""
    value = torch.from_numpy(np.asarray(value_N, dtype=float))[None]
    low, high = quantiles(value, torch.ones_like(value, dtype=torch.bool), 0.05, 0.95)
    return high - low


def normalised(value_N: np.ndarray) -> np.ndarray:
    """norm_q05 over the bank: 0.5 everywhere where the 5-95 % range is under 1e-5."""
    value = torch.from_numpy(np.asarray(value_N, dtype=float))[None]
    return norm_q05(value, torch.ones_like(value, dtype=torch.bool))[0].numpy()


def comparable(score_N: np.ndarray, resolution: float) -> np.ndarray:
    """A score on the grid: steps of `resolution` times its largest magnitude, at most 1."""
    score_N = np.asarray(score_N, dtype=float)
    finite_N = score_N[np.isfinite(score_N)]
    largest = float(np.abs(finite_N).max()) if finite_N.size else 0.0
    return on_grid(score_N, resolution * min(1.0, largest)) if largest else score_N


class Analysis:
    """All statistics of one bank, each a value for every update seed in the bank and each draw."""

    def __init__(
        self, measured: Measured, keeps: Sequence[float], draws: int, seed: int, advance: Advance
    ):
        self.measured, self.keeps, self.advance = measured, list(keeps), advance
        self.draws: Draws = make_draws(measured.prompt_N, draws, seed)
        self.scores = {
            name: comparable(value_N, measured.resolution)
            for name, value_N in measured.score_N.items()
            if name != RANDOM
        }
        self.gain_AN = np.concatenate([measured.gain_SN[kind] for kind in KINDS])
        self.budget_DC = budgets(self.keeps, self.draws)

    def columns(self, kind: str) -> slice:
        """The gains of a kind among all A of them."""
        first = KINDS.index(kind) * self.measured.seeds
        return slice(first, first + self.measured.seeds)

    def resample(self, value_DS: np.ndarray, *bounds: float) -> Resampled:
        limits = (bounds[0], bounds[1]) if bounds else (-np.inf, np.inf)
        return resampled(value_DS, self.draws.prompts, limits)

    @cached_property
    def robustness_scores(self) -> dict[tuple[str, int], np.ndarray]:
        """(proxy, K) -> D̂ times the normalised proxy; `raw_product` is D·C itself."""
        measured = self.measured
        d_hat_N = normalised(measured.divergence_N)
        found = {}
        for k, exact_N in measured.compatibility_N.items():
            found["exact_mass", k] = d_hat_N * normalised(exact_N)
            for proxy, by_k in measured.proxy_N.items():
                found[proxy, k] = d_hat_N * normalised(by_k[k])
            found["raw_product", k] = measured.divergence_N * exact_N
        return {key: comparable(value, measured.resolution) for key, value in found.items()}

    @cached_property
    def others_AN(self) -> np.ndarray | None:
        """For each gain, the mean gain of the same kind under the other update seeds."""
        if self.measured.seeds < 2:
            return None
        by_kind = [self.measured.gain_SN[kind] for kind in KINDS]
        return np.concatenate(
            [(g_SN.sum(0) - g_SN) / (self.measured.seeds - 1) for g_SN in by_kind]
        )

    @cached_property
    def association(self) -> Association:
        scores = [*self.scores.values(), *self.robustness_scores.values()]
        if self.others_AN is not None:
            scores += list(self.others_AN)
        measured = self.measured
        controls_CN = np.stack(
            [comparable(measured.entropy_N, measured.resolution), measured.position_N]
        )
        return associate(
            np.stack(scores), controls_CN, self.gain_AN, self.draws,
            lambda done, total: self.advance("rank correlations", done, total),
        )  # fmt: skip

    @cached_property
    def row(self) -> dict[Any, int]:
        """Score name or (proxy, K) -> its row in `association`."""
        return {key: j for j, key in enumerate([*self.scores, *self.robustness_scores])}

    def of(self, which: str, key: Any, kind: str) -> np.ndarray:
        """A statistic of one score for a kind of gain, (D, S). `random` is its expectation."""
        if key == RANDOM:
            shape = (len(self.draws.weight_DP), self.measured.seeds)
            return np.full(shape, 0.5 if which == "auroc" else 0.0)
        value_DJA = getattr(self.association, f"{which}_DJA")
        if key == ORACLE_OTHERS:
            first = len(self.row)
            return np.stack(
                [value_DJA[:, first + a, a] for a in range(*self.columns(kind).indices(10**6))], -1
            )
        return value_DJA[:, self.row[key], self.columns(kind)]

    @cached_property
    def mean_gain_DA(self) -> np.ndarray:
        """Mean gain of all contexts in each draw: what random contexts gain in expectation."""
        return self.draws.sums(self.gain_AN.T) / self.draws.total_D()[:, None]

    @cached_property
    def kept(self) -> dict[str, Kept]:
        """Top-N means of every score, and of the two oracles."""
        values_AN = np.concatenate([self.gain_AN, *([g] for g in self.gradients_GN)])
        found, total = {}, len(self.scores) + 1 + (self.others_AN is not None)
        for done, (name, score_N) in enumerate(self.scores.items()):
            order = make_order(score_N, self.measured.tie_N)
            found[name] = keep_top(order, values_AN, self.budget_DC, self.draws)
            self.advance("matched top-N", done + 1, total)
        found[ORACLE] = self._own_orders(self.gain_AN)
        self.advance("matched top-N", len(self.scores) + 1, total)
        if self.others_AN is not None:
            found[ORACLE_OTHERS] = self._own_orders(self.others_AN)
            self.advance("matched top-N", total, total)
        return found

    def _own_orders(self, score_AN: np.ndarray) -> Kept:
        """Each gain in an order of its own."""
        parts = [
            keep_top(make_order(score_N, self.measured.tie_N), gain_N[None], self.budget_DC,
                     self.draws)
            for score_N, gain_N in zip(score_AN, self.gain_AN, strict=True)
        ]  # fmt: skip
        return Kept(*(np.concatenate([getattr(part, name) for part in parts], -1)
                      for name in ("top_DCA", "bucket_DBA", "covered_DCA")))  # fmt: skip

    @property
    def gradients_GN(self) -> list[np.ndarray]:
        return list(self.measured.gradient_N.values())

    def top(self, name: str, keep: float, kind: str) -> np.ndarray:
        """Gain per kept context of a score, (D, S)."""
        if name == RANDOM:
            return self.mean_gain_DA[:, self.columns(kind)]
        return self.kept[name].top_DCA[:, self.keeps.index(keep), self.columns(kind)]

    @cached_property
    def fits(self) -> dict[int, dict[str, Fit]]:
        """K -> model -> its fit of all gains."""
        found = {}
        for done, k in enumerate(self.measured.compatibility_N):
            moments = Moments(self.regressors(k), self.gain_AN.T, self.draws)
            names = regressor_names()
            found[k] = {
                model: moments.fit([names.index(name) for name in regressors])
                for model, regressors in MODELS.items()
            }
            self.advance("regressions", done + 1, len(self.measured.compatibility_N))
        return found

    def regressors(self, k: int) -> np.ndarray:
        """regressor_NX, columns as `regressor_names`; a C without spread is 0.5 everywhere."""
        measured = self.measured
        c_N = np.asarray(measured.compatibility_N[k], dtype=float)
        if spread(c_N) < SMALLEST_RANGE:
            c_N = np.full_like(c_N, NEUTRAL)
        h_N, d_N = measured.entropy_N.astype(float), measured.divergence_N.astype(float)
        product_N = _standardised(h_N) * _standardised(d_N)
        columns = (h_N, d_N, product_N, measured.position_N, measured.teacher_entropy_N, c_N,
                   d_N * c_N, d_N * (1 - c_N))  # fmt: skip
        return np.stack(columns, axis=1).astype(float)


def regressor_names() -> list[str]:
    return list(dict.fromkeys(name for names in MODELS.values() for name in names))


def _standardised(value_N: np.ndarray) -> np.ndarray:
    return (value_N - value_N.mean()) / (value_N.std() or 1.0)
