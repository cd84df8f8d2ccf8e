"""What the commands share: flags that many have, JSON on standard output, one line of error."""

import json
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter
from rich import markup
from rich.console import Console
from rich.table import Table

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.files import write_bytes
from bench.core.presets import experiment_from

Flat = Parameter(name="*")
UNBROKEN = 100_000
"""Columns of what is no terminal: whoever reads a pipe or a file breaks lines himself."""
DEFAULT_EXPERIMENT, DEFAULT_RUNTIME = Experiment(), Runtime()
RunsDir = Annotated[Path, Parameter(help="Folder of the run folders.")]
Preset = Annotated[
    str | None, Parameter(help="Named settings under the flags: paper (arXiv 2605.26844).")
]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON document.")]


def with_preset(experiment: Experiment, preset: str | None) -> Experiment:
    """The flags that were given, over the preset's settings."""
    given = {name: getattr(experiment, name) for name in experiment.model_fields_set}
    return experiment_from(given, preset)


def write_file(path: Path, content: bytes) -> None:
    """A file in a folder that need not be there. Raises ConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def check_folder(name: str, path: Path) -> None:
    """Raise ConfigError naming the flag where a folder is asked for and a file is in its place."""
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    if there is not None and not there.is_dir():
        raise ConfigError(f"{name}: {str(there)!r} is a file, not a folder")


def read_text(path: Path) -> str:
    """The text of a file given by the user."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()


def fail(message: str, code: int, process: int | None = None) -> NoReturn:
    """One line on standard error, and the exit code; a caret keeps the two lines it stands in.

    Of several processes only the first prints, and another what befell it alone.
    """
    from bench.core.progress import rank

    prefix = "bench: " if code == 3 else "bench: error: "
    if rank():
        prefix += f"process {rank()}: "
    lines = message.rstrip().split("\n")
    shown = lines[-2:] if len(lines) > 2 and lines[-1].strip() == "^" else []
    if rank() != (process or 0):
        raise SystemExit(code)
    told = " ".join(" ".join(lines[: len(lines) - len(shown)]).split())
    print(printable("\n".join([prefix + told, *shown])), file=sys.stderr)
    raise SystemExit(code)


def printable(text: str) -> str:
    """The text with control characters spelt out: a name may not steer the terminal."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else f"\\x{ord(character):02x}"
        for character in text
    )


def escape(text: str) -> str:
    """A text of anybody's, as rich's markup shows it as it is."""
    return markup.escape(printable(text))


def facts() -> Table:
    """An empty table of names and what is told of them, without lines."""
    return Table(show_header=False, box=None, pad_edge=False)


def console() -> Console:
    """Standard output; as wide as the terminal, and without one no line is broken."""
    found = Console()
    return found if found.is_terminal else Console(width=UNBROKEN, soft_wrap=True)
