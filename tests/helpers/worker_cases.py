"""What worker processes do in the tests of bench.sweep.workers."""

import os
import signal
import time

from bench.core.errors import ConfigError


def starts(folder):
    file = folder / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _start(folder):
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")


def refuse(folder):
    _start(folder)
    raise ConfigError("steps: 0 is not accepted")


def die(folder, until):
    """Killed at each start but the last."""
    _start(folder)
    if starts(folder) < until:
        os.kill(os.getpid(), signal.SIGKILL)


def sleep(folder):
    _start(folder)
    time.sleep(60)
