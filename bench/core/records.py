"""Run folders and the record of a run.

The state of a run is read off the disk: no folder, `incomplete`, or `done` (record.json, which is
written last).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.core.errors import ConfigError, RunInUse
from bench.core.fields import one_line
from bench.core.files import (
    canonical_json,
    clear_temporary,
    json_text,
    read_json,
    read_lines,
    write_bytes,
    write_json,
    write_text,
)
from bench.core.result_rows import SUM, row_sum
from bench.core.sums import refuse_changed, sums_of, write_sums

SCHEMA_VERSION = 1
LOOK_S = 0.2
"""Seconds for which a run waits for its folder: a look at who holds it takes it for an instant."""
Score = dict[str, Any]


class RunRecord(BaseModel):
    """What a finished run says of itself: record.json, and `bench run --json`."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    state: Literal["done"] = "done"
    experiment: dict[str, Any]
    scores: dict[str, dict[str, Score]]
    """untrained | trained | teacher -> task -> mean, n, ci95, parse_failure_rate, ..."""
    change: dict[str, Score]
    """task -> paired difference trained - untrained: mean, n, ci95."""
    curve: list[dict[str, Any]]
    """Evaluations during training: step, and task -> mean."""
    tokens: dict[str, int]
    """sampled, scored (by the teacher), trained."""
    realised_keep: float
    effective_sample_size: float | None
    """(Σw)²/Σw² summed over steps, for weights; None for a rule that keeps or drops."""
    clipped_step_share: float
    seconds: dict[str, float]
    """rollout; teacher (its backbone); score (student backbone, both heads, signals, selection);
    loss (gradient pass and update); evaluate; total."""
    peak_memory_bytes: int
    training: dict[str, float] = {}
    """`entropy` (nats a token, of the sampling distribution) and `response_length` (tokens) of the
    student's last tenth of steps; `grad_norm` before clipping, `displacement` of an update and,
    where it is logged, `overlap_with_initial`, means over steps. Older rows have none."""
    signals: dict[str, dict[str, float]] = {}
    """Each (B, T) signal that the rule read, mean over steps: `all` its mean over the sampled
    tokens, `q05` and `q95` its quantiles."""
    pair_facts: dict[str, float] = {}
    """What the pair says of itself as one of a family (`style_share`)."""
    points_to: dict[str, Any] = {}
    """Hashes of what the run id is made of beside the experiment: the rule's source (`selector`),
    the models (`teacher`, `student`, `reference`), `prompts`, `data`. Older rows have none."""
    ended: str | None = None
    """When the run ended: UTC, ISO 8601, to the second. Older rows have their order only."""
    engine_version: int = 1
    task_versions: dict[str, int] = {}
    """Of the tasks in `scores`; a task that is not named has version 1."""
    provenance: dict[str, Any]
    folder: str = ""
    """Where the run lies on its machine; result rows leave it out."""
    schema_version: int = SCHEMA_VERSION


class RunFolder:
    """One experiment's folder."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.log = path / "log.txt"
        self.shadow = path / "shadow.jsonl"
        self.token_bank = path / "token_bank"
        self._metrics = path / "metrics.jsonl"
        self._record = path / "record.json"

    @property
    def state(self) -> Literal["absent", "incomplete", "done"]:
        if self._record.is_file():
            return "done"
        return "incomplete" if self.path.is_dir() else "absent"

    def check_commits(self, commits: Mapping[str, str | None]) -> None:
        """Raise ConfigError where this run began with another commit of a hub model."""
        file = self.path / "experiment.json"
        try:
            began = read_json(file).get("commits", {}) if file.is_file() else {}
        except (ConfigError, AttributeError) as error:
            if not any(commits.values()):
                return  # of local models alone: it names no commit, and is written anew
            raise ConfigError(
                f"{error}: the commits that the run began with are lost; delete {self.path}"
            ) from error
        for side, commit in began.items():
            if commit != commits.get(side):
                raise ConfigError(
                    f"{side}: {self.path} began with commit {commit}, and {commits.get(side)} is "
                    f"what loads now; pin it with --{side} owner/name@{commit}, or delete the run"
                )

    def create(
        self,
        experiment: Mapping[str, Any],
        points_to: Mapping[str, Any],
        commits: Mapping[str, str | None] | None = None,
    ) -> None:
        """The folder with its experiment.json. Raises ConfigError where it cannot be written."""
        values: dict[str, Any] = {"experiment": experiment, "points_to": points_to}
        if named := {side: commit for side, commit in (commits or {}).items() if commit}:
            values["commits"] = named
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            clear_temporary(self.path)
            write_json(self.path / "experiment.json", values)
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {str(self.path.parent)!r} cannot be written: {error.strerror}"
            ) from error

    @contextmanager
    def lock(self):
        """Exclusive use of the folder. Raises RunInUse when another process has it."""
        held = FileLock(self.path / ".lock", timeout=LOOK_S)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held.acquire()
        except Timeout:
            raise RunInUse(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise ConfigError(
                f"runs_dir: {str(self.path.parent)!r} cannot be written: {error.strerror}"
            ) from error
        try:
            yield
        finally:
            held.release()

    def read_record(self) -> RunRecord:
        """Raises BenchError where it, or the scores beside it, are not as they were written."""
        for name in ("record.json", "evaluations.json"):
            refuse_changed(
                self.path, name, f"run {self.path}",
                f"delete {self._record}, and the same command scores the run again",
            )  # fmt: skip
        try:
            return RunRecord.model_validate(read_json(self._record))
        except ValidationError as error:
            raise ConfigError(
                f"{str(self._record)!r} is damaged: {one_line(error)}; delete it, and the same "
                "command scores the run again"
            ) from error

    def write_record(self, record: RunRecord, evaluations: Mapping[str, Any]) -> None:
        """The end of a run: every sample's score, checksums of all that it leaves, the record."""
        scores = self.path / "evaluations.json"
        write_json(scores, evaluations)
        content = json_text(record.model_dump(mode="json"))
        left = [scores, self.path / "experiment.json", self._metrics, self.shadow]
        left += [*self.model.rglob("*"), *self.token_bank.glob("*.parquet")]
        digest = hashlib.sha256(content.encode()).hexdigest()
        write_sums(
            self.path, {**sums_of(self.path, filter(Path.is_file, left)), self._record.name: digest}
        )
        write_text(self._record, content)

    def read_evaluations(self) -> dict[str, Any]:
        return read_json(self.path / "evaluations.json")

    def read_points(self) -> dict[str, Any]:
        """Hashes of what the run's id is made of beside the experiment."""
        said = read_json(self.path / "experiment.json")
        points = said.get("points_to") if isinstance(said, dict) else None
        return points if isinstance(points, dict) else {}

    def read_settings(self) -> dict[str, Any]:
        """The experiment that the run is of. Raises ConfigError for a damaged file."""
        file = self.path / "experiment.json"
        refuse_changed(
            self.path, file.name, f"run {self.path}", "its settings are no longer those it ran with"
        )
        try:
            return dict(read_json(file)["experiment"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{str(file)!r} is damaged: it holds no experiment") from error

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """One step's line; flushed, so that a kill loses at most the line being written."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(canonical_json(line) + "\n")

    def append_shadow(self, line: Mapping[str, Any]) -> None:
        """One step's line of the shadow panel, with its checksum: it is read by itself."""
        with self.shadow.open("a", encoding="utf-8") as file:
            file.write(canonical_json({**line, SUM: row_sum(line)}) + "\n")

    def steps_done(self) -> int:
        """Steps that metrics.jsonl has a line for."""
        return (
            self._metrics.read_text(encoding="utf-8").count("\n") if self._metrics.exists() else 0
        )

    def log_sums(self, steps: int) -> dict[str, str]:
        """SHA-256 of what each log says of the first so many steps."""
        logs = (self._metrics, self.shadow)
        return {log.name: hashlib.sha256(_lines_to(log, steps)).hexdigest() for log in logs}

    def logs(self) -> list[Path]:
        """Those that are there."""
        return [log for log in (self._metrics, self.shadow) if log.exists()]

    def metrics_hold(self, steps: int) -> bool:
        """Does metrics.jsonl begin with exactly one whole line of each of so many steps?"""
        try:
            lines = read_lines(self._metrics)[:steps] if self._metrics.exists() else []
            found = [json.loads(line) for line in lines]
            numbers = [line["loss"] for line in found]
            return [line["step"] for line in found] == list(range(1, steps + 1)) and all(
                map(math.isfinite, numbers)
            )
        except (ValueError, KeyError, TypeError):
            return False

    def curve(self) -> list[dict[str, Any]]:
        """The evaluations made during training, from metrics.jsonl."""
        lines = [json.loads(line) for line in read_lines(self._metrics)]
        return [
            {"step": line["step"], **line["evaluation"]} for line in lines if "evaluation" in line
        ]

    def signals(self) -> dict[str, dict[str, float]]:
        """Mean over steps of each logged signal's mean and quantiles, from metrics.jsonl."""
        values: dict[str, dict[str, list[float]]] = {}
        for line in read_lines(self._metrics):
            for name, summary in json.loads(line)["signals"].items():
                of_signal = values.setdefault(name, {})
                for key in ("all", "q05", "q95"):
                    of_signal.setdefault(key, []).append(summary[key])
        return {
            name: {key: sum(found) / len(found) for key, found in of_signal.items()}
            for name, of_signal in values.items()
        }

    def training(self) -> dict[str, float]:
        """What `RunRecord.training` says, from metrics.jsonl."""
        lines = [json.loads(line) for line in read_lines(self._metrics)]
        last = lines[-max(1, len(lines) // 10) :]
        found = {}
        for name, of in (
            ("entropy", last), ("response_length", last), ("grad_norm", lines),
            ("displacement", lines), ("overlap_with_initial", lines),
        ):  # fmt: skip
            values = [line[name] for line in of if name in line]
            if values:
                found[name] = sum(values) / len(values)
        return found

    def cut_logs(self, steps: int) -> None:
        """Drop what was logged of steps that a resumed run is about to take again."""
        for path in (self._metrics, self.shadow):
            _cut_lines(path, steps)
        for path in self.token_bank.glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > steps:
                path.unlink()


def _cut_lines(path: Path, steps: int) -> None:
    if path.exists():
        write_bytes(path, _lines_to(path, steps))


def _lines_to(path: Path, steps: int) -> bytes:
    """The whole lines of a log that are of the first so many steps."""
    kept: list[bytes] = []
    if not path.exists():
        return b""
    for line in path.read_bytes().split(b"\n"):
        try:
            if line and json.loads(line)["step"] <= steps:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            break  # the line that a kill cut short; nothing valid follows it
    return b"".join(kept)


def find_run(name: str, runs_dir: Path) -> Path | None:
    """The folder of a run, by its id in `runs_dir`, by its own path, or by the hash that ends its
    id; None where there is none. Raises ConfigError for a hash of several.
    """
    for folder in (runs_dir / name, Path(name)):
        if folder.is_dir():
            return folder
    if not re.fullmatch(r"[0-9a-f]{8}", name):
        return None
    found = sorted(folder for folder in runs_dir.glob(f"*-{name}") if folder.is_dir())
    if len(found) > 1:
        named = ", ".join(folder.name for folder in found)
        raise ConfigError(f"run: {name!r} ends the ids of several runs: {named}")
    return found[0] if found else None
