"""bench leaderboard: what it writes, checks and refuses."""

import json

import pytest
from command import call
from planted_rows import planted, text


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text(planted(2, (0.05,), 2, {"better": 0.05})))
    return path


def test_a_file_that_is_no_tuning_is_named(capsys, rows_file, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"sweep": "x"}')
    code, _, err = call(capsys, "leaderboard", rows_file, bad, "--out", tmp_path / "r")
    assert code == 2 and "bad.json: not the result of a tuning" in err


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_folder_tables_go_beside_the_rows(capsys, rows_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "rows.jsonl").write_bytes(rows_file.read_bytes())
    (tmp_path / "results" / "leaderboard.md").write_text("published")
    before = files_of(tmp_path / "results")
    (tmp_path / "runs").mkdir()
    mine = tmp_path / "runs" / "rows.jsonl"
    mine.write_bytes(rows_file.read_bytes())
    code, out, _ = call(capsys, "leaderboard", "runs/rows.jsonl", "results/rows.jsonl")
    assert code == 0 and out.endswith("files in runs/tables\n")
    assert (tmp_path / "runs" / "tables" / "leaderboard.md").is_file()
    assert call(capsys, "leaderboard", "runs/rows.jsonl", "--check")[0] == 0
    assert files_of(tmp_path / "results") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "rows.jsonl", "runs"]


def test_without_rows_and_folder_nothing_is_written(capsys, rows_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    rows_file.rename(tmp_path / "results" / "rows.jsonl")
    before = files_of(tmp_path)
    code, _, err = call(capsys, "leaderboard")
    assert code == 2 and err.startswith("bench: error: out: not given, and no rows either")
    code, _, err = call(capsys, "leaderboard", "--check")
    assert code == 1 and "stale in results" in err
    assert files_of(tmp_path) == before
    assert call(capsys, "leaderboard", "--out", "results")[0] == 0
    assert call(capsys, "leaderboard", "--check")[0] == 0


def test_own_figures_that_are_made_no_more_are_stale_and_removed(capsys, rows_file, tmp_path):
    out, one_keep = tmp_path / "results", tmp_path / "one.jsonl"
    rows_file.write_text(text(planted(2, (0.05, 0.2), 2, {"better": 0.05})))
    one_keep.write_text(text(planted(2, (0.05,), 2, {"better": 0.05})))
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    old = {path for path in files_of(out) if path.name.startswith("keep-")}
    mine = out / "figures" / "keep-mine.svg"
    mine.write_text("mine")
    assert len(old) == 2 and call(capsys, "leaderboard", rows_file, "--out", out, "--check")[0] == 0
    code, out_text, _ = call(capsys, "leaderboard", one_keep, "--out", out, "--check", "--json")
    stale = json.loads(out_text)["stale"]
    assert code == 1 and {str(path.relative_to(out)) for path in old} < set(stale)
    assert "figures/keep-mine.svg" not in stale and old < set(files_of(out))
    assert call(capsys, "leaderboard", one_keep, "--out", out)[0] == 0
    assert not old & set(files_of(out)) and mine.read_text() == "mine"
    listed = json.loads((out / ".leaderboard.json").read_text())
    there = {str(path.relative_to(out)) for path in files_of(out)}
    assert listed == sorted(there - {".leaderboard.json", "figures/keep-mine.svg"})


def test_a_file_that_the_command_did_not_write_is_not_replaced(capsys, rows_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "leaderboard.md").write_text("mine")
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", out)
    assert code == 2 and f"out: {str(out / 'leaderboard.md')!r} is there and not in" in err
    assert [path.name for path in out.iterdir()] == ["leaderboard.md"]
    assert (out / "leaderboard.md").read_text() == "mine"


@pytest.mark.parametrize("listed", ['["../mine"]', '["/mine"]', "[1]", "{}", "no JSON"])
def test_a_manifest_that_names_no_files_of_its_folder_is_refused(
    capsys, rows_file, tmp_path, listed
):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").write_text("mine")
    (out / ".leaderboard.json").write_text(listed)
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", out)
    assert code == 2 and ".leaderboard.json' is not accepted" in err
    assert (tmp_path / "mine").exists() and len(list(out.iterdir())) == 1


def test_check_catches_one_changed_byte(capsys, rows_file, tmp_path):
    out = tmp_path / "results"
    arguments = ("leaderboard", rows_file, "--out", out)
    code, _, err = call(capsys, *arguments, "--check")
    assert code == 1 and "leaderboard.md" in err and not out.exists()
    assert call(capsys, *arguments)[0] == 0
    assert call(capsys, *arguments, "--check")[0] == 0
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names[-4:] == ["headline.md", "leaderboard.csv", "leaderboard.md", "leaderboard.tex"]
    svg, png = (next(n for n in names if n.endswith(kind)) for kind in (".svg", ".png"))
    for name in (svg, "headline.md", "leaderboard.csv", "leaderboard.tex"):
        good = (out / name).read_bytes()
        (out / name).write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
        code, _, err = call(capsys, *arguments, "--check")
        assert code == 1 and name in err and "leaderboard.md" not in err.split(":")[-1]
        (out / name).write_bytes(good)
    (out / png).unlink()
    code, out_text, err = call(capsys, *arguments, "--check", "--json")
    assert code == 1 and json.loads(out_text)["stale"] == [png]


@pytest.mark.parametrize("inside", ["", "sub"])
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_a_file_in_place_of_the_folder_is_named(capsys, rows_file, tmp_path, inside, check):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", taken / inside, *check)
    assert (code, err) == (2, f"bench: error: out: {str(taken)!r} is a file, not a folder\n")
    assert taken.read_text() == "mine"


def test_no_rows_leave_what_is_there(capsys, rows_file, tmp_path):
    out, empty = tmp_path / "results", tmp_path / "empty.jsonl"
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    before = files_of(out)
    empty.write_text("\n")
    code, _, err = call(capsys, "leaderboard", empty, "--out", out)
    assert code == 2 and f"rows: none in {empty}" in err
    assert files_of(out) == before


def test_json_is_one_document_with_every_line(capsys, rows_file, tmp_path):
    code, out, _ = call(capsys, "leaderboard", rows_file, rows_file, "--out", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0 and found["rows"] == 6 and found["stale"] == []
    assert [line["selector"] for line in found["lines"]] == [
        "untrained", "teacher", "full", "better", "random",
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["experiment", "scores", "items"])
def test_rows_of_one_run_that_disagree_are_refused(capsys, rows_file, tmp_path, part):
    made = json.loads(rows_file.read_text().split("\n")[0])
    if part == "experiment":
        made["experiment"]["learning_rate"] = 1.0
    elif part == "scores":
        made["scores"]["trained"]["tiny_math"]["truncation_rate"] = 0.5
    else:
        made["items"]["trained"]["tiny_math"].reverse()
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text(text([made]))
    out = tmp_path / "results"
    code, _, err = call(capsys, "leaderboard", rows_file, theirs, "--out", out)
    assert code == 2 and not out.exists()
    for word in (made["run_id"], f"{rows_file}:1", f"{theirs}:1", f"different {part}"):
        assert word in err


SWEEP = """
name = "one"
selectors = ["better", "full", "random"]
[grid]
keep = [0.05]
[claims]
named = 2026-11-26
{rows}
secondary = [{{ words = "it is {name}", rule = "random", reference = "full" }}]
"""


def test_claims_are_asked_of_the_rows_that_they_name(capsys, rows_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_file.write_text(text(planted(3, (0.05,), 3)))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "results" / "own").mkdir(parents=True)
    for name, rows in (("published", ""), ("own", 'rows = "results/own/rows.jsonl"')):
        sweep = SWEEP.format(name=name, rows=rows).replace('"better", ', "")
        (tmp_path / "sweeps" / f"{name}.toml").write_text(sweep)
    (tmp_path / "results" / "rows.jsonl").write_bytes(rows_file.read_bytes())
    (tmp_path / "results" / "own" / "rows.jsonl").write_bytes(rows_file.read_bytes())

    def told(*arguments, folder):
        assert call(capsys, "leaderboard", *arguments, "--out", folder)[0] == 0
        found = (tmp_path / folder / "leaderboard.md").read_text()
        return {name for name in ("published", "own") if f"it is {name}" in found}

    assert told(folder="results") == {"published"}
    assert told("results/own/rows.jsonl", folder="results/own") == {"own"}
    assert told(rows_file, folder="mine") == set()
    assert told(rows_file, "--claims", "sweeps/own.toml", folder="mine") == {"own"}
