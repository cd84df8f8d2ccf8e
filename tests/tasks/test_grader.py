"""The grader: no comparison can stop a run."""

import subprocess
import sys
import time

from bench.tasks.grader import Comparison, Grader

HANG = Comparison("3", "9^{9^{9^9}}")
GOOD, BAD = Comparison("1/2", "0.5"), Comparison("1/2", "0.6")


def test_a_comparison_that_hangs_costs_itself_and_its_time_limit():
    grader = Grader(workers=2, seconds=1.5)
    try:
        assert grader.verdicts([GOOD]) == ["right"]
        began = time.monotonic()
        verdicts = grader.verdicts([GOOD, HANG, BAD, HANG, GOOD])
        assert verdicts == ["right", "timeout", "wrong", "timeout", "right"]
        assert time.monotonic() - began < 20
        assert grader.verdicts([BAD, GOOD]) == ["wrong", "right"]
    finally:
        grader.close()


def test_a_worker_that_dies_costs_its_comparison():
    grader = Grader(workers=1)
    try:
        assert grader.verdicts([GOOD]) == ["right"]
        grader._workers[0].process.kill()
        grader._workers[0].process.wait(timeout=200)
        assert grader.verdicts([BAD, GOOD]).count("crash") == 1
        assert grader.verdicts([BAD, GOOD]) == ["wrong", "right"]
    finally:
        grader.close()


def test_a_worker_ends_with_its_parent():
    code = (
        "import os\n"
        "from bench.tasks.grader import Comparison, Grader\n"
        "grader = Grader(1, seconds=1)\n"
        "grader.verdicts([Comparison('1', '2')])\n"
        "print(grader._workers[0].process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    worker = int(done.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _is_alive(worker):
        time.sleep(0.1)
    assert not _is_alive(worker)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
