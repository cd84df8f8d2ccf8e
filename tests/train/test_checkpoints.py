"""Checkpoints are whole or not there, and the last two are kept."""

import pytest
from safetensors import SafetensorError
from steps import trainer

from bench.core.errors import BenchError
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.train.loop import train


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("io")])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, error):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=3)
    save, calls = found.accelerator.save_state, []

    def fail(path, **settings):
        calls.append(path)
        save(path, **settings)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(found.accelerator, "save_state", fail)
    with pytest.raises(BenchError, match=r"step 2 could not be saved.*step 1 is kept"):
        train(found, Progress("off"), StopRequest(), dict)
    folder = found.folder.checkpoints
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=4)
    train(found, Progress("off"), StopRequest(), dict)
    names = sorted(path.name for path in found.folder.checkpoints.iterdir())
    assert names == ["step-000003", "step-000004"]
