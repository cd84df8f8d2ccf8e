"""Families of tables, by K and by a number that pairs state, set side by side."""

from planted_rows import PUBLISHED, planted, row, tables_of

from bench.tables import families, figures, pages
from bench.tables.families import dials, k_groups


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
            4, (0.05,), 4, {"fragile": -0.4 * value, "steady": 0.0}, pair=PAIRS[value],
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


def caps(values=(8, 16, 64), **fields):
    """One pair trained at several caps: `short` falls with the cap."""
    return [
        found
        for value in values
        for found in planted(
            4, (0.05,), 4, {"short": -0.005 * value, "steady": 0.0}, max_new_tokens=value, **fields
        )
    ]


def test_settings_are_dials_too():
    (dial,) = dials(tables_of(caps()))
    assert (dial.fact, list(dial.by_value), dial.is_of_pairs) == (
        "max_new_tokens",
        [8, 16, 64],
        False,
    )
    sheet = families.dial_sheet(dial)
    assert sheet.title == "By max_new_tokens: tiny-qwen3, tiny_math, regime default"
    assert sheet.header[2:] == ("8", "16", "64")
    cells = {(line[0], line[1]): line[2:] for line in sheet.rows}
    assert [c.split()[-1] for c in cells["short", "0.05"]] == ["worse", "worse", "worse"]
    assert [c.split()[-1] for c in cells["steady", "0.05"]] == ["tie", "tie", "tie"]
    for value, table in dial.by_value.items():
        assert table.changes.get("max_new_tokens", 64) == value
    name = "figures/dial-max_new_tokens-tiny-qwen3-tiny_math-default.svg"
    assert name in figures.draw_all(tables_of(caps()))


def test_a_dial_of_settings_has_three_values_of_one_regime_and_a_rule_of_all():
    assert not dials(tables_of(caps((8, 64))))
    assert not dials(tables_of(caps((8, 16)) + caps((64,), steps=240)))
    lonely = [r for r in caps() if r["experiment"]["selector"] in ("full", "random")]
    assert not dials(tables_of(lonely))


def test_combinations_of_settings_are_values_by_name():
    rows = [
        found
        for scope, normalize in (("batch", "all"), ("batch", "selected"), ("response", "selected"))
        for found in planted(3, (0.05,), 3, scope=scope, normalize=normalize)
    ]
    (dial,) = dials(tables_of(rows))
    assert list(dial.by_value) == ["batch, all", "batch, selected", "response, selected"]
    assert dial.regime == "default" and dial.fact == "scope and normalize"
    assert any("scope-and-normalize" in name for name in figures.draw_all(tables_of(rows)))
