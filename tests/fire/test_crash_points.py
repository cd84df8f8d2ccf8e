"""Every file operation is a place to die: the same command then ends as if nothing had been."""

import shutil
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fire_share import drawn
from forks import FileOperations, command, forked, results, run_command
from small_sweep import TOML, runtime, write

from bench.core.result_rows import append_row
from bench.sweep.study import SweepStudy, work
from bench.sweep.sweep_file import read_sweep


def one_run(folder: Path) -> None:
    command(*run_command(folder))()


def resumed_run(folder: Path) -> None:
    """From step 2 of 3 on: reading, cutting and dropping are operations, too."""
    one_run(folder)


def one_sweep(folder: Path) -> None:
    text = TOML.replace("[0, 1]", "[0]").replace('"full", ', "").replace("[0.1, 0.3]", "[0.1]")
    folder.mkdir(parents=True, exist_ok=True)
    sweep = read_sweep(write(folder, text), runtime(folder))
    SweepStudy(sweep, None, runtime(folder)).enqueue()
    work(sweep, None, runtime(folder))


def rows_alone(folder: Path) -> None:
    for number in range(3):
        append_row(folder / "runs" / "rows.jsonl", {"run_id": f"r{number}", "value": number})


WORKS = {"run": one_run, "sweep": one_sweep, "rows": rows_alone}


@cache
def whole(name: str) -> tuple[dict, int]:
    """What the work gives in peace, and how many file operations it takes."""
    folder = Path(mkdtemp(prefix="fire-"))
    told = folder.with_suffix(".count")

    def counted_work():
        operations = FileOperations(folder)
        operations.install()
        WORKS[name](folder)
        told.write_text(str(len(operations.seen)))

    ended = forked(counted_work)
    assert ended.code == 0, ended.err
    found = results(folder / "runs")
    shutil.rmtree(folder)
    return found, int(told.read_text())


@pytest.mark.parametrize("name, few", [("run", 10), ("sweep", 4), ("rows", 2)])
def test_wherever_it_dies_the_same_command_ends_equal(name, few, tmp_path, counted):
    expected, operations = whole(name)
    assert operations > {"run": 100, "sweep": 150, "rows": 5}[name]
    for at in drawn(range(1, operations + 1), few, name):
        folder = tmp_path / str(at)
        watch = FileOperations(folder, at)
        watch.befall = watch.die

        def dying(folder=folder, watch=watch):
            watch.install()
            WORKS[name](folder)

        ended = forked(dying)
        assert ended.code in (-9, 0), (at, ended)  # 0: what was raced for was done by then
        again = forked(partial(WORKS[name], folder))
        assert again.code == 0, (at, again.err)
        assert results(folder / "runs") == expected, at
        left = [str(p) for p in (folder / "runs").rglob(".*") if p.suffix in (".tmp", ".old")]
        assert left == [], (at, left)
        shutil.rmtree(folder)
        counted("crash points")
