"""Long lives and hard lives: many runs in one process, too little memory, a clock that jumps, a
database that is restarted in mid-sweep, signals at any moment.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fire_share import SEED, SHARE, drawn, examples
from forks import command, forked, results, run_command
from postgresql import Server
from small_sweep import TOML, rows_of, write

BENCH = [sys.executable, "-m", "bench"]


@cache
def whole() -> dict:
    folder = Path(mkdtemp(prefix="fire-"))
    assert forked(command(*run_command(folder))).code == 0
    return results(folder / "runs")


def test_many_runs_in_one_process_leave_nothing_behind(tmp_path, counted):
    """Memory, descriptors and threads after them all are those after the first few."""
    runs = examples(30, 500)

    def soak():
        told = []
        for number in range(runs):
            flags = {"steps": 1, "eval-every": 0, "seed": number, "eval-items": 2}
            command(*run_command(tmp_path, **flags))()
            status = Path("/proc/self/status").read_text()
            resident = int(next(ln for ln in status.split("\n") if "VmRSS" in ln).split()[1])
            told.append((resident, len(os.listdir("/proc/self/fd")), threading.active_count()))
        (tmp_path / "told.json").write_text(json.dumps(told))

    ended = forked(soak, limit_s=60 + 5 * runs)
    assert ended.code == 0, ended.err
    told = json.loads((tmp_path / "told.json").read_text())
    early, late = told[runs // 3], told[-1]
    assert late[1] <= early[1] + 1 and late[2] <= early[2], (early, late)
    assert late[0] < 1.10 * early[0] + 20_000, (early, late)  # kB
    counted("runs in one process", runs)


def test_too_little_memory_is_one_line_and_the_run_goes_on_later(tmp_path, counted):
    def size() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    refused = 0
    # Under what the process has already, nothing more is given.
    for spare in [-512, *drawn([1, 4, 8, 12, 16, 24, 32, 48, 64, 96], 2, "memory")]:
        folder = tmp_path / str(spare)

        def starved(folder=folder, spare=spare):
            command(*run_command(folder / "warm", steps=1))()  # what is imported is no matter
            limit = size() + (spare << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            command(*run_command(folder))()

        ended = forked(starved)
        refused += ended.code != 0
        assert ended.code == 0 or ended.is_one_line, (spare, ended)
        assert ended.code == 0 or "memory" in ended.err, (spare, ended)
        again = forked(command(*run_command(folder)))
        assert again.code == 0 and results(folder / "runs") == whole(), (spare, again.err)
        counted("memory limits")
    assert refused


@pytest.mark.parametrize("jump", [-4e8, 4e8])
def test_a_clock_that_jumps_changes_no_result(tmp_path, jump, counted):
    def jumping():
        real, calls = time.time, []

        def clock():
            calls.append(1)
            return real() + (jump if len(calls) % 2 else 0)

        time.time = clock
        command(*run_command(tmp_path))()

    ended = forked(jumping)
    assert ended.code == 0, ended.err
    assert results(tmp_path / "runs") == whole()
    counted("clock jumps")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_with_exit_code_3(tmp_path, number, counted):
    """While it loads, trains, evaluates or writes; the same command then ends equal."""
    moments = [0.4 * k for k in range(1, 21)]
    for moment in drawn(moments, 2, f"signal {number}"):
        folder = tmp_path / f"{moment:.1f}"
        process = subprocess.Popen(
            [*BENCH, *run_command(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Before `main` runs, the interpreter's own handling of a signal is in force.
        while not _catches(process.pid, number) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment * random.Random(f"{SEED}").uniform(0.8, 1.2))
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 3), (moment, process.returncode, err)
        if process.returncode == 3:
            lines = [line for line in err.splitlines() if line.startswith("bench: ")]
            assert len(lines) == 1 and "Traceback" not in err, (moment, err)
        again = forked(command(*run_command(folder)))
        assert again.code == 0 and results(folder / "runs") == whole(), (moment, again.err)
        counted("signals")


def _catches(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(next(ln for ln in status.split("\n") if ln.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(SHARE is None, reason="make fire restarts PostgreSQL in mid-sweep")
def test_a_database_that_is_restarted_in_mid_sweep_holds_it_up_and_no_more(tmp_path, counted):
    server = Server()
    process = None
    try:
        text = TOML.replace("seeds = [0, 1]", "seeds = [0]")
        path = write(tmp_path, text, steps=40)
        asked = [*BENCH, "sweep", path, "--runs-dir", tmp_path / "runs", "--workers", "2",
                 "--device", "cpu", "--json"]  # fmt: skip
        environment = {**os.environ, "OPD_BENCH_STORAGE": server.url, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            list(map(str, asked)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        for _ in range(3):
            _until(lambda: len(list(tmp_path.glob("runs/*/metrics.jsonl"))) > 0, process)
            time.sleep(3)
            server.stop()
            time.sleep(4)
            server.start()
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]
        status = json.loads(out)
        assert (status["total"], status["done"], status["failed"]) == (5, 5, {}), err[-3000:]
        assert len({row["run_id"] for row in rows_of(tmp_path)}) == len(rows_of(tmp_path)) == 5
        assert "secret" not in err
        assert not list(tmp_path.glob("runs/sweeps/*/journal.log"))  # it was the database's
        counted("restarts of PostgreSQL", 3)
    finally:
        if process is not None and process.poll() is None:
            process.kill()
        server.stop()
        server.remove()


def _until(condition, process, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
