"""The file of result rows: one line of JSON a run, appended once, by any number of processes.

A row carries its own checksum, so that a damaged line is no result.
"""

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.core.errors import BenchError, ConfigError
from bench.core.files import canonical_json, clear_temporary, write_text

SUM = "sha256"
"""The field of a row that holds the checksum of all others; older rows have none."""
PATIENCE_S, WAIT_S = 5.0, 1800.0
"""Seconds until a wait for another process is told, and until it ends."""
_NAMED = re.compile(r'"run_id":\s*"([^"\\]*)"')
ROOM_BYTES = 1 << 20
"""Free space that a file of rows must have before a run is begun: a row is a tenth of it."""


def row_sum(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's canonical JSON without the field that holds it."""
    rest = {name: value for name, value in row.items() if name != SUM}
    return hashlib.sha256(canonical_json(rest).encode("utf-8", "surrogatepass")).hexdigest()


def check_rows(rows: Path) -> None:
    """Raise ConfigError where a row could not be appended: a folder in the file's place, one that
    cannot be written, a full disk, a line that is no row.
    """
    rows = rows.resolve()
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        _read(rows)
        probe = rows.with_name(f".{rows.name}.{os.getpid()}.probe.tmp")
        try:
            with probe.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
                else:  # macOS
                    file.write(bytes(ROOM_BYTES))
        finally:
            probe.unlink(missing_ok=True)
        if rows.exists() and not os.access(rows, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(rows, error) from error


def find_row(rows: Path, run_id: str) -> dict[str, Any] | None:
    """The row of this run, if the file has it. Raises ConfigError for a damaged line of it."""
    if not rows.exists():
        return None
    for number, line in enumerate(_text(rows).split("\n"), 1):
        if run_id in line:
            row = _parsed(rows, number, line)
            if row["run_id"] == run_id:
                return row
    return None


def rows_of(rows: Path, run_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """run id -> its row, of those that the file has, by one reading of it.

    Raises ConfigError for a damaged line of one of them.
    """
    found: dict[str, dict[str, Any]] = {}
    if not rows.exists():
        return found
    for number, line in enumerate(_text(rows).split("\n"), 1):
        if any(named in run_ids for named in _NAMED.findall(line)):
            row = _parsed(rows, number, line)
            if row["run_id"] in run_ids:
                found.setdefault(row["run_id"], row)
    return found


def append_row(rows: Path, row: Mapping[str, Any]) -> bool:
    """Append a run's row unless the file has one of that run id; True when it was appended.

    A link stays one: the file that it leads to is written, with its mode and owner. Raises
    ConfigError, and leaves the file as it is, where it holds a line that is no row.
    """
    rows = rows.resolve()
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        with _lock(rows):
            text, known = _read(rows)
            if row["run_id"] in known:
                return False
            end = "\n" if text and not text.endswith("\n") else ""
            whole = {**row, SUM: row_sum(row)}
            write_text(rows, f"{text}{end}{canonical_json(whole)}\n")
            return True
    except OSError as error:
        raise _unwritable(rows, error) from error


@contextmanager
def _lock(rows: Path) -> Iterator[None]:
    """Exclusive use of the file, also by other users; a long wait for another process is told."""
    file = rows.with_name(f".{rows.name}.lock")
    lock = FileLock(file, mode=0o666)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        print(f"rows: another process holds {file}; waiting for it", file=sys.stderr)
        try:
            lock.acquire(timeout=WAIT_S)
        except Timeout:
            raise BenchError(
                f"rows: another process held {file} for {WAIT_S / 60:.0f} minutes; the run is "
                "kept, and the same command appends its row"
            ) from None
    try:
        clear_temporary(rows.parent, rows.name)
        yield
    finally:
        lock.release()


def _read(rows: Path) -> tuple[str, set[str]]:
    """The file's text and the run ids that it has; no text where it is not there."""
    if not rows.exists():
        return "", set()
    text = _text(rows)
    lines = enumerate(text.split("\n"), 1)
    return text, {_parsed(rows, n, line)["run_id"] for n, line in lines if line.strip()}


def _text(rows: Path) -> str:
    try:
        return rows.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"rows: {str(rows)!r} is damaged: no UTF-8 at byte {error.start}; mend it, or name "
            "another file"
        ) from None


def _parsed(rows: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row["run_id"], str) and row.get(SUM) in (None, row_sum(row)):
            return row
        why = "changed since it was written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        why = "is no row of a run"
    raise ConfigError(
        f"rows: {str(rows)!r}: line {number} {why}, and nothing is appended: mend or delete the "
        "line, or name another file"
    )


def _unwritable(rows: Path, error: OSError) -> ConfigError:
    return ConfigError(f"rows: {str(rows)!r} cannot be written: {error.strerror or error}")
