"""Checkpoints are whole or not there, and the last two are kept."""

import contextlib
import json
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from steps import metrics_lines, same, trainer, weights

from bench.core.errors import BenchError
from bench.core.plain_state import load_plain, save_plain
from bench.core.progress import Progress
from bench.core.records import RunFolder
from bench.core.stopping import StopRequest
from bench.train import checkpoints
from bench.train.checkpoints import SUMS_FILE, checkpoint_of
from bench.train.loop import train
from bench.train.training_state import load_training, save_training


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("io")])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, error):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=3)
    save, calls = checkpoints.save_training, []

    def fail(setup, folder):
        calls.append(folder)
        save(setup, folder)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(checkpoints, "save_training", fail)
    with pytest.raises(BenchError, match=r"step 2 could not be saved.*step 1 is kept"):
        train(found, Progress("off"), StopRequest(), dict)
    folder = found.folder.checkpoints
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=4)
    train(found, Progress("off"), StopRequest(), dict)
    names = sorted(path.name for path in found.folder.checkpoints.iterdir())
    assert names == ["step-000003", "step-000004"]


def _bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGE = {
    "a bit": _bit,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "one more": lambda file: file.with_name("added.bin").write_bytes(b"x"),
}


def trained_in_two(tmp_path):
    """A run of four steps with checkpoints of 3 and 4; and what continues it."""
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=4)
    train(found, Progress("off"), StopRequest(), dict)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    found = trained_in_two(tmp_path_factory.mktemp("run"))
    folder = checkpoint_of(found.folder.checkpoints, 4).path
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def test_a_checkpoint_says_what_each_of_its_files_holds(files):
    assert {"trained.safetensors", "optimizer.safetensors", "totals.json", SUMS_FILE} <= set(files)


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_counts(
    tmp_path, files, change, capsys
):
    """Every file of it in turn; the run ends with the weights of one that met no damage."""
    whole = trained_in_two(tmp_path / "whole")
    for name in files:
        place = tmp_path / name
        shutil.copytree(tmp_path / "whole", place)
        again = trainer(place, {"checkpoint_every": 1}, steps=4)
        newest = checkpoint_of(again.folder.checkpoints, 4)
        assert newest.damage() is None
        DAMAGE[change](newest.path / name)
        train(again, Progress("lines"), StopRequest(), dict)
        told = capsys.readouterr().err
        assert f"the checkpoint of step 4 is damaged and set aside as {newest.path.parent}" in told
        assert same(weights(whole), weights(again)), name
        assert (
            metrics_lines(again.folder.path)
            and checkpoint_of(newest.path.parent, 4).damage() is None
        )


def test_with_every_checkpoint_damaged_the_run_begins_again(tmp_path, capsys):
    whole = trained_in_two(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = trainer(tmp_path / "again", {"checkpoint_every": 1}, steps=4)
    for step in (3, 4):
        _bit(checkpoint_of(again.folder.checkpoints, step).path / "trained.safetensors")
    train(again, Progress("lines"), StopRequest(), dict)
    assert capsys.readouterr().err.count("damaged and set aside") == 2
    assert same(weights(whole), weights(again))
    assert [json.loads(line)["step"] for line in metrics_lines(again.folder.path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0], "{", *lines[2:]],
        lambda lines: [lines[0], lines[1][:20], *lines[2:]],
        lambda lines: [lines[0].replace('"loss":', '"loss":NaN,"was":'), *lines[1:]],
        lambda lines: [],
        lambda lines: [lines[0], lines[1].replace("loss", "lo\udce4s"), *lines[2:]],
    ],
)
def test_a_log_that_lacks_a_step_is_not_gone_on_with(tmp_path, change, capsys):
    whole = trained_in_two(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    again = trainer(tmp_path / "again", {"checkpoint_every": 1}, steps=4)
    file = again.folder.path / "metrics.jsonl"
    changed = "".join(line + "\n" for line in change(file.read_text().split("\n")[:-1]))
    file.write_bytes(changed.encode("utf-8", "surrogateescape"))
    train(again, Progress("lines"), StopRequest(), dict)
    assert "metrics.jsonl has not each step from 1 to 4 once" in capsys.readouterr().err
    assert same(weights(whole), weights(again))
    assert [json.loads(line)["step"] for line in metrics_lines(again.folder.path)] == [1, 2, 3, 4]


def test_other_line_separators_part_no_line(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step, "loss": 1.0, "signals": {}, "text": "a\u2028b\u0085c"})
    assert folder.metrics_hold(2) and folder.signals() == {}
    folder.cut_logs(1)
    assert folder.metrics_hold(1) and not folder.metrics_hold(2)


class Hostile:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("loader", [torch.save, pickle.dump])
def test_a_checkpoint_runs_nothing_whatever_file_of_it_was_planted(tmp_path, files, loader):
    """Every file in turn a pickle, and one of each name that was loaded with pickle before, with
    checksums that fit: a stranger can write those too.
    """
    trained_in_two(tmp_path / "whole")
    old = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl",
           "selector.pt", "pytorch_model.bin")  # fmt: skip
    for name in (*files, *old):
        place = tmp_path / name
        shutil.copytree(tmp_path / "whole", place)
        again = trainer(place, {"checkpoint_every": 1}, steps=4)
        folder = checkpoint_of(again.folder.checkpoints, 4).path
        with (folder / name).open("wb") as file:
            loader(Hostile(tmp_path / "ran"), file)
        if name != SUMS_FILE:
            (folder / SUMS_FILE).write_text(json.dumps(checkpoints._sums(folder)))
        with contextlib.suppress(Exception):
            train(again, Progress("off"), StopRequest(), dict)
        assert not (tmp_path / "ran").exists(), name
    assert not [name for name in files if not name.endswith((".json", ".safetensors"))]


def test_a_memory_comes_back_as_it_was(tmp_path):
    half = torch.ones(2, dtype=torch.bfloat16)
    state = {"a": torch.arange(3), 4: (1, 2.5, None, True, "x"), "deep": [{"b": torch.ones(())}],
             "half": half, "empty": [], "none": {}, "pair": (0.1,)}  # fmt: skip
    save_plain(tmp_path / "state", state)
    again = load_plain(tmp_path / "state")
    assert again.keys() == state.keys() and again[4] == state[4] and type(again[4]) is tuple
    assert again["a"].equal(state["a"]) and again["half"].dtype == torch.bfloat16
    assert again["deep"][0]["b"].shape == () and again["pair"] == (0.1,)
    with pytest.raises(TypeError, match="set is not kept"):
        save_plain(tmp_path / "other", {"a": {1}})


def test_generators_go_on_where_they_were(tmp_path):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=2)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    np.random.standard_normal()  # leaves one cached
    save = tmp_path / "state"
    save.mkdir()
    save_training(found.setup, save)

    def drawn():
        return random.random(), np.random.standard_normal(3).tolist(), torch.rand(2).tolist()

    first = drawn()
    load_training(found.setup, save)
    assert drawn() == first


def test_what_a_kill_left_of_checkpoints_goes_and_never_counts(tmp_path):
    """A half written one, and one whose removal was cut off."""
    whole = trained_in_two(tmp_path / "whole")
    folder = whole.folder.checkpoints
    (folder / ".step-000009.tmp").mkdir()
    shutil.copytree(folder / "step-000003", folder / ".step-000002.old")
    again = trainer(tmp_path / "whole", {"checkpoint_every": 1}, steps=4)
    train(again, Progress("off"), StopRequest(), dict)
    assert sorted(f.name for f in folder.iterdir()) == ["step-000003", "step-000004"]


def test_a_checkpoint_whose_removal_is_cut_off_has_another_name_before(tmp_path, monkeypatch):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=4)
    removed = []
    rmtree = shutil.rmtree

    def watch(path, **settings):
        if path.exists():
            removed.append(path.name)
        rmtree(path, **settings)

    monkeypatch.setattr(checkpoints.shutil, "rmtree", watch)
    train(found, Progress("off"), StopRequest(), dict)
    assert removed == [".step-000001.old", ".step-000002.old"]
