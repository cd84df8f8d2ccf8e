"""Tables of tuned rules: each rule at its own best values."""

import json

from planted_rows import PUBLISHED, only, row, text

from bench.tables import pages, table_sheets
from bench.tables.leaderboard import make_tables
from bench.tables.rows import read_rows, read_tuned, regime_name


def tuned_world(best):
    """Runs at three learning rates; `best` of each rule as a tuning chose it."""
    rows = [
        row(name, keep, seed, effect[rate], learning_rate=rate)
        for name, keep, effect in (
            ("full", 1.0, {1e-4: 0.0, 3e-4: 0.0, 9e-4: 0.1}),
            ("random", 0.05, {1e-4: -0.2, 3e-4: -0.1, 9e-4: 0.0}),
            ("new", 0.05, {1e-4: 0.0, 3e-4: 0.05, 9e-4: -0.2}),
        )
        for rate in (1e-4, 3e-4, 9e-4)
        for seed in range(3)
    ]  # fmt: skip
    cells = {
        name: {
            "experiment": row(name, keep, 0)["experiment"],
            "best": {"learning_rate": rate},
            "value": 0.5,
            "trials": [{"params": {"learning_rate": r}, "value": 0.4 + r, "state": "complete"}
                       for r in (1e-4, 3e-4, 9e-4)],
        }
        for (name, rate), keep in zip(best.items(), (1.0, 0.05, 0.05), strict=True)
    }  # fmt: skip
    budget = {"sweep": "tuned", "sampler": "grid", "trials": 3, "task": "tune", "seed": 1000,
              "ranges": {"learning_rate": {"values": [1e-4, 3e-4, 9e-4]}}}  # fmt: skip
    return rows, json.dumps({**budget, "cells": cells})


def made_headline(tables):
    return pages.documents(tables, PUBLISHED)["headline.md"].decode()


def test_tuned_rules_are_compared_each_at_its_own_best_values():
    rows, result = tuned_world({"full": 9e-4, "random": 9e-4, "new": 3e-4})
    tables = make_tables(read_rows({"a": text(rows)}), [read_tuned("t.json", result)])
    assert [t.regime for t in tables if t.tuning] == ["default, learning_rate tuned"]
    (table,) = (t for t in tables if t.tuning)
    rates = {line.selector: line.runs[0].experiment["learning_rate"] for line in table.arms()}
    assert rates == {"full": 9e-4, "random": 9e-4, "new": 3e-4}
    shared = tables[0]
    assert only(shared, "new").vs_full.verdict == "better"
    assert only(table, "new").vs_full.verdict == "worse", "at full's own best rate"
    notes = " ".join(table_sheets.table_sheet(table).notes)
    assert "with 3 trials each (grid) on tune at seed 1000" in notes
    assert "full 0.0009 (end of the range)" in notes and "new at keep 0.05 0.0003;" in notes
    made = pages.documents(tables, PUBLISHED)["leaderboard.md"].decode()
    assert "## Tuning: tuned" in made and made.count("chosen |") == 3
    assert table in tables[-1:], "after all shared settings"
    assert len(tables) == 4, "regimes with references of their own stay"
    (header,) = (
        line for line in made_headline(tables).split("\n") if line.startswith("| selector")
    )
    assert header.count("vs full") == 1  # the shared values alone, under their own regime


def test_what_only_a_tuning_ran_has_no_table_of_its_own():
    best = {"full": 9e-4, "random": 9e-4, "new": 1e-4}
    rows, result = tuned_world(best)
    chosen = [r for r in rows if r["experiment"]["learning_rate"] in
              (3e-4, best[r["experiment"]["selector"]])]  # fmt: skip
    found = make_tables(read_rows({"a": text(chosen)}), [read_tuned("t.json", result)])
    complete = regime_name({"learning_rate": 9e-4})
    assert [t.regime for t in found] == ["default", complete, "default, learning_rate tuned"]
    alone = make_tables(read_rows({"a": text(chosen)}))
    assert regime_name({"learning_rate": 1e-4}) in {t.regime for t in alone}
    more = [*chosen, row("other", 0.05, 0, learning_rate=1e-4)]  # no part of the tuning
    kept = make_tables(read_rows({"a": text(more)}), [read_tuned("t.json", result)])
    assert regime_name({"learning_rate": 1e-4}) in {t.regime for t in kept}
