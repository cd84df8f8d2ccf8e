"""Sweeps: every trial exactly once, whoever dies; files that say where they are wrong."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.trial import TrialState
from small_pair import pair_folder
from test_cli import call

from bench import tuning
from bench.config import ConfigError, Runtime
from bench.rows import read_tuned
from bench.storage import close_study
from bench.sweep import SweepStudy, dry_run, run_sweep, work
from bench.sweepfile import read_sweep

ROOT = Path(__file__).parent.parent
QUIET = Runtime(device="cpu", progress="off")
MEAN = {"mean": 0.5}

TOML = """
name = "small"
pairs = [{pair}]
selectors = ["full", "random", "entropy"]
seeds = [0, 1]

[base]
prompts_per_step = 6
max_new_tokens = 10
steps = {steps}
eval_items = 8
k = 8

[grid]
keep = [0.1, 0.3]
"""


def write(folder, text=TOML, **values):
    path = folder / "small.toml"
    path.write_text(text.format(**{"pair": json.dumps(str(pair_folder())), "steps": 2, **values}))
    return path


def runtime(folder, **values):
    return QUIET.model_copy(update={"runs_dir": folder / "runs", **values})


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_reads(path, tmp_path, monkeypatch):
    for pair in re.findall(r'"(pairs/[^"]+)"', path.read_text()):  # what the user builds first
        (tmp_path / pair).parent.mkdir(exist_ok=True)
        (tmp_path / pair).symlink_to(pair_folder(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep(path, Runtime())
    assert sweep.file.name == path.stem
    assert sweep.file.about
    assert len(sweep.plans) > 1


def test_points_are_crossed_and_full_ignores_keep(tmp_path):
    sweep = read_sweep(write(tmp_path), runtime(tmp_path))
    points = [(p.experiment.seed, p.experiment.selector, p.experiment.keep) for p in sweep.plans]
    assert points == [
        (seed, selector, keep)
        for seed in (0, 1)
        for selector, keeps in (("full", [1]), ("random", [0.1, 0.3]), ("entropy", [0.1, 0.3]))
        for keep in keeps
    ]
    assert all(p.experiment.steps == 2 for p in sweep.plans)


def test_more_blocks_add_points_and_inherit_the_rest(tmp_path):
    more = TOML + '\n[[also]]\nselectors = ["full"]\nseeds = [0, 5]\ngrid = {{}}\n'
    sweep = read_sweep(write(tmp_path, more), runtime(tmp_path))
    assert len(sweep.plans) == 11
    assert (sweep.plans[-1].experiment.selector, sweep.plans[-1].experiment.seed) == ("full", 5)
    assert sweep.plans[-1].experiment.steps == 2


def test_expressions_schedules_and_rules_with_a_budget_of_their_own_are_points_too(tmp_path):
    text = TOML.replace('"entropy"]', '"soft_or( entropy, tip )", "min_gap", "adakd", "fire"]')
    text = text.replace("keep = [0.1, 0.3]", 'keep = [0.1, "linear(0.5,0.1)"]')
    sweep = read_sweep(write(tmp_path, text), runtime(tmp_path))
    points = [(p.experiment.selector, p.experiment.keep) for p in sweep.plans]
    assert points[: len(points) // 2] == [
        ("full", 1.0),
        ("random", 0.1),
        ("random", "linear(0.5, 0.1)"),
        ("soft_or(entropy, tip)", 0.1),
        ("soft_or(entropy, tip)", "linear(0.5, 0.1)"),
        ("min_gap", 1.0),
        ("adakd", 1.0),
        ("fire", 1.0),
    ]
    assert run_sweep(tmp_path / "small.toml", runtime(tmp_path)).done == len(points)


def test_the_catalogue_sweep_has_every_selector():
    from bench import selector_names

    plans = read_sweep(ROOT / "sweeps" / "catalogue.toml", Runtime()).plans
    assert {plan.experiment.selector for plan in plans} == set(selector_names())
    cells = {(p.experiment.selector, p.experiment.pair, p.experiment.seed) for p in plans}
    assert len(cells) == 6 * len(selector_names())
    for plan in plans:
        free = plan.selector.keep is None and plan.selector.kind == "score"
        assert plan.experiment.keep in (
            (0.05, 0.2) if free and not plan.selector.sets_keep else (1,)
        )


BAD = [
    ('"entropy"]', '"soft_or(entropy, tpi)"]', "small.toml:4", "did you mean 'tip'"),
    ("keep = [0.1, 0.3]", 'keep = ["liner(1, 0.3)"]', "small.toml:15", "linear(a, b)"),
    ('"entropy"]', '"entropi"]', "small.toml:4", "did you mean 'entropy'"),
    ("keep = [0.1, 0.3]", "keep = [0.1, 3.0]", "small.toml:15", "less than or equal to 1"),
    ("steps = 2", "stepz = 2", "small.toml:10", "did you mean 'steps'"),
    ("[grid]", "[gird]", "small.toml:14", "extra inputs"),
    ("seeds = [0, 1]", "seeds = []", "small.toml:5", "at least 1 item"),
    ("seeds = [0, 1]", "seeds = [0, 1", "small.toml", "line 7"),
    ("keep = [0.1, 0.3]", "seed = [1]", "small.toml:15", "list it under `seeds`"),
    ('name = "small"', 'name = "a b"', "small.toml:2", "pattern"),
]


@pytest.mark.parametrize("old, new, place, message", BAD)
def test_a_mistake_is_named_with_its_line(capsys, tmp_path, old, new, place, message):
    path = write(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    code, out, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert (code, out) == (2, "")
    has_caret = err.rstrip().endswith(" ^")  # an expression, and the place in it
    assert len(err.splitlines()) == (3 if has_caret else 1)
    assert place in err and message in err
    assert not (tmp_path / "runs").exists()


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
    monkeypatch.setattr("bench.sweep.find_row", lambda *_: {"scores": {"trained": {"t": MEAN}}})
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


def rows_of(folder):
    text = (folder / "runs" / "rows.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def start(path, folder, *more):
    return subprocess.Popen(
        [
            sys.executable, "-m", "bench", "sweep", str(path), "--workers", "2", "--device", "cpu",
            "--runs-dir", str(folder / "runs"), "--checkpoint-every", "2", *more,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(process):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_two_workers_and_random_kills_end_with_each_trial_done_once(
    tmp_path, storage, request, monkeypatch
):
    more = []
    if storage == "postgresql":
        more = ["--storage", request.getfixturevalue("postgresql_url")]
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]")
    path = write(tmp_path, text, steps=8)
    generator = random.Random(0)
    process = start(path, tmp_path, *more)
    for _ in range(3):
        time.sleep(4 + 3 * generator.random())
        workers = children(process)
        if workers and process.poll() is None:
            os.kill(generator.choice(workers), signal.SIGKILL)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)  # and the parent too; its workers save and leave
    process.communicate()
    done = start(path, tmp_path, *more, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    status = json.loads(out)
    assert (status["total"], status["done"], status["failed"]) == (5, 5, {})
    rows = [row["run_id"] for row in rows_of(tmp_path)]
    sweep = read_sweep(path, runtime(tmp_path))
    assert sorted(rows) == sorted(plan.run_id for plan in sweep.plans)
    url = more[1] if more else None
    found = SweepStudy(sweep, url, runtime(tmp_path))
    trials = found.study.trials
    close_study(found.study)
    complete = [t.user_attrs["run_id"] for t in trials if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted(rows)


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path):
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('"full", ', "")
    path = write(tmp_path, text, steps=30)
    process = start(path, tmp_path)
    for _ in range(600):
        if sum(f.read_text().count("\n") for f in tmp_path.glob("runs/*/metrics.jsonl")) > 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    assert list(tmp_path.glob("runs/*/checkpoints/step-*"))
    done = start(path, tmp_path, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert json.loads(out)["done"] == 4


@pytest.fixture
def postgresql_url():
    """A PostgreSQL server of one's own on loopback, in a temporary folder."""
    binary = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))), None)
    if binary is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if owner:
        shutil.chown(folder, "postgres")
    port = 20000 + os.getpid() % 20000

    def control(*arguments):
        subprocess.run([*owner, *arguments], check=True, capture_output=True, cwd=folder)

    control(binary.with_name("initdb"), "-D", folder / "data", "-A", "trust", "-U", "bench")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control(binary, "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://bench@127.0.0.1:{port}/postgres"
    finally:
        control(binary, "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_an_unknown_storage_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="storage: 'nosuch://x' cannot be opened"):
        SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), "nosuch://x", runtime(tmp_path))


def test_runs_that_the_rows_hold_are_not_run_again(tmp_path, monkeypatch):
    text = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('"full", ', "")
    path = write(tmp_path, text)
    sweep = read_sweep(path, runtime(tmp_path))
    work(_enqueued(sweep, tmp_path), None, runtime(tmp_path))
    kept = tmp_path / "kept.jsonl"
    (tmp_path / "runs" / "rows.jsonl").rename(kept)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr("bench.sweep.execute", None)
    elsewhere = runtime(tmp_path, rows=kept)
    assert dry_run(path, elsewhere, workers=1)["done"] == 4
    found = SweepStudy(sweep, None, elsewhere)
    found.enqueue()
    work(sweep, None, elsewhere)
    assert (found.status().done, found.status().failed) == (4, {})


TUNING = (
    TOML.replace('"full", "random", "entropy"', '"random", "entropy"').replace(
        "keep = [0.1, 0.3]", "keep = [0.1]"
    )
    + """
[tuning]
trials = 3
sampler = "{sampler}"
pruner = "{pruner}"
report_every = 1

[tuning.ranges.learning_rate]
low = 1e-5
high = 1e-2
log = true
"""
)


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
    found = json.loads(tuning.write_result(sweep, None, here).read_text())
    assert (found["trials"], found["sampler"], found["task"]) == (3, sampler, "tiny_math_tune")
    for cell in found["cells"].values():
        assert len(cell["trials"]) == 3
        values = [t["value"] for t in cell["trials"] if t["state"] == "complete"]
        assert cell["value"] == max(values)
    final = tuning.tuned(sweep, here)
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


GRID = TUNING.replace("low = 1e-5\nhigh = 1e-2\nlog = true", "values = {values}")


def test_a_grid_tries_every_value_once_for_every_rule(tmp_path):
    values = [1e-3, 1e-4, 1e-2]
    path = write(tmp_path, GRID, sampler="grid", pruner="none", values=values)
    here = runtime(tmp_path)
    sweep = read_sweep(path, here)
    cell, other = tuning.cells(sweep).values()
    study = tuning._study(cell, sweep.file.tuning, None, tuning.tuning_folder(sweep, here))
    study.enqueue_trial({"learning_rate": 1e-3})
    study.ask()  # of a worker that died before it proposed anything
    tuning.tune(sweep, None, here)
    found = json.loads(tuning.write_result(sweep, None, here).read_text())
    for record in found["cells"].values():
        assert sorted(t["params"]["learning_rate"] for t in record["trials"]) == sorted(values)
    beside = tmp_path / "runs" / "tuning" / "small.json"
    assert read_tuned(str(beside), beside.read_text()).cells.keys() == found["cells"].keys()
    assert other.name in found["cells"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("trials = 3", "trials = 4", "the grid has 3 points"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1, 0.2, 0.2]", "repeat"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1]\nlow = 0.1", "stand alone"),
        ("values = [0.1, 0.2, 0.3]", "low = 0.1\nhigh = 0.2", "needs `values`"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1, -1, 0.3]", "learning_rate"),
    ],
)
def test_a_grid_that_is_none_is_refused(capsys, tmp_path, old, new, message):
    path = write(tmp_path, GRID, sampler="grid", pruner="none", values=[0.1, 0.2, 0.3])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    code, _, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err


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


def test_tuning_on_a_reported_split_is_refused(capsys, tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    path.write_text(path.read_text().replace("trials = 3", 'trials = 3\ntask = "tiny_math"'))
    code, _, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert code == 2
    assert "leakage" in err and len(err.splitlines()) == 1


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
