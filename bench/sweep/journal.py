"""Optuna's journal with checksums: a line that is damaged, missing or twice is no trial's state.

Each line carries a checksum of itself and of the line before. What a killed writer left half
written is cut off by the next one. The lock is the operating system's: it dies with its process.
"""

import hashlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

from bench.core.errors import BenchError

SUM = "sum"
"""The field of a line that holds its checksum; lines of earlier versions have none."""


class JournalDamaged(BenchError):
    """A journal that does not say what was written into it."""


class Journal(JournalFileBackend):
    """A journal file. Raises OSError where it cannot be made, JournalDamaged where it is read."""

    def __init__(self, path: Path):
        self.path = path.absolute()
        # Before the first read: where each line begins, and the checksum of the one before.
        self._known: list[tuple[int, str]] = [(0, "")]
        super().__init__(str(self.path), lock_obj=_Lock(self.path))  # type: ignore[arg-type]

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        number = min(log_number_from, len(self._known) - 1)
        with self.path.open("rb") as file:
            offset, before = self._known[number]
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or what a kill cut short
                log, before = self._checked(line, number, before)
                offset += len(line)
                number += 1
                if number == len(self._known):
                    self._known.append((offset, before))
                if number > log_number_from:
                    yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lock.acquire()
        try:
            with self.path.open("r+b") as file:
                before = self._cut_and_last(file)
                lines = []
                for log in logs:
                    before = _chained(before, log)
                    lines.append(_text({**log, SUM: before}) + "\n")
                file.seek(0, 2)
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._lock.release()

    def _cut_and_last(self, file: Any) -> str:
        """Cut off a half-written last line; the checksum of the line that is then the last."""
        size = end = file.seek(0, 2)
        tail = b""
        while end and tail.count(b"\n") < 2:
            start = max(0, end - (1 << 16))
            file.seek(start)
            tail, end = file.read(end - start) + tail, start
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            file.truncate(size - len(tail) + len(whole))
        last = whole.rstrip(b"\n").rpartition(b"\n")[2]
        if not last:
            return ""
        try:
            return json.loads(last).get(SUM, "")
        except (ValueError, AttributeError):
            raise JournalDamaged(f"{self.path} is damaged in its last line") from None

    def _checked(self, line: bytes, number: int, before: str) -> tuple[dict[str, Any], str]:
        """The line's log, and its checksum."""
        try:
            log = json.loads(line)
            told = log.pop(SUM, None)
            if told is None and before == "":
                return log, ""
            if isinstance(told, str) and told == _chained(before, log):
                return log, told
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass
        raise JournalDamaged(f"{self.path} is damaged in line {number + 1}")


def _chained(before: str, log: dict[str, Any]) -> str:
    return hashlib.sha256((before + _text(log)).encode()).hexdigest()[:16]


def _text(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"))


class _Lock:
    """What optuna asks of a lock."""

    def __init__(self, path: Path):
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()
