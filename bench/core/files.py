"""Files written whole or not at all, and digests of what they hold."""

import glob
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.core.errors import ConfigError


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest8(value: Any) -> str:
    """The first eight hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name to write a file under; at the end it takes the place of `path` at once.

    Readers see the old content or the new, also after power loss; after an error the old one is
    still there and nothing else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _clear_leftovers(path)
    try:
        yield temporary
        sync(temporary)
        _keep_mode_and_owner(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def clear_temporary(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half written in a folder, of one file or of all: for the
    holder of the lock under which these are written.
    """
    with suppress(OSError):
        for left in folder.glob(f".{glob.escape(name)}*.tmp"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


LEFT_S = 3600.0
"""Seconds after which a temporary file is what a killed process left."""


def _clear_leftovers(path: Path) -> None:
    with suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink(missing_ok=True)


def _keep_mode_and_owner(path: Path, temporary: Path) -> None:
    """What takes the place of a file is read and written by whom that one was."""
    with suppress(OSError):
        old = path.stat()
        temporary.chmod(stat.S_IMODE(old.st_mode))
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, old.st_uid, old.st_gid)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """`written_whole` for a folder that only one process writes; an old one is removed first."""
    # No process id in the name: what a killed process left here may be large, and is cleared.
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            sync(part)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ConfigError naming it where it is missing, cut or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of ValueError: no JSON, no UTF-8, huge numbers
        raise ConfigError(f"{str(path)!r} is damaged: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a JSONL file, parted by newlines alone: texts may hold other separators."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file as `written_whole` does."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Indented JSON, one line feed at its end."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json_text(value))


def is_stale(path: Path, content: bytes) -> bool:
    """Missing, or other bytes. A PNG need only be there: its bytes depend on the machine's zlib."""
    if not path.is_file():
        return True
    return path.suffix != ".png" and path.read_bytes() != content


def sync(path: Path) -> None:
    """Flush a file's or a folder's own entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
