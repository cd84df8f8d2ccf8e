"""Rows: each run once, whole, of one set of items; anything else is refused by file and line."""

import pytest
from command import call
from planted_rows import planted, row, tables_of, text

from bench.core.errors import ConfigError
from bench.tables import table_sheets
from bench.tables.rows import DEFAULTS, read_rows, regime_changes


def refused(*texts):
    with pytest.raises(ConfigError) as error:
        read_rows({f"{n}.jsonl": found for n, found in enumerate(texts)})
    return str(error.value)


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


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 7, -0.5, 1e308])
@pytest.mark.parametrize("who", ["untrained", "trained", "teacher"])
def test_a_score_that_is_none_is_refused(score, who):
    made = row("full", 1.0, 0)
    made["items"][who]["tiny_math"][3] = score
    assert f"0.jsonl:1: run '{made['run_id']}' has a score of" in refused(text([made]))
