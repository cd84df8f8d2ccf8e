"""A look at a sweep: what its study, its folders and its rows say, and that nothing is made."""

import os
import socket

import pytest
from optuna.trial import TrialState
from small_sweep import GRID, TOML, runtime, write

from bench.core.errors import ConfigError
from bench.core.failure import keep_failure
from bench.core.result_rows import append_row, rows_of
from bench.sweep.run_sweep import dry_run
from bench.sweep.study import SweepStudy, study_folder
from bench.sweep.sweep_file import read_sweep
from bench.sweep.sweep_view import SweepWatcher
from bench.sweep.tuning import cells, tuning_folder

SMALL = TOML.replace('"full", "random", "entropy"', '"random", "entropy"')


@pytest.fixture
def place(tmp_path):
    """Sweep file, runtime, and its plans by run id."""
    path, here = write(tmp_path, SMALL), runtime(tmp_path)
    return path, here, {plan.run_id: plan for plan in read_sweep(path, here).plans}


def finish(here, plan, mean, seconds=10.0):
    scores = {"trained": {"tiny_math": {"mean": mean}}}
    row = {"run_id": plan.run_id, "scores": scores, "seconds": {"total": seconds}}
    append_row(here.runs_dir / "rows.jsonl", row)


def test_a_sweep_that_did_not_begin_is_looked_at_and_not_made(place):
    path, here, _plans = place
    view = SweepWatcher(path, None, here).look()
    assert (view.status.total, view.status.done, view.working, view.cells) == (8, 0, (), ())
    assert view.seconds_left is None and not view.is_done
    assert not here.runs_dir.exists()


def test_running_trials_have_their_worker_and_their_run(place):
    path, here, plans = place
    study = SweepStudy(read_sweep(path, here), None, here)
    study.enqueue()
    watcher = SweepWatcher(path, None, here)
    trials = [study.study.ask() for _ in range(3)]
    held, begun, _dead = (trial.user_attrs["run_id"] for trial in trials)
    for trial in trials:
        trial.set_user_attr("host", socket.gethostname())
        trial.set_user_attr("pid", os.getpid())
    plans[begun].folder.create({"steps": 2}, {})
    plans[begun].folder.append_metrics({"step": 1, "loss": 2.0, "seconds": {"loss": 1.0}})
    with study.trial_lock(held), study.trial_lock(begun), plans[begun].folder.lock():
        view = watcher.look()
    assert {w.worker for w in view.working} == {f"{socket.gethostname()}:{os.getpid()}"}
    runs = [w.run for w in view.working]
    assert len(runs) == 2 and None in runs  # the third's worker is gone
    (run,) = [r for r in runs if r is not None]
    assert run.entry.run_id == begun and run.numbers["loss"] == (2.0, 2.0)
    assert watcher.look().working == ()
    trials[0].set_user_attr("host", "elsewhere")
    (far,) = watcher.look().working
    assert far.worker.startswith("elsewhere:")


def test_finished_runs_are_the_table_so_far(place):
    path, here, plans = place
    watcher = SweepWatcher(path, None, here)
    watcher.look()
    of = {(p.experiment.selector, p.experiment.keep, p.experiment.seed): p for p in plans.values()}
    finish(here, of["random", 0.1, 0], 0.4)
    finish(here, of["random", 0.1, 1], 0.6, 30.0)
    finish(here, of["entropy", 0.3, 0], 0.9)
    append_row(here.runs_dir / "rows.jsonl", {"run_id": "another's"})
    best, other = watcher.look().cells
    assert (best.values["selector"], best.values["keep"], best.seeds) == ("entropy", 0.3, 1)
    assert best.accuracy == 0.9 and best.seed_sd is None
    assert (other.values["selector"], other.values["keep"], other.seeds) == ("random", 0.1, 2)
    assert other.accuracy == pytest.approx(0.5) and other.seed_sd == pytest.approx(0.02**0.5)


def test_time_left_is_by_the_mean_run_and_the_workers_of_now(place):
    path, here, plans = place
    study = SweepStudy(read_sweep(path, here), None, here)
    study.enqueue()
    finish(here, plans[study.study.trials[7].user_attrs["run_id"]], 0.5, 10.0)
    finish(here, plans[study.study.trials[6].user_attrs["run_id"]], 0.5, 20.0)
    trial = study.study.ask()
    trial.set_user_attr("host", socket.gethostname())
    with study.trial_lock(trial.user_attrs["run_id"]):
        assert SweepWatcher(path, None, here).look().seconds_left == 15.0 * 8
    assert SweepWatcher(path, None, here).look().seconds_left is None


def test_failed_trials_are_told_with_their_error(place):
    path, here, _plans = place
    study = SweepStudy(read_sweep(path, here), None, here)
    study.enqueue()
    trial = study.study.ask()
    trial.set_user_attr("error", "ValueError: no such token")
    study.study.tell(trial, state=TrialState.FAIL)
    view = SweepWatcher(path, None, here).look()
    assert view.status.failed == {trial.user_attrs["run_id"]: "ValueError: no such token"}
    assert view.status.left == 7
    assert view.to_json()["failed"] == view.status.failed


def test_while_rules_are_tuned_the_trials_are_counted(tmp_path):
    text = GRID.replace("{values}", "[1e-4, 3e-4, 1e-3]")
    path = write(tmp_path, text, sampler="grid", pruner="none")
    here = runtime(tmp_path)
    view = SweepWatcher(path, None, here).look()
    assert view.tuning == (0, 6) and not view.is_done
    assert view.working == ()
    sweep = read_sweep(path, here)
    assert not study_folder(sweep, here).exists() and not tuning_folder(sweep, here).path.exists()
    cell, other = cells(sweep).values()
    with tuning_folder(sweep, here).lock(cell):
        (held,) = SweepWatcher(path, None, here).look().working
    assert held.worker == cell.name != other.name


def test_a_damaged_row_of_the_sweep_is_no_result(place):
    path, here, plans = place
    plan = next(iter(plans.values()))
    finish(here, plan, 0.5)
    rows = here.runs_dir / "rows.jsonl"
    assert set(rows_of(rows, {plan.run_id, "other"})) == {plan.run_id}
    rows.write_text(rows.read_text().replace("0.5", "0.6"))
    with pytest.raises(ConfigError, match="line 1 changed since it was written"):
        SweepWatcher(path, None, here).look()


def test_a_dry_run_says_which_runs_failed(place):
    path, here, plans = place
    failed, begun, *_ = plans.values()
    for plan in (failed, begun):
        plan.folder.create({}, {})
    keep_failure(failed.folder, ValueError("x"))
    states = {trial["run_id"]: trial["state"] for trial in dry_run(path, here, 1)["trials"]}
    assert (states[failed.run_id], states[begun.run_id]) == ("failed", "incomplete")
