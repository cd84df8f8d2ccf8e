"""A fault at every write: one line of error, and the same command later ends equal."""

import errno
import os
import resource
import shutil
import signal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fire_share import drawn
from forks import FileOperations, command, forked, results, run_command
from small_pair import pair_folder

from bench.core.result_rows import append_row

FAULTS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


@cache
def whole() -> tuple[dict, int]:
    folder = Path(mkdtemp(prefix="fire-"))
    told = folder.with_suffix(".count")

    def work():
        operations = FileOperations(folder)
        operations.install()
        command(*run_command(folder))()
        told.write_text(str(len(operations.seen)))

    assert forked(work).code == 0
    found = results(folder / "runs")
    shutil.rmtree(folder)
    return found, int(told.read_text())


def cases() -> list[tuple[int, int]]:
    return [(at, number) for at in range(1, whole()[1] + 1) for number in FAULTS]


def holds(folder: Path, work) -> None:
    """One line where it failed; then the same command ends as in peace."""
    ended = forked(work)
    assert ended.code == 0 or ended.is_one_line, (folder.name, ended)
    again = forked(command(*run_command(folder)))
    assert again.code == 0, (folder.name, again.err)
    assert results(folder / "runs") == whole()[0], folder.name
    shutil.rmtree(folder)


def test_a_fault_of_any_file_operation_is_one_line(tmp_path, counted):
    for at, number in drawn(cases(), 12, "faults"):
        folder = tmp_path / f"{at}-{errno.errorcode[number]}"

        def work(folder=folder, at=at, number=number):
            def fail(event, path):
                raise OSError(number, os.strerror(number), path)

            FileOperations(folder, at, fail).install()
            command(*run_command(folder))()

        holds(folder, work)
        counted("write faults")


def test_a_disk_that_fills_up_from_some_file_size_on_is_one_line(tmp_path, counted):
    """The kernel's own refusal, in the middle of a write, also of those that are not Python's."""
    sizes = [3000, 5000, 8000, 12_000, 20_000, 30_000, 50_000, 100_000, 200_000, 400_000]
    for size in drawn(sizes, 4, "sizes"):
        folder = tmp_path / str(size)

        def work(folder=folder, size=size):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            command(*run_command(folder))()

        ended = forked(work)
        assert ended.code == 0 or ended.is_one_line, (size, ended)
        again = forked(command(*run_command(folder)))
        assert again.code == 0 and results(folder / "runs") == whole()[0], (size, again.err)
        counted("full disks")


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_another_user_of_a_shared_folder_is_told_and_harms_nothing(tmp_path, counted):
    """Two users: the second one reads what is done, appends rows where it may, else is told."""
    done = forked(command(*run_command(tmp_path)))
    assert done.code == 0
    before = results(tmp_path / "runs")
    for place in (pair_folder(), *pair_folder().rglob("*"), tmp_path, *tmp_path.parents[:-2]):
        place.chmod(0o755)

    def as_other(**changes):
        def work():
            command(*run_command(tmp_path / "warm"))()  # the other may not read what is imported
            os.setgid(65534), os.setuid(65534)
            command(*run_command(tmp_path, **changes))()

        return work

    for changes in ({}, {"selector": "random"}):
        ended = forked(as_other(**changes))
        assert ended.is_one_line and "cannot be written" in ended.err, ended
    assert results(tmp_path / "runs") == before
    counted("other users", 2)
    # A folder and a file that both may write: the lock that one made is the other's, too.
    (tmp_path / "runs").chmod(0o777)
    rows = tmp_path / "runs" / "rows.jsonl"
    rows.chmod(0o666)

    def append():
        os.setgid(65534), os.setuid(65534)
        assert append_row(rows, {"run_id": "of another user"})

    ended = forked(append)
    assert ended.code == 0, ended.err
    assert len(rows.read_text().splitlines()) == 2 and rows.stat().st_mode & 0o777 == 0o666
    counted("other users")
