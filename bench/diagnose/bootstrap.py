"""Intervals over prompts and update seeds, by a bootstrap of whole prompts. NumPy and scipy only.

Contexts of one response share a text, so prompts are drawn, with all their contexts. Every update
seed is measured on every prompt: the two are crossed. With θ_s the statistic of seed s and θ_ds the
same in draw d, the variance of the mean over seeds is

    V_prompt + V_seed - V_both, at least V_prompt and at least V_seed
    V_prompt = Var_d(mean_s θ_ds)    V_seed = Var_s(θ_s)/S    V_both = mean_d Var_s(θ_ds - θ_s)/S

(V_both is in each of the other two), and the interval is Student's with Satterthwaite's degrees of
freedom, as `stats.crossed_mean` has it for runs and items. One seed: V_prompt alone.
Variances over draws are taken from the draws' 2.5 to 97.5 % range: a few draws in which a fit has
lost its only telling contexts must not make an interval of any width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
FEWEST = 0.95
"""Share of the draws in which a statistic must be defined to have an interval."""


@dataclass(frozen=True)
class Resampled:
    """A statistic with its 95 % interval; NaN where it is not defined."""

    value: float
    ci95: tuple[float, float]
    p_value: float
    """Two-sided, of zero."""
    by_seed: tuple[float, ...]

    @property
    def is_defined(self) -> bool:
        return math.isfinite(self.value)

    def to_json(self, name: str = "value") -> dict[str, Any]:
        """The value under a name, and `ci95`; null where not defined."""
        low, high = (significant(end) for end in self.ci95)
        has_interval = low is not None and high is not None
        return {name: significant(self.value), "ci95": [low, high] if has_interval else None}


def significant(value: float, digits: int = 6) -> float | None:
    """Rounded to significant digits, as it is written; None for NaN and infinity."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") + 0.0


@dataclass(frozen=True)
class Draws:
    """How often each prompt is in each draw. Row 0 is the bank itself: every prompt once."""

    prompt_N: np.ndarray
    """The prompt of each context: 0 to P - 1, each with a context."""
    weight_DP: np.ndarray

    @property
    def prompts(self) -> int:
        return self.weight_DP.shape[1]

    def context_weights(self):
        """weight_N of one draw after another."""
        for weight_P in self.weight_DP:
            yield weight_P[self.prompt_N]

    def total_D(self) -> np.ndarray:
        """Contexts in each draw."""
        return self.weight_DP @ np.bincount(self.prompt_N, minlength=self.prompts)

    def sums(self, value_NX: np.ndarray) -> np.ndarray:
        """Σ weight · value over the contexts of each draw, (D, X)."""
        value_NX = np.asarray(value_NX, dtype=float)
        sum_PX = np.zeros((self.prompts, *value_NX.shape[1:]))
        np.add.at(sum_PX, self.prompt_N, value_NX)
        return np.tensordot(self.weight_DP, sum_PX, 1)

    def means(self, value_NS: np.ndarray, chosen_N: np.ndarray) -> np.ndarray:
        """Mean of value over the chosen contexts of each draw, (D, S); NaN where there is none."""
        count_D1 = self.sums(chosen_N.astype(float))[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums(value_NS * chosen_N[:, None]) / count_D1


def make_draws(prompt_N: np.ndarray, draws: int, seed: int) -> Draws:
    """`draws` bootstrap samples of the prompts that have contexts, behind the bank itself."""
    _, code_N = np.unique(prompt_N, return_inverse=True)
    prompts = int(code_N.max()) + 1
    generator = np.random.default_rng([seed, 0xB007])
    drawn_DP = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)
    return Draws(code_N, np.vstack([np.ones(prompts), drawn_DP]).astype(float))


def resampled(
    value_DS: np.ndarray, prompts: int, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Resampled:
    """The mean over seeds of a statistic, with the interval of the module's docstring.

    value_DS   row 0 the bank's own value for each update seed, then the draws'. NaN: not defined.
    """
    value_DS = np.asarray(value_DS, dtype=float)
    own_S = value_DS[0]
    by_seed = tuple(own_S.tolist())
    nothing = (math.nan, math.nan)
    if not np.isfinite(own_S).all():
        return Resampled(math.nan, nothing, math.nan, by_seed)
    value = float(own_S.mean())
    drawn_DS = value_DS[1:]
    defined_D = np.isfinite(drawn_DS).all(1)
    if defined_D.mean() < FEWEST:
        return Resampled(value, nothing, math.nan, by_seed)
    variance, df = _variance(own_S, drawn_DS[defined_D], prompts)
    if variance <= (np.finfo(float).eps * max(1.0, abs(value))) ** 2:
        return Resampled(value, (value, value), float(abs(value) < 1e-12), by_seed)
    error = math.sqrt(variance)
    half = _quantile(df) * error
    p_value = float(2 * stats.t.sf(abs(value) / error, df))
    low, high = max(bounds[0], value - half), min(bounds[1], value + half)
    return Resampled(value, (low, high), p_value, by_seed)


def _variance(own_S: np.ndarray, drawn_DS: np.ndarray, prompts: int) -> tuple[float, float]:
    """(variance of the mean over seeds, degrees of freedom)."""
    seeds, df_prompt = own_S.size, max(1, prompts - 1)
    of_prompt = _variance_of(drawn_DS.mean(1))
    if seeds < 2:
        return of_prompt, float(df_prompt)
    df_seed = seeds - 1
    of_seed = float(own_S.var(ddof=1)) / seeds
    moved_DS = drawn_DS - own_S
    moved_DS = moved_DS - moved_DS.mean(1, keepdims=True)
    of_both = _variance_of(moved_DS.ravel()) / df_seed  # · S / (S - 1), over S seeds
    whole = of_prompt + of_seed - of_both
    largest = max(whole, of_prompt, of_seed)
    if largest > whole or whole <= 0:
        return largest, float(df_seed if largest == of_seed else df_prompt)
    parts = of_prompt**2 / df_prompt + of_seed**2 / df_seed + of_both**2 / (df_prompt * df_seed)
    return whole, max(1.0, whole**2 / parts)


def _variance_of(value_M: np.ndarray) -> float:
    """Variance of a normal variable with these 2.5 and 97.5 % quantiles; plain where they meet."""
    low, high = np.quantile(value_M, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    if high - low <= 1e-12 * max(1.0, abs(low), abs(high)):
        return float(value_M.var(ddof=1))
    return float((high - low) / (2 * stats.norm.ppf(0.5 + LEVEL / 2))) ** 2


@cache
def _quantile(df: float) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, df))


Report = Callable[[int, int], None]
"""Hears of (pieces done, pieces in all)."""
