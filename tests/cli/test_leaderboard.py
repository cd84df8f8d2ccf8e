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


def test_figures_that_are_made_no_more_are_stale_and_removed(capsys, rows_file, tmp_path):
    out = tmp_path / "results"
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    old = out / "figures" / "keep-renamed.svg"
    old.write_text("old")
    code, _, err = call(capsys, "leaderboard", rows_file, "--out", out, "--check")
    assert code == 1 and "keep-renamed.svg" in err
    assert call(capsys, "leaderboard", rows_file, "--out", out)[0] == 0
    assert not old.exists()


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
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    empty.write_text("\n")
    code, _, err = call(capsys, "leaderboard", empty, "--out", out)
    assert code == 2 and f"rows: none in {empty}" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


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
