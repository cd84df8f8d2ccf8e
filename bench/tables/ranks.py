"""Tables -> what is compared across them: ranks over pairs, K, a family of pairs. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from bench.core.records import canonical_json
from bench.tables.leaderboard import Line, Table
from bench.tables.rows import DEFAULTS

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


def without_k(table: Table) -> Table:
    """The table with K left out of its regime, for what holds several of them."""
    return replace(table, changes={n: v for n, v in table.changes.items() if n != "k"})


def k_groups(tables: Iterable[Table]) -> list[dict[int, Table]]:
    """Tables that differ in k alone, k -> table, where there are several."""
    groups: dict[str, dict[int, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep and table.tuning is None:
            key = canonical_json([table.pair, table.task, without_k(table).changes])
            groups[key][table.changes.get("k", DEFAULTS["k"])] = table
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class Dial:
    """Tables of pairs that differ in one stated number (`style_share`), in its order."""

    fact: str
    by_value: Mapping[float, Table]

    def lines(self) -> dict[tuple[float, str], dict[float, Line]]:
        """(keep, label) -> value of the dial -> line, of every rule and of the baselines."""
        found: dict[tuple[float, str], dict[float, Line]] = defaultdict(dict)
        for value, table in self.by_value.items():
            for line in table.lines:
                found[line.keep, line.label][value] = line
        return dict(found)


def dials(tables: Iterable[Table]) -> list[Dial]:
    """Families of at least three pairs that state another number each, by task and regime."""
    groups: dict[tuple[str, str, str], dict[float, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep and table.tuning is None and table.arms():
            for fact, value in table.facts.items():
                groups[fact, table.task, table.regime][value] = table
    return [
        Dial(fact, dict(sorted(by_value.items())))
        for (fact, *_), by_value in groups.items()
        if len(by_value) > 2
    ]
