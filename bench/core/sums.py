"""Checksums of a folder's files: what was written is what is read, or it is said.

`sums.json` lies beside or above the files and names each with its SHA-256. It is written before the
name that makes the folder count becomes final.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from bench.core.errors import BenchError, ConfigError
from bench.core.files import read_json, write_json

SUMS_FILE = "sums.json"


def sha256_of(file: Path) -> str:
    """Of a file's bytes, computed once as long as the file stays the same."""
    stat = file.stat()
    return _sha256_of(file.absolute(), stat.st_mtime_ns, stat.st_size, stat.st_ino)


@cache
def _sha256_of(file: Path, modified: int, size: int, inode: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sums_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Name inside the folder -> SHA-256, of these files of it."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(files)}


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    write_json(folder / SUMS_FILE, sums)


def read_sums(folder: Path) -> dict[str, str] | None:
    """Those of a folder; None where it has none. Raises ConfigError for a damaged file."""
    if not (folder / SUMS_FILE).is_file():
        return None
    sums = read_json(folder / SUMS_FILE)
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise ConfigError(f"{str(folder / SUMS_FILE)!r} is damaged: no checksums in it")
    return sums


def changed_files(folder: Path, under: str = "") -> list[str]:
    """The names that begin with `under` whose file is missing or is not as it was written."""
    sums = read_sums(folder) or {}
    return [
        name
        for name, digest in sums.items()
        if name.startswith(under)
        and not ((folder / name).is_file() and sha256_of(folder / name) == digest)
    ]


def refuse_changed(folder: Path, under: str, what: str, advice: str) -> None:
    """Raise BenchError where files of a folder are not as they were written."""
    if changed := changed_files(folder, under):
        shown = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        raise BenchError(f"{what}: {shown} changed since it was written; {advice}")
