"""A run folder as data: its record, its steps, its answers to every evaluation item."""

import json
from collections.abc import Iterator
from typing import Any

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.files import read_json
from bench.core.records import RunFolder
from bench.tasks.items import items_of

SHOWN = ("loss", "grad_norm", "entropy", "response_length", "realised_keep", "stop_rate")
"""Numbers of a step that the page draws, as metrics.jsonl names them."""
ITEMS = 1000
"""Of each task that the page holds; the first ones."""
WHO = ("untrained", "trained", "teacher")


def run_data(folder: RunFolder) -> dict[str, Any]:
    """Of a run that is done. Raises ConfigError for another, and for damage."""
    if folder.state != "done":
        raise ConfigError(f"run {folder.path.name!r} is not done yet: `bench watch` shows it")
    record = folder.read_record()
    usual = Experiment().all_values()
    given = {**usual, **record.experiment}
    lines = (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    return {
        "id": record.run_id,
        "changes": {n: v for n, v in given.items() if v != usual.get(n)},
        "settings": given,
        "scores": record.scores,
        "change": record.change,
        "tokens": record.tokens,
        "realised_keep": record.realised_keep,
        "seconds": {name: round(value, 2) for name, value in record.seconds.items()},
        "memory": record.peak_memory_bytes,
        "provenance": record.provenance,
        "ended": record.ended,
        "curve": record.curve,
        "steps": {name: [step.get(name) for step in steps] for name in SHOWN},
        "answers": list(_answers(folder)),
    }


def _answers(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Each task's items: question, right answer, and the first sample of each model."""
    values = read_json(folder.path / "evaluations.json")
    for task, trained in values["trained"].items():
        known = items_of(task)
        results = {who: values[who][task] for who in WHO if task in values.get(who, {})}
        items = []
        for place, item in enumerate(trained["item_id_I"][:ITEMS]):
            question, gold = known.get(item, ("", ""))
            said = {
                who: [
                    result["sample_IK"][place][0]["text"],
                    result["sample_IK"][place][0]["answer"],
                    result["score_I"][place],
                ]
                for who, result in results.items()
            }
            items.append({"id": item, "question": question, "gold": gold, **said})
        yield {"task": task, "n": trained["n"], "k": trained["k"], "items": items}
