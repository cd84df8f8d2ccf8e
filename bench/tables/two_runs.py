"""Two runs' trained students on the same items: how the checkpoints differ there. Pure."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Any

from bench.core.errors import ConfigError, unknown_name
from bench.core.stats import mcnemar_exact, paired_difference
from bench.tables.rows import Row

NOTE = (
    "This compares two checkpoints and not two methods: it holds no variance of training seeds. "
    "For methods, run several seeds of each and make the leaderboard."
)


def compare_runs(rows: Iterable[Row], one: str, other: str, task: str | None) -> dict[str, Any]:
    """`runs`, `tasks` (task -> the two accuracies and how they differ) and `note`.

    one, other    run ids, or the hashes that end them.
    task          one of those that both runs answered; all of them when not given.

    Raises ConfigError for a run that is not there, the same run twice, and items that do not pair.
    """
    by_id = {row.run_id: row for row in rows}
    of_one, of_other = _find("run_a", one, by_id), _find("run_b", other, by_id)
    if of_one is of_other:
        raise ConfigError(f"run_b: {other!r} is run_a: name two runs")
    common = sorted(set(of_one.items["trained"]) & set(of_other.items["trained"]))
    if not common:
        named = " and ".join(", ".join(run.items["trained"]) for run in (of_one, of_other))
        raise ConfigError(f"run_b: {other!r} has no task in common with {one!r}: {named}")
    if task is not None and task not in common:
        raise unknown_name("task", task, common)
    return {
        "runs": [of_one.run_id, of_other.run_id],
        "tasks": {name: _compare(name, of_one, of_other) for name in ([task] if task else common)},
        "note": NOTE,
    }


def _find(flag: str, run_id: str, by_id: dict[str, Row]) -> Row:
    if run_id in by_id:
        return by_id[run_id]
    by_hash = [row for known, row in by_id.items() if known.rpartition("-")[2] == run_id]
    if len(by_hash) == 1:
        return by_hash[0]
    near = get_close_matches(run_id, by_id, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{flag}: no run {run_id!r} among {len(by_id)} rows{hint}")


def _compare(task: str, one: Row, other: Row) -> dict[str, Any]:
    one_I, other_I = one.items["trained"][task], other.items["trained"][task]
    if len(one_I) != len(other_I):
        raise ConfigError(
            f"{task}: the runs answered different numbers of items: {one.run_id!r} {len(one_I):,}, "
            f"{other.run_id!r} {len(other_I):,}"
        )
    difference = paired_difference(one_I, other_I)
    return {
        "items": len(one_I),
        "accuracy": [sum(score_I) / len(score_I) for score_I in (one_I, other_I)],
        "difference": difference.mean,
        "ci95": list(difference.ci95) if isfinite(difference.ci95[0]) else None,
        "better": _count(one_I, other_I),
        "worse": _count(other_I, one_I),
        "mcnemar_p": mcnemar_exact(one_I, other_I) if _is_binary(*one_I, *other_I) else None,
    }


def _count(one_I: Sequence[float], other_I: Sequence[float]) -> int:
    """Items on which the one has the higher score."""
    return sum(x > y for x, y in zip(one_I, other_I, strict=True))


def _is_binary(*scores: float) -> bool:
    """McNemar's test is of right and wrong answers; means of several samples are neither."""
    return set(scores) <= {0.0, 1.0}
