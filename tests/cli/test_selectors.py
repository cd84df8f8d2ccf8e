"""`bench selectors`: the list, a selector's page, its contract, the catalogue."""

import json
from pathlib import Path

from command import call

ROOT = Path(__file__).parents[2]


def test_selectors_are_listed_with_sources(capsys):
    code, out, _ = call(capsys, "selectors", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert len(rows) >= 22
    for row in rows.values():
        assert {"name", "kind", "needs", "source", "summary"} <= set(row)
        assert row["source"] and row["summary"]
    assert rows["teachability"]["needs"] == ["forward_kl_BT", "teacher_mass_on_student_topk_BT"]
    assert rows["abs_gap"]["reads_sampled_token"] is True
    assert "teachability" in call(capsys, "selectors")[1]


def test_the_list_has_at_least_45_rules_with_formula_and_cost(capsys):
    rows = json.loads(call(capsys, "selectors", "--json")[1])
    assert len(rows) >= 45
    assert all(row["formula"] and row["source"] and row["cost"] for row in rows)
    cost = {row["name"]: row["cost"] for row in rows}
    assert [cost[name] for name in ("entropy", "abs_gap", "overlap", "forward_kl", "cc")] == [
        "no teacher", "sampled log-probs", "top-K", "full vocabulary", "extra pass",
    ]  # fmt: skip


def test_an_expression_has_a_page_of_its_own(capsys):
    code, out, _ = call(capsys, "selectors", "show", "soft_or( entropy, teachability )")
    assert code == 0
    assert "soft_or(entropy, teachability)" in out and "forward_kl_BT" in out
    assert "bench run --selector 'soft_or(entropy, teachability)' --keep 0.05" in out


def test_a_rule_is_checked_against_the_contract(capsys, tmp_path):
    code, out, err = call(capsys, "selectors", "check", "teachability")
    assert (code, err) == (0, "") and "broken" not in out and out.count("kept") >= 16
    rule = tmp_path / "my_rule.py"
    rule.write_text(
        "from bench import selector\n\n\n@selector('mine')\ndef mine(signals):\n"
        '    """Keep mine.\n\n    Source: a test.\n    """\n'
        "    return signals.student_entropy_BT - signals.student_entropy_BT.mean()\n"
    )
    code, out, err = call(capsys, "selectors", "check", f"{rule}:mine")
    assert code == 1 and "broken" in out and 'needs=("student_entropy_BT",)' in out
    assert err.startswith("bench: error: selector") and "promises" in err
    code, out, _ = call(capsys, "selectors", "check", f"{rule}:mine", "--json")
    findings = json.loads(out)["findings"]
    assert code == 1 and len(findings) >= 16
    assert {"promise", "broken"} == set(findings[0]) and any(f["broken"] for f in findings)
    assert call(capsys, "selectors", "check", "teachabilty")[0] == 2


def test_the_catalogue_in_the_repository_is_that_of_the_registry(capsys, tmp_path):
    file = ROOT / "selectors" / "README.md"
    assert call(capsys, "selectors", "catalogue", "--out", file, "--check")[::2] == (0, "")
    other = tmp_path / "README.md"
    code, _, err = call(capsys, "selectors", "catalogue", "--out", other, "--check")
    told = f"bench selectors catalogue --out {other} writes it again"
    assert code == 1 and told in err and not other.exists()
    assert call(capsys, "selectors", "catalogue", "--out", other)[0] == 0
    assert other.read_text() == file.read_text()


def test_the_catalogue_is_printed_where_no_file_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "selectors" / "README.md").read_text()
    assert call(capsys, "selectors", "catalogue") == (0, page, "")
    code, out, _ = call(capsys, "selectors", "catalogue", "--json")
    assert (code, json.loads(out)) == (0, {"page": page})
    assert call(capsys, "selectors", "catalogue", "--check")[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_selectors_page_shows_docstring_parameters_and_example(capsys):
    code, out, _ = call(capsys, "selectors", "show", "teachability_released")
    assert code == 0
    assert "floor=1e-12" in out
    assert "bench run --selector teachability_released" in out
    assert "2605.26844" in out


def test_the_list_says_of_a_selector_what_its_page_says(capsys):
    rows = json.loads(call(capsys, "selectors", "--json")[1])
    page = json.loads(call(capsys, "selectors", "show", "tip", "--json")[1])
    (row,) = [row for row in rows if row["name"] == "tip"]
    assert row == {key: page[key] for key in row}
    assert set(page) - set(row) == {"docstring", "parameters", "example"}
