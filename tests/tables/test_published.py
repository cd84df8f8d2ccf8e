"""What papers reported: each from its own source's full row, and whether that tells rules apart."""

from statistics import fmean

import pytest
from planted_rows import PUBLISHED, planted, tables_of
from scipy import stats

from bench.core.errors import ConfigError
from bench.tables import pages
from bench.tables.published import (
    cells_of,
    published_sheets,
    random_sheet,
    read_published,
    sources_sheet,
    spreads_of,
)

HEAD = "source,id,read_as,pair,objective,selector,keep,benchmark,metric,score,note\n"


def lines(*rows):
    """Text of a file whose rows are (source, pair, selector, keep, benchmark, score)."""
    return HEAD + "".join(
        f"{source},2600.0,full text,{pair},kl,{selector},{keep},{benchmark},acc %,{score},\n"
        for source, pair, selector, keep, benchmark, score in rows
    )


def cells(*rows):
    return cells_of(read_published(lines(*rows)))


def test_every_committed_number_is_read():
    found = read_published(PUBLISHED)
    assert len(found) == 1539
    assert len({row.source for row in found}) == 35
    assert {row.read_as for row in found} == {
        "full text", "digest", "authors' repository", "abstract", "third-party notes",
    }  # fmt: skip


def test_a_line_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match="published.csv:3: no published number: could not"):
        read_published(lines(("T1", "p", "full", 1.0, "a", 1), ("T1", "p", "tip", 0.1, "a", "x")))
    with pytest.raises(ConfigError, match="published.csv:2"):
        read_published("source,id\nT1,2\n")


def test_a_rule_is_compared_with_the_full_of_its_own_table_pair_and_benchmark():
    (first, second, alone) = cells(
        ("T1", "p", "full", 1.0, "a", 50), ("T1", "p", "full", 1.0, "b", 20),
        ("T1", "q", "full", 1.0, "a", 90), ("T2", "p", "full", 1.0, "a", 0),
        ("T1", "p", "tip", 0.1, "a", 53), ("T1", "p", "tip", 0.1, "b", 21),
        ("T1", "p", "tip", 0.1, "c", 99),  # which full lacks
        ("T1", "q", "tip", 0.1, "a", 80),
        ("T3", "p", "tip", 0.1, "a", 80),
    )  # fmt: skip
    assert first.from_full == pytest.approx((3 + 1) / 2)
    assert second.from_full == pytest.approx(-10)
    assert alone.from_full is None and alone.from_random is None


def test_a_sources_own_mean_counts_where_it_has_one():
    (cell,) = cells(
        ("T1", "p", "full", 1.0, "a", 50), ("T1", "p", "full", 1.0, "avg2", 40),
        ("T1", "p", "tip", 0.1, "a", 80), ("T1", "p", "tip", 0.1, "avg2", 41),
    )  # fmt: skip
    assert (cell.score, cell.from_full) == (41, pytest.approx(1))


def test_random_is_of_the_same_keep():
    rule = next(c for c in cells(
        ("T1", "p", "random", 0.1, "a", 10), ("T1", "p", "random", 0.2, "a", 30),
        ("T1", "p", "tip", 0.2, "a", 33),
    ) if c.selector == "tip")  # fmt: skip
    assert rule.from_random == pytest.approx(3)


def test_untrained_models_and_differences_are_no_cells():
    found = cells(
        ("T1", "p", "untrained", "", "a", 1), ("T1", "p", "teacher", "", "a", 2),
        ("T1", "p", "full minus selective", "", "a", 3),
    )  # fmt: skip
    assert not found


def test_crops_own_tables_do_not_tell_its_rules_apart():
    """46 cells of six rules: F(5, 40) = 2.0, 24 of them above full (its table 1 has 44.80)."""
    (spread, *_) = (s for s in spreads_of(cells_of(read_published(PUBLISHED)))
                    if (s.id, s.pair) == ("2608.13387", "Qwen3-4B->Qwen3-1.7B"))  # fmt: skip
    assert (spread.rules, spread.cells) == (6, 46)
    assert spread.f_value == pytest.approx(2.01, abs=0.01)
    assert spread.p_value == pytest.approx(0.098, abs=0.001)
    assert (spread.between, spread.within) == (
        pytest.approx(1.43, abs=0.02), pytest.approx(1.32, abs=0.05),
    )  # fmt: skip


def test_the_spread_is_a_one_way_analysis_of_variance_over_keeps():
    scores = {"a": (1, 2, 4), "b": (5, 7, 6), "c": (3,)}
    rows = [
        ("T1", "p", name, keep, "x", score)
        for name, of in scores.items()
        for keep, score in zip((0.1, 0.2, 0.5), of, strict=False)
    ]
    rows += [("T1", "p", "full", 1.0, "x", 9), ("T1", "p", "random", 0.1, "x", 9)]
    rows += [("T2", "p", "a", 0.1, "x", 100)]  # told before: the first table counts
    (spread,) = spreads_of(cells(*rows))
    test = stats.f_oneway(scores["a"], scores["b"])
    assert (spread.rules, spread.cells) == (2, 6)
    assert (spread.f_value, spread.p_value) == (test.statistic, test.pvalue)


def test_the_sheets_never_mix_others_numbers_with_ours():
    tables = tables_of(planted(3, rules={"teachability": 0.05, "mine": 0.0}))
    found = cells_of(read_published(PUBLISHED))
    sheet = sources_sheet(found, tables)
    ours = {row[0]: row[-1] for row in sheet.rows}
    difference = next(
        line.vs_full.mean for line in tables[0].arms("teachability") if line.keep == 0.05
    )
    assert ours["teachability"] == f"{100 * difference:+.1f} on tiny-qwen3"
    assert "mine" not in ours and ours["crop"] == "—"
    here = [c.from_full for c in found if (c.selector, c.source) == ("dial(1)", "DIAL-OPD T1-T3")]
    row = next(r for r in sheet.rows if r[:2] == ("dial(1)", "DIAL-OPD T1-T3"))
    assert row[4:6] == (str(len(here)), f"{fmean(here):+.1f}")
    csv = pages.documents(tables, PUBLISHED)["leaderboard.csv"].decode()
    assert "DIAL" not in csv and "CROP" not in csv


def test_nothing_published_is_no_sheet():
    assert published_sheets(HEAD, []) == []
    assert random_sheet(cells(("T1", "p", "tip", 0.1, "a", 1))) is None
