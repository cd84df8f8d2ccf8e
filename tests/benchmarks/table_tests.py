"""Tests of a table of rules: the one in use, and those that the simulation compares it with.

Each takes a World and gives two-sided p-values (R, C). What is in use is computed by the functions
of `bench.core.moderated`; the others are written here.
"""

from collections.abc import Callable

import numpy as np
from null_worlds import World
from scipy import special

from bench.core.moderated import CHOSEN, Moderation, moderate, own_variances, scaled_t

TableTest = Callable[[World], np.ndarray]


def p_value(mean: np.ndarray, error: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Two-sided; without an error only a difference of zero is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 2 * special.stdtr(df, -np.abs(mean) / error)
    return np.where(error > 0, found, mean == 0)


def moderated(
    world: World, how: Moderation = CHOSEN, *, has_floor: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of every difference and degrees of freedom of its t, of the test in use."""
    own_RA, df_A = own_variances(world.mean_RAS)
    floor = world.floor_A if has_floor else 0.0
    variance_RA, df_RA = moderate(own_RA, df_A, world.is_reference_A, floor, how)
    one, other = world.pair_C2.T
    of_items = np.maximum(0, world.item_RC - world.residual_RC)
    error, scale, df = scaled_t([
        (variance_RA[:, one] / world.seeds_C, df_RA[:, one]),
        (variance_RA[:, other] / world.seeds_C, df_RA[:, other]),
        (of_items, world.items - 1),
    ])  # fmt: skip
    return error * scale, df


def in_use(world: World, how: Moderation = CHOSEN, *, has_floor: bool = True) -> np.ndarray:
    error, df = moderated(world, how, has_floor=has_floor)
    return p_value(np.nanmean(world.difference_RCS, -1), error, df)


def without_floor(world: World) -> np.ndarray:
    return in_use(world, has_floor=False)


def wider_caps(world: World) -> np.ndarray:
    return in_use(world, Moderation(20.0, 8.0))


def without_caps(world: World) -> np.ndarray:
    return in_use(world, Moderation(1e3, 1e3))


def without_outliers(world: World) -> np.ndarray:
    return in_use(world, Moderation(outlier=0.0))


def _of_seeds(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds of every difference, and its variance by seeds, MS_seed / (S·I)."""
    difference_RCS = world.difference_RCS
    variance_RC = np.nanvar(difference_RCS, -1, ddof=1) / world.seeds_C
    return np.nanmean(difference_RCS, -1), variance_RC


def crossed(world: World) -> np.ndarray:
    """max(MS_seed + MS_item − MS_res, MS_seed, MS_item) / (S·I) with Satterthwaite's degrees of
    freedom: the test of the tables before version 1."""
    (mean, seed_RC), df_seed, df_item = _of_seeds(world), world.seeds_C - 1, world.items - 1
    both = seed_RC + world.item_RC - world.residual_RC
    largest = np.maximum(both, np.maximum(seed_RC, world.item_RC))
    parts = seed_RC**2 / df_seed + world.item_RC**2 / df_item
    parts += world.residual_RC**2 / (df_seed * df_item)
    df = np.where(
        largest == both,
        np.maximum(1, both**2 / parts),
        np.where(largest == seed_RC, df_seed, df_item),
    )
    return p_value(mean, np.sqrt(largest), df)


def t_of_seeds(world: World) -> np.ndarray:
    """Student's t over seed means; blind to items."""
    mean, seed_RC = _of_seeds(world)
    return p_value(mean, np.sqrt(seed_RC), world.seeds_C - 1)


def t_with_items(world: World) -> np.ndarray:
    """The same with the item component added to the error, and S − 1 degrees of freedom."""
    mean, seed_RC = _of_seeds(world)
    of_items = np.maximum(0, world.item_RC - world.residual_RC)
    return p_value(mean, np.sqrt(seed_RC + of_items), world.seeds_C - 1)


def moderated_differences(world: World) -> np.ndarray:
    """Variances of the differences moderated over the comparisons, not those of the arms."""
    mean, seed_RC = _of_seeds(world)
    no_reference = np.zeros(len(world.pair_C2), bool)
    how = Moderation(1e3, 1e3, 0.0)
    variance_RC, df = moderate(seed_RC, world.seeds_C - 1.0, no_reference, how=how)
    of_items = np.maximum(0, world.item_RC - world.residual_RC)
    return p_value(mean, np.sqrt(variance_RC + of_items), df)


def pooled(world: World) -> np.ndarray:
    """One variance for all arms."""
    own_RA, df_A = own_variances(world.mean_RAS)
    common_R1 = (own_RA * df_A).sum(-1, keepdims=True) / df_A.sum()
    of_items = np.maximum(0, world.item_RC - world.residual_RC)
    error = np.sqrt(2 * common_R1 / world.seeds_C + of_items)
    return p_value(np.nanmean(world.difference_RCS, -1), error, df_A.sum())


TESTS: dict[str, TableTest] = {
    "in use: variances of arms moderated": in_use,
    "the same, without the items' floor": without_floor,
    "the same, wider caps (20 and 8)": wider_caps,
    "the same, without caps": without_caps,
    "the same, outliers moderated too": without_outliers,
    "variances of differences moderated": moderated_differences,
    "one variance pooled over arms": pooled,
    "t over seed means": t_of_seeds,
    "t over seed means, with items": t_with_items,
    "crossed, Satterthwaite (before version 1)": crossed,
}


def holm_rejects(p_RC: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Which comparisons of each table Holm's procedure rejects."""
    comparisons = p_RC.shape[1]
    order_RC = p_RC.argsort(1)
    steps_C = comparisons - np.arange(comparisons)
    adjusted_RC = np.maximum.accumulate(np.take_along_axis(p_RC, order_RC, 1) * steps_C, 1)
    found_RC = np.zeros(p_RC.shape, bool)
    np.put_along_axis(found_RC, order_RC, adjusted_RC < level, 1)
    return found_RC


def errors_of(world: World, test: TableTest) -> dict[str, float]:
    """Family-wise error, and the size at 5 % and at Holm's first step (over its level there)."""
    p_RC = test(world)
    level = 0.05 / p_RC.shape[1]
    null_RC = p_RC[:, world.is_null_C]
    return {
        "family": float((holm_rejects(p_RC)[:, world.is_null_C]).any(1).mean()),
        "one": float((null_RC < 0.05).mean()),
        "first": float((null_RC < level).mean() / level),
    }
