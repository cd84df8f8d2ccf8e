"""Searches with several objectives: every rule's front as reported, and the front of all."""

import json

import numpy as np
import pytest
from planted_rows import PUBLISHED, SAMPLED, row

from bench.core.config import Experiment
from bench.core.stats import crossed_mean
from bench.tables import figures, pages
from bench.tables.fronts import fronts_of, fronts_sheet
from bench.tables.leaderboard import make_tables
from bench.tables.rows import read_rows, read_tuned

POINTS = {  # rule -> (keep, k, accuracy on tune, true effect)
    "good": [(0.02, 8, 0.6, 0.0), (0.1, 16, 0.7, 0.1), (0.5, 16, 0.8, 0.15)],
    "bad": [(0.02, 8, 0.4, -0.2), (0.3, 16, 0.6, -0.1)],
}


def tuning(points=POINTS, **changes):
    """The text of a tuning.json whose rules have these points."""
    cells = {
        rule: {
            "experiment": Experiment.parse({"selector": rule, "keep": 0.05}).model_dump(
                mode="json"
            ),
            "front": [
                {"params": {"keep": keep, "k": k}, "values": [on_tune, SAMPLED * keep]}
                for keep, k, on_tune, _ in of
            ],
            "trials": [],
        }
        for rule, of in points.items()
    }
    found = {
        "sweep": "front", "sampler": "nsga2", "trials": 16, "task": "tiny_math_tune", "seed": 1000,
        "objectives": ["accuracy", "trained"], "ranges": {"keep": {}, "k": {}}, "cells": cells,
    }  # fmt: skip
    return read_tuned("front.json", json.dumps(found | changes))


def rows_of(points=POINTS, seeds=3):
    made = [
        row(rule, keep, seed, effect, k=k)
        for rule, of in points.items()
        for keep, k, _, effect in of
        for seed in range(seeds)
    ]
    return made, read_rows({"rows.jsonl": "\n".join(map(json.dumps, made))})


def test_every_point_is_reported_by_the_runs_at_its_values():
    made, rows = rows_of()
    (found,) = fronts_of(rows, [tuning()])
    assert (found.pair, found.task, found.costs) == ("tiny-qwen3", "tiny_math", ("trained",))
    assert {rule: len(of) for rule, of in found.by_rule.items()} == {"good": 3, "bad": 2}
    point = found.by_rule["good"][1]
    own = [
        r for r in made if (r["experiment"]["selector"], r["experiment"]["keep"]) == ("good", 0.1)
    ]
    score_SI = np.array([r["items"]["trained"]["tiny_math"] for r in own])
    assert (point.on_tune, point.seeds) == (0.7, 3)
    assert point.accuracy == pytest.approx(score_SI.mean())
    assert point.ci95 == pytest.approx(crossed_mean(score_SI).ci95)
    assert point.costs == {"trained": np.mean([r["tokens"]["trained"] for r in own])}


def test_the_front_of_all_is_by_what_was_reported():
    _, rows = rows_of()
    (found,) = fronts_of(rows, [tuning()])
    assert [(p.selector, p.params["keep"]) for p in found.overall("trained")] == [
        ("good", 0.02), ("good", 0.1), ("good", 0.5),
    ]  # fmt: skip
    turned = {"good": [(0.02, 8, 0.6, 0.0), (0.5, 16, 0.8, -0.3)], "bad": POINTS["bad"]}
    (found,) = fronts_of(rows_of(turned)[1], [tuning(turned)])
    assert [(p.selector, p.params["keep"]) for p in found.overall("trained")] == [("good", 0.02)]


def test_points_that_were_not_run_are_absent():
    _, rows = rows_of()
    kept = [r for r in rows if r.experiment["keep"] != 0.1]
    (found,) = fronts_of(kept, [tuning()])
    assert [p.params["keep"] for p in found.by_rule["good"]] == [0.02, 0.5]
    assert fronts_of([], [tuning()]) == []


def test_rows_of_fronts_make_no_tables_of_their_own():
    _, rows = rows_of()
    assert make_tables(rows)
    assert make_tables(rows, [tuning()]) == []
    beside = [row(name, 1.0 if name == "full" else 0.1, seed, k=16)
              for name in ("full", "random") for seed in range(3)]  # fmt: skip
    _, more = rows_of()
    more += read_rows({"more.jsonl": "\n".join(map(json.dumps, beside))})
    (table, *_) = make_tables(more, [tuning()])
    assert {"good", "random", "full"} <= table.rules  # where others stand, they stand too


def test_the_sheet_the_page_and_the_figure():
    _, rows = rows_of()
    fronts = fronts_of(rows, [tuning()])
    sheet = fronts_sheet(fronts[0])
    told = {(cells[0], cells[1]): cells for cells in sheet.rows}
    assert told["good", "0.1"][2:5] == ("16", f"{0.1 * SAMPLED:,.0f}", "70.0")
    assert told["good", "0.1"][-1] == "yes" and told["bad", "0.3"][-1] == ""
    made = pages.documents([], PUBLISHED, fronts=fronts)
    assert "## Front: tiny-qwen3, tiny_math, front" in made["leaderboard.md"].decode()
    assert made["leaderboard.tex"].isascii()
    assert "figures/front-trained-tiny-qwen3-tiny_math-front.svg" in figures.draw_all([], fronts)


def test_a_tuning_with_neither_best_nor_front_is_refused():
    cell = {"experiment": {}, "trials": []}
    with pytest.raises(Exception, match="neither the best values nor a front"):
        tuning(cells={"x": cell})
