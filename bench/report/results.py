"""Tables as data for the page: claims, the leaderboard, learning curves, what a dial does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.errors import ConfigError
from bench.selection.registry import get_selector
from bench.tables.claims import Answer
from bench.tables.families import SETTINGS, dials, k_groups
from bench.tables.figures import seed_curves
from bench.tables.pages import kind_of
from bench.tables.table import Comparison, Line, Table

DIGITS = 5


def claims_data(asked: Sequence[Answer]) -> list[dict[str, Any]]:
    """Each claim in each table that answers it, in the order of the tables' page."""
    return [
        {
            "words": answer.claim.words,
            "kind": answer.kind,
            "rule": answer.claim.rule,
            "reference": answer.claim.reference,
            "keep": answer.claim.keep,
            "margin": answer.claim.margin,
            "sweep": answer.named.source,
            "pair": answer.table.pair,
            "task": answer.table.task,
            "regime": answer.table.regime,
            "p": _short(answer.p_value),
            "outcome": answer.outcome,
            **_compared("difference", answer.difference),
        }
        for answer in asked
    ]


def lines_data(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Every line of every table: shares, seconds, bytes and tokens."""
    return [_line(table, line) for table in tables for line in table.lines]


def _line(table: Table, line: Line) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pair": table.pair,
        "task": table.task,
        "regime": table.regime,
        "kind": kind_of(line, table),
        "rule": line.selector or line.label,
        "params": line.params,
        "keep": line.keep if line.runs else None,
        "items": table.items,
        "accuracy": _short(line.accuracy),
        "low": _short(line.ci95[0]),
        "high": _short(line.ci95[1]),
        "sd": _short(line.seed_sd),
        **_compared("full", line.vs_full),
        **_compared("random", line.vs_random),
    }
    if line.runs:
        found |= {
            "seeds": list(line.seeds),
            "by_seed": [_short(value) for value in line.accuracy_S],
            "runs": [run.run_id for run in line.runs],
            "trained": round(line.mean_of(lambda run: run.tokens["trained"])),
            "scored": round(line.mean_of(lambda run: run.tokens["scored"])),
            "sampled": round(line.mean_of(lambda run: run.tokens["sampled"])),
            "seconds": round(line.training_seconds, 1),
            "memory": line.peak_memory_bytes,
            "realised": _short(line.mean_of(lambda run: run.realised_keep)),
        }
    return found


def _compared(name: str, found: Comparison | None) -> dict[str, Any]:
    if found is None:
        return {}
    low, high = found.crossed.ci95 if found.crossed else (None, None)
    return {
        name: _short(found.mean), f"{name}_low": _short(low), f"{name}_high": _short(high),
        f"{name}_verdict": found.verdict, f"{name}_seeds": found.seeds,
    }  # fmt: skip


def rules_data(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """What the registry says of each rule; of one that it does not know, nothing."""
    found = {}
    for name in sorted(set(names)):
        try:
            rule = get_selector(name.partition("@")[0])
        except ConfigError:
            continue
        family = rule.rule.__module__.rpartition(".")[2] if hasattr(rule.rule, "__module__") else ""
        found[name] = {
            "summary": rule.summary, "formula": rule.formula, "source": rule.source,
            "cost": rule.cost, "deviations": rule.deviations, "family": family,
        }  # fmt: skip
    return found


def curves_data(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """Learning curves: steps, and the mean, least and greatest of the seeds."""
    found = []
    for table in tables:
        for line in table.arms():
            if (curve := seed_curves(line)) is None:
                continue
            steps, accuracy_SE = curve
            found.append(
                {
                    "pair": table.pair, "regime": table.regime, "rule": line.label,
                    "keep": line.keep, "steps": steps, "seeds": len(accuracy_SE),
                    "mean": _all(accuracy_SE.mean(0)), "low": _all(accuracy_SE.min(0)),
                    "high": _all(accuracy_SE.max(0)),
                }
            )  # fmt: skip
    return found


def dials_data(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Accuracy of each rule along what several tables differ in: a pair's number, settings, K."""
    found = []
    for dial in dials(tables, (*SETTINGS, ("learning_rate",))):
        series = [
            _series(label, keep, lines) for (keep, label), lines in sorted(dial.lines().items())
        ]
        found.append({"title": dial.fact, "where": dial.where, "series": series})
    for group in k_groups(tables):
        by_arm: dict[tuple[float, str], dict[Any, Line]] = {}
        for value, table in group.items():
            for line in table.arms():
                by_arm.setdefault((line.keep, line.label), {})[value] = line
        table = next(iter(group.values()))
        series = [
            _series(label, keep, lines)
            for (keep, label), lines in sorted(by_arm.items())
            if len(lines) > 1
        ]
        found.append({"title": "K", "where": f"{table.pair}, {table.task}", "series": series})
    return [dial for dial in found if dial["series"]]


def _series(label: str, keep: float, lines: Mapping[Any, Line]) -> dict[str, Any]:
    return {
        "rule": label,
        "keep": keep,
        "points": [
            {
                "value": value, "accuracy": _short(line.accuracy), "low": _short(line.ci95[0]),
                "high": _short(line.ci95[1]),
            }
            for value, line in lines.items()
        ],
    }  # fmt: skip


def _all(values: Iterable[float]) -> list[float]:
    return [_short(float(value)) for value in values]  # type: ignore[misc]


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else round(float(value), DIGITS)
