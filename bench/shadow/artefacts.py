"""What conventions of published code do to a selection, measured on the embedded pairs' tokens.

Each batch is a first rollout of the untrained student, one per seed, in the default regime. Every
number is kept per batch, so that a table can show its spread; `artefact_page` writes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.core.config import Experiment
from bench.core.progress import Progress
from bench.core.provenance import provenance
from bench.pairs.models import load_pair
from bench.pairs.pair import get_pair
from bench.shadow.artefact_batch import KEEP, Batch, draw_batch
from bench.shadow.conventions import Row, batch_facts, floors, padding, refill, scope, ties, top_k

Measure = Callable[["Batch"], dict[tuple[Any, ...], Row]]


def measure_artefacts(
    pairs: Sequence[str], batches: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that `results/artefacts.json` holds: pair -> section -> rows, a value a batch."""
    found: dict[str, Any] = {}
    experiment = Experiment()
    for name in pairs:
        pair = load_pair(get_pair(name))
        if progress:
            progress.start(f"artefacts of {name}", batches)
        seen: list[dict[str, dict[tuple[Any, ...], Row]]] = []
        for seed in range(batches):
            batch = draw_batch(pair, experiment, seed)
            seen.append({section: measure(batch) for section, measure in SECTIONS.items()})
            if progress:
                progress.update(seed + 1)
        found[name] = {
            section: _rows(section, [each[section] for each in seen]) for section in SECTIONS
        }
    settings = {
        "batches": batches,
        "keep": KEEP,
        "k": experiment.k,
        "prompts_per_step": experiment.prompts_per_step,
        "max_new_tokens": experiment.max_new_tokens,
        "temperature": experiment.temperature,
    }
    return {"settings": settings, "provenance": provenance("cpu"), "pairs": found}


def _rows(section: str, batches: Sequence[Mapping[tuple[Any, ...], Row]]) -> list[dict[str, Any]]:
    """The rows of a section: what names each, and every number as a list, one value a batch."""
    rows = []
    for key, first in batches[0].items():
        named = dict(zip(KEYS[section], key, strict=True))
        values = {name: [float(f"{batch[key][name]:.6g}") for batch in batches] for name in first}
        rows.append(named | values)
    return rows


# --- what is measured ----------------------------------------------------------------------------


SECTIONS: dict[str, Measure] = {
    "batch": batch_facts,
    "ties": ties,
    "floor": floors,
    "padding": padding,
    "refill": refill,
    "top_k": top_k,
    "scope": scope,
}

KEYS: dict[str, tuple[str, ...]] = {
    "batch": (),
    "ties": ("score", "keep"),
    "floor": ("floor",),
    "padding": ("statistics_over",),
    "refill": ("selector", "keep"),
    "top_k": ("k",),
    "scope": ("selector", "keep"),
}
"""What names a row of each section."""
