"""The leaderboard of a planted world: known verdicts, and only what may share a table."""

import numpy as np
import pytest
from planted_rows import PUBLISHED, STEPS, only, planted, row, tables_of, text

from bench.core.stats import moderated_difference, sampling_variance
from bench.tables import figures, pages, sheet, table_sheets
from bench.tables.leaderboard import make_tables
from bench.tables.rows import read_rows, regime_name


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
    expected = moderated_difference(
        [np.subtract(score["better", seed], score["full", seed]) for seed in range(3)],
        line.seed_variance,
        full.seed_variance,
    )
    assert line.vs_full.crossed == expected
    assert full.seed_variance.degrees_of_freedom > line.seed_variance.degrees_of_freedom - 6
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


def test_references_borrow_less_from_the_other_arms_and_no_variance_is_under_the_items():
    (table,) = tables_of(planted(5))
    lent = {line.label: line.seed_variance.degrees_of_freedom - 4 for line in table.arms()}
    assert lent["full"] == lent["random"] == pytest.approx(4.0)
    assert lent["better"] == lent["worse"] == pytest.approx(10.0)
    for line in table.arms():
        assert line.seed_variance.variance >= sampling_variance(line.score_SI)
    assert any(
        line.seed_variance.variance == sampling_variance(line.score_SI) for line in table.arms()
    )


def test_two_common_seeds_have_an_interval_and_no_verdict():
    (table,) = tables_of(planted(2, keeps=(0.05,)))
    found = only(table, "better").vs_full
    assert found.seeds == 2 and found.crossed is not None and found.verdict is None
    assert sheet.difference_text(found).endswith("; seeds 0, 1) —")
    assert [c.verdict for c in table.comparisons()] == ["tie"], "random and full, of five seeds"
    assert "get no verdict" in " ".join(table_sheets.table_sheet(table).notes)


def test_a_difference_of_some_seeds_names_them():
    (table,) = tables_of(planted(3, keeps=(0.05,)))
    line = only(table, "better")
    assert line.vs_full.only_seeds == (0, 1, 2)
    assert "; seeds 0–2)" in sheet.difference_text(line.vs_full)
    assert "not the difference of the two accuracies" in " ".join(
        table_sheets.table_sheet(table).notes
    )
    (equal,) = tables_of(planted(5, keeps=(0.05,)))
    assert only(equal, "better").vs_full.only_seeds == ()
    assert "accuracies" not in " ".join(table_sheets.table_sheet(equal).notes)


def test_the_share_of_clipped_steps_stands_in_the_table():
    (table,) = tables_of(planted(3, keeps=(0.05,)))
    place = table_sheets.HEADER.index("clipped %")
    assert {r[place] for r in table_sheets.table_sheet(table).rows} == {"—", "25"}


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
    rows = planted(3, keeps=(0.05,))
    rows += [row("min_gap", 1.0, seed, 0.05, realised=0.03) for seed in range(3)]
    rows += [row("entropy", 1.0, seed) for seed in range(3)]  # a budget of all tokens is a budget
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
    rows = planted(3, keeps=(0.05,))
    rows += [row(name, keep, seed, effect) for seed in range(3)
             for name, effect in (("random", 0.0), ("better", 0.05))]  # fmt: skip
    default, scheduled = tables_of(rows)
    assert default == tables_of(planted(3, keeps=(0.05,)))[0]
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


def test_rows_of_prompt_files_make_every_table_and_figure():
    file, rows = "/data/a.b/v1..2/x_%&$_^$-3.jsonl", []
    for number, pair in enumerate(("tiny-qwen3", "tiny-qwen2.5", "other")):
        fields = {"pair": pair, "facts": {"style_share": number / 10}, "prompts": file}
        rows += planted(2, reference_seeds=2, rules={"better": 0.05}, **fields)
        rows += planted(2, reference_seeds=2, k=4, eval_every=30, **fields) if not number else []
    tables = tables_of(rows)
    made, drawn = pages.documents(tables, PUBLISHED), figures.draw_all(tables)
    for kind in ("differences", "keep", "tokens", "seconds", "curve", "dial", "k"):
        assert any(name.startswith(f"figures/{kind}-") for name in drawn), kind
    text_of = {name: content.decode() for name, content in made.items()}
    assert f"regime prompts={file}, " in text_of["leaderboard.md"]
    assert r"x\_\%\&\$\_\textasciicircum{}\$-3.jsonl, k=4" in text_of["leaderboard.tex"]


def test_regimes_are_in_the_order_of_their_numbers_whatever_a_file_is_called():
    files = ("a..b.jsonl", "set-10.jsonl", "set-9.jsonl")
    rows = [line for steps in (240, 30) for line in planted(1, steps=steps)]
    rows += [line for file in files for line in planted(1, prompts=file)]
    regimes = list(dict.fromkeys(table.regime for table in tables_of(rows)))
    named = ["prompts=a..b.jsonl", "prompts=set-9.jsonl", "prompts=set-10.jsonl"]
    assert regimes == [*named, "steps=30", "steps=240"]
