"""Tables of scores whose true differences are known, drawn many at a time.

A world gives what a test of a table looks at: each arm's mean score by seed, and for every
comparison the variances that drawing the items brings. Axes: R replicates, A arms, S seeds, C
comparisons, I items. Arms are `references` first (`full`, `random`), rules after them. Scores are
shares; a noise of one point is 0.01.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NOISE = 0.009
"""Standard deviation of one seed's mean by its items alone, the median of the committed rows."""
ITEMS = 1000
SD_RANGE = (0.002, 0.061)
"""Seed standard deviations of the committed rows: the unequal ones are log-uniform in it."""


@dataclass(frozen=True)
class World:
    """What a test of a table sees, and which of its comparisons are true nulls."""

    mean_RAS: np.ndarray
    """NaN where an arm has no run of that seed."""
    pair_C2: np.ndarray
    """Arms of each comparison: rule, reference."""
    item_RC: np.ndarray
    """MS_item / (S·I) of the differences over their common seeds."""
    residual_RC: np.ndarray
    """MS_res / (S·I)."""
    items: int
    floor_A: np.ndarray | float
    """Variance of one seed's mean by its items alone."""
    is_reference_A: np.ndarray
    is_null_C: np.ndarray

    @property
    def seeds_C(self) -> np.ndarray:
        """Common seeds of each comparison."""
        is_run_AS = ~np.isnan(self.mean_RAS[0])
        return (is_run_AS[self.pair_C2[:, 0]] & is_run_AS[self.pair_C2[:, 1]]).sum(-1)

    @property
    def difference_RCS(self) -> np.ndarray:
        """NaN where one of the two has no run of the seed."""
        return self.mean_RAS[:, self.pair_C2[:, 0]] - self.mean_RAS[:, self.pair_C2[:, 1]]


def against_references(arms: int, references: int = 2) -> np.ndarray:
    """Every arm against each reference before it, as (C, 2)."""
    return np.array([(a, r) for r in range(references) for a in range(r + 1, arms)])


def _all_alike(sd_RA: np.ndarray, z_RAS: np.ndarray, generator: np.random.Generator) -> None:
    """No stress."""


def _wild(arms: Callable[[int], Sequence[int]]):
    def change(sd_RA: np.ndarray, z_RAS: np.ndarray, generator: np.random.Generator) -> None:
        sd_RA[:, arms(sd_RA.shape[1])] *= 10**0.5

    return change


def _correlated(sd_RA: np.ndarray, z_RAS: np.ndarray, generator: np.random.Generator) -> None:
    """Even arms share half of their seed variance, odd arms have the opposite of it."""
    common_RS = generator.standard_normal(z_RAS[:, 0].shape)[:, None]
    z_RAS *= 0.5**0.5
    z_RAS[:, ::2] += 0.5**0.5 * common_RS
    z_RAS[:, 1::2] -= 0.5**0.5 * common_RS


def _opposed(sd_RA: np.ndarray, z_RAS: np.ndarray, generator: np.random.Generator) -> None:
    """Half of every other arm's seed variance is the opposite of the first reference's."""
    z_RAS[:, 1:] = 0.5**0.5 * (z_RAS[:, 1:] - z_RAS[:, :1])


STRESS = {
    "none": _all_alike,
    "one rule wild": _wild(lambda arms: [2]),
    "a tenth wild": _wild(lambda arms: list(range(2, 2 + max(1, (arms - 2) // 10)))),
    "half wild": _wild(lambda arms: list(range(2, arms, 2))),
    "`full` wild": _wild(lambda arms: [0]),
    "references wild": _wild(lambda arms: [0, 1]),
    "two camps of seeds": _correlated,
    "seeds oppose `full`": _opposed,
}
"""What departs from the prior: wild arms have ten times the seed variance."""


def normal(
    generator: np.random.Generator,
    replicates: int,
    rules: int,
    seeds: int,
    ratio: float,
    *,
    references: int = 2,
    unequal: bool = False,
    stress: str = "none",
    shift_A: np.ndarray | None = None,
    is_run_AS: np.ndarray | None = None,
    item_share: float = 0.05,
    items: int = ITEMS,
) -> World:
    """Normal scores. `ratio` is I·σ²_seed / σ²_res of the average arm; `item_share` the variance of
    an arm's own item effects over σ²_res; `shift_A` true means; `is_run_AS` the seeds of each arm.
    """
    arms, noise = rules + references, NOISE**2 * ITEMS / items
    sd_RA = np.full((replicates, arms), (ratio * noise) ** 0.5)
    if unequal:
        low, high = SD_RANGE
        mean_square = (high**2 - low**2) / (2 * np.log(high / low))
        drawn_RA = np.exp(generator.uniform(np.log(low), np.log(high), sd_RA.shape))
        sd_RA *= drawn_RA / mean_square**0.5
    z_RAS = generator.standard_normal((replicates, arms, seeds))
    STRESS[stress](sd_RA, z_RAS, generator)
    mean_RAS = sd_RA[..., None] * z_RAS
    mean_RAS += noise**0.5 * generator.standard_normal(z_RAS.shape)
    mean_RAS += 0.01 * generator.standard_normal((replicates, 1, seeds))  # shared by all arms
    mean_RAS += (item_share * noise) ** 0.5 * generator.standard_normal((replicates, arms, 1))
    shift_A = np.zeros(arms) if shift_A is None else shift_A
    mean_RAS += shift_A[:, None]
    if is_run_AS is not None:
        mean_RAS[:, ~is_run_AS] = np.nan
    pair_C2 = against_references(arms, references)
    is_reference_A = np.arange(arms) < references
    world = World(mean_RAS, pair_C2, np.empty(0), np.empty(0), items, noise, is_reference_A,
                  shift_A[pair_C2[:, 0]] == shift_A[pair_C2[:, 1]])  # fmt: skip
    common_C = world.seeds_C
    residual_C = 2 * noise / common_C
    shape, df_C = (replicates, len(pair_C2)), (items - 1) * np.maximum(common_C - 1, 1)
    item_RC = (2 * item_share * noise + residual_C) * generator.chisquare(items - 1, shape)
    residual_RC = residual_C * generator.chisquare(np.broadcast_to(df_C, shape)) / df_C
    return World(mean_RAS, pair_C2, item_RC / (items - 1), residual_RC, items, noise,
                 is_reference_A, world.is_null_C)  # fmt: skip


def of_items(score_RASI: np.ndarray, pair_C2: np.ndarray, references: int, floor: float) -> World:
    """The world of these scores, item by item; every comparison a true null, all seeds run."""
    replicates, arms, seeds, items = score_RASI.shape
    mean_RAS = score_RASI.mean(-1)
    item_RAI = score_RASI.mean(2)
    flat = score_RASI.reshape(replicates, arms, seeds * items)
    every, by_item = (x @ x.swapaxes(1, 2) for x in (flat, item_RAI))
    one, other = pair_C2.T

    def squares(gram_RAA: np.ndarray) -> np.ndarray:
        """Sum of squared differences of two arms, from all products."""
        return gram_RAA[:, one, one] + gram_RAA[:, other, other] - 2 * gram_RAA[:, one, other]

    difference_RCS = mean_RAS[:, one] - mean_RAS[:, other]
    total = squares(every) - seeds * items * difference_RCS.mean(-1) ** 2
    of_item = seeds * (squares(by_item) - items * difference_RCS.mean(-1) ** 2)
    of_seed = items * (seeds - 1) * difference_RCS.var(-1, ddof=1)
    ms_item = of_item / (items - 1)
    ms_residual = (total - of_item - of_seed) / ((items - 1) * (seeds - 1))
    cells = seeds * items
    return World(mean_RAS, pair_C2, ms_item / cells, ms_residual / cells, items, floor,
                 np.arange(arms) < references, np.ones(len(pair_C2), bool))  # fmt: skip


def right_or_wrong(
    generator: np.random.Generator, replicates: int, rules: int, seeds: int, items: int, sd: float
) -> World:
    """Scores of 0 and 1: items from hard to easy, arms that find some of them easier, and seed
    effects of standard deviation `sd` on the chance of every item.
    """
    arms = rules + 2
    of_item_RI = generator.uniform(0.25, 0.85, (replicates, 1, 1, items))
    of_arm = generator.uniform(-0.1, 0.1, (replicates, arms, 1, items))
    of_seed = np.clip(sd * generator.standard_normal((replicates, arms, seeds, 1)), -0.14, 0.14)
    chance = of_item_RI + of_arm + of_seed
    score_RASI = (generator.random(chance.shape, dtype=np.float32) < chance).astype(np.float32)
    # The floor of an arm is estimated in the tables; its expectation here.
    floor = float((chance * (1 - chance)).mean()) / items
    return of_items(score_RASI, against_references(arms), 2, floor)


def resampled(
    generator: np.random.Generator,
    replicates: int,
    score_ASI: np.ndarray,
    pair_C2: np.ndarray,
    references: int,
    seeds: int,
) -> World:
    """Published scores under the null: an arm's own rows of items, in another order of seeds, on
    items drawn anew, each row's mean replaced by a seed effect drawn from those of all arms and
    scaled to the arm's own spread.
    """
    arms, known, items = score_ASI.shape
    mean_AS = score_ASI.mean(-1)
    effect_AS = mean_AS - mean_AS.mean(1, keepdims=True) - mean_AS.mean(0) + mean_AS.mean()
    sd_A = effect_AS.std(1, ddof=1) * (arms / (arms - 1)) ** 0.5
    pool = (effect_AS / sd_A[:, None]).ravel()
    pool = pool / pool.std()
    centred_ASI = score_ASI - mean_AS[..., None]
    row_ASI = centred_ASI - centred_ASI.mean(1, keepdims=True)
    floor_A = (row_ASI**2).sum((1, 2)) / ((known - 1) * (items - 1)) / items
    own_A = np.sqrt(np.maximum(sd_A**2 - floor_A, 0))
    order_RAS = generator.random((replicates, arms, known)).argsort(-1)[..., :seeds]
    item_RI = generator.integers(0, items, (replicates, items))
    score_RASI = centred_ASI[
        np.arange(arms)[:, None, None], order_RAS[..., None], item_RI[:, None, None]
    ]
    drawn_RAS = generator.choice(pool, (replicates, arms, seeds)) * own_A[:, None]
    found = of_items(score_RASI + drawn_RAS[..., None], pair_C2, references, 0.0)
    return World(found.mean_RAS, pair_C2, found.item_RC, found.residual_RC, items, floor_A,
                 found.is_reference_A, found.is_null_C)  # fmt: skip
