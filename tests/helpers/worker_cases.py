"""What worker processes do in the tests of bench.sweep.workers."""

import os
import signal
import threading
import time

from bench.core.errors import ConfigError


def starts(folder):
    file = folder / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _start(folder):
    with (folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")


def refuse(stop, folder):
    _start(folder)
    raise ConfigError("steps: 0 is not accepted")


def die(stop, folder, until):
    """Killed at each start but the last."""
    _start(folder)
    if starts(folder) < until:
        os.kill(os.getpid(), signal.SIGKILL)


def sleep(stop, folder):
    """Between trials: looks now and then whether it was asked to stop."""
    _start(folder)
    for _ in range(600):
        stop.check()
        time.sleep(0.1)


def leave_a_thread(stop, folder):
    """Returns, and a thread of a library stays (a heart that nobody stopped)."""
    _start(folder)
    threading.Thread(target=time.sleep, args=(600,)).start()


def exit_early(stop, folder):
    """A rule that ends its process, as if all were well."""
    _start(folder)
    raise SystemExit(0)
