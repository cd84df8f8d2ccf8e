"""Tuning with several objectives: a front of each rule, run again at the sweep's own seeds."""

import json
from types import SimpleNamespace

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from postgresql import Server
from small_sweep import TUNING, runtime, write

from bench.core.errors import ConfigError, Stopped
from bench.sweep import tuning, tuning_result
from bench.sweep.run_sweep import run_sweep
from bench.sweep.sweep_file import read_sweep
from bench.tables.rows import read_tuned

RATE = "[tuning.ranges.learning_rate]\nlow = 1e-5\nhigh = 1e-2\nlog = true"
KEEP_AND_K = """[tuning.ranges.keep]
low = 0.05
high = 1.0
log = true

[tuning.ranges.k]
low = 4
high = 16
log = true"""
FRONT = TUNING.replace(RATE, KEEP_AND_K).replace(
    'pruner = "{pruner}"\nreport_every = 1', "objectives = {objectives}"
)


def front(folder, text=FRONT, sampler="nsga2", objectives=("accuracy", "trained"), **values):
    path = write(folder, text, sampler=sampler, objectives=json.dumps(objectives), **values)
    return path, read_sweep(path, runtime(folder))


def stub(monkeypatch, stop_at=()):
    """In place of runs: the more is kept the better, and the dearer."""
    ran = []

    def execute(launch, experiment, here, on_curve=None):
        ran.append(experiment)
        if len(ran) in stop_at:
            raise Stopped("stopped")
        score = {"mean": experiment.keep**0.5}
        tokens = {"trained": round(1000 * experiment.keep), "scored": 1000, "sampled": 1000}
        return SimpleNamespace(
            run_id="r", tokens=tokens, scores={"trained": {"tiny_math_tune": score}}
        )

    monkeypatch.setattr("bench.sweep.tuning.execute", execute)
    return ran


def test_every_rule_gets_the_same_trials_of_keep_and_k(tmp_path, monkeypatch):
    ran = stub(monkeypatch)
    _, sweep = front(tmp_path)
    tuning.tune(sweep, None, runtime(tmp_path))
    assert tuning.progress_of(sweep, None, runtime(tmp_path)) == (6, 6)
    for rule in ("random", "entropy"):
        tried = [e for e in ran if e.selector == rule]
        assert len(tried) == 3
        assert len({e.keep for e in tried}) == 3 and all(0.05 <= e.keep <= 1 for e in tried)
        assert all(4 <= e.k <= 16 for e in tried)
        assert {(e.seed, e.eval_tasks) for e in tried} == {(1000, ("tiny_math_tune",))}


PLANTED = [  # (keep, accuracy, tokens)
    (0.1, 0.5, 100.0), (0.2, 0.5, 200.0), (0.3, 0.7, 300.0), (0.4, 0.6, 400.0),
    (0.5, 0.7, 300.0), (0.6, 0.4, 90.0), (0.7, None, None), (0.8, 0.9, 800.0),
]  # fmt: skip


def plant(sweep, here):
    settings, folder = sweep.file.tuning, tuning.tuning_folder(sweep, here)
    span = {"keep": FloatDistribution(0.05, 1.0, log=True)}
    for cell in tuning.cells(sweep).values():
        study = tuning.study_of(cell, settings, None, folder)
        for keep, accuracy, tokens in PLANTED:
            state = TrialState.FAIL if accuracy is None else TrialState.COMPLETE
            values = None if accuracy is None else [accuracy, tokens]
            study.add_trial(
                create_trial(
                    state=state, values=values, params={"keep": keep}, distributions=span
                )
            )  # fmt: skip


def test_the_front_holds_what_nothing_beats_and_the_first_of_equals(tmp_path):
    here = runtime(tmp_path)
    _, sweep = front(tmp_path)
    plant(sweep, here)
    result = json.loads(tuning_result.write_result(sweep, None, here).read_text())
    for cell in result["cells"].values():
        assert [point["params"]["keep"] for point in cell["front"]] == [0.6, 0.1, 0.3, 0.8]
        assert [point["values"] for point in cell["front"]] == [
            [0.4, 90.0], [0.5, 100.0], [0.7, 300.0], [0.9, 800.0],
        ]  # fmt: skip
        assert len(cell["trials"]) == len(PLANTED) and "best" not in cell
    tuned = tuning_result.tuned(sweep, here).plans
    assert {(p.experiment.selector, p.experiment.keep, p.experiment.seed) for p in tuned} == {
        (rule, keep, seed)
        for rule in ("random", "entropy") for keep in (0.6, 0.1, 0.3, 0.8) for seed in (0, 1)
    }  # fmt: skip
    assert {p.experiment.eval_tasks for p in tuned} == {("tiny_math",)}
    beside = tmp_path / "runs" / "tuning" / "small.json"
    read = read_tuned(str(beside), beside.read_text())
    assert read.has_front and read.objectives == ("accuracy", "trained")


def test_a_stopped_search_goes_on_with_the_values_it_had(tmp_path, monkeypatch):
    ran = stub(monkeypatch, stop_at=(2,))
    _, sweep = front(tmp_path)
    with pytest.raises(Stopped):
        tuning.tune(sweep, None, runtime(tmp_path))
    tuning.tune(sweep, None, runtime(tmp_path))
    assert tuning.progress_of(sweep, None, runtime(tmp_path)) == (6, 6)
    assert (ran[1].keep, ran[1].k) == (ran[2].keep, ran[2].k)


@pytest.mark.parametrize("objectives", [("accuracy", "scored"), ("accuracy", "trained", "scored")])
def test_costs_are_what_the_record_says(tmp_path, monkeypatch, objectives):
    stub(monkeypatch)
    _, sweep = front(tmp_path, objectives=objectives, sampler="tpe")
    here = runtime(tmp_path)
    tuning.tune(sweep, None, here)
    found = json.loads(tuning_result.write_result(sweep, None, here).read_text())
    for cell in found["cells"].values():
        for trial in cell["trials"]:
            keep = trial["params"]["keep"]
            costs = {"trained": round(1000 * keep), "scored": 1000}
            assert trial["values"] == [keep**0.5, *(costs[name] for name in objectives[1:])]


def test_a_rule_without_a_budget_is_proposed_none(tmp_path, monkeypatch):
    ran = stub(monkeypatch)
    text = FRONT.replace('["random", "entropy"]', '["full", "min_gap", "entropy"]')
    _, sweep = front(tmp_path, text)
    tuning.tune(sweep, None, runtime(tmp_path))
    keeps = {e.selector: e.keep for e in ran if e.selector != "entropy"}
    assert keeps == {"full": 1, "min_gap": 1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objectives": ("trained", "accuracy")}, "accuracy first"),
        ({"objectives": ("accuracy", "accuracy")}, "accuracy first"),
        ({"objectives": ("accuracy", "speed")}, "'trained' or 'scored'"),
        ({"objectives": ("accuracy",), "sampler": "tpe"}, "keep: cannot have a range"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        front(tmp_path, **changes)
    assert "small.toml:" in str(error.value)


def test_a_pruner_judges_by_one_objective(tmp_path):
    text = FRONT.replace("objectives =", 'pruner = "median"\nobjectives =')
    with pytest.raises(ConfigError, match="pruner: median judges by one objective"):
        front(tmp_path, text)


@pytest.mark.xdist_group("launched")
@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_a_search_runs_from_end_to_end(tmp_path, storage):
    server = Server() if storage == "postgresql" else None
    try:
        text = FRONT.replace("trials = 3", "trials = 2").replace("[0, 1]", "[0]")
        path, _ = front(tmp_path, text)
        here = runtime(tmp_path)
        status = run_sweep(path, here, storage=server.url if server else None)
    finally:
        if server:
            server.stop()
            server.remove()
    rows = [json.loads(line) for line in (tmp_path / "runs/rows.jsonl").read_text().splitlines()]
    reported = [row for row in rows if "tiny_math" in row["scores"]["trained"]]
    found = json.loads((tmp_path / "runs/tuning/small.json").read_text())
    points = {
        (cell["experiment"]["selector"], point["params"]["keep"], point["params"]["k"])
        for cell in found["cells"].values()
        for point in cell["front"]
    }
    assert status.done == status.total == len(points)
    assert points == {
        tuple(row["experiment"][n] for n in ("selector", "keep", "k")) for row in reported
    }


def test_nsga2_is_for_several_objectives(tmp_path):
    path = write(tmp_path, TUNING, sampler="nsga2", pruner="none")
    with pytest.raises(ConfigError, match="nsga2 needs several objectives"):
        read_sweep(path, runtime(tmp_path))
