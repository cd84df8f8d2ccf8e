"""What can go wrong in a way that one line explains, and the exit code it ends with."""

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """Something this package can explain in one line. The command line exits with 1."""

    exit_code = 1
    process: int | None = None
    """The one that it befell, of several launched together; None where it befalls all."""


class ConfigError(BenchError, ValueError):
    """Bad input: names the field, the value and what is accepted. Exit code 2."""

    exit_code = 2


class Stopped(BenchError):
    """Stopped on request after saving; the same command goes on from there. Exit code 3."""

    exit_code = 3


NO_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "can't start new thread",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Is it for want of memory, on a GPU or a CPU? torch says so in a RuntimeError's words."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    if isinstance(error, SystemError):  # C code that could not even say so
        return "without exception set" in said
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in NO_MEMORY)


FEW = 12
"""Names that are listed beside the nearest."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in `known`: suggests the nearest, or lists all; of a few
    names, both.
    """
    known = sorted(known)
    near = get_close_matches(name[:200], known, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    shown = repr(name) if len(name) <= 120 else f"{name[:60]!r}… of {len(name):,} characters"
    listed = "" if near and len(known) > FEW else f" known: {', '.join(known)}"
    return ConfigError(f"{kind}: unknown name {shown};{hint}{listed}")


class RunInUse(BenchError):
    """Another process is running this experiment."""
