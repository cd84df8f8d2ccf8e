"""Does the diagnostic predict the leaderboard? Gain per kept token against accuracy, over rules.

Two intervals, by bootstrap: `ci95` draws prompts and update seeds (the gains) and, independently,
evaluation items and training seeds (the accuracies), the rules as they are; `ci95_rules` draws the
rules too, and is what a claim about rules in general has to go by. A draw adds noise to values that
have noise already, so both lean towards 0. A rule with one training seed has no noise of seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from bench.core.config import Experiment
from bench.diagnose.analysis import RANDOM, Analysis
from bench.diagnose.bootstrap import significant
from bench.diagnose.measured import MAIN
from bench.tables.leaderboard import make_tables
from bench.tables.rows import Row, regime_changes, regime_name
from bench.tables.table import Line

FEWEST_RULES = 5
"""Below this a rank correlation says nothing."""
DRAW_SEED = 0xA6A157


def compare_rows(
    analysis: Analysis,
    rows: Sequence[Row],
    pair: str,
    update: Experiment,
    params: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Task -> keep -> rank correlation over the rules that both the bank and the rows have.

    Only rows of the same pair and regime (every setting but selector, keep and seed) count, and
    of a rule only those with the parameters that it was scored with (`params`, by selector).
    """
    regime = regime_changes(update.model_dump(mode="json"))
    found: dict[str, Any] = {"regime": regime_name(regime), "rows": len(rows), "tasks": {}}
    for table in make_tables(rows):
        if (table.pair, dict(table.changes)) != (pair, regime) or table.has_no_keep:
            continue
        keeps = {}
        for keep in analysis.keeps:
            lines = {
                line.selector: line
                for line in table.arms()
                if line.keep == keep
                and (line.selector in analysis.kept or line.selector == RANDOM)
                and line.runs[0].experiment["selector_params"] == params.get(line.selector)
            }
            keeps[f"{keep:g}"] = _at_keep(analysis, keep, lines)
        found["tasks"][table.task] = keeps
    return found


def _at_keep(analysis: Analysis, keep: float, lines: Mapping[str, Line]) -> dict[str, Any]:
    rules = {
        name: {
            "gain": significant(float(analysis.top(name, keep, MAIN)[0].mean())),
            "accuracy": significant(line.accuracy),
            "seeds": len(line.runs),
        }
        for name, line in sorted(lines.items())
    }
    if len(rules) < FEWEST_RULES:
        return {"rules": rules, "rank_correlation": None, "ci95": None, "ci95_rules": None}
    gain_DR, accuracy_DR = _draw(analysis, keep, lines)
    rank_correlation = spearman(gain_DR[:1], accuracy_DR[:1])[0]
    generator = np.random.default_rng([DRAW_SEED, 1])
    pick_DR = generator.integers(len(rules), size=(len(gain_DR) - 1, len(rules)))
    drawn_D = spearman(gain_DR[1:], accuracy_DR[1:])
    drawn_rules_D = spearman(
        np.take_along_axis(gain_DR[1:], pick_DR, 1), np.take_along_axis(accuracy_DR[1:], pick_DR, 1)
    )
    return {
        "rules": rules,
        "rank_correlation": significant(rank_correlation),
        "ci95": _interval(drawn_D),
        "ci95_rules": _interval(drawn_rules_D),
    }


def _draw(
    analysis: Analysis, keep: float, lines: Mapping[str, Line]
) -> tuple[np.ndarray, np.ndarray]:
    """(gain_DR, accuracy_DR): row 0 as measured, then a draw a row."""
    generator = np.random.default_rng([DRAW_SEED, 0])
    names = sorted(lines)
    gain_DRS = np.stack([analysis.top(name, keep, MAIN) for name in names], 1)
    draws, _, seeds = gain_DRS.shape
    pick_D1S = generator.integers(seeds, size=(draws, 1, seeds))
    pick_D1S[0] = np.arange(seeds)
    gain_DR = np.take_along_axis(gain_DRS, pick_D1S, 2).mean(2)
    items = len(next(iter(lines.values())).runs[0].items["trained"][lines[names[0]].task])
    weight_DI = generator.multinomial(items, np.full(items, 1 / items), size=draws).astype(float)
    weight_DI[0] = 1.0
    accuracy_DR = np.empty_like(gain_DR)
    for column, name in enumerate(names):
        line = lines[name]
        score_SI = np.array([run.items["trained"][line.task] for run in line.runs])
        mean_DS = weight_DI @ score_SI.T / items
        pick_DS = generator.integers(len(score_SI), size=(draws, len(score_SI)))
        pick_DS[0] = np.arange(len(score_SI))
        accuracy_DR[:, column] = np.take_along_axis(mean_DS, pick_DS, 1).mean(1)
    return gain_DR, accuracy_DR


def spearman(one_DR: np.ndarray, other_DR: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row; NaN where a side does not vary. Ties share ranks."""
    one_DR, other_DR = (rankdata(x.round(9), axis=1) for x in (one_DR, other_DR))
    one_DR = one_DR - one_DR.mean(1, keepdims=True)
    other_DR = other_DR - other_DR.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale_D = np.sqrt((one_DR**2).sum(1) * (other_DR**2).sum(1))
        return (one_DR * other_DR).sum(1) / scale_D


def _interval(value_D: np.ndarray) -> list[float | None] | None:
    defined_D = value_D[np.isfinite(value_D)]
    if len(defined_D) < 0.95 * len(value_D):
        return None
    return [significant(float(end)) for end in np.quantile(defined_D, (0.025, 0.975))]
