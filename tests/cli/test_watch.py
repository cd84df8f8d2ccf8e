"""`bench watch`: what it shows on terminals of any size and off them, and how it ends."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from command import call, run_flags
from rich.console import Console
from small_sweep import GRID, TOML, write

from bench.cli import watch
from bench.cli.watch import draw_run, draw_sweep, sparkline
from bench.core.config import Experiment
from bench.core.failure import keep_failure
from bench.core.records import RunFolder
from bench.core.run_view import RunWatcher


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(watch, "EVERY_S", 0.01)
    monkeypatch.setattr(watch, "QUIET_S", 0.2)


def begun(runs, name="entropy-keep0.05-s0-0123abcd"):
    folder = RunFolder(runs / name)
    folder.create(Experiment(steps=20, selector="entropy").model_dump(mode="json"), {})
    for step in range(1, 5):
        folder.append_metrics(
            {"step": step, "loss": 1 / step, "grad_norm": 2.0, "seconds": {"loss": 30.0},
             **({"evaluation": {"tiny_math_tune": 0.5}} if step == 2 else {})}
        )  # fmt: skip
    return folder


def test_a_stopped_run_is_shown_once_with_where_it_stopped(capsys, tmp_path):
    folder = begun(tmp_path)
    code, out, err = call(capsys, "watch", folder.path.name, "--runs-dir", tmp_path)
    assert code == 3 and "stopped at step 4 of 20" in err
    line = f"{folder.path.name}: 4/20  stopped  loss 0.25  tiny_math_tune 50.0 % at step 2\n"
    assert out == line
    assert call(capsys, "watch", folder.path.name, "--runs-dir", tmp_path, "--once")[0] == 0


def test_a_failed_run_ends_with_why(capsys, tmp_path):
    folder = begun(tmp_path)
    keep_failure(folder, ValueError("no such token"))
    code, _, err = call(capsys, "watch", folder.path, "--runs-dir", tmp_path)
    assert code == 1 and "failed: ValueError: no such token" in err


def test_as_json_one_look(capsys, tmp_path):
    folder = begun(tmp_path)
    with folder.lock():
        code, out, _ = call(capsys, "watch", folder.path, "--json")
    found = json.loads(out)
    assert code == 0 and (found["state"], found["step"], found["phase"]) == ("running", 4, "trains")
    assert found["seconds_left"] == 480.0 and found["numbers"]["loss"]["last"] == 0.25


@pytest.mark.parametrize("what", ["nothing", "nothing.toml"])
def test_what_is_neither_run_nor_sweep_is_refused(capsys, tmp_path, what):
    code, _, err = call(capsys, "watch", what, "--runs-dir", tmp_path)
    assert code == 2 and what in err


def drawn(thing, draw, width, height=24, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    out = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    out.print(draw(thing, out))
    return file.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_run_fits_any_width_and_shows_what_it_does(tmp_path, width):
    folder = begun(tmp_path)
    with folder.lock():
        lines = drawn(RunWatcher(folder.path).look(), draw_run, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert folder.path.name in text and "trains" in text and "4/20" in text and "8 min" in text
    assert "grad norm" in text and "step 2: tiny_math_tune 50.0 %" in text and "█" in text


def test_a_terminal_without_utf8_gets_no_blocks(tmp_path):
    view = RunWatcher(begun(tmp_path).path).look()
    assert "█" not in "\n".join(drawn(view, draw_run, 80, encoding="ascii"))


def test_blocks_are_means_of_equal_shares():
    assert sparkline([1.0, 1.0, 2.0, 2.0], 2) == "▁█"
    assert sparkline([3.0], 10) == "▁"
    assert sparkline([float(n) for n in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)), 60)) == 60


SMALL = TOML.replace('"full", "random", "entropy"', '"random"').replace("[0.1, 0.3]", "[0.1]")


def test_a_sweep_that_nobody_runs_ends_after_a_while(capsys, tmp_path):
    path = write(tmp_path, SMALL)
    code, out, err = call(capsys, "watch", path, "--runs-dir", tmp_path / "runs")
    assert code == 3 and "2 trials are left and no worker runs" in err
    assert re.match(r"small-\w+: 0/2  failed 0  running -\n", out)
    assert not (tmp_path / "runs").exists()


def test_a_tuning_that_nobody_runs_ends_after_a_while(capsys, tmp_path):
    text = GRID.replace("{values}", "[1e-4, 3e-4, 1e-3]")
    path = write(tmp_path, text, sampler="grid", pruner="none")
    code, out, err = call(capsys, "watch", path, "--runs-dir", tmp_path / "runs")
    assert code == 3 and "no worker runs" in err and "tunes, 0/6 trials spent" in out


def test_a_finished_sweep_is_shown_with_its_table(capsys, tmp_path):
    from bench.sweep.sweep_view import SweepWatcher

    path = write(tmp_path, SMALL)
    runs = tmp_path / "runs"
    assert call(capsys, "sweep", path, "--runs-dir", runs, "--device", "cpu")[0] == 0
    code, out, _ = call(capsys, "watch", path, "--runs-dir", runs)
    assert code == 0 and ": 2/2  failed 0" in out
    code, out, _ = call(capsys, "watch", path, "--runs-dir", runs, "--json")
    (cell,) = json.loads(out)["table"]
    assert (cell["values"]["selector"], cell["seeds"]) == ("random", 2)
    from bench.core.config import Runtime

    view = SweepWatcher(path, None, Runtime(runs_dir=runs)).look()
    for width in (40, 80):
        lines = drawn(view, draw_sweep, width, height=12)
        assert max(map(len, lines)) <= width and "2/2" in "\n".join(lines)


class Terminal:
    """The command on a pseudo-terminal of so many columns."""

    def __init__(self, columns, *arguments):
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            command = [sys.executable, "-m", "bench", *map(str, arguments)]
            os.execv(sys.executable, command)
        self.resize(columns)
        self.shown = ""

    def resize(self, columns):
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read_until(self, pattern, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._end, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    break
            if pattern and re.search(pattern, self.shown):
                return True
        return pattern is None

    def code(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_it_attaches_to_a_run_survives_resizing_and_ends_with_it(tmp_path):
    flags = run_flags(tmp_path, selector="entropy", steps=3000)
    command = [sys.executable, "-m", "bench", "run", *map(str, flags)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        try:
            metrics = tmp_path / "runs" / "*" / "metrics.jsonl"
            end = time.monotonic() + 120
            while not (found := list(tmp_path.glob(str(metrics.relative_to(tmp_path))))):
                assert time.monotonic() < end and run.poll() is None
                time.sleep(0.1)
            terminal = Terminal(80, "watch", found[0].parent, "--runs-dir", tmp_path / "runs")
            assert terminal.read_until(r"\d+/3000", 60)
            terminal.resize(45)
            assert terminal.read_until(r"(?s)trains.*trains.*trains", 30)
            run.send_signal(signal.SIGINT)
            assert terminal.read_until(r"stopped at step \d+ of 3000", 60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                run.kill()
    terminal.read_until(None, 1)
    assert terminal.code() == 3
