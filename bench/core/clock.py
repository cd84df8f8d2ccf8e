"""Seconds on a device that works ahead of the program: read once what was asked of it is done."""

from time import perf_counter

import torch


def now(device: torch.device) -> float:
    """Seconds of the clock that `time.perf_counter` reads, once the device has nothing left to do.

    Kernels of an accelerator run after the call that asked for them returns: without the wait,
    the seconds of one phase would be counted in the next that needs a number.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter()
