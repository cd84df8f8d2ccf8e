"""The journal of a sweep: damage is seen, set aside and made good; a lock dies with its process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command import call
from small_sweep import TOML, rows_of, runtime, write

from bench.core.errors import BenchError, ConfigError
from bench.sweep import storage
from bench.sweep.journal import Journal, JournalDamaged
from bench.sweep.storage import open_study, without_password
from bench.sweep.study import SweepStudy
from bench.sweep.sweep_file import read_sweep

LOGS = [{"op_code": n, "text": f"line {n} ∆"} for n in range(6)]


def filled(tmp_path):
    journal = Journal(tmp_path / "journal.log")
    for log in LOGS[:4]:
        journal.append_logs([log])
    journal.append_logs(LOGS[4:])
    return journal


def test_what_was_appended_is_read_from_any_line_on(tmp_path):
    journal = filled(tmp_path)
    assert list(journal.read_logs(0)) == LOGS
    assert list(journal.read_logs(4)) == LOGS[4:] and list(journal.read_logs(6)) == []
    assert list(Journal(tmp_path / "journal.log").read_logs(3)) == LOGS[3:]
    assert list(journal.read_logs(2)) == LOGS[2:]


def test_a_half_written_last_line_is_not_read_and_the_next_writer_cuts_it_off(tmp_path):
    journal = filled(tmp_path)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":9,"te')
    assert list(journal.read_logs(0)) == LOGS
    other = Journal(tmp_path / "journal.log")
    other.append_logs([{"op_code": 7}])
    assert list(journal.read_logs(5)) == [LOGS[5], {"op_code": 7}]


DAMAGE = {
    "a bit of a value": lambda lines: [lines[0], lines[1].replace(b":1,", b":3,", 1), *lines[2:]],
    "a byte that ends the JSON": lambda lines: [lines[0], b"\x00" + lines[1][1:], *lines[2:]],
    "no UTF-8": lambda lines: [lines[0], lines[1].replace(b"\"op", b"\"\xff\xfe"), *lines[2:]],
    "a line deleted": lambda lines: [lines[0], *lines[2:]],
    "a line twice": lambda lines: [lines[0], lines[1], *lines[1:]],
    "two lines swapped": lambda lines: [lines[1], lines[0], *lines[2:]],
    "a line of garbage": lambda lines: [*lines[:3], b"garbage\n", *lines[3:]],
    "NULs at the end": lambda lines: [*lines, b"\x00" * 512 + b"\n"],
    "a list": lambda lines: [b"[]\n", *lines],
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_seen(tmp_path, how):
    filled(tmp_path)
    file = tmp_path / "journal.log"
    file.write_bytes(b"".join(DAMAGE[how](file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(JournalDamaged, match="journal.log is damaged in line"):
        list(Journal(file).read_logs(0))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two runs: its folder."""
    folder = tmp_path_factory.mktemp("swept")
    text = TOML.replace("[0, 1]", "[0]").replace('"full", ', "").replace("[0.1, 0.3]", "[0.1]")
    write(folder, text)
    from bench.sweep.study import work

    sweep = read_sweep(folder / "small.toml", runtime(folder))
    SweepStudy(sweep, None, runtime(folder)).enqueue()
    work(sweep, None, runtime(folder))
    return folder


@pytest.mark.parametrize("how", [*DAMAGE, "emptied", "deleted", "cut"])
def test_a_sweep_with_a_damaged_journal_goes_on_and_runs_nothing_twice(swept, how, capsys):
    (file,) = swept.glob("runs/sweeps/*/journal.log")
    whole, rows = file.read_bytes(), (swept / "runs" / "rows.jsonl").read_bytes()
    records = {f: f.stat().st_mtime_ns for f in swept.glob("runs/*/record.json")}
    if how == "deleted":
        file.unlink()
    elif how in ("emptied", "cut"):
        file.write_bytes(whole[: 0 if how == "emptied" else len(whole) // 2])
    else:
        file.write_bytes(b"".join(DAMAGE[how](whole.splitlines(keepends=True))))
    code, out, err = call(
        capsys, "sweep", swept / "small.toml", "--runs-dir", swept / "runs", "--progress", "off",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert (json.loads(out)["done"], json.loads(out)["failed"]) == (2, {})
    assert (swept / "runs" / "rows.jsonl").read_bytes() == rows and len(rows_of(swept)) == 2
    assert {f: f.stat().st_mtime_ns for f in records} == records
    if how in DAMAGE:
        assert "is damaged in line" in err and "is set aside as" in err
        assert list(file.parent.glob(".damaged-*-journal.log"))


def test_a_lock_of_a_killed_writer_is_free_also_in_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, time\nfrom pathlib import Path\nfrom bench.sweep.journal import Journal\n"
        "j = Journal(Path('runs/journal.log'))\nj._lock.acquire()\nprint('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "runs").mkdir()
    held = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None and held.stdout.readline() == "held\n"
    os.kill(held.pid, signal.SIGKILL)
    held.communicate()
    # What earlier versions left: a link that leads nowhere.
    os.symlink("runs/journal.log", tmp_path / "runs" / "journal.log.lock")
    began = time.monotonic()
    study = open_study("s", None, tmp_path / "runs")
    study.enqueue_trial({})
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("place", ["folder", "file/journal.log", "no/such/journal.log"])
def test_a_storage_that_is_no_place_for_a_journal_is_refused_in_one_line(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="storage: .* cannot be opened: ") as raised:
        open_study("s", str(tmp_path / place), tmp_path)
    assert "\n" not in str(raised.value)


def test_no_password_is_printed(tmp_path):
    url = "postgresql+psycopg://me:s3cret:x@127.0.0.1:1/none"
    with pytest.raises(ConfigError) as raised:
        open_study("s", url, tmp_path)
    assert "s3cret" not in str(raised.value) and "me:***@127.0.0.1" in str(raised.value)
    assert without_password("sqlite:///x.db") == "sqlite:///x.db"


def test_a_database_that_is_away_is_asked_again_and_then_said(tmp_path, monkeypatch):
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import OperationalError

    study = open_study("s", f"sqlite:///{tmp_path / 's.db'}", tmp_path)
    base, asked = study._storage._backend, []
    away = OperationalError("SELECT 1", {}, Exception("the server closed the connection"))

    def get_n(self, *arguments, **named):
        asked.append(1)
        if len(asked) < 3:
            raise away
        return []

    monkeypatch.setattr(storage.PatientStorage, "get_all_trials", storage._asked_again(get_n))
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    assert isinstance(base, RDBStorage) and base.get_all_trials(1) == [] and len(asked) == 3
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    asked.clear()
    with pytest.raises(
        BenchError, match="has not answered for 0 seconds .*closed the conn"
    ) as raised:
        base.get_all_trials(1)
    assert "\n" not in str(raised.value)
