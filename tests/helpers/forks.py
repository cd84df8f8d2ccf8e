"""Commands in forked children, which start in no time, and what befalls their file operations."""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from small_pair import pair_folder

from bench.cli.app import main

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
FLAGS = {
    "pair": pair_folder, "selector": "entropy", "keep": 0.3, "steps": 3, "prompts-per-step": 4,
    "max-new-tokens": 8, "eval-items": 8, "eval-max-new-tokens": 8, "k": 8, "checkpoint-every": 1,
    "eval-every": 1, "curve-items": 4, "progress": "off", "device": "cpu",
}  # fmt: skip
"""A run of a second, with a checkpoint and a point of its curve at every step."""


def run_command(folder: Path, *more: object, **changes: object) -> list[str]:
    values = {**FLAGS, "runs-dir": folder / "runs", **changes}
    given = [(name, value() if callable(value) else value) for name, value in values.items()]
    return ["run", *(str(part) for n, v in given for part in (f"--{n}", v)), *map(str, more)]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def is_one_line(self) -> bool:
        """Did it fail as it should: an exit code of ours, and one line of error at the end?"""
        lines = [line for line in self.err.splitlines() if line.startswith("bench: ")]
        return self.code in (1, 2, 3) and len(lines) == 1 and "Traceback" not in self.err


def forked(work: Callable[[], object], limit_s: float = 120.0) -> Ended:
    """Run `work` in a child of this process, which ends with it."""
    pair_folder()  # one for all children
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _in_child(work, out.fileno(), err.fileno())
        deadline = time.monotonic() + limit_s
        while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError(f"a child hung for {limit_s} s")
            time.sleep(0.01)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return Ended(os.waitstatus_to_exitcode(found[1]), *texts)


def _in_child(work: Callable[[], object], out: int, err: int) -> None:
    code = 98
    try:
        os.dup2(out, 1), os.dup2(err, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
        try:
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 97
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)


def command(*arguments: object) -> Callable[[], None]:
    """A command as work for a child; returns where it succeeds."""

    def work() -> None:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            if stop.code:
                raise

    return work


class FileOperations:
    """Counts the writing file operations under a folder; something befalls the Nth.

    `befall(event, path)` is called before the operation: it may kill the process, or raise what
    the operation then raises.
    """

    def __init__(self, folder: Path, at: int = 0, befall: Callable[[str, str], None] | None = None):
        self.folder, self.at, self.befall = str(folder), at, befall
        self.seen: list[tuple[str, str]] = []
        self._is_busy = False

    def install(self) -> None:
        """For the rest of this process: an audit hook stays."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self._is_busy or (event != "open" and event not in WRITES):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.fspath(path)
        path = path.decode() if isinstance(path, bytes) else path
        if not path.startswith(self.folder) or (event == "open" and not _writes(arguments)):
            return
        self.seen.append((event, path))
        if len(self.seen) == self.at and self.befall is not None:
            self._is_busy = True
            try:
                self.befall(event, path)
            finally:
                self._is_busy = False

    def die(self, event: str, path: str) -> None:
        """Before the operation; what was opened for writing before it is half written."""
        for before, file in self.seen[-2:-1]:
            if before == "open" and os.path.isfile(file) and not file.endswith(".lock"):
                with open(file, "rb") as half:
                    content = half.read()
                # Of a log only its last line was being written.
                start = content.rstrip(b"\n").rfind(b"\n") + 1 if file.endswith(LOGS) else 0
                os.truncate(file, start + (len(content) - start) // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def _writes(arguments: tuple) -> bool:
    mode, flags = arguments[1], arguments[2] or 0
    return bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))


LOGS = ("metrics.jsonl", "shadow.jsonl", "journal.log", "log.txt")
COSTS = ("seconds", "peak_memory_bytes", "provenance", "folder", "ended")


def results(runs: Path) -> dict:
    """What the runs of a folder give, without what differs from one time to the next."""
    found: dict = {}
    for record in sorted(runs.glob("*/record.json")):
        folder = record.parent
        values = json.loads(record.read_text())
        lines = [
            json.loads(line) for line in (folder / "metrics.jsonl").read_text().split("\n")[:-1]
        ]
        found[folder.name] = {
            "record": {name: value for name, value in values.items() if name not in COSTS},
            "metrics": [{k: v for k, v in line.items() if k not in COSTS} for line in lines],
            "weights": (folder / "model" / "model.safetensors").read_bytes(),
            "evaluations": (folder / "evaluations.json").read_text(),
        }
    rows = runs / "rows.jsonl"
    lines = rows.read_text().split("\n")[:-1] if rows.exists() else []
    found["rows"] = sorted(
        json.dumps({k: v for k, v in json.loads(line).items() if k not in (*COSTS, "sha256")})
        for line in lines
    )
    return found
