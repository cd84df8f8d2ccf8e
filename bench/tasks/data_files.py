"""Files of problems: where they are, what rows they hold, what to do where one is missing."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from bench.core.errors import ConfigError

FOLDER_VARIABLE = "OPD_BENCH_DATA"
DEFAULT_FOLDER = "data"
SUFFIXES = (".jsonl", ".parquet")


def data_folder() -> Path:
    """Where the files are: $OPD_BENCH_DATA, else `data` in the working directory."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def find_file(name: str) -> Path | None:
    """The file of a set, if it is there: NAME.jsonl or NAME.parquet."""
    paths = (data_folder() / (name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def data_sha256(name: str) -> str | None:
    """Hash of a set's file; None where it is not here."""
    path = find_file(name)
    return file_sha256(path) if path else None


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, computed once as long as the file stays the same."""
    stat = path.stat()
    return _file_sha256(path.absolute(), stat.st_mtime_ns, stat.st_size)


@cache
def _file_sha256(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def missing(name: str) -> str:
    """What to do about a set that is not here."""
    stem = name.replace("/", "--")
    return (
        f"data set {name!r} is not here: put {stem}.jsonl or {stem}.parquet into "
        f"{str(data_folder())!r} (set {FOLDER_VARIABLE} for another folder), or run "
        f"`bench data fetch {name}`"
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL or Parquet file. Raises ConfigError naming the file and the line."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{str(path)!r} is not read: a data file is .jsonl or .parquet")
    try:
        if suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # pyarrow's errors are of these two
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{str(path)!r} cannot be read: {said}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # no JSON, numbers of thousands of digits
            raise ConfigError(f"{path}:{number}: no JSON: {error}") from None
        if row is not None and not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: a row is an object, not {type(row).__name__}")
        rows += [row] if row is not None else []
    return rows
