"""Sweeps: every trial exactly once, whoever dies; files that say where they are wrong."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import worker_cases
from command import call
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.trial import TrialState
from small_pair import pair_folder

from bench.core.config import Runtime
from bench.core.errors import BenchError, ConfigError, Stopped
from bench.sweep import tuning
from bench.sweep.run_sweep import dry_run, run_sweep
from bench.sweep.storage import (
    TrialFault,
    close_study,
    fail_stale_trials,
    open_study,
    refuse_deadly,
)
from bench.sweep.study import SweepStudy, work
from bench.sweep.sweep_file import read_sweep
from bench.sweep.workers import run_workers
from bench.tables.rows import read_tuned

ROOT = Path(__file__).parents[2]
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
    ("seeds = [0, 1]", "seeds = 3", "small.toml:5", "a valid list"),
    ("k = 8", "k = 8\nkeep = 0.1", "small.toml:13", "keep: is in base and in grid"),
    ("eval_items = 8", "learning_rate = -1", "small.toml:11", "learning_rate: -1"),
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


@pytest.mark.parametrize(
    "also, line",
    [
        ('selectors = ["random"]\n\n[also.base]\nsteps = 1\nlearning_rate = -1', 22),
        ("[also.grid]\nkeep = [0.2, 1.5]", 19),
        ('[also.base]\nsteps = 3\n\n[[also]]\nselectors = ["entropi"]', 22),
        ('selectors = ["random"]\nseeds = 4', 19),
    ],
)
def test_a_mistake_in_a_later_block_is_not_looked_for_in_the_first(tmp_path, also, line):
    text = TOML.replace("k = 8", "learning_rate = 1e-3") + f"\n[[also]]\n{also}\n"
    with pytest.raises(ConfigError, match=f"small.toml:{line}: "):
        read_sweep(write(tmp_path, text), runtime(tmp_path))


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
    process.communicate()
    done = start(path, tmp_path, *more, "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
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


def test_a_trial_of_another_machine_is_left_alone(tmp_path):
    found = SweepStudy(read_sweep(write(tmp_path), runtime(tmp_path)), None, runtime(tmp_path))
    found.enqueue()
    there, here = found.study.ask(), found.study.ask()
    there.set_user_attr("host", "elsewhere")
    here.set_user_attr("host", socket.gethostname())
    found.recover()
    states = [trial.state for trial in found.study.trials]
    assert (states[there.number], states[here.number]) == (TrialState.RUNNING, TrialState.FAIL)


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


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("bench.sweep.workers.POLL_S", 0.1)
    monkeypatch.setattr("bench.sweep.workers.RESTARTS", 2)


def test_a_worker_that_refuses_its_work_is_not_started_again(tmp_path, fast):
    with pytest.raises(ConfigError, match="steps: 0 is not accepted"):
        run_workers(worker_cases.refuse, (tmp_path,), 1, lambda: None)
    assert worker_cases.starts(tmp_path) == 1


def test_workers_that_die_in_vain_are_given_up_with_an_error(tmp_path, fast):
    with pytest.raises(BenchError, match="died 3 times .* exit code -9"):
        run_workers(worker_cases.die, (tmp_path, 99), 1, lambda: None)
    assert worker_cases.starts(tmp_path) == 3


def test_workers_that_get_somewhere_are_replaced_for_ever(tmp_path, fast):
    run_workers(worker_cases.die, (tmp_path, 6), 1, lambda: worker_cases.starts(tmp_path))
    assert worker_cases.starts(tmp_path) == 6


def test_a_stop_ends_a_worker_that_is_only_starting(tmp_path, fast):
    threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped):
        run_workers(worker_cases.sleep, (tmp_path,), 1, lambda: None)
    assert worker_cases.starts(tmp_path) <= 1


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


def curve_stub(monkeypatch, worth, stop_at=()):
    """In place of runs: a curve that rises evenly to `worth(experiment)`; tells what was run."""
    ran = []

    def execute(launch, experiment, runtime, on_curve=None):
        ran.append(experiment)
        if len(ran) in stop_at:
            raise Stopped("stopped")
        for step in range(experiment.eval_every, experiment.steps + 1, experiment.eval_every or 99):
            if on_curve is not None:
                value = worth(experiment) * step / experiment.steps
                on_curve(step, {"tiny_math_tune": value})
        score = {"mean": worth(experiment)}
        return SimpleNamespace(run_id="r", scores={"trained": {"tiny_math_tune": score}})

    monkeypatch.setattr("bench.sweep.tuning.execute", execute)
    return ran


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
    result = tuning.write_result(sweep, None, here)
    final = tuning.tuned(sweep, here)
    rows = [{"run_id": plan.run_id, **seconds} for plan in final.plans]
    (here.runs_dir / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = dry_run(path, here, 1)
    assert [trial["run_id"] for trial in last["trials"]] == [p.run_id for p in final.plans]
    assert (last["total"], last["done"], last["left"]) == (4, 4, 0)
    assert last["tuning"] == {"result": str(result), "total": 6, "done": 6, "left": 0}


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("trials = 3", "trials = 3\nseed = 1", 19, "also in 'seeds'"),
        ("trials = 3", 'trials = 3\ntask = "tiny_maths"', 19, "unknown name 'tiny_maths'"),
        ("trials = 3", 'trials = 3\ntask = "tiny_math"', 19, "leakage"),
        ("k = 8", 'k = 8\neval_tasks = ["tiny_math_tune"]', 13, "leakage"),
        ("seeds = [0, 1]", "seeds = [0, 1000]", 5, "tuning.seed: 1000"),
        ("ranges.learning_rate", "ranges.seed", 23, "seed: cannot have a range"),
        ("ranges.learning_rate", "ranges.keep", 23, "keep: cannot have a range"),
        ("ranges.learning_rate", "ranges.selector", 23, "selector: cannot have a range"),
        ("ranges.learning_rate", "ranges.learning_rat", 23, "did you mean 'learning_rate'"),
        ("low = 1e-5", "low = -1e-5", 23, "learning_rate"),
        ("report_every = 1", "report_every = 5", 21, "hear of nothing"),
        ("trials = 3", "trials = 0", 18, "greater than or equal to 1"),
    ],
)
def test_a_mistake_in_tuning_is_named_with_its_line(tmp_path, old, new, line, message):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="median")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError) as refused:
        read_sweep(path, runtime(tmp_path))
    assert f"small.toml:{line}: " in str(refused.value) and message in str(refused.value)
    assert "{" not in str(refused.value)


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
