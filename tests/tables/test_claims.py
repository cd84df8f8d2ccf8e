"""The claims: each one comparison, in one Holm family; and reported numbers, marked as such."""

import numpy as np
import pytest
from planted_rows import PUBLISHED, planted, row, tables_of

from bench.core.stats import crossed_difference, holm
from bench.tables import claims, pages
from bench.tables.claims import CLAIMS, answers

EFFECTS = {"full": 0.05, "teachability": 0.05, "entropy": 0.05, "forward_kl": -0.1,
           "incompatible": 0.2, "random": 0.0}  # fmt: skip


def world(seeds=4, effects=EFFECTS, **fields):
    return [
        row(name, 1.0 if name == "full" else keep, seed, effect, **fields)
        for name, effect in effects.items()
        for seed in range(seeds)
        for keep in ((0.05, 0.2) if name != "full" else (1.0,))
    ]


def test_each_claim_is_the_paired_difference_of_its_two_rules_at_the_headline_keep():
    rows = world()
    found = {answer.claim.reference: answer.difference for answer in answers(tables_of(rows))}
    assert {name: d.verdict for name, d in found.items()} == {
        "full": "tie", "entropy": "tie", "forward_kl": "better", "incompatible": "worse",
    }  # fmt: skip
    scores = {
        name: np.array(
            [r["items"]["trained"]["tiny_math"] for r in rows
             if (r["experiment"]["selector"], r["experiment"]["keep"]) == (name, 0.05)]
        )
        for name in ("teachability", "forward_kl")
    }  # fmt: skip
    expected = crossed_difference(scores["teachability"] - scores["forward_kl"])
    assert found["forward_kl"].crossed == expected


def test_the_family_is_the_whole_sheet():
    """A difference that is clear within its own table is a tie where eight are asked."""
    effects = {"full": 0.05, "teachability": 0.05, "entropy": 0.02, "forward_kl": 0.011,
               "incompatible": 0.026}  # fmt: skip
    pairs = ("tiny-qwen3", "tiny-qwen2.5")
    asked = answers(tables_of([r for pair in pairs for r in world(3, effects, pair=pair)]))
    p_values = [answer.difference.crossed.p_value for answer in asked]
    for answer, adjusted in zip(asked, holm(p_values), strict=True):
        is_clear = adjusted < 0.05 and abs(answer.difference.mean) > 0.01
        assert (answer.difference.verdict != "tie") == is_clear
    by_table = {
        pair: holm([p for a, p in zip(asked, p_values, strict=True) if a.table.pair == pair])
        for pair in pairs
    }
    clear = sum(p < 0.05 for adjusted in by_table.values() for p in adjusted)
    assert len(asked) == 8 and clear > sum(p < 0.05 for p in holm(p_values))


def test_tables_without_the_rules_other_k_and_parameters_ask_nothing():
    assert answers(tables_of(world(3, {"full": 0.0, "random": 0.0}))) == []
    assert answers(tables_of(world(3, {"full": 0.0, "teachability": 0.0}, k=32))) == []
    assert answers(tables_of(world(1))) == []  # one seed has no interval over seeds
    special = world(3, {"full": 0.0, "teachability": 0.0}, selector_params={"norm": "none"})
    with_params = [r for r in special if r["experiment"]["selector"] == "teachability"]
    assert answers(tables_of(with_params + world(3, {"full": 0.0}))) == []


def test_the_sheet_says_claim_regime_pair_seeds_and_interval():
    tables = tables_of(world(pair="tiny-qwen3") + world(pair="tiny-qwen3", objective="forward_kl"))
    made = pages.documents(tables, "source = []")["leaderboard.md"].decode()
    section = made[made.index("## Claims") :].split("\n## ")[0]
    assert section.count("| tiny-qwen3 | 4 |") == 2 * len(CLAIMS)
    assert section.count("objective=forward_kl") == len(CLAIMS)
    assert "**better**" in section and "all 8 comparisons" in section
    without = pages.documents(tables_of(world(3, {"full": 0.0})), "source = []")
    assert b"## Claims" not in without["leaderboard.md"]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.reference)
def test_the_rules_of_the_claims_are_registered(claim):
    from bench.selection.registry import selector_names

    assert {claim.rule, claim.reference} <= set(selector_names())


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
