"""How many seeds a claim needs: the smallest effects that the tables' test finds, as simulated.

power.json is written by tests/benchmarks/verdict_error.py, with results/statistics.md. It holds,
for tables of so many rules against `full` and `random`, the difference in points that is found with
80 % power at 5 % over so many comparisons, by number of seeds and by ratio: I·σ²_seed / σ²_res, the
variance of training seeds over what the items alone make of one seed's mean.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.core.claims import Claim, NamedClaims
from bench.core.files import canonical_json
from bench.tables.leaderboard import UNREAD
from bench.tables.rows import regime_changes, regime_name

FILE = Path(__file__).parent / "power.json"
RATIOS = {"quiet": 1.0, "noisy": 4.0}
"""The published tables have about the one under the default regime, the other under `paper`."""
EFFECTS = (2.0, 3.0, 5.0)
"""Points that a plan asks about."""


@cache
def power_table() -> Mapping[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def smallest_effects(rules: int, comparisons: int, ratio: float) -> dict[int, float]:
    """seeds -> points, for a table of so many rules or the next smaller one that was simulated, and
    a family of so many comparisons or the next larger one; empty beyond the largest.
    """
    found = power_table()
    families = [n for n in found["families"] if n >= comparisons]
    if not families:
        return {}
    place = found["families"].index(min(families))
    known = {cell["rules"] for cell in found["cells"]}
    nearest = max((n for n in known if n <= rules), default=min(known))
    return {
        cell["seeds"]: cell["points"][place]
        for cell in found["cells"]
        if (cell["rules"], cell["ratio"]) == (nearest, ratio)
    }


def seeds_needed(effect: float, by_seeds: Mapping[int, float]) -> int | None:
    """The fewest seeds that find an effect of so many points; None where none simulated does."""
    return min((seeds for seeds, points in by_seeds.items() if points <= effect), default=None)


def plan(named: NamedClaims) -> list[dict[str, Any]]:
    """For every claim and each of its tables: the seeds of the file, what they find, and the seeds
    that true differences of EFFECTS need (of its margin, too, for a claim of non-inferiority).
    """
    tables: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for values in named.experiments:
        tables[values["pair"], canonical_json(regime_changes(values))].append(values)
    found = []
    for kind in ("primary", "secondary"):
        asked = [
            (claim, pair, regime, points)
            for claim in getattr(named.claims, kind)
            for (pair, regime), points in tables.items()
            if {claim.rule, claim.reference} <= {values["selector"] for values in points}
        ]
        found += [
            {
                "kind": kind,
                "pair": pair,
                "regime": regime_name(json.loads(regime)),
                "comparisons": len(asked),
                **_needs(claim, points, len(asked)),
            }
            for claim, pair, regime, points in asked
        ]
    return found


def _needs(claim: Claim, points: list[Mapping[str, Any]], comparisons: int) -> dict[str, Any]:
    seeds = [
        {values["seed"] for values in points if values["selector"] == name}
        for name in (claim.rule, claim.reference)
    ]
    rules = {values["selector"] for values in points} - set(UNREAD)
    common = len(seeds[0] & seeds[1])
    margin = () if claim.margin is None else (100 * claim.margin,)
    effects: list[float] = sorted({*EFFECTS, *margin})
    by_ratio = {
        name: smallest_effects(len(rules), comparisons, ratio) for name, ratio in RATIOS.items()
    }
    return {
        "words": claim.words, "rule": claim.rule, "reference": claim.reference,
        "keep": claim.keep, "margin": claim.margin, "seeds": common,
        "smallest_points": {name: _at(common, known) for name, known in by_ratio.items()},
        "seeds_needed": {
            f"{effect:g}": {name: seeds_needed(effect, known) for name, known in by_ratio.items()}
            for effect in effects
        },
    }  # fmt: skip


def _at(seeds: int, by_seeds: Mapping[int, float]) -> float | None:
    """What so many seeds find, or the next fewer that were simulated."""
    fewer = [number for number in by_seeds if number <= seeds]
    return by_seeds[max(fewer)] if fewer else None
