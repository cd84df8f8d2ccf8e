"""The claims of the sweeps: each one comparison, in a family of its kind; reported numbers."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from command import call
from planted_rows import PUBLISHED, row, tables_of, text

from bench.core.claims import Claim, Claims, NamedClaims, Prediction
from bench.core.stats import holm, moderated_difference
from bench.sweep.sweep_file import read_claims
from bench.tables import claims, pages
from bench.tables.claims import answers

SWEEPS = Path(__file__).parents[2] / "sweeps"
EFFECTS = {"full": 0.05, "teachability": 0.05, "entropy": 0.05, "forward_kl": -0.1,
           "incompatible": 0.2, "random": 0.0}  # fmt: skip
FOUR = (
    Claim(words="as well as all", rule="teachability", reference="full", margin=0.02),
    Claim(words="better than by entropy", rule="teachability", reference="entropy"),
    Claim(words="better than by divergence", rule="teachability", reference="forward_kl"),
    Claim(words="better than incompatible ones", rule="teachability", reference="incompatible"),
)


def world(seeds=4, effects=EFFECTS, **fields):
    return [
        row(name, 1.0 if name == "full" else keep, seed, effect, **fields)
        for name, effect in effects.items()
        for seed in range(seeds)
        for keep in ((0.05, 0.2) if name != "full" else (1.0,))
    ]


def named(rows, primary=FOUR, secondary=(), is_tuned=False):
    """The claims of a sweep that ran these rows."""
    found = Claims(named=date(2026, 11, 26), primary=primary, secondary=secondary)
    return NamedClaims("sweeps/x.toml", "x", found, [r["experiment"] for r in rows], is_tuned)


def asked(rows, **changes):
    return answers(tables_of(rows), [named(rows, **changes)])


def test_each_claim_is_the_paired_difference_of_its_two_rules_at_its_keep():
    rows = world()
    found = {answer.claim.reference: answer for answer in asked(rows)}
    assert {name: answer.outcome for name, answer in found.items()} == {
        "full": "shown", "entropy": "not shown", "forward_kl": "shown",
        "incompatible": "the opposite shown",
    }  # fmt: skip
    scores = {
        name: np.array(
            [r["items"]["trained"]["tiny_math"] for r in rows
             if (r["experiment"]["selector"], r["experiment"]["keep"]) == (name, 0.05)]
        )
        for name in ("teachability", "forward_kl")
    }  # fmt: skip
    rule, reference = found["forward_kl"].lines
    expected = moderated_difference(
        scores["teachability"] - scores["forward_kl"], rule.seed_variance, reference.seed_variance
    )
    assert found["forward_kl"].difference.crossed == expected
    wide = [claim.model_copy(update={"keep": 0.2}) for claim in FOUR]
    assert {line.keep for a in asked(rows, primary=wide) for line in a.lines} == {0.2, 1.0}


@pytest.mark.parametrize(
    "effect, outcome",
    [(0.05, "shown"), (0.03, "shown"), (0.024, "shown"), (0.01, "not shown"),
     (-0.02, "the opposite shown")],
)  # fmt: skip
def test_a_margin_is_what_non_inferiority_is_tested_against(effect, outcome):
    """`full` has 0.03: equal is shown, two points below is neither, five below is the opposite."""
    rows = world(5, {"full": 0.03, "teachability": effect, "random": 0.0})
    (answer,) = asked(rows, primary=FOUR[:1])
    assert answer.outcome == outcome
    crossed = answer.difference.crossed
    assert answer.p_value == pytest.approx(crossed.p_value_of(-0.02))
    without = [FOUR[0].model_copy(update={"margin": None})]
    (superior,) = asked(rows, primary=without)
    assert superior.p_value == crossed.p_value
    assert (superior.outcome == "shown") == (effect == 0.05)
    assert effect != 0.024 or answer.difference.mean < 0, "shown, though it is behind"


def test_a_clear_difference_under_a_point_shows_no_superiority():
    rows = world(5, {"full": 0.0, "teachability": 0.008, "entropy": 0.0, "random": 0.0}, items=3000)
    (answer,) = asked(rows, primary=FOUR[1:2])
    assert abs(answer.difference.mean) < 0.01 and answer.outcome == "not shown"


def test_primary_and_secondary_claims_are_two_families():
    effects = {"full": 0.05, "teachability": 0.05, "entropy": 0.02, "forward_kl": 0.03,
               "incompatible": 0.026}  # fmt: skip
    pairs = ("tiny-qwen3", "tiny-qwen2.5")
    rows = [r for pair in pairs for r in world(3, effects, pair=pair)]
    found = asked(rows, primary=FOUR[:1], secondary=FOUR[1:])
    assert [answer.kind for answer in found] == ["primary"] * 2 + ["secondary"] * 6
    for kind in ("primary", "secondary"):
        family = [answer for answer in found if answer.kind == kind]
        adjusted = holm([answer.p_value for answer in family])
        for answer, p_value in zip(family, adjusted, strict=True):
            distance = answer.difference.mean + (answer.claim.margin or 0)
            is_clear = p_value < 0.05 and abs(distance) > (0 if answer.claim.margin else 0.01)
            assert (answer.outcome != "not shown") == is_clear
    together = holm([answer.p_value for answer in found])
    apart = holm([a.p_value for a in found[:2]]) + holm([a.p_value for a in found[2:]])
    assert sum(together) > sum(apart)


def test_the_same_runs_answer_once():
    rows = world()
    twice = [named(rows), named(rows, primary=FOUR[1:], secondary=FOUR[:1])]
    found = answers(tables_of(rows), twice)
    assert len(found) == 4 and {a.kind for a in found} == {"primary"}
    assert not any(answer.also for answer in found)  # one table, whoever names the claim
    tables = tables_of(rows)
    others = [replace(table, changes={}) for table in tables]  # as a tuning that kept the default
    again = answers([*tables, *others], twice)
    assert len(again) == 4 and all(a.also == ("default on tiny-qwen3",) for a in again)
    sheet = claims.claims_sheets(again)[0]
    assert len(sheet.rows) == 4 and "Counted once" in " ".join(sheet.notes)


def test_tables_of_other_sweeps_without_the_rules_and_parameters_ask_nothing():
    rows = world(3)
    assert answers(tables_of(rows), [named(world(3, k=32))]) == []
    assert answers(tables_of(rows), [named(rows, is_tuned=True)]) == []
    assert asked(world(3, {"full": 0.0, "random": 0.0})) == []
    assert asked(world(2)) == []  # two seeds get no verdict
    assert len(asked(world(3, k=32))) == 4
    special = world(3, {"full": 0.0, "teachability": 0.0}, selector_params={"norm": "none"})
    with_params = [r for r in special if r["experiment"]["selector"] == "teachability"]
    assert asked(with_params + world(3, {"full": 0.0})) == []


def test_the_sheet_says_claim_margin_regime_pair_seeds_interval_and_outcome():
    rows = world(pair="tiny-qwen3") + world(pair="tiny-qwen3", objective="forward_kl")
    made = pages.documents(tables_of(rows), "source = []", [named(rows)])
    section = made["leaderboard.md"].decode().split("## Primary claims")[1].split("\n## ")[0]
    assert section.count("| tiny-qwen3 | 4 |") == 2 * len(FOUR)
    assert section.count("objective=forward_kl") == len(FOUR)
    assert "all 8 comparisons" in section and section.count("| 2.0 |") == 2
    assert section.count("| the opposite shown |") == 2
    assert "Named on 2026-11-26 in `sweeps/x.toml`, after rows" in section
    without = pages.documents(tables_of(rows), "source = []")
    assert b"claims" not in without["leaderboard.md"]


@pytest.mark.parametrize(
    "days, when",
    [
        (("25", "27"), "after rows that they are tested on"),
        ((None, "27"), "after rows that they are tested on"),
        (("26", "27"), "on the day of the first of its rows"),
        (("27", "28"), "before the first of its rows"),
    ],
)
def test_the_sheet_says_whether_the_claims_or_the_rows_are_older(days, when):
    rows = world(3)
    for number, r in enumerate(rows):
        if (day := days[number % 2]) is not None:
            r["ended"] = f"2026-11-{day}T10:00:00+00:00"
    (sheet,) = claims.claims_sheets(asked(rows))
    assert f"Named on 2026-11-26 in `sweeps/x.toml`, {when}." in sheet.notes


def test_a_file_that_claims_nothing_is_no_file_of_claims(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(text(world(3)))
    given = ("leaderboard", tmp_path / "rows.jsonl", "--claims", SWEEPS / "smoke.toml")
    code, _, err = call(capsys, *given)
    assert code == 2 and "smoke.toml' names no [claims]" in err


@pytest.mark.parametrize(
    "file", [path for path in sorted(SWEEPS.glob("*.toml")) if "[claims]" in path.read_text()],
    ids=lambda path: path.stem,
)  # fmt: skip
def test_the_committed_claims_are_of_known_rules(file):
    from bench.selection.registry import get_selector

    found = read_claims(file).claims
    for claim in (*found.primary, *found.secondary, *found.predictions):
        assert get_selector(claim.rule).name != get_selector(claim.reference).name


def test_the_primary_claims_are_the_papers_four():
    found = read_claims(SWEEPS / "primary.toml").claims
    assert [claim.reference for claim in found.primary] == [claim.reference for claim in FOUR]
    assert [claim.margin for claim in found.primary] == [0.02, None, None, None]
    assert {c.reference for c in found.secondary} >= {"tip", "reverse_kl", "teachability_split"}


def expecting(expects, margin=None, reference="random", **fields):
    return Prediction(
        by="Somebody", words="so it is", rule="teachability", reference=reference,
        expects=expects, margin=margin, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    "effect, expects, margin, score",
    [
        (0.05, "better", None, "came true"),
        (0.0, "better", None, "undecided"),
        (-0.05, "better", None, "did not come true"),
        (-0.05, "worse", None, "came true"),
        (0.05, "worse", None, "did not come true"),
        (0.0, "alike", 0.1, "came true"),
        (0.3, "alike", 0.1, "did not come true"),
        (0.0, "alike", 0.001, "undecided"),
        (0.05, "no worse", 0.02, "came true"),
        (-0.3, "no worse", 0.02, "did not come true"),
    ],
)
def test_a_prediction_is_scored_by_its_own_interval(effect, expects, margin, score):
    rows = world(6, {"full": 0.03, "teachability": effect, "random": 0.0})
    asked_of = replace(
        named(rows),
        claims=Claims(named=date(2026, 11, 26), predictions=(expecting(expects, margin),)),
    )
    (found,) = claims.scored_predictions(tables_of(rows), [asked_of])
    assert found.score == score, found.difference.crossed.ci95
    sheet = claims.predictions_sheet([found])
    assert sheet.rows[0][-1] == score
    assert f"1 {score}" in sheet.notes[0]
    assert not answers(tables_of(rows), [asked_of])  # of no family


def test_a_prediction_of_another_pair_is_not_scored_here():
    rows = world(4)
    other = expecting("better", pairs=("elsewhere",))
    asked_of = replace(named(rows), claims=Claims(named=date(2026, 11, 26), predictions=(other,)))
    assert not claims.scored_predictions(tables_of(rows), [asked_of])


@pytest.mark.parametrize("expects, margin", [("better", 0.02), ("alike", None), ("worse", 0.1)])
def test_a_prediction_has_the_margin_that_it_needs(expects, margin):
    with pytest.raises(ValueError, match="margin"):
        expecting(expects, margin)


def test_what_is_registered_in_words_is_told_with_predictions_or_without():
    rows = world(4)
    asked_of = replace(
        named(rows),
        claims=Claims(named=date(2026, 11, 26), primary=FOUR, registered=("So it is.",)),
    )
    sheet = claims.registered_sheet([asked_of])
    assert sheet.rows == (("`sweeps/x.toml`", "2026-11-26", "So it is."),)
    page = pages.documents(tables_of(rows), PUBLISHED, [asked_of])["leaderboard.md"].decode()
    assert "## Registered in words" in page and "## Predictions" not in page
    assert claims.registered_sheet([named(rows)]) is None


def test_predictions_say_when_they_were_named():
    rows = world(4)
    asked_of = replace(
        named(rows),
        claims=Claims(named=date(2026, 11, 26), predictions=(expecting("better"),)),
    )
    found = claims.scored_predictions(tables_of(rows), [asked_of])
    assert (
        claims.predictions_sheet(found)
        .notes[1]
        .startswith("Named on 2026-11-26 in `sweeps/x.toml`")
    )
