"""What ended a run by its own fault: kept in its folder until the same command goes on."""

import traceback
from contextlib import suppress
from pathlib import Path

from bench.core.errors import BenchError, ConfigError
from bench.core.files import read_json, write_json
from bench.core.records import RunFolder

FILE = "failure.json"


def keep_failure(folder: RunFolder, error: Exception) -> None:
    """One line in failure.json, the whole traceback in the run's log. Only where the run had begun;
    what cannot be written is not.
    """
    if not (folder.path / "experiment.json").is_file():
        return
    said = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    with suppress(OSError):
        with folder.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
        write_json(folder.path / FILE, {"error": said, "step": folder.steps_done()})


def failure_of(path: Path) -> str | None:
    """The line that the run's last process ended with; None where it did not fail."""
    try:
        return str(read_json(path / FILE)["error"]) if (path / FILE).is_file() else None
    except (ConfigError, KeyError, TypeError):
        return f"{FILE} is damaged"


def forget_failure(path: Path) -> None:
    """The run goes on."""
    (path / FILE).unlink(missing_ok=True)
