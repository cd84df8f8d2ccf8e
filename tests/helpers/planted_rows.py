"""Rows and tables of a planted world: rules of known effects, scored on shared items."""

import zlib

import numpy as np

from bench.core.config import Experiment
from bench.core.files import canonical_json
from bench.core.keep_schedule import keep_name, mean_keep
from bench.core.records import SCHEMA_VERSION
from bench.run.plan import slug
from bench.tables.leaderboard import make_tables
from bench.tables.published import PUBLISHED as FILE
from bench.tables.rows import read_rows

BASE = 0.60
"""True accuracy of `full` and `random`."""
SAMPLED = 40_000
STEPS = Experiment().steps
PUBLISHED = FILE.read_text()
"""The text of published.csv."""


def row(selector, keep, seed, effect=0.0, *, items=300, task="tiny_math", weights=False,
        realised=None, facts=None, c=None, **fields):  # fmt: skip
    """One line of rows.jsonl: `effect` is the true difference in accuracy from BASE.

    realised   the realised keep, where it is not the (mean) keep.
    facts      what the pair says of itself.
    c          (mean, Q05, Q95) of the teacher's mass on the top K.
    """
    experiment = Experiment.parse({"selector": selector, "keep": keep, "seed": seed, **fields})
    values = experiment.model_dump(mode="json")
    name = canonical_json([selector, keep, seed, fields])  # not the defaults: they may change
    run_id = f"{selector}-keep{slug(keep_name(keep))}-s{seed}-{zlib.crc32(name.encode()):08x}"
    scores = {
        "untrained": _scores(experiment.pair, "untrained", 0.30, items),
        "trained": _scores(experiment.pair, name, BASE + effect, items),
        "teacher": _scores(experiment.pair, "teacher", 0.90, items),
    }
    keep = mean_keep(experiment.keep, experiment.steps) if realised is None else realised
    trained = round(keep * SAMPLED)
    speed = zlib.crc32(selector.encode()) % 100 / 20
    seconds = {
        "rollout": 10.0,
        "teacher": 5.0,
        "score": 3.0,
        "loss": 4 + 10 * keep + speed,
        "evaluate": 9.0 if seed else 30.0,
    }
    return {
        "run_id": run_id,
        "state": "done",
        "experiment": values,
        "scores": {who: {task: _summary(found)} for who, found in scores.items()},
        "change": {task: {"mean": 0.0, "n": items, "ci95": [0.0, 0.0]}},
        "curve": _curve(experiment, effect),
        "tokens": {"sampled": SAMPLED, "scored": SAMPLED, "trained": trained},
        "realised_keep": trained / SAMPLED,
        "effective_sample_size": 0.7 * SAMPLED if weights else None,
        "clipped_step_share": 0.25,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "peak_memory_bytes": (700 + seed) * 2**20,
        "pair_facts": facts or {},
        "signals": {}
        if c is None
        else {"teacher_mass_on_student_topk_BT": dict(zip(("all", "q05", "q95"), c, strict=True))},
        "provenance": {"git": "0" * 40, "dirty": False, "device": "cpu", "threads": 1},
        "folder": f"runs/{run_id}",
        "schema_version": SCHEMA_VERSION,
        "items": {who: {task: found} for who, found in scores.items()},
    }


def _scores(pair, name, accuracy, items):
    """0/1 scores: an item's difficulty is shared by all models, a little of it is chance."""
    difficulty_I = np.random.default_rng(zlib.crc32(pair.encode())).permutation(items) / items
    luck_I = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.015, items)
    return (difficulty_I + luck_I < accuracy).astype(float).tolist()


def _summary(scores):
    return {"mean": float(np.mean(scores)), "n": len(scores), "ci95": [0.0, 1.0],
            "metric": "exact_match", "parse_failure_rate": 0.02, "truncation_rate": 0.01,
            "mean_response_tokens": 33.0}  # fmt: skip


def _curve(experiment, effect):
    if not experiment.eval_every:
        return []
    steps = range(experiment.eval_every, experiment.steps + 1, experiment.eval_every)
    rise = BASE + effect - 0.30
    return [
        {"step": step, "tiny_math_tune": 0.30 + rise * (1 - np.exp(-4 * step / experiment.steps))
         + 0.01 * experiment.seed}
        for step in steps
    ]  # fmt: skip


def planted(seeds=3, keeps=(0.05, 0.2), reference_seeds=5, rules=None, **fields):
    """`better` is better by 5 points, `same` ties, `worse` is worse by 5; with full and random."""
    rules = rules or {"better": 0.05, "same": 0.0, "worse": -0.05}
    rows = [row("full", 1.0, seed, **fields) for seed in range(reference_seeds)]
    for keep in keeps:
        rows += [row("random", keep, seed, **fields) for seed in range(reference_seeds)]
        rows += [
            row(name, keep, seed, effect, **fields)
            for name, effect in rules.items()
            for seed in range(seeds)
        ]
    return rows


def text(rows):
    """The text of a rows.jsonl."""
    return "".join(canonical_json(row) + "\n" for row in rows)


def tables_of(*files):
    """The tables of these lists of rows, a file each."""
    return make_tables(read_rows({f"{n}.jsonl": text(rows) for n, rows in enumerate(files)}))


def only(table, selector, keep=0.05):
    """The one line of a rule at a keep."""
    (line,) = [line for line in table.arms(selector) if line.keep == keep]
    return line
