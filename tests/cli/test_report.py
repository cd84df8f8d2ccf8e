"""`bench report`: a run of one's own, and what is refused."""

import json
import re

import pytest
from command import call, run_flags


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, with tokens and a shadow log."""
    from bench.cli.app import main

    place = tmp_path_factory.mktemp("report")
    flags = run_flags(place, progress="off", token_bank=2, eval_every=2, curve_items=8)
    with pytest.raises(SystemExit) as ended:
        main(["run", *map(str, flags), "--shadow", "entropy", "--shadow", "tip"])
    assert ended.value.code == 0
    (found,) = [path.parent for path in (place / "runs").glob("*/record.json")]
    return found


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S).group(1))


def test_a_run_opens_with_its_record_its_answers_and_its_tokens(run, tmp_path, capsys):
    out = tmp_path / "mine.html"
    code, said, err = call(capsys, "report", run, "--out", out)
    assert (code, err) == (0, "") and str(out) in said
    found = data_of(out)
    (one,) = found["runs"]
    assert one["id"] == run.name and one["changes"]["steps"] == 3
    assert "keep" not in one["changes"]
    assert len(one["steps"]["loss"]) == 3 and len(one["curve"]) == 1
    (answers,) = one["answers"]
    assert answers["n"] == 8 == len(answers["items"])
    item = answers["items"][0]
    assert item["question"].endswith("?") or "How many" in item["question"]
    assert item["gold"].isdigit()
    values = json.loads((run / "evaluations.json").read_text())["trained"]["tiny_math"]
    assert item["trained"][0] == values["sample_IK"][0][0]["text"]
    assert [bank["step"] for bank in found["tokens"]] == [2]
    assert found["overlaps"][0]["rules"] == ["teachability", "entropy", "tip"]
    assert found["lines"] == found["claims"] == []


def test_a_runs_hash_and_a_file_of_rows_do_as_well(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    digest = run.name.rpartition("-")[2]
    flags = ("--runs-dir", run.parent, "--out", out)
    code, _, err = call(capsys, "report", digest, run.parent / "rows.jsonl", *flags)
    assert (code, err) == (0, "")
    found = data_of(out)
    assert {line["rule"] for line in found["lines"]} == {"teachability", "untrained", "teacher"}
    code, _, _ = call(capsys, "report", digest, run.parent / "rows.jsonl", *flags, "--check")
    assert code == 0
    out.write_bytes(out.read_bytes() + b" ")
    code, _, err = call(capsys, "report", digest, run.parent / "rows.jsonl", *flags, "--check")
    assert code == 1 and "stale" in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "out: not given, and nothing to show either"),
        (["no-such-run"], "'no-such-run' is neither a run"),
        (["none.jsonl"], "none.jsonl' cannot be read"),
        (["none.parquet"], "none.parquet' is no token bank"),
    ],
)
def test_what_names_nothing_is_refused_and_nothing_is_written(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "report", *arguments)
    assert code == 2 and words in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_never_replaced(run, tmp_path, capsys):
    mine = tmp_path / "report.html"
    mine.write_text("<p>mine</p>")
    code, _, err = call(capsys, "report", run, "--out", mine)
    assert code == 2 and "no page of this command" in err
    assert mine.read_text() == "<p>mine</p>"
    code, _, err = call(capsys, "report", run, "--out", tmp_path)
    assert code == 2 and "is a folder" in err


@pytest.mark.parametrize("name", ["metrics.jsonl", "token_bank/step-000002.parquet"])
def test_what_changed_since_the_run_wrote_it_is_not_shown(run, tmp_path, capsys, name):
    file = run / name
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    code, _, err = call(capsys, "report", run, "--out", tmp_path / "x.html")
    file.write_bytes(content)
    assert code != 0 and f"{name} changed since it was written" in err
    assert not (tmp_path / "x.html").exists()
