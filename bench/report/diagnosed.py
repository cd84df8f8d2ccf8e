"""Diagnostic records as data: how a score orders the KL that an update removes."""

from collections.abc import Mapping, Sequence
from typing import Any


def diagnosed_data(records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of each named record, what the page draws of it.

    buckets   score -> gain in each tenth of the contexts, ordered by the score, with interval
    spearman  score -> rank correlation with the gain, with interval
    top       keep -> score -> the gain of the contexts that it keeps, of the oracle and of random
    map       gain by decile of entropy (rows) and of divergence (columns)
    """
    return [
        {
            "name": name,
            "pair": record["pair"],
            "update": record["update"],
            "contexts": record["n_contexts"],
            "prompts": record["n_prompts"],
            "spearman": {score: _interval(found) for score, found in record["spearman"].items()},
            "buckets": {
                score: [_interval(bucket) for bucket in buckets]
                for score, buckets in record["buckets"].items()
            },
            "top": record["matched_top"],
            "map": record["heat_map"],
        }
        for name, record in records
    ]


def _interval(found: Mapping[str, Any]) -> list[float | None]:
    low, high = found["ci95"] or (None, None)
    return [found["value"], low, high]
