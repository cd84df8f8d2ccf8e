"""A request to stop waits for the step under way, and for nothing else."""

import os
import signal

import pytest

from bench.core.errors import Stopped
from bench.core.stopping import StopRequest


def test_a_signal_waits_for_a_step_and_for_nothing_else():
    request = StopRequest()
    with request.installed():
        with pytest.raises(Stopped, match="the same command goes on from there"):
            os.kill(os.getpid(), signal.SIGINT)
        assert not request.requested
        with request.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.requested
            with pytest.raises(Stopped, match="at once"):
                os.kill(os.getpid(), signal.SIGTERM)
