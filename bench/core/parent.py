"""A process that does not outlive the one it works for."""

import os
import signal
import threading
import time

POLL_S = 1.0
"""Seconds between looks at the other process."""
GRACE_S = 600.0
"""Seconds that a process which was asked to stop has for finishing its step and saving."""


def stop_with(process: int, *, is_parent: bool) -> None:
    """From now on ask this process to stop, by SIGTERM and after saving, once `process` is gone.

    If it has not ended after GRACE_S it is killed: the run goes on from its last checkpoint, and
    nobody waits for ever.

    `is_parent`: it is the one that started this one, so that neither its zombie nor a later process
    of its number counts as living. Otherwise there are others in between.
    """
    threading.Thread(target=_follow, args=(process, is_parent), daemon=True).start()


def _follow(process: int, is_parent: bool) -> None:
    while os.getppid() == process if is_parent else _lives(process):
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
