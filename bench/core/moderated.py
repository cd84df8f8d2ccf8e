"""The test behind the verdicts of a table: seed variances moderated over its arms.

Three to ten training seeds say little of one arm's variance, and Holm's first step asks for tails
that so few cannot show. The arms of a table tell of each other: variances are drawn towards what
they have in common (empirical Bayes on log variances, Smyth 2004, doi 10.2202/1544-6115.1027).
They are moderated per *arm*, not per difference: a reference is in many differences, and counted
once in each its variance would pass for what the arms have in common. The constants below were
chosen by simulation; `results/statistics.md` has its figures. A change of any of them, or of the
test, is a new TEST_VERSION.

Kernels take arrays with leading axes (`...`), so that the simulation runs the code of the tables.
NumPy and scipy only; imports no sibling. Scores are shares, variances squares of shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

TEST_VERSION = 1
"""1: variances of arms moderated, item component, scaled t. (0, no longer in the code: the crossed
interval with Satterthwaite's degrees of freedom, whose family-wise error was up to 88 %.)"""
MIN_SEEDS = 3
"""Common seeds that a verdict needs: the simulation holds for no fewer."""
MIN_ARMS_TO_CENTRE = 6
"""Arms from which the effect of a seed on all of them can be told from its effect on each."""
LEAST_VARIANCE = 1e-3
"""Of the median of the arms: below it a variance has no logarithm to speak of (0/1 scores can give
several seeds one mean)."""


@dataclass(frozen=True)
class Moderation:
    """How far the arms of a table speak for each other."""

    most_df: float = 10.0
    """Degrees of freedom that the other arms may lend to a rule's variance, at most."""
    most_df_of_reference: float = 4.0
    """And to a reference's, whose variance is in every difference."""
    outlier: float = 0.1
    """An arm with a variance this improbable under the prior, or less, keeps its own if larger."""


CHOSEN = Moderation()


@dataclass(frozen=True)
class SeedVariance:
    """Variance of one seed's mean score in an arm, and how well it is known."""

    variance: float
    degrees_of_freedom: float


def seed_variances(
    means: Sequence[Mapping[int, float]],
    is_reference: Sequence[bool],
    floors: Sequence[float],
) -> list[SeedVariance | None]:
    """Moderated variance of every arm, None for those of one seed.

    `means` has each arm's mean score over items by seed; `is_reference` says which arms others are
    compared with; `floors` are variances that an arm's cannot be under, whatever its seeds say:
    what its items alone make of it. In one order.
    """
    places = [place for place, by_seed in enumerate(means) if len(by_seed) > 1]
    found: list[SeedVariance | None] = [None] * len(means)
    if not places:
        return found
    seeds = sorted({seed for place in places for seed in means[place]})
    mean_AS = np.array([[means[place].get(seed, np.nan) for seed in seeds] for place in places])
    is_reference_A, floor_A = (np.array(values)[places] for values in (is_reference, floors))
    variance_A, df_A = moderate(*own_variances(mean_AS), is_reference_A, floor_A)
    for place, variance, df in zip(places, variance_A.tolist(), df_A.tolist(), strict=True):
        found[place] = SeedVariance(variance, df)
    return found


def own_variances(mean_AS: ArrayLike) -> tuple[Array, Array]:
    """Variance over seeds of each arm's means (..., A, S), NaN where a seed was not run, and its
    degrees of freedom (A,), one less than the arm's seeds.

    The effect that a seed has on all arms cancels in every difference. It is taken out by least
    squares where there are MIN_ARMS_TO_CENTRE arms or more, and left in otherwise, which can only
    make a variance larger. The same cells must be NaN along the leading axes.
    """
    mean_AS = np.asarray(mean_AS, dtype=float)
    arms, seeds = mean_AS.shape[-2:]
    is_run_AS = ~np.isnan(mean_AS.reshape(-1, arms, seeds)[0])
    arm_N, seed_N = np.nonzero(is_run_AS)
    design_NP = (arm_N[:, None] == np.arange(arms)).astype(float)
    if arms >= MIN_ARMS_TO_CENTRE:
        design_NP = np.hstack([design_NP, seed_N[:, None] == np.arange(seeds)])
    left_NR, sizes_R, _ = np.linalg.svd(design_NP, full_matrices=False)
    basis_NR = left_NR[:, sizes_R > sizes_R[0] * 1e-10]
    mean_N = mean_AS[..., is_run_AS]
    residual_N = mean_N - (mean_N @ basis_NR) @ basis_NR.T
    free_N = 1 - (basis_NR**2).sum(1)  # expected square of a residual, of a variance of one
    own_NA = design_NP[:, :arms]
    square_A, free_A = residual_N**2 @ own_NA, free_N @ own_NA
    with np.errstate(invalid="ignore", divide="ignore"):
        return square_A / free_A, own_NA.sum(0) - 1


def moderate(
    variance_A: Array,
    df_A: Array,
    is_reference_A: NDArray[np.bool_],
    floor_A: ArrayLike = 0.0,
    how: Moderation = CHOSEN,
) -> tuple[Array, Array]:
    """Variances (..., A) drawn towards those of all arms, and their degrees of freedom (..., A)."""
    middle = np.median(variance_A, axis=-1, keepdims=True)
    variance_A = np.maximum(variance_A, np.where(middle > 0, LEAST_VARIANCE * middle, 1e-300))
    prior, spread_df = _prior(variance_A, df_A)
    most_A = np.where(is_reference_A, how.most_df_of_reference, how.most_df)
    prior_df_A = np.minimum(spread_df, most_A)
    moderated_A = (prior_df_A * prior + df_A * variance_A) / (prior_df_A + df_A)
    is_outlier_A = special.fdtrc(df_A, prior_df_A, variance_A / prior) < how.outlier
    moderated_A = np.where(is_outlier_A, np.maximum(variance_A, moderated_A), moderated_A)
    return np.maximum(moderated_A, floor_A), np.broadcast_to(prior_df_A + df_A, moderated_A.shape)


def _prior(variance_A: Array, df_A: Array) -> tuple[Array, Array]:
    """Variance (..., 1) and degrees of freedom (..., 1) of the arms' common prior.

    log variance = log prior + log F(df, prior df): its mean and spread over arms, by the method of
    moments. The spread is taken one standard error upward, so that few arms that happen to agree
    do not lend each other more than they know.
    """
    arms = variance_A.shape[-1]
    half = df_A / 2
    centred_A = np.log(variance_A) - special.digamma(half) + np.log(half)
    mean = centred_A.mean(-1, keepdims=True)
    if arms < 2:
        return np.exp(mean), np.zeros_like(mean)
    spread = centred_A.var(-1, ddof=1, keepdims=True) * (1 + np.sqrt(2 / (arms - 1)))
    excess = spread - special.polygamma(1, half).mean()
    # Beyond the largest cap a prior is as good as certain.
    prior_half = _trigamma_inverse(np.maximum(excess, special.polygamma(1, 500.0)))
    return np.exp(mean + special.digamma(prior_half) - np.log(prior_half)), 2 * prior_half


def _trigamma_inverse(value: Array) -> Array:
    """x with trigamma(x) = value > 0, by Newton's method on 1 / trigamma, which is convex."""
    x = 0.5 + 1 / value
    for _ in range(20):
        at = special.polygamma(1, x)
        x = x + at * (1 - at / value) / special.polygamma(2, x)
    return x


def scaled_t(parts: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Array, Array, Array]:
    """Standard error, and scale and degrees of freedom of the t that a mean over it is referred to.

    `parts` are the independent estimates that the squared error is the sum of, each with its
    degrees of freedom. The statistic is then a weighted sum of t's (Behrens and Fisher's problem);
    a t with the second and fourth moments of that sum stands for it (Patil 1965, doi
    10.1093/biomet/52.1-2.21). Where a part has four degrees of freedom or fewer, the sum has no
    fourth moment, and the t of the fewest of them does. A part of zero counts for nothing.
    """
    square, least = np.asarray(0.0), np.asarray(np.inf)
    for part, df in parts:
        square = square + np.asarray(part, dtype=float)
        least = np.where(np.asarray(part) > 0, np.minimum(least, df), least)
    second, fourth = np.asarray(0.0), np.asarray(0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        for part, df in parts:
            share = np.asarray(part, dtype=float) / square
            df = np.maximum(np.asarray(df, dtype=float), 4 + 1e-9)
            of_part = share * df / (df - 2)
            second = second + of_part
            fourth = fourth + of_part**2 / (df - 4)
        matched = 4 + second**2 / fourth
        scale = np.sqrt(second * (matched - 2) / matched)
    has_moments = (least > 4) & (square > 0)
    return (
        np.sqrt(square),
        np.where(has_moments, scale, 1.0),
        np.where(has_moments, matched, least),
    )
