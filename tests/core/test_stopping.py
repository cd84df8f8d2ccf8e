"""A request to stop waits for the step under way, and for nothing else."""

import os
import signal
import subprocess
import sys

import pytest

from bench.core.errors import Stopped
from bench.core.stopping import StopNow, StopRequest


def test_a_signal_waits_for_a_step_and_for_nothing_else():
    request = StopRequest()
    with request.installed():
        with pytest.raises(StopNow, match="the same command goes on from there"):
            os.kill(os.getpid(), signal.SIGINT)
        assert not request.requested
        with request.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.requested
            with pytest.raises(StopNow, match="at once"):
                os.kill(os.getpid(), signal.SIGTERM)


def test_what_handles_faults_does_not_swallow_a_signal():
    with pytest.raises(Stopped, match="at once"), StopRequest().installed():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise ValueError("a file that cannot be read") from error


def test_a_request_holds_inside_and_afterwards():
    with StopRequest().installed() as outer, outer.deferred():
        with StopRequest().installed() as inner, inner.deferred():
            os.kill(os.getpid(), signal.SIGTERM)  # and its block ends before it looks
        assert outer.requested
        with pytest.raises(Stopped, match="stopped; the same command"):
            outer.check()
        with pytest.raises(Stopped), StopRequest().installed():
            raise AssertionError("begun after the request")
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().installed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()\n"


def ended(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A process that a library's thread would keep from ending."""
    return subprocess.run(
        [sys.executable, "-c", THREAD + code], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("work", "code"), [("print('done')", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)]
)
def test_a_process_among_several_ends_at_once_with_its_own_code(work, code):
    done = ended(
        "import atexit; from bench.core.stopping import end_at_once\n"
        "atexit.register(print, 'registered')\n"
        f"def work():\n    {work}\n"
        "end_at_once(work)"
    )
    assert done.returncode == code
    assert done.stdout == ("done\n" if not code else "") + "registered\n"
    assert ("ZeroDivisionError" in done.stderr) == (code == 1)


def test_a_launched_command_ends_so():
    command = "import sys; sys.argv[1:] = ['--version']; from bench.cli import main; main()"
    done = ended(command, WORLD_SIZE="2", RANK="1")
    assert done.returncode == 0 and done.stdout.strip()
