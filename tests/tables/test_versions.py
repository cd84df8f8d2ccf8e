"""Which rows count: the newest version of a rule and of a task, the newest of repeated runs."""

import json

import pytest
from command import call
from planted_rows import only, planted, row, tables_of, text

from bench.core.errors import ConfigError
from bench.tables import pages, table_sheets
from bench.tables.leaderboard import make_tables
from bench.tables.rows import read_rows
from bench.tables.versions import count_versions, repeat_sd, repeats

OLD, NEW = "bc74cd" + "0" * 58, "f00d12" + "0" * 58


def made_by(source, found, **more):
    """The row of a run whose rule has that source; its id differs, as run ids do."""
    points_to = {"selector": source, "teacher": "t", "student": "s"}
    return found | {"run_id": f"{found['run_id']}-{source[:6]}", "points_to": points_to, **more}


def edited(seeds=(0, 1, 2), effect=0.05):
    """A rule of one's own, run, edited and run again."""
    old = [made_by(OLD, row("my_rule", 0.05, s, -0.2)) for s in range(5)]
    new = [
        made_by(NEW, row("my_rule", 0.05, s, effect), ended=f"2026-11-2{s}T10:00:00+00:00")
        for s in seeds
    ]
    return old, new


def test_rows_are_ordered_by_when_they_ended_and_older_ones_by_their_line():
    rows = planted(2, (0.05,), 2)
    rows[0]["ended"] = "2026-11-26T10:00:00+00:00"
    rows[2]["ended"] = "2026-11-25T10:00:00+00:00"
    found = [r.run_id for r in read_rows({"a.jsonl": text(rows)})]
    ids = [r["run_id"] for r in rows]
    assert found == [ids[1], *ids[3:], ids[2], ids[0]]


def test_the_newest_version_of_an_edited_rule_counts():
    old, new = edited()
    for files in ([old + new], [new, old]):
        (table,) = tables_of(planted(5, (0.05,)), *files)
        line = only(table, "my_rule")
        assert line.seeds == (0, 1, 2) and line.accuracy > 0.6
        assert any(
            "5 rows of older versions of my_rule are left out; --versions all" in warning
            for warning in table.warnings
        )


def test_all_versions_are_shown_on_request_each_by_its_name():
    old, new = edited()
    texts = {"rows.jsonl": text(planted(5, (0.05,)) + old + new)}
    (table,) = make_tables(read_rows(texts), versions="all")
    assert only(table, "my_rule").seeds == (0, 1, 2)
    older = only(table, "my_rule@bc74cd")
    assert older.seeds == (0, 1, 2, 3, 4) and older.accuracy < 0.5
    assert not any("left out" in warning for warning in table.warnings)


def test_rows_that_do_not_say_are_of_the_newest_version_unless_it_was_edited():
    new = [made_by(NEW, row("my_rule", 0.05, seed)) for seed in (3, 4)]
    silent = [row("my_rule", 0.05, seed) for seed in (0, 1, 2)]
    (table,) = tables_of(planted(5, (0.05,)), silent, new)
    assert only(table, "my_rule").seeds == (0, 1, 2, 3, 4)
    again = [made_by(NEW, row("my_rule", 0.05, seed)) for seed in (2, 3, 4)]  # another id of seed 2
    (table,) = tables_of(planted(5, (0.05,)), silent, again)
    assert only(table, "my_rule").seeds == (2, 3, 4)
    assert any("3 rows of older versions" in warning for warning in table.warnings)


def test_one_experiment_on_two_models_is_refused():
    one = made_by(NEW, row("full", 1.0, 0))
    other = made_by(NEW, row("full", 1.0, 0))
    other["run_id"] += "x"
    other["points_to"]["student"] = "edited"
    with pytest.raises(ConfigError, match="1.jsonl:1: .* and another student: the files behind it"):
        read_rows({"0.jsonl": text([one]), "1.jsonl": text([other])})


def test_a_superseded_rule_is_named_until_it_is_run_again():
    old = [row("teachability_released", 0.05, seed, 0.03) for seed in range(3)]
    superseded = {r["run_id"]: "teachability_released@floor-first" for r in old}
    texts = {"rows.jsonl": text(planted(3, (0.05,)) + old)}
    (table,) = make_tables(read_rows(texts, superseded))
    assert only(table, "teachability_released@floor-first").seeds == (0, 1, 2)
    headline = table_sheets.headline_sheet([table])
    assert any(cells[0] == "teachability_released@floor-first" for cells in headline.rows)
    new = [made_by(NEW, row("teachability_released", 0.05, seed)) for seed in range(3)]
    texts["new.jsonl"] = text(new)
    (table,) = make_tables(read_rows(texts, superseded))
    assert {line.label for line in table.arms()} >= {"teachability_released"}
    assert not table.arms("teachability_released@floor-first")
    (table,) = make_tables(read_rows(texts, superseded), versions="all")
    assert table.arms("teachability_released@floor-first")


def test_superseded_ids_are_read_beside_the_rows(tmp_path, capsys):
    old = [row("teachability_released", 0.05, seed, 0.03) for seed in range(3)]
    (tmp_path / "rows.jsonl").write_text(text(planted(3, (0.05,)) + old))
    named = {r["run_id"]: "teachability_released@floor-first" for r in old}
    (tmp_path / "superseded.json").write_text(json.dumps(named))
    code, out, err = call(capsys, "leaderboard", tmp_path / "rows.jsonl", "--json")
    assert code == 0, err
    assert "teachability_released@floor-first" in {r["selector"] for r in json.loads(out)["lines"]}
    (tmp_path / "superseded.json").write_text("[1]")
    code, _, err = call(capsys, "leaderboard", tmp_path / "rows.jsonl")
    assert code == 2 and "superseded.json: is not accepted" in err


def again(found, run_id, effect=0.0, **more):
    """The same training, run once more to measure something else."""
    made = row(
        "full", 1.0, found["experiment"]["seed"], effect, curve_items=len(run_id) + ord(run_id[-1])
    )
    return made | {"run_id": run_id, **more}


def test_of_repeated_runs_the_newest_engine_counts_and_of_these_the_newest():
    first = row("full", 1.0, 0)
    second, third = again(first, "full-b", 0.1), again(first, "full-a", 0.2)
    for order, counts in (
        ([first, second, third], third),
        ([third, first, second], second),
        ([second | {"engine_version": 2}, third, first], second),
        ([third | {"ended": "2026-11-26T10:00:00+00:00"}, first, second], third),
    ):
        others = [r for r in planted(2, (0.05,), 2) if r["run_id"] != first["run_id"]]
        (table,) = tables_of(order, others)
        line = only(table, "full", 1.0)
        assert [run.run_id for run in line.runs if run.seed == 0] == [counts["run_id"]]
        (found,) = repeats(read_rows({"rows": text(order)}))
        assert len(found.runs) == 3 and found.runs[-1].run_id == counts["run_id"]


def test_repeats_are_listed_and_say_what_the_noise_between_runs_is():
    first, other = row("full", 1.0, 0), row("full", 1.0, 1)
    rows = [first, other, again(first, "full-b", 0.1), again(other, "full-c")]
    found = repeats(read_rows({"rows": text(rows)}))
    (a, b), (c, d) = (pair.accuracy_R for pair in found)
    assert repeat_sd(found) == pytest.approx((((a - b) ** 2 + (c - d) ** 2) / 2 / 2) ** 0.5)
    sheet = table_sheets.repeats_sheet(found)
    assert [cells[-1] for cells in sheet.rows] == ["full-b", "full-c"]
    assert f"{100 * repeat_sd(found):.2f} points" in sheet.notes[0]
    made = pages.documents(tables_of(rows), "source = []", (), found)["leaderboard.md"].decode()
    assert "## Repeats" in made
    assert (
        "## Repeats"
        not in pages.documents(tables_of(rows), "source = []")["leaderboard.md"].decode()
    )


def test_scores_of_two_versions_of_a_task_are_not_compared():
    rows = planted(3, (0.05,), 3)
    for r in rows:
        if r["experiment"]["selector"] != "worse":
            r["task_versions"] = {"tiny_math": 2}
    (table,) = tables_of(rows)
    assert not table.arms("worse") and table.arms("better")
    assert any("3 rows of version 1 of tiny_math are left out" in w for w in table.warnings)


def test_engines_of_two_versions_in_one_table_are_warned_of():
    rows = planted(3, (0.05,), 3)
    rows[-1]["engine_version"] = 2
    (table,) = tables_of(rows)
    assert any("engine versions 1 and 2 stand in this table" in w for w in table.warnings)


def test_versions_leave_rows_of_one_version_as_they_are():
    rows = read_rows({"rows": text(planted(3, (0.05,)))})
    assert count_versions(rows).rows == tuple(rows) and count_versions(rows).left_out == {}
