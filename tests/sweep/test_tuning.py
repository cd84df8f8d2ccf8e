"""Tuning: the same trials for every rule, on a split of their own, each spent once."""

import json
from contextlib import suppress

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from small_sweep import GRID, TUNING, curve_stub, runtime, write

from bench.core.errors import ConfigError, Stopped
from bench.sweep import tuning, tuning_result
from bench.sweep.run_sweep import run_sweep
from bench.sweep.storage import open_study
from bench.sweep.sweep_file import read_sweep
from bench.tables.rows import read_tuned


@pytest.mark.parametrize("sampler, pruner", [("tpe", "none"), ("qmc", "median")])
def test_tuning_gives_every_rule_the_same_trials_on_a_split_of_its_own(tmp_path, sampler, pruner):
    path = write(tmp_path, TUNING, sampler=sampler, pruner=pruner)
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    assert len(tuning.cells(sweep)) == 2
    for cell in tuning.cells(sweep).values():
        assert cell.experiment.eval_tasks == ("tiny_math_tune",)
        assert cell.experiment.seed == 1000
    tuning.tune(sweep, None, here)
    assert tuning.progress_of(sweep, None, here) == (6, 6)
    tuning.tune(sweep, None, here)  # nothing is left to spend
    assert tuning.progress_of(sweep, None, here) == (6, 6)
    found = json.loads(tuning_result.write_result(sweep, None, here).read_text())
    assert (found["trials"], found["sampler"], found["task"]) == (3, sampler, "tiny_math_tune")
    for cell in found["cells"].values():
        assert len(cell["trials"]) == 3
        values = [t["value"] for t in cell["trials"] if t["state"] == "complete"]
        assert cell["value"] == max(values)
    final = tuning_result.tuned(sweep, here)
    assert [(p.experiment.selector, p.experiment.seed) for p in final.plans] == [
        ("random", 0), ("entropy", 0), ("random", 1), ("entropy", 1),
    ]  # fmt: skip
    for plan in final.plans:
        (cell,) = (
            c
            for c in found["cells"].values()
            if c["experiment"]["selector"] == plan.experiment.selector
        )
        assert plan.experiment.learning_rate == cell["best"]["learning_rate"]
        assert plan.experiment.eval_tasks == ("tiny_math",)


def test_the_best_is_the_first_of_the_highest_that_were_completed(tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    settings, folder = sweep.file.tuning, tuning.tuning_folder(sweep, here)
    span = {"learning_rate": FloatDistribution(1e-5, 1e-2, log=True)}
    planted = {
        "random": [(1e-3, 0.4), (2e-3, 0.6), (3e-3, 0.6), (4e-3, 0.5)],
        "entropy": [(5e-3, 0.9, TrialState.PRUNED), (6e-3, 0.2), (7e-3, None, TrialState.FAIL),
                    (8e-3, 0.1)],
    }  # fmt: skip
    for cell in tuning.cells(sweep).values():
        study = tuning.study_of(cell, settings, None, folder)
        for rate, value, *state in planted[cell.experiment.selector]:
            (state,) = state or [TrialState.COMPLETE]
            study.add_trial(
                create_trial(
                    state=state, value=value, params={"learning_rate": rate}, distributions=span
                )
            )
    result = json.loads(tuning_result.write_result(sweep, None, here).read_text())
    best = {
        cell["experiment"]["selector"]: (cell["best"], cell["value"])
        for cell in result["cells"].values()
    }
    assert best == {
        "random": ({"learning_rate": 2e-3}, 0.6), "entropy": ({"learning_rate": 6e-3}, 0.2),
    }  # fmt: skip
    tuned = [plan.experiment for plan in tuning_result.tuned(sweep, here).plans]
    assert {(e.selector, e.learning_rate) for e in tuned} == {("random", 2e-3), ("entropy", 6e-3)}


def test_a_rule_without_a_completed_trial_has_no_best(tmp_path, monkeypatch):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)

    def fail(*given):
        raise ValueError("out of luck")

    monkeypatch.setattr(tuning, "execute", fail)
    tuning.tune(sweep, None, here)
    with pytest.raises(ConfigError, match="no trial of random-.* ValueError: out of luck"):
        tuning_result.write_result(sweep, None, here)


def test_a_grid_tries_every_value_once_for_every_rule(tmp_path):
    values = [1e-3, 1e-4, 1e-2]
    path = write(tmp_path, GRID, sampler="grid", pruner="none", values=values)
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    cell, other = tuning.cells(sweep).values()
    study = tuning.study_of(cell, sweep.file.tuning, None, tuning.tuning_folder(sweep, here))
    study.enqueue_trial({"learning_rate": 1e-3})
    study.ask()  # of a worker that died before it proposed anything
    tuning.tune(sweep, None, here)
    found = json.loads(tuning_result.write_result(sweep, None, here).read_text())
    for record in found["cells"].values():
        assert sorted(t["params"]["learning_rate"] for t in record["trials"]) == sorted(values)
    beside = tmp_path / "runs" / "tuning" / "small.json"
    assert read_tuned(str(beside), beside.read_text()).cells.keys() == found["cells"].keys()
    assert other.name in found["cells"]


def test_a_tuning_of_less_does_not_replace_the_one_beside_the_rows(tmp_path):
    here = runtime(tmp_path)
    beside = tmp_path / "runs" / "tuning" / "small.json"
    beside.parent.mkdir(parents=True)
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    sweep = read_sweep(path, here)
    names = list(tuning.cells(sweep))
    for trials, cells, is_refused in (
        (3, names, False), (2, names[:1], False), (4, names, True), (3, [*names, "other"], True),
    ):  # fmt: skip
        text = json.dumps({"trials": trials, "cells": dict.fromkeys(cells)})
        beside.write_text(text)
        if is_refused:
            with pytest.raises(ConfigError, match=r"tuning: .*small.json' holds another tuning"):
                run_sweep(path, here)
            assert beside.read_text() == text
        else:
            tuning_result.check_replaces(sweep, here)
    beside.write_text("mine")
    with pytest.raises(ConfigError, match="holds another tuning"):
        tuning_result.check_replaces(sweep, here)


def test_a_tuning_trial_of_a_dead_worker_is_tried_again_with_its_values(tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    cell = next(iter(tuning.cells(sweep).values()))
    study = tuning.open_study("cell", None, tmp_path)
    dead = study.ask()
    tuning.proposed(cell, sweep.file.tuning, dead)
    tuning.tune_cell(cell, sweep.file.tuning, study, here)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL] + [TrialState.COMPLETE] * 3
    assert study.trials[1].params == dead.params


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_study_that_is_opened_again_proposes_new_values(tmp_path, monkeypatch, sampler):
    path = write(tmp_path, TUNING, sampler=sampler, pruner="none")
    sweep = read_sweep(path, runtime(tmp_path))
    cell = next(iter(tuning.cells(sweep).values()))
    settings = sweep.file.tuning.model_copy(update={"trials": 13})

    def rates(name, budgets, stop_at=()):
        ran = curve_stub(monkeypatch, lambda experiment: 1 - experiment.learning_rate, stop_at)
        for budget in budgets:
            part = settings.model_copy(update={"trials": budget})
            study = open_study(name, None, tmp_path)
            with suppress(Stopped):
                tuning.tune_cell(cell, part, study, runtime(tmp_path))
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        assert len(complete) == 13
        return [trial.params["learning_rate"] for trial in complete], len(ran)

    at_once, ran = rates("at once", [13])
    assert (len(set(at_once)), ran) == (13, 13)
    assert rates("again", [13])[0] == at_once
    assert rates("one by one", range(1, 14))[0] == at_once
    stopped, ran = rates("stopped", [13, 13, 13], stop_at=(1, 5))
    assert (len(set(stopped)), ran) == (13, 15)
    if sampler == "tpe":  # the place in the sequence of the other moves on with each trial
        assert stopped == at_once


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_bad_value_is_pruned_and_counts(tmp_path, monkeypatch, pruner):
    good, bad = [1e-3, 2e-3, 3e-3], [1e-1, 2e-1, 3e-1, 4e-1, 5e-1, 6e-1]
    path = write(tmp_path, GRID, sampler="grid", pruner=pruner, values=[*good, *bad], steps=9)
    path.write_text(path.read_text().replace("trials = 3", "trials = 9"))
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    settings, cell = sweep.file.tuning, next(iter(tuning.cells(sweep).values()))
    curve_stub(monkeypatch, lambda experiment: 0.9 if experiment.learning_rate < 0.01 else 0.1)
    study = open_study("cell", None, tmp_path, None, tuning.make_pruner(settings, 9))
    tuning.tune_cell(cell, settings, study, here)
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(study.trials) == 9
    assert {t.params["learning_rate"] for t in pruned} <= set(bad)
    assert len(pruned) == (6 if pruner == "median" else 2)
    assert all(t.last_step < 9 for t in pruned)


def test_a_real_run_ends_where_it_is_pruned(tmp_path, monkeypatch):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="median", steps=3)
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    cell = next(iter(tuning.cells(sweep).values()))
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    study = open_study("cell", None, tmp_path)
    tuning.tune_cell(cell, sweep.file.tuning, study, here)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [t.last_step for t in study.trials] == [3, 1, 3]


def test_a_tuning_trial_that_always_kills_its_process_is_spent(tmp_path, monkeypatch):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    cell = next(iter(tuning.cells(sweep).values()))
    ran = curve_stub(monkeypatch, lambda experiment: 0.5)
    study = open_study("cell", None, tmp_path)
    study.enqueue_trial({"learning_rate": 2e-3}, user_attrs={"steps": 0, "deaths": 2})
    study.ask()
    tuning.tune_cell(cell, sweep.file.tuning, study, here)
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert "died 3 times" in study.trials[1].user_attrs["error"]
    assert 2e-3 not in [experiment.learning_rate for experiment in ran]
