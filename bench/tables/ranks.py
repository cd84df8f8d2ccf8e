"""Tables -> what is compared across them: ranks over pairs, K, a family of pairs. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from bench.tables.sheet import Sheet
from bench.tables.table import Line, Table

BOOTSTRAP_SEED, BOOTSTRAP_DRAWS = 0, 10_000


@dataclass(frozen=True)
class Ranks:
    """Average ranks over pairs of the rules that every pair has at one keep (and of `full`)."""

    task: str
    regime: str
    keep: float
    pairs: tuple[str, ...]
    lines: tuple[tuple[str, float, tuple[float, float], tuple[float, ...]], ...]
    """label, average rank (1 is best), 95 % interval over seeds, rank in each pair."""


def overall(tables: Iterable[Table]) -> list[Ranks]:
    """Average ranks, for each task, regime and keep where several pairs have both references."""
    groups: dict[tuple, dict[str, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep:
            groups[table.task, table.regime][table.pair] = table
    found = []
    for (task, _), by_pair in groups.items():
        arms = [{(line.label, line.keep): line for line in t.arms()} for t in by_pair.values()]
        common = set.intersection(*(set(arm) for arm in arms))
        regime = next(iter(by_pair.values())).regime
        for keep in sorted({keep for label, keep in common if label != "full"}):
            keys = sorted(key for key in common if key[1] == keep or key[0] == "full")
            if len(by_pair) > 1 and {"full", "random"} <= {label for label, _ in keys}:
                lines = _ranked(keys, arms)
                found.append(Ranks(task, regime, keep, tuple(by_pair), lines))
    return found


def _ranked(keys: Sequence[tuple], arms: Sequence[Mapping[tuple, Line]]) -> tuple:
    """Ranks by accuracy; the interval resamples the seeds of every rule in every pair."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rank_PA, drawn_DA = [], np.zeros((BOOTSTRAP_DRAWS, len(keys)))
    for by_key in arms:
        rank_PA.append(rankdata([-round(by_key[key].accuracy, 12) for key in keys]))
        accuracy_DA = np.empty_like(drawn_DA)
        for column, key in enumerate(keys):
            seeds_S = np.array(by_key[key].accuracy_S)
            pick_DS = generator.integers(len(seeds_S), size=(BOOTSTRAP_DRAWS, len(seeds_S)))
            accuracy_DA[:, column] = seeds_S[pick_DS].mean(1)
        drawn_DA += rankdata(-accuracy_DA.round(12), axis=1) / len(arms)
    low_A, high_A = np.quantile(drawn_DA, (0.025, 0.975), axis=0)
    mean_A = np.mean(rank_PA, axis=0)
    lines = [
        (key[0], float(mean_A[a]), (float(low_A[a]), float(high_A[a])),
         tuple(float(rank_A[a]) for rank_A in rank_PA))
        for a, key in enumerate(keys)
    ]  # fmt: skip
    return tuple(sorted(lines, key=lambda line: (line[1], line[0])))


def ranks_sheet(ranks: Ranks) -> Sheet:
    rows = [
        (label, f"{mean:.1f}", f"{low:.1f} to {high:.1f}", *(f"{rank:g}" for rank in by_pair))
        for label, mean, (low, high), by_pair in ranks.lines
    ]
    return Sheet(
        f"Average rank over pairs: {ranks.task}, regime {ranks.regime}, keep {ranks.keep:g}",
        ("selector", "average rank", "95 % over seeds", *ranks.pairs),
        tuple(rows),
        (
            f"Rank 1 is the best of {len(rows)} rules by mean accuracy; ties share a rank. The "
            f"interval resamples the training seeds ({BOOTSTRAP_DRAWS:,} draws, generator seed "
            f"{BOOTSTRAP_SEED}); it holds no variance of items or of pairs.",
        ),
    )
