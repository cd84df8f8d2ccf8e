"""Tables and figures of a planted world: rows in, known verdicts out, and the same bytes always."""

import io
import json
import random
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from command import call
from planted_rows import planted, row, text

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.stats import crossed_difference
from bench.selection.registry import get_selector
from bench.tables import claims, families, figures, pages, sheet, table_sheets
from bench.tables.cost_figures import pareto, pareto_front
from bench.tables.families import dials, k_groups
from bench.tables.leaderboard import UNREAD, make_tables
from bench.tables.ranks import overall
from bench.tables.rows import DEFAULTS, read_rows, read_tuned, regime_changes, regime_name
from bench.tables.style import house_style
from bench.train.loss import token_scale

PUBLISHED = claims.PUBLISHED.read_text()
STEPS = Experiment().steps


def tables_of(*files):
    return make_tables(read_rows({f"{n}.jsonl": text(rows) for n, rows in enumerate(files)}))


def only(table, selector, keep=0.05):
    (line,) = [line for line in table.arms(selector) if line.keep == keep]
    return line


def with_scores(made, trained):
    """The row with given per-item scores."""
    made["items"]["trained"]["tiny_math"] = trained
    made["scores"]["trained"]["tiny_math"] |= {"mean": float(np.mean(trained)), "n": len(trained)}
    return made


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5])
def test_planted_effects_get_their_verdicts(seeds):
    (table,) = tables_of(planted(seeds))
    for keep in (0.05, 0.2):
        for name, verdict, effect in (
            ("better", "better", 0.05), ("same", "tie", 0.0), ("worse", "worse", -0.05),
        ):  # fmt: skip
            line = only(table, name, keep)
            assert len(line.runs) == seeds
            for found in (line.vs_full, line.vs_random):
                assert (found.verdict, found.seeds) == (verdict, seeds)
                assert found.mean == pytest.approx(effect, abs=0.02)
                assert found.crossed.ci95[0] < effect < found.crossed.ci95[1]
    assert only(table, "better").beats_random == 1.0
    assert only(table, "worse").beats_random == 0.0
    assert only(table, "random").vs_full.verdict == "tie"
    assert only(table, "random").vs_random is None and only(table, "full", 1.0).vs_full is None
    # 3 rules x 2 keeps x 2 references, and random against full at 2 keeps
    assert len(table.comparisons()) == 14


def test_a_difference_is_of_common_seeds_alone():
    rows = planted(3, keeps=(0.05,))
    (table,) = tables_of(rows)
    line, full = only(table, "better"), only(table, "full", 1.0)
    assert (line.seeds, full.seeds) == ((0, 1, 2), (0, 1, 2, 3, 4))
    score = {
        (r["experiment"]["selector"], r["experiment"]["seed"]): r["items"]["trained"]["tiny_math"]
        for r in rows
    }
    expected = crossed_difference(
        [np.subtract(score["better", seed], score["full", seed]) for seed in range(3)]
    )
    assert line.vs_full.crossed == expected
    assert line.accuracy == pytest.approx(np.mean([score["better", s] for s in range(3)]))
    assert full.accuracy == pytest.approx(np.mean([score["full", s] for s in range(5)]))
    assert full.seed_sd == pytest.approx(np.std(full.accuracy_S, ddof=1))


def test_one_common_seed_has_a_difference_and_no_verdict():
    rows = [row("full", 1.0, 0), row("full", 1.0, 1), row("random", 0.05, 0), row("new", 0.05, 1)]
    (table,) = tables_of(rows)
    line = only(table, "new")
    assert (line.vs_full.seeds, line.vs_full.crossed, line.vs_full.verdict) == (1, None, None)
    assert line.vs_random is None, "no seed in common"
    assert line.seed_sd is None and line.beats_random is None
    assert sheet.difference_text(line.vs_full).endswith("(1 seed) —")
    assert not table.comparisons()


def test_references_that_are_missing_are_named():
    (table,) = tables_of([row("new", keep, seed) for keep in (0.05, 0.1) for seed in (0, 1)])
    notes = " ".join(table_sheets.table_sheet(table).notes)
    assert "no `full` run" in notes
    assert "no `random` run at keep 0.05; no `random` run at keep 0.1." in notes
    assert [line.label for line in table.lines[:2]] == ["untrained", "teacher"]
    assert "Missing" not in " ".join(table_sheets.table_sheet(*tables_of(planted(2))).notes)


# --- what may share a table ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, name",
    [
        ({"objective": "forward_kl"}, "objective=forward_kl"),
        ({"normalize": "all"}, "normalize=all"),
        ({"steps": STEPS + 1}, f"steps={STEPS + 1}"),
        ({"learning_rate": 1e-5}, "learning_rate=1e-05"),
        ({"k": 4}, "k=4"),
        ({"scope": "response"}, "scope=response"),
        ({"min_keep_per_response": 1, "ties": "earlier"}, "min_keep_per_response=1, ties=earlier"),
        ({"eval_items": 100}, "eval_items=100"),
        (
            {"objective": "sampled_reverse_kl", "normalize": "per_response",
             "min_keep_per_response": 1, "ties": "earlier", "adam_beta2": 0.98,
             "weight_decay": 0.1, "k": 8},
            "paper, k=8",
        ),
    ],
)  # fmt: skip
def test_regimes_never_mix(change, name):
    rows, other = planted(2, keeps=(0.05,)), planted(2, keeps=(0.05,), **change)
    alone, both = tables_of(rows), tables_of(rows, other)
    assert [table.regime for table in both] == ["default", name]
    assert both[0] == alone[0], "rows of another regime changed the table"
    assert {run.run_id for line in both[1].arms() for run in line.runs} == {
        r["run_id"] for r in other
    }


def test_pairs_tasks_and_parameters_are_told_apart():
    rows = planted(2, keeps=(0.05,))
    rows += [
        row("better", 0.05, seed, selector_params={"floor": floor})
        for floor in (1e-12, 0.1)
        for seed in (0, 1)
    ]
    rows += planted(2, keeps=(0.05,), pair="tiny-qwen2.5")
    rows += [row("full", 1.0, 9, task="other")]
    found = tables_of(rows)
    assert [(table.pair, table.task) for table in found] == [
        ("tiny-qwen2.5", "tiny_math"), ("tiny-qwen3", "other"), ("tiny-qwen3", "tiny_math"),
    ]  # fmt: skip
    labels = {line.label for line in found[2].arms("better")}
    assert labels == {"better", "better (floor=1e-12)", "better (floor=0.1)"}


def test_a_field_that_a_row_lacks_is_at_its_default():
    rows = planted(2, keeps=(0.05,))
    before = tables_of(rows)[0].regime
    for made in rows[:3]:
        del made["experiment"]["dtype"]
    (table,) = tables_of(rows)
    assert table.regime == before == "default"
    assert regime_name({"unheard_of": 1.5}) == "unheard_of=1.5"


def test_rules_that_set_their_own_budget_are_kept_out_of_the_matched_tables():
    rows = planted(2, keeps=(0.05,))
    rows += [row("min_gap", 1.0, seed, 0.05, realised=0.03) for seed in (0, 1)]
    rows += [row("entropy", 1.0, seed) for seed in (0, 1)]  # a budget of all tokens is a budget
    scores, own = tables_of(rows)
    assert not scores.arms("min_gap") and scores.arms("entropy")
    assert own.has_no_keep and not own.arms("random")
    assert [line.label for line in own.lines] == ["untrained", "teacher", "full", "min_gap"]
    assert only(own, "min_gap", 1.0).vs_random is None
    assert only(own, "min_gap", 1.0).vs_full.verdict == "better"
    kinds = {r["selector"]: r["kind"] for r in pages.records([own])}
    assert kinds["min_gap"] == "own budget" and kinds["full"] == "score"
    sheet = table_sheets.table_sheet(own)
    assert sheet.title.endswith("rules without a keep to match")
    place = sheet.header.index("realised keep")
    assert [r[place] for r in sheet.rows if r[0] == "min_gap"] == ["0.0300"]


def test_a_row_from_before_a_field_was_added_is_the_same_run():
    rows = planted(2, keeps=(0.05,))
    older = [dict(r, experiment={k: v for k, v in r["experiment"].items() if k != "reference"})
             for r in rows]  # fmt: skip
    found = read_rows({"new": text(rows), "old": text(older)})
    assert len(found) == len(rows)
    assert make_tables(found) == tables_of(older) == tables_of(rows)


def test_a_rule_that_leaves_budget_unspent_is_named():
    rows = planted(2, keeps=(0.2,)) + [row("q3", 0.2, s, realised=0.11) for s in (0, 1)]
    (table,) = tables_of(rows)
    assert any("q3 spent 0.110 of keep 0.2" in warning for warning in table.warnings)
    assert len(table.warnings) == 1


def test_a_schedule_is_a_regime_with_its_own_references():
    keep = "linear(0.5, 0.1)"
    rows = planted(2, keeps=(0.05,))
    rows += [row(name, keep, seed, effect) for seed in (0, 1)
             for name, effect in (("random", 0.0), ("better", 0.05))]  # fmt: skip
    default, scheduled = tables_of(rows)
    assert default == tables_of(planted(2, keeps=(0.05,)))[0]
    assert scheduled.regime == f"keep={keep}" and not scheduled.has_no_keep
    assert [line.label for line in scheduled.arms()] == ["full", "better", "random"]
    line = only(scheduled, "better", 0.3)
    assert (line.vs_full.verdict, line.vs_random.verdict) == ("better", "better")
    assert "Missing" not in " ".join(table_sheets.table_sheet(scheduled).notes)
    files = pages.documents([default, scheduled], "source = []")
    assert keep in files["leaderboard.md"].decode()


def test_weights_have_a_table_of_their_own_with_their_sample_size():
    rows = planted(2, keeps=(0.05,))
    rows += [row("fire", 1.0, seed, 0.05, weights=True) for seed in (0, 1)]
    scores, weights = tables_of(rows)
    assert not scores.arms("fire") and weights.has_no_keep
    assert [line.label for line in weights.lines] == ["untrained", "teacher", "full", "fire"]
    assert only(weights, "fire", 1.0).effective_sample_size == 28_000
    sheet = table_sheets.table_sheet(weights)
    assert sheet.rows[-1][sheet.header.index("effective tokens")] == "28,000"
    assert not any("random" in name for name in sheet.header)
    assert all(len(cells) == len(sheet.header) for cells in sheet.rows)


# --- overall, K, published, headline -------------------------------------------------------------


def test_average_ranks_over_pairs():
    rows = [made for pair in ("tiny-qwen2.5", "tiny-qwen3") for made in planted(3, pair=pair)]
    found = overall(tables_of(rows))
    assert [ranks.keep for ranks in found] == [0.05, 0.2]
    for ranks in found:
        assert ranks.lines[0][:3] == ("better", 1.0, (1.0, 1.0))
        assert ranks.lines[-1][:3] == ("worse", 5.0, (5.0, 5.0))
        assert sum(mean for _, mean, *_ in ranks.lines) == 15
        for _, mean, (low, high), by_pair in ranks.lines:
            assert mean == np.mean(by_pair) and low <= high
    other = [m for p in ("tiny-qwen2.5", "tiny-qwen3") for m in planted(2, (0.05,), pair=p, k=4)]
    both = overall(tables_of(rows, other))
    assert [(ranks.regime, ranks.keep) for ranks in both[2:]] == [("k=4", 0.05)]
    assert both[:2] == found
    assert overall(tables_of(planted(3))) == []
    markdown = pages.documents(tables_of(planted(3)), PUBLISHED)["leaderboard.md"].decode()
    assert "Average rank over pairs: one pair" in markdown


def test_k_sensitivity_sets_the_ks_side_by_side():
    rows = planted(2, keeps=(0.05,)) + [
        row("better", 0.05, s, effect, k=k) for k, effect in ((4, 0.0), (64, 0.1)) for s in (0, 1)
    ]
    markdown = pages.documents(tables_of(rows), PUBLISHED)["leaderboard.md"].decode()
    _, _, table = markdown.partition("## K-sensitivity: tiny-qwen3, tiny_math, regime default")
    header, _, *body = table.strip().split("\n")[:6]
    assert header == "| selector | keep | K = 4 | K = 16 | K = 64 |"
    assert [line.split(" | ")[0] for line in body[:3]] == ["| better", "| random", "| full"]
    assert len(set(body[1].split(" | ")[2:4])) == 1, "random is the same at every K"


def test_references_that_read_no_k_are_borrowed_across_k():
    rows = planted(3) + [row("new", 0.05, s, 0.05, k=4) for s in range(3)]
    default, other = tables_of(rows)
    assert default == tables_of(planted(3))[0]
    assert other.regime == "k=4"
    assert [(line.label, line.keep) for line in other.arms()] == [
        ("full", 1.0), ("new", 0.05), ("random", 0.05),
    ]  # fmt: skip
    line = only(other, "new")
    assert (line.vs_full.verdict, line.vs_random.verdict) == ("better", "better")
    assert only(other, "random").vs_full == replace(
        only(default, "random").vs_full, verdict=only(other, "random").vs_full.verdict
    )
    notes = " ".join(table_sheets.table_sheet(other).notes)
    assert "Missing" not in notes
    assert "trains them alike: `full` of default; `random` of default." in notes
    assert "alike" not in " ".join(table_sheets.table_sheet(default).notes)
    for name in UNREAD:
        assert get_selector(name).needs == (), f"{name} reads a signal"


@pytest.mark.parametrize(
    "change, borrows",
    [
        ({"normalize": "all"}, True),
        ({"scope": "response", "ties": "earlier", "min_keep_per_response": 1}, True),
        ({"normalize": "per_response"}, False),
        ({"learning_rate": 1e-5}, False),
        ({"k": 4, "steps": STEPS + 1}, False),
    ],
)
def test_full_is_borrowed_where_it_trains_alike(change, borrows):
    rows = [*planted(2, (0.05,)), *(row("new", 0.05, s, **change) for s in (0, 1))]
    table = next(t for t in tables_of(rows) if t.regime != "default")
    assert bool(table.arms("full")) == borrows
    assert not table.arms("random"), "it reads all of these"


def test_all_tokens_have_one_scale_under_selected_and_all():
    mask_BT = torch.rand(7, 33, generator=torch.manual_seed(0)) < 0.7
    weight_BT = mask_BT.float()
    selected_BT = token_scale(weight_BT, mask_BT, "selected")
    assert torch.equal(selected_BT, token_scale(weight_BT, mask_BT, "all"))


def test_a_table_is_of_runs_of_its_own():
    """Borrowed references alone make none."""
    rows = [*planted(2, (0.05,)), *(row("fire", 1.0, s, weights=True, k=4) for s in (0, 1))]
    found = tables_of(rows)
    assert [(t.regime, t.has_no_keep) for t in found] == [("default", False), ("k=4", True)]
    assert only(found[1], "fire", 1.0).vs_full.crossed is not None


def test_the_table_of_k_shows_the_spread_of_c():
    rows = planted(2, keeps=(0.05,)) + [
        row("better", 0.05, s, 0.0, k=k, c=(mean, low, 1.0))
        for k, mean, low in ((4, 0.9, 0.5), (64, 0.99, 0.96)) for s in (0, 1)
    ]  # fmt: skip
    markdown = pages.documents(tables_of(rows), PUBLISHED)["leaderboard.md"].decode()
    assert "| Q95 − Q05 of C | — | 0.5000 | — | 0.0400 |" in markdown
    assert "| mean 1 − C | — | 0.1000 | — | 0.0100 |" in markdown


def test_the_spread_of_c_is_of_the_same_runs_at_every_k():
    def runs(name, keep, seeds, c, **fields):
        return [row(name, keep, s, c=(c, c, 1.0), **fields) for s in range(seeds)]

    rows = [r for k, c in ((4, 0.9), (16, 0.8), (64, 0.7)) for r in runs("swept", 0.05, 2, c, k=k)]
    others = [
        row("swept", 0.05, 4, c=(0.1, 0.1, 1.0)),  # a seed, a keep and a rule of one K alone
        *runs("swept", 0.2, 2, 0.2),
        *runs("other", 0.05, 2, 0.3),
        *runs("half", 0.05, 2, 0.4, k=4),  # at two of three
        *runs("half", 0.05, 2, 0.4),
    ]
    for made in (rows, rows + others):
        sheet = families.k_sheet(k_groups(tables_of(made))[0])
        assert sheet.rows[-1] == ("mean 1 − C", "—", "0.1000", "0.2000", "0.3000")


def family(values=(0.0, 0.2, 0.7), **fields):
    """Pairs whose `share` is turned up: `fragile` falls with it."""
    return [
        found
        for value in values
        for found in planted(
            3, (0.05,), 3, {"fragile": -0.4 * value, "steady": 0.0}, pair=PAIRS[value],
            facts={"share": value}, c=(1 - value / 10, 0.5, 1.0), **fields,
        )
    ]  # fmt: skip


PAIRS = {0.0: "pairs/a", 0.2: "pairs/b", 0.7: "pairs/c"}


def test_pairs_that_differ_in_a_stated_number_are_set_side_by_side():
    tables = tables_of(family())
    (dial,) = dials(tables)
    assert dial.fact == "share" and list(dial.by_value) == [0.0, 0.2, 0.7]
    sheet = families.dial_sheet(dial)
    cells = {(line[0], line[1]): line[2:] for line in sheet.rows}
    assert [c.split()[-1] for c in cells["fragile", "0.05"]] == ["tie", "worse", "worse"]
    assert [c.split()[-1] for c in cells["steady", "0.05"]] == ["tie", "tie", "tie"]
    assert cells["mean 1 − C", "—"] == ("0.0000", "0.0200", "0.0700")
    assert [line[0] for line in sheet.rows[:3]] == ["untrained", "teacher", "full"]
    assert "figures/dial-share-tiny_math-default.svg" in figures.draw_all(tables)
    assert dials(tables_of(family((0.0, 0.2)))) == []
    assert dials(tables_of(planted(2))) == []


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
    assert not any("tuned" in cells[1] for cells in claims.published_sheet(PUBLISHED, tables).rows)
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


def test_a_file_that_is_no_tuning_is_named(capsys, rows_file, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"sweep": "x"}')
    code, _, err = call(capsys, "leaderboard", rows_file, bad, "--out", tmp_path / "r")
    assert code == 2 and "bad.json: not the result of a tuning" in err


def test_figures_that_are_made_no_more_are_stale_and_removed(capsys, rows_file, tmp_path):
    out = tmp_path / "results"
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    old = out / "figures" / "keep-renamed.svg"
    old.write_text("old")
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", out, "--check")
    assert code == 1 and "keep-renamed.svg" in err
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    assert not old.exists()


def test_reported_numbers_are_marked_and_never_enter_ours():
    tables = tables_of(planted(2, rules={"teachability": 0.05, "mine": 0.0}))
    sheet = claims.published_sheet(PUBLISHED, tables)
    kinds = [cells[0] for cells in sheet.rows]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"reported", "measured here"}
    row_ = next(r for r in sheet.rows if "2605.26844" in r[1] and r[4] == "TA-OPD")
    assert row_[3:] == ("Qwen3-4B→1.7B", "TA-OPD", "0.1", "44.89", "+2.52")
    ours = [cells for cells in sheet.rows if cells[0] == "measured here"]
    assert {cells[4] for cells in ours} == {"full", "random", "teachability"}
    csv = pages.documents(tables, PUBLISHED)["leaderboard.csv"].decode()
    assert "44.89" not in csv and "CROP" not in csv


def test_the_headline_shows_the_rules_chosen_beforehand():
    rules = {"teachability": -0.05, "tip": 0.05, "not_in_the_headline": 0.2}
    rows = [m for p in ("tiny-qwen2.5", "tiny-qwen3") for m in planted(3, rules=rules, pair=p)]
    headline = pages.documents(tables_of(rows), PUBLISHED)["headline.md"].decode()
    names = [line.split(" | ")[0][2:] for line in headline.split("\n")[2:8]]
    assert names == ["untrained", "teacher", "full", "tip", "random", "teachability"]
    assert headline.count("**better**") == 4 and headline.count("**worse**") == 4
    assert "keep 0.05" in headline and "not_in_the_headline" not in headline


# --- bytes ---------------------------------------------------------------------------------------


def everything(*files):
    tables = tables_of(*files)
    svg = {n: b for n, b in figures.draw_all(tables).items() if n.endswith(".svg")}
    return pages.documents(tables, PUBLISHED) | svg


def test_order_of_rows_files_and_duplicates_changes_no_byte():
    rows = [m for p in ("tiny-qwen2.5", "tiny-qwen3") for m in planted(2, (0.05,), 2, pair=p)]
    elsewhere = json.loads(json.dumps(rows[3:9]))  # the same runs, run again on another machine
    for made in elsewhere:
        made["provenance"]["device"], made["seconds"]["total"] = "cuda", 5000.0
    expected = everything(rows, elsewhere)
    shuffled = random.Random(0).sample(rows, len(rows))
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "another", "axes.grid": True}):
        assert everything(elsewhere + shuffled[:7], shuffled[4:], rows[:1] * 3) == expected
    assert not any(b"<dc:date>" in content for content in expected.values())


GOLDEN = f"""\
| untrained | — | — | 20.0 | — | — | — | — | — | 2.0 | 1.0 | — | — | — | — |
| teacher | — | — | 100.0 | — | — | — | — | — | 2.0 | 1.0 | — | — | — | — |
| full | 1 | 2 | 60.0 | 28.3 | — | — | — | 1.0000 | 2.0 | 1.0 | 40,000 | 40,000 | 20 | 701 |
| new | 0.05 | 2 | 100.0 | 0.0 | +40.0 (−75.1 to +155.1) tie | +60.0 (−8.0 to +128.0) tie | 1.00 \
| 0.0500 | 2.0 | 1.0 | 40,000 | 2,000 | 20 | 701 |
| random | 0.05 | 2 | 40.0 | 0.0 | −20.0 (−274.1 to +234.1) tie | — | — | 0.0500 | 2.0 | 1.0 \
| 40,000 | 2,000 | 20 | 701 |

5 items; every seed's checkpoint answers all of them. Smallest effect found with 80 % power \
(points, median over rows): for one comparison at 5 %, over 100 against full, 92.1 against random; \
at Holm's first step (5 % / 3), over 100 against full, over 100 against random. Seeds: full 0, 1; \
random at keep 0.05 0, 1. Holm family: 3 comparisons; a difference of at most 1 point is a tie. \
Checkpoint: last step of a fixed horizon ({STEPS} steps). Ran on: cpu (threads: 1).
"""
"""Worked by hand: new - full is [0 0 1 1 1] and [0 0 0 0 1], so MS_seed 0.4, MS_item 0.35, MS_res
0.15, Var(mean) 0.6/10, 1.83 degrees of freedom; new - random has 0.6/10 and 4; random - full has
0.4/10 and 1. With 4 degrees of freedom a noncentral t of 3.761 exceeds 2.776 with 80 %."""


def test_golden_markdown_of_a_tiny_world():
    scores = {
        ("full", 1.0): ([1, 1, 0, 0, 0], [1, 1, 1, 1, 0]),
        ("random", 0.05): ([1, 1, 0, 0, 0], [1, 1, 0, 0, 0]),
        ("new", 0.05): ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
    }
    rows = []
    for (name, keep), by_seed in scores.items():
        for seed, trained in enumerate(by_seed):
            made = with_scores(row(name, keep, seed, items=5), [float(x) for x in trained])
            for who, found in (("untrained", [1, 0, 0, 0, 0]), ("teacher", [1, 1, 1, 1, 1])):
                made["items"][who]["tiny_math"] = found
            made["seconds"] = {"total": 29.6, "evaluate": 10.0}
            rows.append(made)
    markdown = pages.documents(tables_of(rows), PUBLISHED)["leaderboard.md"].decode()
    _, _, after = markdown.partition("## tiny-qwen3, tiny_math, regime default\n\n")
    header, _, body = after.partition("\n## ")[0].partition("\n|---")
    assert header == "| " + " | ".join(table_sheets.HEADER) + " |"
    assert body.partition("\n")[2] == GOLDEN


def test_latex_is_escaped_plain_ascii():
    made = planted(2, keeps=(0.05,), rules={"a_b%c#d": 0.05})
    latex = pages.documents(tables_of(made), PUBLISHED)["leaderboard.tex"].decode()
    assert latex.isascii()
    assert r"a\_b\%c\#d & 0.05 & 2" in latex and r"tiny\_math" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    for line in latex.split("\n")[1:]:
        assert "%" not in line.replace(r"\%", "").removesuffix("%"), line
    assert sheet.latex_text("x_1 & {y} $z ~^\\") == (
        r"x\_1 \& \{y\} \$z \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


def test_csv_reads_back():
    tables = tables_of(planted(3))
    read = pd.read_csv(io.BytesIO(pages.documents(tables, PUBLISHED)["leaderboard.csv"]))
    assert len(read) == len(tables[0].lines)
    line = only(tables[0], "better")
    (found,) = read[(read.selector == "better") & (read.keep == 0.05)].to_dict("records")
    assert found["accuracy"] == pytest.approx(line.accuracy, abs=1e-8)
    assert found["vs_random_low"] == pytest.approx(line.vs_random.crossed.ci95[0], abs=1e-8)
    assert (found["vs_full_verdict"], found["seeds"], found["kind"]) == ("better", 3, "score")
    assert (found["tokens_trained"], found["realised_keep"]) == (2000, 0.05)
    assert found["peak_memory_bytes"] == 702 * 2**20
    assert set(read[read.kind == "baseline"].selector) == {"untrained", "teacher"}


# --- figures -------------------------------------------------------------------------------------


def test_a_figure_without_data_is_not_drawn():
    def kinds(rows):
        return {name.split("/")[1].split("-")[0] for name in figures.draw_all(tables_of(rows))}

    assert kinds([row("full", 1.0, 0), row("new", 0.05, 0)]) == set()
    small = {"better": 0.05}
    assert kinds(planted(2, (0.05,), 2, small)) == {"differences"}
    assert kinds(planted(2, (0.05, 0.2), 2, small)) == {"differences", "keep", "tokens", "seconds"}
    curves = planted(2, (0.05,), 2, small, eval_every=10)
    assert kinds(curves) == {"differences", "curve"}
    several = planted(2, (0.05,), 2, small) + [row("better", 0.05, s, k=4) for s in (0, 1)]
    assert kinds(several) == {"differences", "k"}


def test_the_pareto_front_holds_what_nothing_beats():
    points = [(3, 0.5), (1, 0.4), (2, 0.4), (2, 0.6), (3, 0.7), (1, 0.3), (9, 0.7)]
    assert pareto_front(points) == [1, 3, 4]
    same_budget = [(100, 0.5), (101, 0.7), (101, 0.6), (200, 0.7), (202, 0.8)]
    assert pareto_front(same_budget) == [1, 4]


def test_curves_are_over_the_steps_that_every_seed_has():
    (table,) = tables_of(planted(3, (0.05,), 3, {"better": 0.05}, eval_every=10))
    steps, accuracy_SE = figures.seed_curves(only(table, "better"))
    assert steps[:3] == [10, 20, 30] and accuracy_SE.shape == (3, len(steps))
    assert accuracy_SE[2, 0] - accuracy_SE[0, 0] == pytest.approx(0.02)


def test_an_axis_of_seconds_starts_at_zero_or_later_and_holds_the_names():
    seconds = {"a_rule_with_a_long_name": 45.0, "same": 50.0, "random": 80.0, "full": 190.0}
    rows = planted(2, rules={"a_rule_with_a_long_name": 0.1, "same": 0.0})
    for made in rows:
        made["seconds"] = {"evaluate": 0.0, "total": seconds[made["experiment"]["selector"]]}
    (table,) = tables_of(rows)
    with house_style():
        figure = pareto(table, "seconds")
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == 0
    assert min(text_.get_window_extent().x0 for text_ in axes.texts) > axes.bbox.x0
    assert "Seconds are by the clock" in note_of(figure)
    assert "clock" not in note_of(pareto(table, "tokens"))


def note_of(figure):
    return " ".join(" ".join(part.get_text() for part in figure.texts).split())


def test_curves_say_what_they_were_measured_on():
    (table,) = tables_of(planted(2, (0.05,), 2, {"a": 0.0}, eval_every=10, curve_items=128))
    note = note_of(figures.learning_curves(table))
    assert "Accuracy on tiny_math_tune (first 128 items), mean" in note
    assert "tiny_math," not in note and "300 items" not in note


# --- files and the command -----------------------------------------------------------------------


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text(planted(2, (0.05,), 2, {"better": 0.05})))
    return path


def test_check_catches_one_changed_byte(capsys, rows_file, tmp_path):
    out = tmp_path / "results"
    arguments = ("leaderboard", rows_file, "--out", out)
    code, _, err = call(capsys, *arguments, "--check")
    assert code == 1 and "leaderboard.md" in err and not out.exists()
    assert call(capsys, *arguments)[0] == 0
    assert call(capsys, *arguments, "--check")[0] == 0
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names[-4:] == ["headline.md", "leaderboard.csv", "leaderboard.md", "leaderboard.tex"]
    svg, png = (next(n for n in names if n.endswith(kind)) for kind in (".svg", ".png"))
    for name in (svg, "headline.md", "leaderboard.csv", "leaderboard.tex"):
        good = (out / name).read_bytes()
        (out / name).write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
        code, _, err = call(capsys, *arguments, "--check")
        assert code == 1 and name in err and "leaderboard.md" not in err.split(":")[-1]
        (out / name).write_bytes(good)
    (out / png).unlink()
    code, out_text, err = call(capsys, *arguments, "--check", "--json")
    assert code == 1 and json.loads(out_text)["stale"] == [png]


@pytest.mark.parametrize("inside", ["", "sub"])
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_a_file_in_place_of_the_folder_is_named(capsys, rows_file, tmp_path, inside, check):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", taken / inside, *check)
    assert (code, err) == (2, f"bench: error: out: {str(taken)!r} is a file, not a folder\n")
    assert taken.read_text() == "mine"


def test_no_rows_leave_what_is_there(capsys, rows_file, tmp_path):
    out, empty = tmp_path / "results", tmp_path / "empty.jsonl"
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    empty.write_text("\n")
    code, _, err = call(capsys, "leaderboard", empty, "--out", out)
    assert code == 2 and f"rows: none in {empty}" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_json_is_one_document_with_every_line(capsys, rows_file, tmp_path):
    code, out, _ = call(capsys, "leaderboard", rows_file, rows_file, "--out", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0 and found["rows"] == 6 and found["stale"] == []
    assert [line["selector"] for line in found["lines"]] == [
        "untrained", "teacher", "full", "better", "random",
    ]  # fmt: skip


def refused(*texts):
    with pytest.raises(ConfigError) as error:
        read_rows({f"{n}.jsonl": found for n, found in enumerate(texts)})
    return str(error.value)


@pytest.mark.parametrize("part", ["experiment", "scores", "items"])
def test_rows_of_one_run_that_disagree_are_refused(capsys, rows_file, tmp_path, part):
    made = json.loads(rows_file.read_text().split("\n")[0])
    if part == "experiment":
        made["experiment"]["learning_rate"] = 1.0
    elif part == "scores":
        made["scores"]["trained"]["tiny_math"]["truncation_rate"] = 0.5
    else:
        made["items"]["trained"]["tiny_math"].reverse()
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text(text([made]))
    out = tmp_path / "results"
    code, _, err = call(capsys, "leaderboard", rows_file, theirs, "--out", out)
    assert code == 2 and not out.exists()
    for word in (made["run_id"], f"{rows_file}:1", f"{theirs}:1", f"different {part}"):
        assert word in err


def test_two_runs_of_one_experiment_are_refused():
    one, other = row("full", 1.0, 0), row("full", 1.0, 0)
    other["run_id"] = "full-keep1-s0-edited00"
    message = refused(text([one]), text([other]))
    assert one["run_id"] in message and other["run_id"] in message and "edited" in message


def test_bad_lines_are_named_by_file_and_line(capsys, tmp_path):
    good = text(planted(1, (0.05,), 1))
    assert refused(good + good[:200]).startswith("0.jsonl:6: not a whole line of JSON (the last")
    assert refused(good, "{}\n").startswith("1.jsonl:1: schema_version None is not 1")
    newer = row("full", 1.0, 0) | {"schema_version": 2}
    assert "0.jsonl:1: schema_version 2 is not 1" in refused(text([newer]))
    short = row("full", 1.0, 0)
    short["items"]["teacher"]["tiny_math"].pop()
    assert "299 scores of tiny_math (teacher), not 300" in refused(text([short]))
    lacking = row("full", 1.0, 0)
    del lacking["tokens"]
    assert refused("\n" + text([lacking])).startswith("0.jsonl:2: tokens")
    code, _, err = call(capsys, "leaderboard", tmp_path / "no.jsonl", "--out", tmp_path)
    assert code == 2 and "no.jsonl" in err


def test_runs_that_answered_other_items_are_refused_and_other_baselines_are_warned_of():
    rows = planted(2, (0.05,), 2, {"better": 0.05})
    with pytest.raises(ConfigError, match="different numbers of items"):
        tables_of([*rows, row("new", 0.05, 0, items=200)])
    rows[0]["items"]["untrained"]["tiny_math"][0] = (
        1 - rows[0]["items"]["untrained"]["tiny_math"][0]
    )
    (table,) = tables_of(rows)
    assert "the runs disagree about untrained" in table_sheets.table_sheet(table).notes[-1]


def test_a_later_field_stated_at_its_default_is_the_default_regime():
    """A dump leaves it out; a row of the version that brought the field may hold it."""
    assert regime_changes({**DEFAULTS, "reference": "student"}) == {}
    assert regime_changes({**DEFAULTS, "reference": "x"}) == {"reference": "x"}
