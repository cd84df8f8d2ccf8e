"""A request to stop waits for the step under way, and for nothing else."""

import os
import signal

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
