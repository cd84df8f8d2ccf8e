"""A sweep's study: every trial exactly once, whoever dies."""

import shutil
import socket
from contextlib import suppress

import pytest
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.trial import TrialState
from small_sweep import TOML, rows_of, runtime, write

from bench.core.errors import Stopped
from bench.sweep.run_sweep import dry_run
from bench.sweep.study import SweepStudy, work
from bench.sweep.sweep_file import read_sweep

MEAN = {"mean": 0.5}


def test_the_queue_is_filled_once(tmp_path):
    sweep = read_sweep(write(tmp_path), runtime(tmp_path))
    for _ in range(3):
        found = SweepStudy(sweep, None, runtime(tmp_path))
        found.enqueue()
    assert len(found.study.get_trials(states=(TrialState.WAITING,))) == 10
    assert found.status().left == 10


def test_a_trial_of_a_dead_worker_is_failed_and_enqueued_again(tmp_path):
    found = SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), None, runtime(tmp_path))
    found.enqueue()
    trial = found.study.ask()
    run_id = trial.user_attrs["run_id"]
    with found.trial_lock(run_id):
        found.recover()
        assert found.study.trials[trial.number].state == TrialState.RUNNING
    found.recover()
    assert found.study.trials[trial.number].state == TrialState.FAIL
    status = found.status()
    assert (status.left, status.running, status.failed) == (10, 0, {})
    waiting = found.study.get_trials(states=(TrialState.WAITING,))
    assert [t.user_attrs["run_id"] for t in waiting].count(run_id) == 1


def test_a_trial_that_ends_while_the_dead_are_looked_for_stays_ended(tmp_path, monkeypatch):
    found = SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), None, runtime(tmp_path))
    found.enqueue()
    trial = found.study.ask()
    as_seen = found.study.get_trials(states=(TrialState.RUNNING,))
    found.study.tell(trial, 0.5)
    monkeypatch.setattr(found.study, "get_trials", lambda *_, **__: as_seen)
    found.recover()
    monkeypatch.undo()
    assert found.study.trials[trial.number].state == TrialState.COMPLETE
    assert found.status().done == 1
    assert len(found.study.get_trials(states=(TrialState.WAITING,))) == 9


def test_a_trial_is_locked_until_its_end_is_recorded(tmp_path, monkeypatch):
    """Else another worker, seeing it RUNNING with a free lock, would take its worker for dead."""
    sweep = read_sweep(write(tmp_path), runtime(tmp_path))
    monkeypatch.setattr(
        "bench.sweep.study.find_row", lambda *_: {"scores": {"trained": {"t": MEAN}}}
    )
    free = []
    store = JournalStorage.set_trial_state_values

    def watch(self, trial_id, state, values=None):
        if state == TrialState.COMPLETE:
            run_id = self.get_trial(trial_id).user_attrs["run_id"]
            lock = SweepStudy(sweep, None, runtime(tmp_path)).trial_lock(run_id)
            with suppress(Timeout), lock:
                free.append(run_id)
        return store(self, trial_id, state, values)

    monkeypatch.setattr(JournalStorage, "set_trial_state_values", watch)
    work(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    assert SweepStudy(sweep, None, runtime(tmp_path)).status().done == 10
    assert free == []


def test_a_trial_that_fails_by_its_own_fault_is_recorded_and_the_rest_goes_on(tmp_path):
    rule = tmp_path / "rules.py"
    rule.write_text(
        "from bench import selector\n\n\n@selector('broken')\ndef broken(signals):\n"
        "    return signals.uniform_BT / 0 * 0\n"
    )
    text = TOML.replace('["full", "random", "entropy"]', f'["{rule}:broken", "random"]')
    path = write(tmp_path, text)
    sweep = read_sweep(path, runtime(tmp_path))
    work(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    status = SweepStudy(sweep, None, runtime(tmp_path)).status()
    assert (status.total, status.done, status.left) == (8, 4, 0)
    assert len(status.failed) == 4
    assert all("'broken' returned" in error for error in status.failed.values())
    found = SweepStudy(sweep, None, runtime(tmp_path))
    assert found.retry_failed() == 4
    assert found.status().left == 4


def _enqueued(sweep, tmp_path):
    SweepStudy(sweep, None, runtime(tmp_path)).enqueue()
    return sweep


def test_the_trials_hold_what_a_dashboard_shows(tmp_path):
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('"full", ', "")
    sweep = read_sweep(write(tmp_path, text), runtime(tmp_path))
    work(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    trials = SweepStudy(sweep, None, runtime(tmp_path)).study.trials
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert [(t.params["selector"], t.params["keep"]) for t in trials] == [
        ("random", 0.1), ("random", 0.3), ("entropy", 0.1), ("entropy", 0.3),
    ]  # fmt: skip
    rows = rows_of(tmp_path)
    assert [t.value for t in trials] == [
        row["scores"]["trained"]["tiny_math"]["mean"] for row in rows
    ]
    dry = dry_run(tmp_path / "small.toml", runtime(tmp_path), workers=2)
    assert (dry["total"], dry["done"], dry["left"], dry["seconds_left"]) == (4, 4, 0, 0.0)


def test_runs_that_the_rows_hold_are_not_run_again(tmp_path, monkeypatch):
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('"full", ', "")
    path = write(tmp_path, text)
    sweep = read_sweep(path, runtime(tmp_path))
    work(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    kept = tmp_path / "kept.jsonl"
    (tmp_path / "runs" / "rows.jsonl").rename(kept)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr("bench.sweep.study.execute", None)
    elsewhere = runtime(tmp_path, rows=kept)
    assert dry_run(path, elsewhere, workers=1)["done"] == 4
    found = SweepStudy(sweep, None, elsewhere)
    found.enqueue()
    work(sweep, None, elsewhere)
    assert (found.status().done, found.status().failed) == (4, {})


def test_a_point_whose_process_dies_again_and_again_has_failed(tmp_path, monkeypatch):
    text = TOML.replace("[0.1, 0.3]", "[0.1]").replace("[0, 1]", "[0]")
    text = text.replace('["full", "random", "entropy"]', '["random"]')
    sweep = read_sweep(write(tmp_path, text), runtime(tmp_path))
    found = SweepStudy(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    ((run_id, plan),) = found.plans.items()
    for deaths in (1, 2, 3):
        assert found.study.ask().user_attrs["run_id"] == run_id
        found.recover()
        (waiting,) = found.study.get_trials(states=(TrialState.WAITING,))
        assert waiting.user_attrs["deaths"] == deaths
    monkeypatch.setattr("bench.sweep.study.execute", None)
    monkeypatch.setattr("bench.sweep.study.find_row", _stopped)
    with pytest.raises(Stopped):  # on request: that is no death
        work(sweep, None, runtime(tmp_path))
    assert (found.status().left, found.status().failed) == (1, {})
    (waiting,) = found.study.get_trials(states=(TrialState.WAITING,))
    assert waiting.user_attrs["deaths"] == 3
    monkeypatch.setattr("bench.sweep.study.find_row", lambda *_: None)
    work(sweep, None, runtime(tmp_path))
    (error,) = found.status().failed.values()
    assert "died 3 times" in error and str(plan.folder.path) in error
    assert found.retry_failed() == 1
    assert "deaths" not in found.study.trials[-1].user_attrs


def _stopped(*_):
    raise Stopped("stopped")


def test_a_trial_of_another_machine_is_left_alone(tmp_path):
    found = SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), None, runtime(tmp_path))
    found.enqueue()
    there, here = found.study.ask(), found.study.ask()
    there.set_user_attr("host", "elsewhere")
    here.set_user_attr("host", socket.gethostname())
    found.recover()
    states = [trial.state for trial in found.study.trials]
    assert (states[there.number], states[here.number]) == (TrialState.RUNNING, TrialState.FAIL)
