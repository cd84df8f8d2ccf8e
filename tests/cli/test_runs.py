"""`bench runs`: what it lists, and that it deletes what was named and nothing else."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import call, run_flags
from rich.console import Console

RULE = """
from pathlib import Path

from bench import selector

STEPS = []


@selector("breaks", needs=("student_entropy_BT",))
def breaks(signals):
    '''Keep tokens until it breaks. Source: this test.'''
    STEPS.append(1)
    if len(STEPS) > 2 and Path(__file__).with_name("broken").exists():
        raise RuntimeError("no <b>tokens</b> [red]left")
    return signals.student_entropy_BT
"""


def bench(*arguments, **environment):
    """The command in a process of its own: its file of rules is read anew."""
    process = subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


def broken_flags(place):
    return run_flags(place, checkpoint_every=1, selector=f"{place / 'broken.py'}:breaks", steps=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a finished run, and one whose rule broke at its third call."""
    place = tmp_path_factory.mktemp("runs")
    rule = place / "broken.py"
    rule.write_text(RULE)
    (place / "broken").touch()
    assert bench("run", *run_flags(place, checkpoint_every=1, selector="entropy"))[0] == 0
    code, _, err = bench("run", *broken_flags(place))
    assert code and "left" in err, err
    return place / "runs"


def test_runs_are_listed_with_state_step_and_why_one_failed(capsys, runs):
    code, out, _ = call(capsys, "runs", "--runs-dir", runs)
    assert code == 0
    lines = [line for line in out.splitlines() if line[:1].strip()]
    assert lines[0].startswith("run ") and " rule " in lines[0] and " seed " in lines[0]
    (done,) = [line for line in lines if line.startswith("entropy-")]
    assert done.split()[1:5] == ["done", "3/3", "entropy", "0.05"]
    (failed,) = [line for line in lines if line.startswith("breaks-")]
    assert failed.split()[1:3] == ["failed", "2/5"]
    assert "no <b>tokens</b> [red]left" in out
    assert lines[-1].startswith(f"2 runs in {runs}")


def test_the_traceback_is_in_the_runs_log(capsys, runs):
    (log,) = runs.glob("breaks-*/log.txt")
    assert "broken.py" in log.read_text() and "Traceback" in log.read_text()


def test_a_narrow_terminal_cuts_no_name(monkeypatch, capsys, runs):
    monkeypatch.setattr("bench.cli.runs.console", lambda: Console(width=80))
    _, out, _ = call(capsys, "runs", "--runs-dir", runs)
    names = {path.parent.name for path in runs.glob("*/experiment.json")}
    assert names <= {line.split()[0] for line in out.splitlines() if line[:1].isalpha()}
    assert "rule" not in out.splitlines()[0]


def test_as_json_a_list_of_one_object_a_run(capsys, runs):
    code, out, _ = call(capsys, "runs", "--runs-dir", runs, "--where", "state=done", "--json")
    (entry,) = json.loads(out)
    assert code == 0 and entry["state"] == "done" and entry["experiment"]["selector"] == "entropy"
    assert set(entry["scores"]) == {"tiny_math"} and entry["bytes"] > 0
    assert Path(entry["folder"]).is_dir()


@pytest.mark.parametrize("command", ["rm", "prune"])
def test_without_a_terminal_nothing_is_deleted_unasked(monkeypatch, capsys, runs, command):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    before = sorted(runs.rglob("*"))
    code, _, err = call(capsys, "runs", command, "--where", "state=done", "--runs-dir", runs)
    assert code == 2 and "yes: not given" in err
    assert sorted(runs.rglob("*")) == before


def test_who_says_no_deletes_nothing(monkeypatch, capsys, runs):
    answer = io.StringIO("n\n")
    answer.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", answer)
    before = sorted(runs.rglob("*"))
    code, _, err = call(capsys, "runs", "rm", "--where", "state=done", "--runs-dir", runs)
    assert code == 1 and "nothing is deleted" in err
    assert sorted(runs.rglob("*")) == before


def test_rm_needs_a_name_or_a_condition(capsys, runs):
    code, _, err = call(capsys, "runs", "rm", "--yes", "--runs-dir", runs)
    assert code == 2 and "run: none is named" in err


def test_prune_then_rm_leave_rows_and_other_files(capsys, runs):
    rows = (runs / "rows.jsonl").read_bytes()
    (done,) = runs.glob("entropy-*")
    assert any((done / "checkpoints").iterdir())
    code, out, _ = call(capsys, "runs", "prune", "--yes", "--runs-dir", runs)
    assert code == 0 and "of 1 finished runs" in out
    assert not any((done / "checkpoints").iterdir()) and any((done / "model").iterdir())
    (broken,) = runs.glob("breaks-*")
    assert any((broken / "checkpoints").iterdir())
    flags = run_flags(runs.parent, selector="entropy")
    assert call(capsys, "run", *flags, "--json")[0] == 0  # its record still stands
    code, out, _ = call(capsys, "runs", "rm", done.name, "--yes", "--runs-dir", runs)
    assert code == 0 and "deleted 1 run folders" in out
    assert not done.exists() and broken.is_dir() and (runs / "rows.jsonl").read_bytes() == rows


def test_a_failed_run_goes_on_and_has_failed_no_more(runs, capsys):
    (runs.parent / "broken").unlink()
    assert bench("run", *broken_flags(runs.parent))[0] == 0
    _, out, _ = call(capsys, "runs", "--runs-dir", runs, "--where", "steps=5", "--json")
    assert [entry["state"] for entry in json.loads(out)] == ["done"]
    assert not list(runs.glob("*/failure.json"))
