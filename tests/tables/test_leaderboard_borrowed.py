"""References of another regime, borrowed where the fields that differ train them alike."""

from dataclasses import replace

import pytest
import torch
from planted_rows import STEPS, only, planted, row, tables_of

from bench.selection.registry import get_selector
from bench.tables import table_sheets
from bench.tables.leaderboard import UNREAD
from bench.train.loss import token_scale


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


def test_a_random_that_another_rule_fills_is_no_reference_of_another_k_or_population():
    filled = {"min_keep_per_response": 1, "refill": "entropy"}
    rows = planted(3, (0.05,), **filled)
    for change in ({"k": 4}, {"population": "rows"}):
        tables = tables_of(rows + [row("new", 0.05, s, **filled, **change) for s in range(3)])
        (other,) = [table for table in tables if table.arms("new")]
        assert other.arms("full") and not other.arms("random")
    own = {"min_keep_per_response": 1}
    tables = tables_of(
        planted(3, (0.05,), **own) + [row("new", 0.05, s, **own, k=4) for s in range(3)]
    )
    (other,) = [table for table in tables if table.arms("new")]
    assert other.arms("full") and other.arms("random")
