"""A process that does not outlive its parent, even if it does not hear it."""

import subprocess
import sys

SCRIPT = """
import signal, subprocess, sys, time
from bench.core import parent

parent.POLL_S, parent.GRACE_S = 0.05, 0.5
signal.signal(signal.SIGTERM, {handler})
process = subprocess.Popen(["sleep", "0.2"])
parent.stop_with(process.pid, is_parent=False)
process.wait()
for _ in range(600):
    time.sleep(0.1)
"""


def test_it_is_asked_to_stop():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(handler="lambda *_: sys.exit(3)")], timeout=60
    )
    assert done.returncode == 3


def test_it_is_killed_when_it_does_not_listen():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(handler="signal.SIG_IGN")], timeout=60
    )
    assert done.returncode == -9
