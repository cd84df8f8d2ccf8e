"""Named settings, and an Experiment made from one of them."""

from collections.abc import Mapping
from typing import Any

from bench.core.config import Experiment
from bench.core.errors import unknown_name

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "objective": "sampled_reverse_kl",
        "normalize": "per_response",
        "min_keep_per_response": 1,
        "ties": "earlier",
        "adam_beta2": 0.98,
        "weight_decay": 0.1,
    },
}
PRESETS["paper_released"] = {
    **PRESETS["paper"],
    "population": "rows",
    "refill": "teachability_entropy",
}
"""Named settings. `paper`: the regime of arXiv 2605.26844 (its learning rate, 1e-6, is for models
of 1.7 B parameters and more and stays a flag). `paper_released`: with what its released code does
besides: statistics over all rows, and a response that keeps nothing is filled by the hybrid."""


def experiment_from(values: Mapping[str, Any], preset: str | None = None) -> Experiment:
    """An Experiment from a preset and the values given on top of it."""
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    return Experiment.parse({**(PRESETS[preset] if preset else {}), **values})
