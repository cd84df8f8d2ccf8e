"""A device's seconds are read after its work, and only where it works ahead."""

import torch

from bench.core.clock import now


def test_a_device_that_works_ahead_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    device = torch.device("cuda")
    assert now(device) <= now(device)
    assert waited == [device, device]


def test_the_cpu_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", None)
    assert now(torch.device("cpu")) <= now(torch.device("cpu"))
