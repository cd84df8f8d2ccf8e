"""results/report.html is what its sources make of it, and whole."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from command import call

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "results" / "report.html"


@pytest.fixture(scope="module")
def data():
    text = PAGE.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))


def test_it_is_made_of_the_committed_results(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, out, err = call(capsys, "report", "--out", "results/report.html", "--check", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["bytes"] < 10 * 2**20


def test_its_leaderboard_is_the_csv(data):
    csv = pd.concat(
        pd.read_csv(ROOT / "results" / name)
        for name in ("leaderboard.csv", "mismatch/leaderboard.csv")
    )
    assert len(data["lines"]) == len(csv)
    for line, (_, row) in zip(data["lines"], csv.iterrows(), strict=True):
        assert (line["pair"], line["regime"], line["rule"]) == (row.pair, row.regime, row.selector)
        assert line["accuracy"] == pytest.approx(row.accuracy, abs=1e-5)
        if pd.notna(row.vs_full):
            assert line["full"] == pytest.approx(row.vs_full, abs=1e-5)
            assert line["full_low"] is None or line["full_low"] == pytest.approx(
                row.vs_full_low, abs=1e-5
            )
        if pd.notna(row.vs_full_verdict):
            assert line["full_verdict"] == row.vs_full_verdict


def test_its_claims_are_those_of_the_tables(data):
    page = (ROOT / "results" / "leaderboard.md").read_text()
    for claim in data["claims"]:
        if not claim["pair"].startswith("pairs/"):
            assert claim["words"] in page
    assert {claim["outcome"] for claim in data["claims"]} <= {
        "shown", "not shown", "the opposite shown",
    }  # fmt: skip


def test_its_explorer_has_both_pairs_with_responses_and_rules(data):
    assert {bank["pair"] for bank in data["tokens"]} == {"tiny-qwen3", "tiny-qwen2.5"}
    for bank in data["tokens"]:
        assert len(bank["responses"]) >= 24 and len(bank["rules"]) >= 20
        assert {response["correct"] for response in bank["responses"]} == {True, False}


def test_what_is_reported_is_compared_with_its_own_source_alone(data):
    rules = {one["rule"]: one for one in data["reported"]}
    assert len(rules) > 30
    cells = [cell for one in data["reported"] for cell in one["cells"]]
    assert all(cell["source"] and cell["read_as"] for cell in cells)
    assert rules["teachability"]["measured"]
