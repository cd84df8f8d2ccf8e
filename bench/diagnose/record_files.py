"""The files of a record: its JSON, its page and its figures, written, read and checked."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import ConfigError
from bench.core.files import is_stale, read_json, write_bytes, write_text
from bench.diagnose import figures as diagnostic_figures
from bench.diagnose import page as diagnostic_sheet
from bench.diagnose.diagnosis import Diagnosis

SCHEMA_VERSION = 1
RECORD, PAGE = "diagnostic.json", "diagnostic.md"


# --- files ---------------------------------------------------------------------------------------


def folder_name(pair: str, update: str) -> str:
    """The folder of a record: the pair's, and the update's where it is not `train`."""
    kind = update.partition(":")[0]
    name = Path(pair).name
    return name if kind == "train" else f"{name}-{kind}"


def documents(record: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content of all that is written from a record."""
    page = diagnostic_sheet.to_markdown(record).encode()
    return {PAGE: page, **diagnostic_figures.draw_all(record)}


def check_replaces(folder: Path, pair: str, diagnosis: Diagnosis) -> None:
    """Raise ConfigError where the record in the folder says more than this diagnosis would.

    More: of more prompts or more update seeds, or of another pair or update.
    """
    if not (folder / RECORD).is_file():
        return
    there, update = read_record(folder / RECORD), diagnosis.update
    prompts = diagnosis.responses // diagnosis.samples_per_prompt
    runs = update.partition(":")[2]
    seeds = len(runs.split(",") if runs else diagnosis.update_seeds)
    of_there = there["n_prompts"], len(there["update_seeds"])
    found = [
        f"responses: {prompts} prompts are fewer than {of_there[0]}" * (prompts < of_there[0]),
        f"update_seeds: {seeds} are fewer than {of_there[1]}" * (seeds < of_there[1]),
        f"pair: {pair!r} is not {there['pair']!r}"
        * (Path(pair).resolve() != Path(there["pair"]).resolve()),
        f"update: {update!r} is not {there['update']!r}" * (update != there["update"]),
    ]
    if any(found):
        raise ConfigError(
            f"{'; '.join(filter(None, found))} of the record in {str(folder)!r}: --replace writes "
            "over it, --out names another folder"
        )


def write(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """The record, its page and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, to_text(record))
    paths = [folder / RECORD]
    for name, content in documents(record).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        paths.append(path)
    return paths


def to_text(record: Mapping[str, Any]) -> str:
    """Indented JSON, with lists of numbers and innermost objects on one line each."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    for inner in (r"\[\s+([^\[\]{}]*?)\s+\]", r"\{\s+([^{}\n]*(?:\n[^{}\n]*){0,6}?)\s+\}"):
        text = re.sub(inner, lambda m: m[0][0] + re.sub(r"\s*\n\s*", " ", m[1]) + m[0][-1], text)
    return text + "\n"


def stale(folder: Path) -> list[Path]:
    """Files of a record that are missing or are not what it gives."""
    made = documents(read_record(folder / RECORD))
    return [folder / name for name, content in made.items() if is_stale(folder / name, content)]


def read_record(path: Path) -> dict[str, Any]:
    """A record that was written. Raises ConfigError naming the file."""
    record = read_json(path)
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{str(path)!r}: schema_version {version!r} is not {SCHEMA_VERSION}")
    return record
