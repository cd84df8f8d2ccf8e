"""Workers: replaced while they get somewhere, given up when they die in vain."""

import os
import signal
import threading
import time

import pytest
import worker_cases

from bench.core.errors import BenchError, ConfigError, Stopped
from bench.sweep.workers import run_workers


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


@pytest.mark.parametrize("seconds", [0.15, 6.0])
def test_a_stop_ends_a_worker_that_is_only_starting_or_waits(tmp_path, fast, seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped):
        run_workers(worker_cases.sleep, (tmp_path,), 1, lambda: None)
    assert worker_cases.starts(tmp_path) <= 1


def test_a_thread_that_a_library_left_running_keeps_no_worker(tmp_path, fast):
    began = time.monotonic()
    run_workers(worker_cases.leave_a_thread, (tmp_path,), 1, lambda: None)
    assert worker_cases.starts(tmp_path) == 1 and time.monotonic() - began < 300


def test_a_worker_that_exits_in_its_work_has_not_done_it(tmp_path, fast):
    with pytest.raises(BenchError, match="died 3 times .* exit code 1"):
        run_workers(worker_cases.exit_early, (tmp_path,), 1, lambda: None)
    assert worker_cases.starts(tmp_path) == 3
