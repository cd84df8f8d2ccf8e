"""The list of run folders: states read off the disk, conditions, removal."""

import shutil

import pytest

from bench.core.config import Experiment
from bench.core.errors import ConfigError, RunInUse
from bench.core.failure import failure_of, forget_failure, keep_failure
from bench.core.records import RunFolder
from bench.core.run_list import (
    clear_removed,
    drop_checkpoints,
    list_runs,
    matching,
    named_runs,
    remove,
)


def begun(runs, name, **values):
    """The folder of a run that took two steps."""
    folder = RunFolder(runs / name)
    folder.create(Experiment.parse(values).model_dump(mode="json"), {})
    for step in (1, 2):
        folder.append_metrics({"step": step, "loss": 1.0})
    return folder


def ids(entries):
    return {entry.run_id for entry in entries}


def test_each_run_has_its_state_and_other_folders_are_none(tmp_path):
    begun(tmp_path, "stopped", steps=7)
    failed = begun(tmp_path, "failed")
    keep_failure(failed, ValueError("no such token"))
    damaged = begun(tmp_path, "damaged")
    (damaged.path / "record.json").write_text("{}")
    running = begun(tmp_path, "running")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "rows.jsonl").write_text("")
    with running.lock():
        found = {entry.run_id: entry for entry in list_runs(tmp_path)}
    states = {run_id: entry.state for run_id, entry in found.items()}
    assert states == {n: n for n in ("stopped", "failed", "damaged", "running")}
    assert (found["stopped"].step, found["stopped"].steps) == (2, 7)
    assert found["failed"].error == "ValueError: no such token"
    assert "record.json" in str(found["damaged"].error)
    assert found["stopped"].error is None and found["stopped"].scores == {}
    assert found["stopped"].bytes >= (tmp_path / "stopped" / "metrics.jsonl").stat().st_size > 0
    assert {entry.run_id: entry.state for entry in list_runs(tmp_path)}["running"] == "stopped"


def test_a_folder_of_runs_that_is_not_there_has_none_and_a_file_is_refused(tmp_path):
    assert list_runs(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="runs_dir: .*file' cannot be read"):
        list_runs(tmp_path / "file")


def test_a_run_whose_settings_are_damaged_is_listed_with_what_is_wrong(tmp_path):
    folder = begun(tmp_path, "run")
    (folder.path / "experiment.json").write_text("{")
    (entry,) = list_runs(tmp_path)
    assert entry.state == "stopped" and entry.steps is None
    assert "experiment.json is damaged" in str(entry.error)


@pytest.mark.parametrize(
    "conditions, expected",
    [
        (["selector=entropy"], {"a", "b"}),
        (["selector=entropy", "keep=0.05"], {"a"}),
        (["keep=5e-2"], {"a", "c"}),
        (["eval-tasks=tiny_math"], {"a", "b", "c"}),
        (["eval_tasks=[]"], set()),
        (["population=null"], set()),
        (["population=sampled"], {"a", "b", "c"}),  # a default that no dump names
        (["state=stopped", "run_id=c"], {"c"}),
        (["state=done"], set()),
        ([], {"a", "b", "c"}),
    ],
)
def test_conditions_choose_runs(tmp_path, conditions, expected):
    begun(tmp_path, "a", selector="entropy", keep=0.05)
    begun(tmp_path, "b", selector="entropy", keep=0.2)
    begun(tmp_path, "c", selector="random", keep=0.05)
    assert Experiment().population == "sampled" and "population" not in Experiment().model_dump()
    assert ids(matching(list_runs(tmp_path), conditions)) == expected


@pytest.mark.parametrize("text, said", [("selector", "name=value"), ("selectr=x", "'selector'")])
def test_a_condition_that_names_nothing_is_refused(text, said):
    with pytest.raises(ConfigError, match=f"^where: .*{said}"):
        matching([], [text])


def test_runs_are_named_by_id_or_folder(tmp_path):
    begun(tmp_path, "run")
    assert ids(named_runs(["run", str(tmp_path / "run")], tmp_path)) == {"run"}
    for name in ("other", str(tmp_path)):
        with pytest.raises(ConfigError, match="neither a run in"):
            named_runs([name], tmp_path)


def test_a_removed_run_is_gone_and_one_in_use_or_behind_a_link_stays(tmp_path):
    runs = tmp_path / "runs"
    gone, held = begun(runs, "gone"), begun(runs, "held")
    real = begun(tmp_path / "elsewhere", "real")
    (runs / "link").symlink_to(real.path)
    (runs / "rows.jsonl").write_text("row\n")
    by_id = {entry.run_id: entry for entry in list_runs(runs)}
    remove(by_id["gone"])
    with held.lock(), pytest.raises(RunInUse):
        remove(by_id["held"])
    with pytest.raises(Exception, match="is a link"):
        remove(by_id["link"])
    assert not gone.path.exists() and held.path.is_dir() and real.path.is_dir()
    assert (runs / "rows.jsonl").read_text() == "row\n"
    assert ids(list_runs(runs)) == {"held", "link"}


def test_a_removal_that_was_cut_off_is_finished_and_is_no_run(tmp_path):
    folder = begun(tmp_path, "run")
    folder.path.rename(tmp_path / ".run.removed")
    begun(tmp_path, "other").path.rename(tmp_path / ".other.removed")
    mine = tmp_path / ".mine.removed"
    mine.mkdir()
    (mine / "notes.txt").write_text("")
    assert list_runs(tmp_path) == []
    clear_removed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.removed"]


def test_checkpoints_go_from_finished_runs_alone(tmp_path):
    folder = begun(tmp_path, "run")
    (folder.checkpoints / "step-000002").mkdir()
    (folder.checkpoints / "step-000002" / "totals.json").write_bytes(bytes(100))
    (entry,) = list_runs(tmp_path)
    assert drop_checkpoints(entry) == 0
    done = type(entry)(**{**vars(entry), "state": "done"})
    with folder.lock(), pytest.raises(RunInUse):
        drop_checkpoints(done)
    assert drop_checkpoints(done) == 100
    assert folder.checkpoints.is_dir() and not any(folder.checkpoints.iterdir())


def test_a_failure_is_kept_until_the_run_goes_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    keep_failure(folder, ConfigError("keep: 5"))
    assert failure_of(folder.path) is None  # it had not begun
    folder = begun(tmp_path, "run")
    try:
        raise KeyError("student_entropy_BT")
    except KeyError as error:
        keep_failure(folder, error)
    assert failure_of(folder.path) == "KeyError: 'student_entropy_BT'"
    assert 'raise KeyError("student_entropy_BT")' in folder.log.read_text()
    (folder.path / "failure.json").write_text("[")
    assert failure_of(folder.path) == "failure.json is damaged"
    forget_failure(folder.path)
    assert failure_of(folder.path) is None
    shutil.rmtree(folder.path)
    keep_failure(folder, ValueError())  # nothing to keep it in: not made again
    assert not folder.path.exists()
