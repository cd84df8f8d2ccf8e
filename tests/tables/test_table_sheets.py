"""A table as text: what is missing is named, and the headline shows the rules chosen beforehand."""

from planted_rows import PUBLISHED, planted, row, tables_of

from bench.tables import pages, table_sheets


def test_references_that_are_missing_are_named():
    (table,) = tables_of([row("new", keep, seed) for keep in (0.05, 0.1) for seed in (0, 1)])
    notes = " ".join(table_sheets.table_sheet(table).notes)
    assert "no `full` run" in notes
    assert "no `random` run at keep 0.05; no `random` run at keep 0.1." in notes
    assert [line.label for line in table.lines[:2]] == ["untrained", "teacher"]
    assert "Missing" not in " ".join(table_sheets.table_sheet(*tables_of(planted(2))).notes)


def test_the_headline_shows_the_rules_chosen_beforehand():
    rules = {"teachability": -0.05, "tip": 0.05, "not_in_the_headline": 0.2}
    rows = [m for p in ("tiny-qwen2.5", "tiny-qwen3") for m in planted(3, rules=rules, pair=p)]
    headline = pages.documents(tables_of(rows), PUBLISHED)["headline.md"].decode()
    names = [line.split(" | ")[0][2:] for line in headline.split("\n")[2:8]]
    assert names == ["untrained", "teacher", "full", "tip", "random", "teachability"]
    assert headline.count("**better**") == 4 and headline.count("**worse**") == 4
    assert "keep 0.05" in headline and "not_in_the_headline" not in headline
