"""A finished run as one line of rows.jsonl: its record, and every item's score."""

from collections.abc import Sequence
from typing import Any

from bench.core.records import RunFolder, RunRecord


def row_of(folder: RunFolder, record: RunRecord | None = None) -> dict[str, Any]:
    """The row, without its checksum. Raises BenchError where a file of it is damaged."""
    row = (record or folder.read_record()).model_dump(mode="json", exclude={"folder"})
    row["items"] = {
        who: {task: _compact(result["score_I"]) for task, result in found.items()}
        for who, found in folder.read_evaluations().items()
    }
    return row


def _compact(score_I: Sequence[float]) -> list[float | int]:
    """Whole scores as integers: half the bytes of a row."""
    return [int(score) if score == int(score) else score for score in score_I]
