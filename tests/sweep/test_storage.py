"""Studies in a journal or a database: hearts that stop, deaths counted, addresses refused."""

import sqlite3
import warnings
from contextlib import closing

import pytest
from optuna.trial import TrialState
from small_sweep import runtime, write

from bench.core.errors import ConfigError
from bench.sweep.storage import (
    TrialFault,
    close_study,
    fail_stale_trials,
    open_study,
    refuse_deadly,
)
from bench.sweep.study import SweepStudy
from bench.sweep.sweep_file import read_sweep


def test_an_unknown_storage_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="storage: 'nosuch://x' cannot be opened"):
        SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), "nosuch://x", runtime(tmp_path))


def test_a_point_that_gets_further_between_deaths_is_not_given_up(tmp_path):
    study = open_study("s", None, tmp_path)

    def begin(now, **past):
        study.enqueue_trial({}, user_attrs=past)
        trial = study.ask()
        refuse_deadly(trial, tmp_path / "run", now)
        return trial.user_attrs

    assert begin(0) == {"steps": 0, "deaths": 0}
    assert begin(5, steps=4, deaths=7) == {"steps": 5, "deaths": 0}
    assert begin(3, steps=4, deaths=2) == {"steps": 4, "deaths": 2}
    with pytest.raises(TrialFault):
        begin(4, steps=4, deaths=3)


def test_a_trial_whose_heart_stopped_is_failed_and_enqueued_again(tmp_path):
    url, folder = f"sqlite:///{tmp_path / 'studies.db'}", runtime(tmp_path)
    found = SweepStudy(read_sweep(write(tmp_path), folder), url, folder)
    found.enqueue()
    with warnings.catch_warnings():  # Optuna expects its own loop to beat
        warnings.simplefilter("ignore", UserWarning)
        silent, beating = found.study.ask(), found.study.ask()
    for trial in (silent, beating):
        trial.set_user_attr("host", "elsewhere")
        found.study._storage.record_heartbeat(trial._trial_id)
    fail_stale_trials(found.study)
    assert found.status().running == 2
    with closing(sqlite3.connect(tmp_path / "studies.db")) as base, base:
        base.execute(
            "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour') "
            "WHERE trial_id = ?",
            (silent._trial_id,),
        )
    fail_stale_trials(found.study)
    trials, status = found.study.trials, found.status()
    close_study(found.study)
    assert trials[silent.number].state == TrialState.FAIL
    assert trials[beating.number].state == TrialState.RUNNING
    assert (status.running, status.left, status.failed) == (1, 10, {})
    assert trials[-1].state == TrialState.WAITING
    again = trials[-1].user_attrs
    assert (again["run_id"], again["deaths"]) == (silent.user_attrs["run_id"], 1)
    assert again["experiment"] == silent.user_attrs["experiment"]
