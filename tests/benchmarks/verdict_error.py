"""How often the tables' verdicts are wrong, and what they find: simulated tables of known truth.

    python tests/benchmarks/verdict_error.py            # half an hour on two idle cores
    python tests/benchmarks/verdict_error.py --page     # only the page, from the committed figures

Writes results/statistics.json (every cell), results/statistics.md (the page) and
bench/tables/power.json (the smallest effects, which `bench sweep --plan` reads). The worlds are in
null_worlds.py, the tests that are compared in table_tests.py. Set OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import null_worlds as worlds
import numpy as np
from scipy import stats
from table_tests import TESTS, crossed, errors_of, holm_rejects, in_use, moderated, t_with_items
from verdict_page import page

from bench.core.files import write_text
from bench.core.moderated import TEST_VERSION
from bench.core.provenance import code_digest
from bench.core.stats import MIN_EFFECT, POWER, holm, mean_squares
from bench.tables.leaderboard import UNREAD, make_tables
from bench.tables.rows import read_rows
from bench.tables.table import Line, Table

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "results/statistics.json", ROOT / "results/statistics.md"
POWER_JSON = ROOT / "bench/tables/power.json"
TESTED_CODE = ("core/moderated",)
REPLICATES = 5000
RULES, SEEDS, RATIOS = (1, 2, 10, 31, 80), (3, 5, 10), (0.25, 1, 4, 10)
EFFECTS = (0.02, 0.03, 0.05)
FAMILIES = (1, 2, 4, 8, 16, 32, 64, 128)
PLANNED_SEEDS = (3, 4, 5, 6, 8, 10, 15, 20)
CHUNK = 100
"""Replicates drawn at once where scores are drawn item by item."""


@dataclass(frozen=True)
class Cell:
    """One design, simulated: the kind of world, and its arguments."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)


def grid() -> Iterator[Cell]:
    for rules in RULES:
        for seeds in SEEDS:
            for ratio in RATIOS:
                for unequal in (False, True):
                    values = {"rules": rules, "seeds": seeds, "ratio": ratio, "unequal": unequal}
                    yield Cell("grid", values)


def stress() -> Iterator[Cell]:
    """Wild arms and seeds that go together; all nulls true, and every other rule 20 points off."""
    for name in list(worlds.STRESS)[1:]:
        for rules in (1, 2, 10, 31):
            for seeds in SEEDS:
                for ratio in (1, 10):
                    for off in (0.0, 0.2) if rules > 1 else (0.0,):
                        yield Cell("stress", {"stress": name, "rules": rules, "seeds": seeds,
                                              "ratio": ratio, "off": off})  # fmt: skip


def two_arms() -> Iterator[Cell]:
    """A rule and `full`, and nothing else to learn a variance from."""
    for name in ("none", "`full` wild", "seeds oppose `full`"):
        for seeds in SEEDS:
            for ratio in (1, 4, 10):
                yield Cell("two arms", {"stress": name, "rules": 1, "seeds": seeds, "ratio": ratio,
                                        "references": 1})  # fmt: skip


def missing() -> Iterator[Cell]:
    for pattern in MISSING:
        for rules in (2, 10, 31):
            for ratio in (1, 4, 10):
                yield Cell("missing", {"pattern": pattern, "rules": rules, "ratio": ratio})


def item_by_item() -> Iterator[Cell]:
    for items in (30, 100, 300, 1000):
        for rules in (2, 10):
            for seeds in (3, 5):
                for sd in (0.01, 0.03):
                    yield Cell("items", {"items": items, "rules": rules, "seeds": seeds, "sd": sd})
    for pair in ("tiny-qwen2.5", "tiny-qwen3"):
        for seeds in (3, 5):
            yield Cell("rows", {"pair": pair, "seeds": seeds})


def powers() -> Iterator[Cell]:
    for rules in (10, 31):
        for seeds in SEEDS:
            for ratio in (0.25, 1, 4):
                yield Cell("power", {"rules": rules, "seeds": seeds, "ratio": ratio})


def effects() -> Iterator[Cell]:
    for rules in (1, 2, 10, 31):
        for seeds in PLANNED_SEEDS:
            for ratio in (0.25, 1, 4, 10):
                yield Cell("effect", {"rules": rules, "seeds": seeds, "ratio": ratio})


def every_seed_but_one(rules: int) -> np.ndarray:
    """Six seeds, and each arm lacks one of them."""
    lacks_A = np.arange(rules + 2) % 6
    return np.arange(6) != lacks_A[:, None]


def three_of_five(rules: int) -> np.ndarray:
    """Every other rule has the first three seeds only."""
    return (np.arange(5) < 3) | (np.arange(rules + 2)[:, None] % 2 == 0)


def two_batches(rules: int) -> np.ndarray:
    """The references have eight seeds, half of the rules the first five, half the last five."""
    seed_S, arm_A1 = np.arange(8), np.arange(rules + 2)[:, None]
    return (arm_A1 < 2) | np.where(arm_A1 % 2 == 0, seed_S < 5, seed_S >= 3)


MISSING: dict[str, Callable[[int], np.ndarray]] = {
    "each arm lacks one of six": every_seed_but_one,
    "three of five": three_of_five,
    "two batches of five": two_batches,
}


def measure(number: int, cell: Cell, replicates: int) -> dict[str, Any]:
    """One cell's figures. Its draws depend on its kind and number alone."""
    generator = np.random.default_rng([2026, sum(cell.kind.encode()), number])
    return {"kind": cell.kind, **cell.values, **MEASURES[cell.kind](cell, generator, replicates)}


def _drawn(cell: Cell, generator: np.random.Generator, replicates: int) -> worlds.World:
    values = dict(cell.values)
    if "off" in values:
        off_A = np.zeros(values["rules"] + 2)
        off_A[3::2] = values.pop("off")
        values["shift_A"] = off_A
    if "pattern" in values:
        values["is_run_AS"] = MISSING[values.pop("pattern")](values["rules"])
        values["seeds"] = values["is_run_AS"].shape[1]
    return worlds.normal(generator, replicates, **values)


def measure_errors(cell: Cell, generator: np.random.Generator, replicates: int) -> dict[str, Any]:
    world = _drawn(cell, generator, replicates)
    return {"errors": {name: rounded(errors_of(world, test)) for name, test in TESTS.items()}}


def rounded(errors: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in errors.items()}


def measure_by_item(cell: Cell, generator: np.random.Generator, replicates: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TESTS}
    for _ in range(replicates // CHUNK):
        if cell.kind == "rows":
            values = (*published_scores(cell.values["pair"]), cell.values["seeds"])
            world = worlds.resampled(generator, CHUNK, *values)
        else:
            world = worlds.right_or_wrong(generator, CHUNK, **cell.values)
        for name, test in TESTS.items():
            found[name].append(errors_of(world, test))
    return {
        "comparisons": len(world.pair_C2),
        "errors": {
            name: rounded({key: float(np.mean([e[key] for e in errors])) for key in errors[0]})
            for name, errors in found.items()
        },
    }


@cache
def published_scores(pair: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Arms × seeds × items of the default table of a pair, its comparisons, and how many of its
    arms, first of all, are references."""
    rows = read_rows({"rows": (ROOT / "results/rows.jsonl").read_text()})
    table = next(t for t in make_tables(rows) if t.pair == pair and not t.changes)
    lines = [line for line in table.arms() if len(line.runs) >= 5]
    lines.sort(key=lambda line: line.selector not in UNREAD)
    references = sum(line.selector in UNREAD for line in lines)
    full = next(i for i, line in enumerate(lines) if line.selector == "full")
    random = {line.keep: i for i, line in enumerate(lines) if line.selector == "random"}
    pairs = [(i, full) for i in range(len(lines)) if i != full]
    pairs += [(i, random[line.keep]) for i, line in enumerate(lines) if line.selector not in UNREAD]
    score_ASI = np.array([line.score_SI[:5] for line in lines])
    return score_ASI, np.array(pairs), references


def measure_power(cell: Cell, generator: np.random.Generator, replicates: int) -> dict[str, Any]:
    """Share of true differences from `full` that Holm's procedure finds: six rules are shifted, or
    half of them where there are fewer than twelve."""
    found: dict[str, list[float]] = {"in use": [], "t over seed means, with items": []}
    rules = cell.values["rules"]
    shifted = min(6, rules // 2)
    for effect in EFFECTS:
        shift_A = np.zeros(rules + 2)
        shift_A[2 : 2 + shifted] = effect
        world = worlds.normal(generator, replicates, shift_A=shift_A, **cell.values)
        for name, test in zip(found, (in_use, t_with_items), strict=True):
            # The first comparisons are those with `full`: `random`, then the rules.
            rejects = holm_rejects(test(world))[:, 1 : 1 + shifted]
            found[name].append(float(rejects.mean()))
    return {"power": found}


def measure_effect(cell: Cell, generator: np.random.Generator, replicates: int) -> dict[str, Any]:
    """The smallest true difference of a rule from `full` that is found with POWER at 5 % over each
    number of comparisons. A shift moves the mean alone, so one world serves all."""
    world = worlds.normal(generator, replicates, **cell.values)
    error_RC, df_RC = moderated(world)
    of_rule = slice(1, 1 + cell.values["rules"])
    mean_RC, error_RC = world.difference_RCS.mean(-1)[:, of_rule], error_RC[:, of_rule]
    df_RC = np.broadcast_to(df_RC, world.item_RC.shape)[:, of_rule]
    needed = [stats.t.isf(0.025 / m, df_RC) * error_RC - mean_RC for m in FAMILIES]
    return {"points": [round(100 * float(np.quantile(one, POWER)), 2) for one in needed]}


def changed_verdicts() -> list[dict[str, Any]]:
    """Clear verdicts of every published table before version 1 of the test, and now."""
    found = []
    for name in ("results/rows.jsonl", "results/mismatch/rows.jsonl"):
        for table in make_tables(read_rows({name: (ROOT / name).read_text()})):
            judged = [
                (found, difference_SI)
                for line in table.arms()
                for found, reference in ((line.vs_full, "full"), (line.vs_random, "random"))
                if found is not None and found.can_be_judged
                for difference_SI in [_difference(table, line, reference)]
            ]
            before = holm([_p_before(difference_SI) for _, difference_SI in judged])
            pairs = [
                (p_value < 0.05 and abs(now.mean) > MIN_EFFECT, now.verdict != "tie")
                for p_value, (now, _) in zip(before, judged, strict=True)
            ]
            found.append({
                "pair": table.pair, "regime": table.regime, "comparisons": len(pairs),
                "before": sum(one for one, _ in pairs), "now": sum(one for _, one in pairs),
                "gained": pairs.count((False, True)), "lost": pairs.count((True, False)),
            })  # fmt: skip
    return found


def _difference(table: Table, line: Line, name: str) -> np.ndarray:
    """Scores of a line less those of its reference, over common seeds (rows) and items."""
    reference = next(
        other for other in table.arms(name) if name == "full" or other.keep == line.keep
    )
    common = sorted(set(line.seeds) & set(reference.seeds))
    of_line, of_reference = (
        arm.score_SI[[arm.seeds.index(seed) for seed in common]] for arm in (line, reference)
    )
    return of_line - of_reference


def _p_before(difference_SI: np.ndarray) -> float:
    """The p-value of the crossed test, as `table_tests.crossed` has it."""
    squares, cells = mean_squares(difference_SI), difference_SI.size
    world = worlds.World(
        np.stack([difference_SI.mean(1), np.zeros(len(difference_SI))])[None], np.array([[0, 1]]),
        np.array([[squares.item / cells]]), np.array([[squares.residual / cells]]),
        difference_SI.shape[1], 0.0, np.array([False, True]), np.array([True]),
    )  # fmt: skip
    return float(crossed(world)[0, 0])


MEASURES = {
    "grid": measure_errors,
    "stress": measure_errors,
    "two arms": measure_errors,
    "missing": measure_errors,
    "items": measure_by_item,
    "rows": measure_by_item,
    "power": measure_power,
    "effect": measure_effect,
}


def run(replicates: int, workers: int) -> dict[str, Any]:
    cells = [*grid(), *stress(), *two_arms(), *missing(), *item_by_item(), *powers(), *effects()]
    # The largest first, so that no worker ends long after the others.
    order = sorted(range(len(cells)), key=lambda n: -cells[n].values.get("rules", 100))
    found: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(workers) as pool:
        waiting = {pool.submit(measure, n, cells[n], replicates): n for n in order}
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            print(f"{len(found)}/{len(cells)} {cells[waiting[done]]}", file=sys.stderr)
    return {
        "test_version": TEST_VERSION,
        "code": code_digest(TESTED_CODE),
        "replicates": replicates,
        "changed": changed_verdicts(),
        "cells": [found[n] for n in range(len(cells))],
    }


def power_table(found: dict[str, Any]) -> dict[str, Any]:
    """What `bench sweep --plan` looks up."""
    return {
        "test_version": found["test_version"],
        "noise_points": 100 * worlds.NOISE,
        "power": POWER,
        "families": FAMILIES,
        "cells": [
            {key: value for key, value in cell.items() if key != "kind"}
            for cell in found["cells"]
            if cell["kind"] == "effect"
        ],
    }


def by_line(found: dict[str, Any]) -> str:
    """JSON, an item of each list a line."""
    parts = []
    for key, value in found.items():
        items = value if isinstance(value, list) else None
        text = (
            json.dumps(value)
            if items is None
            else "[\n" + ",\n".join(map(json.dumps, items)) + "\n]"
        )
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="tables a cell")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--page", action="store_true", help="write the page only")
    arguments = parser.parse_args()
    if not arguments.page:
        found = run(arguments.replicates, arguments.workers)
        write_text(JSON, by_line(found))
        write_text(POWER_JSON, by_line(power_table(found)))
    write_text(PAGE, page(json.loads(JSON.read_text())))


if __name__ == "__main__":
    main()
