"""Result rows: appended once, whole, by many; damage and faults are seen before a run begins."""

import json
import multiprocessing
import os
import threading
import time

import pytest
from filelock import FileLock

from bench.core import result_rows
from bench.core.errors import BenchError, ConfigError
from bench.core.files import write_text
from bench.core.result_rows import append_row, check_rows, find_row, row_sum, rows_of


def _append(rows, worker):
    for run in range(20):
        append_row(rows, {"run_id": f"{worker % 2}-{run}", "value": run})


def test_rows_from_many_processes_are_each_there_once(tmp_path):
    rows = tmp_path / "results" / "rows.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(rows, worker)) for worker in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
    found = [json.loads(line)["run_id"] for line in rows.read_text().splitlines()]
    assert sorted(found) == sorted(f"{w}-{run}" for w in range(2) for run in range(20))


def test_a_row_is_appended_to_rows_alone_and_changes_none_of_them(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"run_id": "a", "text": "one\u2028line"}')
    before = rows.read_text()
    assert append_row(rows, {"run_id": "b"}) and not append_row(rows, {"run_id": "a"})
    added = json.loads(rows.read_text().removeprefix(before))
    assert added == {"run_id": "b", "sha256": row_sum({"run_id": "b"})}
    for text in ('{"run_id": "a"}\nnotes of mine\n', "[1]", '{"prompt": "2 + 2"}'):
        rows.write_text(text)
        with pytest.raises(ConfigError, match="line [12] is no row of a run"):
            append_row(rows, {"run_id": "b"})
        assert rows.read_text() == text


def test_a_link_stays_a_link_and_mode_and_owner_stay(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "all.jsonl", tmp_path / "rows.jsonl"
    append_row(target, {"run_id": "a"})
    target.chmod(0o664)
    os.chown(target, 12345, 12345) if os.geteuid() == 0 else None
    before = target.stat()
    link.symlink_to(target)
    assert append_row(link, {"run_id": "b"})
    assert link.is_symlink() and len(target.read_text().splitlines()) == 2
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert (tmp_path / "there" / ".all.jsonl.lock").exists()  # one lock, by whatever name


def test_two_writers_by_two_names_lose_no_row(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    threads = [
        threading.Thread(
            target=lambda name=name: [
                append_row(tmp_path / name, {"run_id": f"{name}{i}"}) for i in range(20)
            ]
        )
        for name in ("rows.jsonl", "link.jsonl")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize(
    "damage, why",
    [
        (lambda text: text[:-20], "line 2 is no row"),
        (lambda text: text.replace('"score":0.5', '"score":0.6'), "line 1 changed since"),
        (lambda text: text.replace('"run_id":"b"', '"run_id":"c"'), "line 2 changed since"),
        (lambda text: text + "garbage\n", "line 3 is no row"),
        (lambda text: text + "[" * 100_000, "line 3 is no row"),
        (lambda text: text + "9" * 5_000, "line 3 is no row"),
        (lambda text: text.replace("score", "s\0core"), "line 1 is no row"),
    ],
)
def test_damage_is_said_before_and_nothing_is_appended(tmp_path, damage, why):
    rows = tmp_path / "rows.jsonl"
    for run_id in "ab":
        append_row(rows, {"run_id": run_id, "score": 0.5})
    check_rows(rows)
    rows.write_text(damage(rows.read_text()))
    left = rows.read_bytes()
    for act in (lambda: check_rows(rows), lambda: append_row(rows, {"run_id": "z"})):
        with pytest.raises(ConfigError, match=why):
            act()
    assert rows.read_bytes() == left


def test_no_utf8_is_damage(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"run_id": "a\xff"}\n')
    with pytest.raises(ConfigError, match="no UTF-8 at byte 13"):
        check_rows(tmp_path / "rows.jsonl")


def test_a_row_of_an_earlier_version_has_no_sum_and_counts(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"run_id": "a", "score": 0.5}\n')
    check_rows(tmp_path / "rows.jsonl")
    assert find_row(tmp_path / "rows.jsonl", "a")["score"] == 0.5
    assert find_row(tmp_path / "rows.jsonl", "b") is None


def test_a_place_that_cannot_be_written_is_said_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "rows.jsonl", tmp_path):
        with pytest.raises(
            ConfigError,
            match="rows: .* cannot be written: (File exists|Not a directory|Is a directory)",
        ):
            check_rows(place)
    monkeypatch.setattr(result_rows, "ROOM_BYTES", 1 << 60)
    with pytest.raises(ConfigError, match="rows: .* cannot be written: "):
        check_rows(tmp_path / "rows.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_wait_for_another_process_is_told_and_ends(tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    monkeypatch.setattr(result_rows, "PATIENCE_S", 0.1)
    held = FileLock(tmp_path / ".rows.jsonl.lock", thread_local=False, is_singleton=False)
    held.acquire()
    threading.Timer(1.0, held.release).start()
    began = time.monotonic()
    assert append_row(rows, {"run_id": "a"}) and time.monotonic() - began > 0.5
    assert "another process holds" in capsys.readouterr().err
    monkeypatch.setattr(result_rows, "WAIT_S", 0.1)
    with held, pytest.raises(BenchError, match="the run is kept"):
        append_row(rows, {"run_id": "b"})


def test_what_a_killed_write_left_goes(tmp_path):
    left = tmp_path / ".rows.jsonl.999.tmp"
    left.write_text("half")
    os.utime(left, (0, 0))
    append_row(tmp_path / "rows.jsonl", {"run_id": "a"})
    assert not left.exists()


def test_a_file_that_is_written_under_no_lock_leaves_what_others_write_now(tmp_path):
    left, fresh = (tmp_path / f".page.md.{pid}.tmp" for pid in (998, 999))
    for file in (left, fresh):
        file.write_text("half")
    os.utime(left, (0, 0))
    write_text(tmp_path / "page.md", "whole")
    assert not left.exists() and fresh.exists()


def test_rows_of_some_runs_are_found_whatever_else_names_a_run(tmp_path):
    rows = tmp_path / "rows.jsonl"
    nested = {"reference": {"run_id": "other"}, "run_id": "mine"}
    for row in (nested, {"run_id": "third"}, {"about": {"run_id": "mine"}, "run_id": "fourth"}):
        append_row(rows, row)
    found = rows_of(rows, {"mine", "absent"})
    assert list(found) == ["mine"] and found["mine"]["reference"] == {"run_id": "other"}
    assert rows_of(tmp_path / "none", {"mine"}) == {}
