"""The numbers of results/README.md are those of the tables, in the order in which they stand."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from verdict_page import IN_USE

from bench.sweep.sweep_file import read_claims
from bench.tables.claims import answers
from bench.tables.leaderboard import make_tables
from bench.tables.rows import read_rows, read_tuned
from bench.tables.sheet import points

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
README = (RESULTS / "README.md").read_text()
TWO, THREE = "tiny-qwen2.5", "tiny-qwen3"
FKL, LONG, TUNED = "objective=forward_kl", "steps=240", "default, learning_rate tuned"
RELEASED = "teachability_released@floor-first"


@cache
def rows(name):
    return pd.read_csv(RESULTS / name / "leaderboard.csv")


def cell(column, pair, rule, regime="default", keep=0.05, of="."):
    """A number of the table, as points."""
    found = rows(of)
    found = found[(found.pair == pair) & (found.selector == rule) & (found.regime == regime)]
    if rule not in ("full", "untrained"):
        found = found[found.keep == keep]
    (value,) = found[column]
    return value


def acc(*where, **more):
    return points(cell("accuracy", *where, **more), False)


def full(*where, **more):
    return points(cell("vs_full", *where, **more))


def rnd(*where, **more):
    return points(cell("vs_random", *where, **more))


@cache
def claims():
    texts = {"rows": (RESULTS / "rows.jsonl").read_text()}
    tunings = [read_tuned(str(p), p.read_text()) for p in sorted(RESULTS.glob("tuning/*.json"))]
    files = sorted((ROOT / "sweeps").glob("*.toml"))
    named = [found for file in files if (found := read_claims(file)) is not None]
    tables = make_tables(read_rows(texts), tunings)
    return {(a.claim.reference, a.table.pair, a.table.regime): a for a in answers(tables, named)}


def claim(reference, pair, regime="default", outcome="not shown"):
    """teachability − reference, where the table says that outcome."""
    answer = claims()[reference, pair, regime]
    assert answer.outcome == outcome, (reference, pair, regime, answer.outcome)
    return points(answer.difference.mean)


def spread(column, pairs, names, regimes=("default",), keep=0.05, of=".", sign=True):
    values = [cell(column, p, n, r, keep, of) for p in pairs for n in names for r in regimes]
    return points(min(values), sign), points(max(values), sign)


TEN = ("tip", "teachability_split", "reverse_kl", "entropy", "teachability_conditional",
       "low_student_logprob", "abs_gap", "teachability", RELEASED,
       "teachability_entropy")  # fmt: skip
OPPOSITE = "the opposite shown"


def of_claims():
    low, high = spread("vs_random", (TWO, THREE), TEN, sign=False)
    others = {n for n in rows(".").selector.unique() if n not in ("random", "first", "full")}
    at_20 = rows(".")
    at_20 = at_20[(at_20.regime == "default") & (at_20.keep == 0.2) & at_20.selector.isin(others)]
    detected = [
        cell(f"vs_full_smallest_detectable{n}", TWO, "teachability", "paper") for n in ("", "_holm")
    ]
    return [
        full(TWO, "random"), full(THREE, "random"), full(TWO, "first"), full(THREE, "first"),
        low, high,
        points(at_20.vs_full.abs().max(), False),
        claim("full", TWO), claim("full", THREE, outcome=OPPOSITE), claim("full", TWO, "paper"),
        claim("full", THREE, "paper", OPPOSITE), claim("full", TWO, LONG),
        claim("full", THREE, LONG), claim("full", TWO, FKL, OPPOSITE), claim("full", THREE, FKL),
        full(TWO, "teachability", keep=0.5), full(THREE, "teachability", keep=0.5),
        *(points(value, False) for value in detected),
        claim("entropy", TWO), claim("entropy", THREE), claim("entropy", TWO, "paper"),
        claim("entropy", THREE, "paper"), claim("entropy", TWO, FKL, OPPOSITE),
        claim("entropy", THREE, FKL),
        *(claim("forward_kl", TWO, regime, "shown") for regime in ("default", "paper", FKL, LONG)),
        *(claim("forward_kl", THREE, regime, OPPOSITE) for regime in ("default", "paper", LONG)),
        *(acc(pair, name) for name in ("reverse_kl", "forward_kl") for pair in (TWO, THREE)),
        claim("reverse_kl", TWO), claim("reverse_kl", THREE, outcome=OPPOSITE),
        claim("incompatible", TWO, outcome="shown"), claim("incompatible", THREE, outcome="shown"),
        claim("incompatible", TWO, "paper", "shown"), claim("incompatible", THREE, "paper"),
        claim("incompatible", TWO, FKL, "shown"), claim("incompatible", THREE, FKL, "shown"),
        full(TWO, "incompatible", keep=0.2), full(THREE, "incompatible", keep=0.2),
        *(claim(name, pair, regime, outcome)
          for name in ("tip", "teachability_split") for regime in ("default", "paper")
          for pair, outcome in ((TWO, "not shown"), (THREE, OPPOSITE))),
        claim("entropy_q05", TWO, "paper"), claim("entropy_q05", THREE, "paper"),
        *(acc(TWO, name, "paper") for name in ("divergence_q05", "tip_q05", "random")),
        *(acc(THREE, name, "paper") for name in ("divergence_q05", "tip_q05", "teachability")),
        *(acc(pair, name) for pair in (TWO, THREE) for name in (
            "teachability_split", "teachability_conditional", "teachability", RELEASED,
            "teachability_entropy",
        )),
        rnd(TWO, "teachability"), rnd(TWO, "teachability", "paper"),
        full(THREE, "teachability"), full(THREE, "teachability", "paper"),
        acc(TWO, "full", FKL), acc(TWO, "untrained"), full(TWO, "entropy", FKL),
        acc(TWO, "full", f"{FKL}, {LONG}"), acc(TWO, "entropy", f"{FKL}, {LONG}"),
        full(TWO, "entropy", f"{FKL}, {LONG}"),
        *(acc(pair, name, regime) for regime in ("normalize=all", "default")
          for name in ("random", "teachability") for pair in (TWO, THREE)),
    ]  # fmt: skip


KS = ("k=4", "k=8", "default", "k=32", "k=64")


def of_settings():
    (raw_two, raw_three) = (
        spread("accuracy", (pair,), ("teachability_raw",), KS, sign=False) for pair in (TWO, THREE)
    )
    return [
        *spread("accuracy", (TWO,), ("teachability",), KS, sign=False),
        *spread("accuracy", (THREE,), ("teachability",), KS, sign=False),
        *raw_three, *raw_two, acc(TWO, "forward_kl"),
        acc(TWO, "full", TUNED), acc(TWO, "full"),
        *(points(_random_tuned(pair)) for pair in (TWO, THREE)),
        rnd(TWO, "teachability", TUNED), rnd(THREE, "teachability", TUNED),
        rnd(TWO, "teachability"), rnd(THREE, "teachability"),
        full(THREE, "teachability", TUNED), full(TWO, "teachability", TUNED),
        full(THREE, "forward_kl", TUNED), full(TWO, "forward_kl", TUNED),
    ]  # fmt: skip


def _random_tuned(pair):
    """Accuracy of `random` at its own rate less that at the shared one, over common seeds."""
    tables = make_tables(
        read_rows({"rows": (RESULTS / "rows.jsonl").read_text()}),
        [read_tuned(str(p), p.read_text()) for p in sorted(RESULTS.glob("tuning/*.json"))],
    )
    tuned, shared = (
        next(
            dict(zip(line.seeds, line.accuracy_S, strict=True))
            for table in tables
            if table.pair == pair and table.regime == regime and not table.has_no_keep
            for line in table.arms("random")
            if line.keep == 0.05
        )
        for regime in (TUNED, "default")
    )
    common = sorted(set(tuned) & set(shared))
    return sum(tuned[seed] - shared[seed] for seed in common) / len(common)


def of_length():
    return [
        acc(TWO, "full", LONG), acc(THREE, "full", LONG),
        full(THREE, "teachability", LONG), full(THREE, "teachability"),
        full(TWO, "teachability", LONG), full(TWO, "teachability"),
        acc(TWO, "forward_kl", LONG), acc(TWO, "untrained"), full(TWO, "forward_kl", LONG),
        rnd(TWO, "forward_kl", LONG), acc(THREE, "forward_kl", LONG),
        *(acc(pair, "random", regime) for regime in (LONG, "default") for pair in (TWO, THREE)),
    ]  # fmt: skip


SHARES = ("0", "0.1", "0.2", "0.4", "0.7")


def of_mismatch():
    pairs = {share: f"pairs/tiny-qwen2.5-style{share}" for share in SHARES}

    def at(share, rule, what=full):
        return what(pairs[share], rule, of="mismatch")

    broken = [pairs[share] for share in SHARES[1:]]
    return [
        at("0", "forward_kl"), at("0.1", "forward_kl"), at("0.2", "forward_kl", acc),
        at("0.7", "forward_kl", acc),
        *(at(share, "teachability") for share in SHARES),
        *spread("vs_full", pairs.values(), ("entropy", "tip"), of="mismatch"),
        *spread("vs_full", broken, ("incompatible",), of="mismatch"),
        *spread("seed_sd", broken, ("incompatible",), of="mismatch", sign=False),
        at("0", "incompatible", rnd),
        *spread("accuracy", pairs.values(), ("full",), of="mismatch", sign=False),
        *(_against_entropy(pair) for pair in pairs.values()),
    ]  # fmt: skip


def _against_entropy(pair):
    found = rows("mismatch")
    accuracy = found[found.pair == pair].set_index("selector").accuracy
    return points(accuracy["teachability"] - accuracy["entropy"])


def of_verdicts():
    """Worst family-wise errors of the test in use."""
    found = json.loads((RESULTS / "statistics.json").read_text())["cells"]
    worst = {
        kind: max(cell["errors"][IN_USE]["family"] for cell in found if cell["kind"] == kind)
        for kind in ("grid", "stress", "two arms")
    }
    return [points(value, False) for value in worst.values()]


SECTIONS = {
    "How to read a verdict": of_verdicts,
    "The claims": of_claims,
    "Does K matter? Does the learning rate?": of_settings,
    "The end point, or only early speed?": of_length,
    "At which mismatch does each rule break?": of_mismatch,
}
NUMBER = re.compile(r"(?<![\d.A-Za-z])[+−]?\d+\.\d(?!\d)")


@pytest.mark.parametrize("title", SECTIONS)
def test_every_number_of_a_section_is_that_of_the_tables(title):
    text = README.split(f"## {title}\n")[1].split("\n## ")[0]
    text = re.sub(r"`[^`]*`|\([^)]*\.(?:md|png|toml)\)", "", text)
    assert NUMBER.findall(text) == SECTIONS[title]()


def test_what_the_text_says_of_clipping():
    def share(pair, rule):
        return cell("clipped_step_share", pair, rule)

    assert f"{100 * share(TWO, 'full'):.0f}" == "13" and share(THREE, "full") == 1.0
    known = rows(".")[(rows(".").regime == "default") & (rows(".").keep == 0.05)]
    assert (known.clipped_step_share > 0.94).mean() > 0.85


def test_verdicts_that_the_text_calls_ties_are_ties():
    for keep in (0.2, 0.5):
        assert cell("vs_full_verdict", TWO, "teachability", keep=keep) == "tie"
    assert cell("vs_full_verdict", THREE, "teachability", keep=0.5) == "tie"
    for pair in (TWO, THREE):
        for rule in ("tip", "teachability_split"):
            assert cell("vs_full_verdict", pair, rule) == "tie"
        assert cell("vs_full_verdict", pair, "incompatible", keep=0.2) == "tie"
    assert cell("vs_full_verdict", TWO, "teachability", LONG) == "tie"
    assert cell("vs_full_verdict", THREE, "teachability", LONG) == "worse"
    for share in SHARES:
        for rule in ("entropy", "tip", "teachability"):
            pair = f"pairs/tiny-qwen2.5-style{share}"
            assert cell("vs_full_verdict", pair, rule, of="mismatch") == "tie"
    default = rows(".")[(rows(".").regime == "default") & (rows(".").keep == 0.05)]
    assert not (default.vs_full_verdict == "better").any()


def test_what_is_said_of_points_that_were_run_again_is_so():
    """The sweep over rates has some of the older rows' points."""
    found = {}
    for name in ("rows.jsonl", "rates/rows.jsonl"):
        for line in (RESULTS / name).read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["run_id"], []).append(row)
    twice = [pair for pair in found.values() if len(pair) == 2]
    right = [[row["items"]["trained"]["tiny_math"] for row in pair] for pair in twice]
    agree = [sum(x == y for x, y in zip(*pair, strict=True)) for pair in right]
    apart = [abs(sum(one) - sum(other)) / 10 for one, other in right]
    other = sorted(count for count in agree if count < 1000)
    said = " ".join(README.split())
    assert f"so far run {len(twice)} older points again" in said
    assert f"{len(twice) - len(other)} agree on all 1,000 items, and {len(other)} on" in said
    assert f"on {other[0]} to {other[-1]} of them" in said
    assert f"at most {max(apart):.1f} points apart" in said


def test_what_is_said_of_the_learning_rate_is_in_its_tables():
    table = pd.read_csv(RESULTS / "rates" / "leaderboard.csv")
    rate = table["regime"].str.extract(r"^learning_rate=([^,]+)$")[0].astype(float)
    table["rate"] = rate.where(table["regime"] != "default", 3e-4)
    table = table[table["rate"].notna() & (table["seeds"] > 0)]
    pairs = ("tiny-qwen2.5", "tiny-qwen3")
    accuracy = table.set_index(["pair", "selector", "rate"])["accuracy"] * 100
    said = " ".join(README.split())

    def both(values):
        return " and ".join(f"{value:+.1f}".replace("-", "−") for value in values)

    for rule, words in (
        ("full", "`full` moves by {} points"), ("teachability", "`teachability` by {}"),
        ("entropy", "`entropy` by {}"), ("random", "`random` by {}"),
    ):  # fmt: skip
        moved = [accuracy[pair, rule, 9e-4] - accuracy[pair, rule, 3e-4] for pair in pairs]
        assert words.format(both(moved)) in said, rule
    full = table[table["selector"] == "teachability"].set_index(["pair", "rate"])["vs_full"] * 100
    low, high = ([full[pair, rate] for pair in pairs] for rate in (3e-5, 9e-4))
    assert f"is {both(low)} there, {both(high)} at 9e-4" in said
    around = [1e-4, 3e-4, 9e-4]
    swings = {
        rule: [np.ptp([accuracy[pair, rule, rate] for rate in around]) for pair in pairs]
        for rule in ("teachability", "full")
    }
    one, other = ((swings["teachability"][i], swings["full"][i]) for i in (0, 1))
    assert f"it is {one[0]:.1f} against {one[1]:.1f} points, and {other[0]:.1f} against " \
        f"{other[1]:.1f}: no" in said  # fmt: skip
    whole = {
        rule: [
            np.ptp([accuracy[pair, rule, rate] for rate in (3e-5, *around, 2.7e-3)])
            for pair in pairs
        ]
        for rule in ("teachability", "full")
    }
    one, other = ((whole["teachability"][i], whole["full"][i]) for i in (0, 1))
    assert (
        f"{one[0]:.1f} against {one[1]:.1f}, and {other[0]:.1f} against {other[1]:.1f}: twice"
        in said
    )
    nearest = [
        min(accuracy[pair, "full", rate] - accuracy[pair, "random", rate]
            for rate in (3e-5, 1e-4, 3e-4, 9e-4))
        for pair in pairs
    ]  # fmt: skip
    assert f"nearest at 3e-5, by {nearest[0]:.1f} and {nearest[1]:.1f}" in said
    page = (RESULTS / "rates" / "leaderboard.md").read_text()
    assert "Of 30: 1 came true, 17 undecided, 12 did not come true." in page
    claims = page[page.index("## Primary claims") : page.index("## Predictions")]
    assert claims.count("| shown |") == 0 and claims.count("| the opposite shown |") == 5
    turned = re.findall(r"\| (?:3e-05|0\.\d+) for all \|.*\| (\d+) of 78 \| (\d+) \|", page)
    counts = [int(count) for count, _ in turned]
    assert {reversed_ for _, reversed_ in turned} == {"0"}
    assert (min(counts[:4]), max(counts[:4]), min(counts[4:]), max(counts[4:])) == (14, 26, 6, 30)
    assert 0.2 < sum(counts) / 78 / 8 < 0.3
