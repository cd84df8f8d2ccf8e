"""A look at a run that goes: what is read of its log, and that a look changes nothing."""

import json

import pytest

from bench.core.config import Experiment
from bench.core.failure import keep_failure
from bench.core.records import RunFolder
from bench.core.run_view import RECENT, RunWatcher


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(Experiment(steps=20).model_dump(mode="json"), {})
    return folder


def step(number, **more):
    return {"step": number, "loss": float(number), "seconds": {"loss": 0.5, "rollout": 1.5}, **more}


def test_phases_follow_the_steps_while_a_process_holds_the_run(folder):
    watcher = RunWatcher(folder.path)
    assert watcher.look().phase == "stopped" and watcher.look().has_ended
    with folder.lock():
        assert watcher.look().phase.startswith("loads") and not watcher.look().has_ended
        folder.append_metrics(step(1))
        assert watcher.look().phase == "trains"
        for number in range(2, 21):
            folder.append_metrics(step(number))
        assert watcher.look().phase == "scores the trained student"
        assert watcher.look().seconds_left == 0
    keep_failure(folder, ValueError("x"))
    assert watcher.look().phase == "failed"


def test_numbers_are_of_the_last_step_and_of_the_last_few(folder):
    watcher = RunWatcher(folder.path)
    with folder.lock():
        for number in range(1, 13):
            folder.append_metrics(step(number, entropy=1 / number, hidden=3.0))
            view = watcher.look()
    last = range(13 - RECENT, 13)
    assert view.numbers == {
        "loss": (12.0, sum(last) / RECENT),
        "entropy": (pytest.approx(1 / 12), pytest.approx(sum(1 / n for n in last) / RECENT)),
    }
    assert view.losses == tuple(map(float, range(1, 13)))
    assert view.seconds_left == 2.0 * 8
    assert view.entry.step == 12


def test_the_curve_is_what_was_evaluated(folder):
    folder.append_metrics(step(1))
    folder.append_metrics(step(2, evaluation={"tiny_math_tune": 0.25}))
    assert RunWatcher(folder.path).look().curve == ({"step": 2, "tiny_math_tune": 0.25},)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(folder):
    watcher = RunWatcher(folder.path)
    log = folder.path / "metrics.jsonl"
    text = json.dumps(step(1)) + "\n" + json.dumps(step(2)) + "\n"
    log.write_text(text[:-5])
    assert watcher.look().losses == (1.0,)
    log.write_text(text)
    assert watcher.look().losses == (1.0, 2.0)


def test_a_log_that_a_resumed_run_cut_is_read_anew(folder):
    watcher = RunWatcher(folder.path)
    for number in (1, 2, 3):
        folder.append_metrics(step(number, evaluation={"t": 0.5}))
    assert len(watcher.look().losses) == 3
    folder.cut_logs(1)
    assert watcher.look().losses == (1.0,) and len(watcher.look().curve) == 1


def test_a_log_with_a_torn_line_or_none_is_looked_at_all_the_same(folder):
    watcher = RunWatcher(folder.path)
    assert watcher.look().losses == ()
    (folder.path / "metrics.jsonl").write_text('{"step": 1, "lo\n' + json.dumps(step(2)) + "\n")
    assert watcher.look().losses == (2.0,)


def test_a_look_leaves_every_file_as_it_was(folder):
    folder.append_metrics(step(1))
    with folder.lock():
        pass
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.path.glob("*.json*")}
    RunWatcher(folder.path).look()
    assert {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.path.glob("*.json*")
    } == before
