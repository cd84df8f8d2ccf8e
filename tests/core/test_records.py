"""Run folders and rows: written whole or not at all, appended once, cut back on resume."""

import numpy as np
import pytest

from bench.core.files import canonical_json, digest8, write_text
from bench.core.provenance import peak_memory_bytes, provenance, reset_peak_memory
from bench.core.records import RunFolder


def test_equal_values_have_equal_json_whatever_their_order():
    assert canonical_json({"b": [1, 2.5], "a": "Δ"}) == '{"a":"Δ","b":[1,2.5]}'
    assert digest8({"a": 1, "b": 2}) == digest8({"b": 2, "a": 1}) != digest8({"a": 1, "b": 3})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_text(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_the_state_is_read_off_the_disk(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.state == "absent"
    folder.create({}, {})
    assert folder.state == "incomplete"
    (tmp_path / "run" / "record.json").write_text("{}")
    assert folder.state == "done"


def test_metrics_are_cut_back_to_the_checkpoint_and_a_torn_line_is_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    folder.cut_logs(2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step":1}\n{"step":2}\n'
    folder.append_metrics({"step": 3, "evaluation": {"tiny": 0.5}})
    assert folder.curve() == [{"step": 3, "tiny": 0.5}]
    assert folder.steps_done() == 3


def test_signals_are_means_over_the_steps(tmp_path):
    folder = RunFolder(tmp_path)
    for step, low in ((1, 0.0), (2, 0.5)):
        summary = {"all": 0.5, "selected": None, "q05": low, "q95": 1.0}
        folder.append_metrics({"step": step, "signals": {"entropy_BT": summary} if step else {}})
    assert folder.signals() == {"entropy_BT": {"all": 0.5, "q05": 0.25, "q95": 1.0}}


def test_a_new_peak_can_be_started():
    reset_peak_memory("cpu")
    low = peak_memory_bytes("cpu")
    block = np.ones(30_000_000)
    high = peak_memory_bytes("cpu")
    assert high - low > 0.9 * block.nbytes
    del block
    reset_peak_memory("cpu")
    assert peak_memory_bytes("cpu") < high - 100_000_000


def test_provenance_names_revision_versions_and_machine():
    found = provenance("cpu")
    assert len(found["git"]) == 40
    assert isinstance(found["dirty"], bool)
    assert {"torch", "transformers", "lm_eval"} <= set(found["versions"])
