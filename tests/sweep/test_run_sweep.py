"""bench sweep, whole: killed, stopped or tuned, it ends with each run done once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command import call
from optuna.trial import TrialState
from postgresql import Server
from small_sweep import TOML, TUNING, curve_stub, rows_of, runtime, write

from bench.core.errors import BenchError, ConfigError, Stopped
from bench.sweep import tuning, tuning_result
from bench.sweep.run_sweep import dry_run
from bench.sweep.storage import close_study
from bench.sweep.study import SweepStudy
from bench.sweep.sweep_file import read_sweep

STARTED = []


@pytest.fixture(autouse=True)
def no_process_stays():
    """Of a test that failed: its sweep is killed, and the workers leave after it."""
    yield
    for process in STARTED:
        process.kill()
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        process.wait(timeout=60)
    STARTED.clear()


def start(path, folder, *more):
    process = subprocess.Popen(
        [
            sys.executable, "-m", "bench", "sweep", str(path), "--workers", "2", "--device", "cpu",
            "--runs-dir", str(folder / "runs"), "--checkpoint-every", "2", *more,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


def metrics(folder):
    """The lines of a run's metrics; the last may be half written."""
    file = folder.path / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def kill_a_running_trial(found, killed):
    """Kill the worker of a trial that has saved: (run id, lines of metrics at its checkpoint)."""
    for _ in range(1200):
        time.sleep(0.05)
        for trial in found.study.get_trials(False, states=(TrialState.RUNNING,)):
            pid, run_id = trial.user_attrs.get("pid"), trial.user_attrs["run_id"]
            folder = found.plans[run_id].folder
            steps = [
                int(p.name[5:]) for p in folder.checkpoints.glob("step-*") if p.name[5:].isdigit()
            ]
            if (
                pid is None
                or pid in killed
                or not steps
                or not 2 <= folder.steps_done() < STEPS // 2
            ):
                continue
            os.kill(pid, signal.SIGKILL)
            return pid, run_id, metrics(folder)[: max(steps)]
    raise AssertionError("no trial was seen running")


STEPS = 24


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_two_workers_and_random_kills_end_with_each_trial_done_once(tmp_path, storage, request):
    url = request.getfixturevalue("postgresql_url") if storage == "postgresql" else None
    more = ["--storage", url] if url else []
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]")
    path = write(tmp_path, text, steps=STEPS)
    sweep = read_sweep(path, runtime(tmp_path))
    process = start(path, tmp_path, *more)
    found = SweepStudy(sweep, url, runtime(tmp_path))
    kills = []
    for _ in range(2):
        kills.append(kill_a_running_trial(found, [pid for pid, _, _ in kills]))
    for _ in range(600):  # until the dead are found
        requeued = {
            trial.user_attrs["run_id"]
            for trial in found.study.get_trials(False, states=(TrialState.FAIL,))
            if trial.user_attrs.get("requeued")
        }
        if requeued == {run_id for _, run_id, _ in kills}:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(f"killed {kills}, requeued {requeued}")
    process.send_signal(signal.SIGKILL)  # and the parent too; its workers save and leave
    process.communicate(timeout=200)
    done = start(path, tmp_path, *more, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err + out
    status = json.loads(out)
    assert (status["total"], status["done"], status["failed"]) == (5, 5, {})
    rows = [row["run_id"] for row in rows_of(tmp_path)]
    assert sorted(rows) == sorted(found.plans)
    trials = found.study.trials
    close_study(found.study)
    complete = [t.user_attrs["run_id"] for t in trials if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted(rows)
    for _, run_id, before in kills:  # it went on from its checkpoint: no step was taken twice
        lines = metrics(found.plans[run_id].folder)
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
        assert lines[: len(before)] == before


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path):
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('"full", ', "")
    path = write(tmp_path, text, steps=30)
    process = start(path, tmp_path)
    for _ in range(600):
        if sum(f.read_text().count("\n") for f in tmp_path.glob("runs/*/metrics.jsonl")) > 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 3, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    assert list(tmp_path.glob("runs/*/checkpoints/step-*"))
    done = start(path, tmp_path, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert json.loads(out)["done"] == 4


@pytest.fixture
def postgresql_url():
    server = Server()
    try:
        yield server.url
    finally:
        server.stop()
        server.remove()


def test_a_rule_that_kills_its_process_fails_and_the_rest_is_done(tmp_path):
    rule = tmp_path / "rules.py"
    rule.write_text(
        "import os\n\nfrom bench import selector\n\n\n@selector('deadly')\n"
        "def deadly(signals):\n    os.kill(os.getpid(), 9)\n"
    )
    text = TOML.replace('["full", "random", "entropy"]', f'["{rule}:deadly", "random"]')
    text = text.replace("[0.1, 0.3]", "[0.1]").replace("[0, 1]", "[0]")
    process = start(write(tmp_path, text), tmp_path, "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    status = json.loads(out)
    assert (status["total"], status["done"]) == (2, 1)
    ((run_id, error),) = status["failed"].items()
    assert run_id.startswith("deadly") and "died 3 times" in error
    assert "bench: error: 1 trials failed; --retry-failed tries them again" in err.splitlines()


@pytest.mark.parametrize(
    "end, code, message",
    [
        (None, 1, "10 trials are left undone: no worker took them"),
        (BenchError("they died"), 1, "10 trials are left undone: they died"),
        (ConfigError("no pair"), 2, "10 trials are left undone: no pair"),
        (Stopped("stopped"), 3, "stopped"),
    ],
)
def test_trials_that_are_left_undone_are_an_error(
    tmp_path, capsys, monkeypatch, end, code, message
):
    def run_workers(*_):
        if end is not None:
            raise end

    monkeypatch.setattr("bench.sweep.run_sweep.run_workers", run_workers)
    found, out, err = call(capsys, "sweep", write(tmp_path), "--runs-dir", tmp_path / "runs")
    assert (found, out) == (code, "") and message in err.splitlines()[-1]


def test_a_dry_run_counts_the_tuning_and_then_the_tuned_points(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    first = dry_run(path, here, 1)
    assert first["tuning"] == {"result": None, "total": 6, "done": 0, "left": 6}
    assert (first["total"], first["done"], first["left"]) == (10, 0, 10)
    assert {trial["state"] for trial in first["trials"]} == {"waits for tuning"}
    assert not here.runs_dir.exists()
    curve_stub(monkeypatch, lambda experiment: experiment.learning_rate)
    tuning.tune(sweep, None, here)
    here.runs_dir.mkdir(exist_ok=True)
    seconds = {"seconds": {"total": 60.0}}
    (here.runs_dir / "rows.jsonl").write_text(json.dumps({"run_id": "r", **seconds}) + "\n")
    tuned = dry_run(path, here, 2)
    assert (tuned["total"], tuned["done"], tuned["left"]) == (10, 6, 4)
    assert (tuned["tuning"]["done"], tuned["seconds_left"]) == (6, 120.0)
    out = call(capsys, "sweep", path, "--runs-dir", here.runs_dir, "--dry-run")[1]
    assert "tuning comes first and is counted: 6 trials, 6 done, 0 left" in out
    assert "small: 10 trials, 6 done, 4 left; time left about 4 minutes" in out
    result = tuning_result.write_result(sweep, None, here)
    final = tuning_result.tuned(sweep, here)
    rows = [{"run_id": plan.run_id, **seconds} for plan in final.plans]
    (here.runs_dir / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = dry_run(path, here, 1)
    assert [trial["run_id"] for trial in last["trials"]] == [p.run_id for p in final.plans]
    assert (last["total"], last["done"], last["left"]) == (4, 4, 0)
    assert last["tuning"] == {"result": str(result), "total": 6, "done": 6, "left": 0}


def test_a_tuning_sweep_runs_from_end_to_end(tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    done = start(path, tmp_path, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert json.loads(out)["done"] == 4
    assert "tune small" in err
    assert len(rows_of(tmp_path)) == 4 + 6


def test_rows_of_tuning_trials_stay_out_of_the_file_that_is_reported(tmp_path):
    path, published = write(tmp_path, TUNING, sampler="tpe", pruner="none"), tmp_path / "out.jsonl"
    done = start(path, tmp_path, "--json", "--rows", str(published))
    assert done.communicate(timeout=300) and done.returncode == 0
    rows = [json.loads(line) for line in published.read_text().splitlines()]
    assert len(rows) == 4
    assert {task for row in rows for task in row["experiment"]["eval_tasks"]} == {"tiny_math"}
