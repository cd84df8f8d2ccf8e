"""Scores models on tasks; what a model scores before training is kept, and shared by all runs."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from filelock import FileLock, Timeout
from torch import nn
from transformers import PreTrainedTokenizerBase

from bench.core.config import Runtime
from bench.core.errors import ConfigError
from bench.core.files import (
    canonical_json,
    clear_temporary,
    digest8,
    read_json,
    write_bytes,
    write_json,
)
from bench.core.processes import Processes
from bench.core.progress import Progress
from bench.core.provenance import code_digest
from bench.tasks.data_files import data_sha256
from bench.tasks.evaluate import evaluate
from bench.tasks.protocol import Asking, task_settings
from bench.tasks.results import TaskResult

Results = dict[str, TaskResult]
"""task -> result, of one model."""

EVALUATION_CODE = (
    "core/decode", "core/randomness", "core/sampling", "pairs/adapters", "pairs/agreement",
    "pairs/models", "tasks/answers", "tasks/arithmetic", "tasks/chat", "tasks/data_files",
    "tasks/definitions", "tasks/equality", "tasks/evaluate", "tasks/grader", "tasks/maths_sets",
    "tasks/notation", "tasks/plain_numbers", "tasks/protocol", "tasks/responses", "tasks/results",
    "tasks/symbolic", "tasks/units",
)  # fmt: skip
"""What a cached baseline depends on besides the model, the data and the settings."""
WAIT_S = 60.0
"""Seconds between two looks at a baseline that another run evaluates: shorter than what processes
that wait together allow."""


@dataclass(frozen=True)
class Baseline:
    """A model as it is before training."""

    label: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    stops: tuple[int, ...]
    sha256: str
    """Of its files, and of what else decides its answers."""
    shipped: Path | None = None
    """File of scores that came with the model."""


class Evaluations:
    """Scores models on tasks, counts the seconds, and keeps baselines by content."""

    def __init__(
        self,
        runtime: Runtime,
        asking: Asking,
        log: Path | None,
        progress: Progress,
        processes: Processes,
    ):
        self.runtime, self.asking = runtime, asking
        self.progress, self.processes = progress, processes
        self.log = log if self.processes.is_main else None
        self.seconds = 0.0
        self.curve_seconds = 0.0
        """The part of `seconds` that passed inside the training loop."""

    def examine(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        stops: tuple[int, ...],
        label: str,
        limit: int | None = None,
    ) -> Results:
        start = perf_counter()
        phases: set[str] = set()

        def report(task: str, done: int, total: int) -> None:
            if task not in phases:
                phases.add(task)
                self.progress.start(f"evaluate {label} on {task}", total)
            self.progress.update(done)

        with self.processes.autocast():
            results = evaluate(
                model,
                tokenizer,
                tasks,
                stop_ids=stops,
                batch_size=self.runtime.eval_batch,
                asking=self.asking,
                limit=limit,
                log_file=self.log,
                progress=report if label != "curve" else None,
                processes=self.processes,
            )
        passed = perf_counter() - start
        self.seconds += passed
        self.curve_seconds += passed if label == "curve" else 0.0
        return results

    def baselines(
        self, asked: Sequence[Baseline], tasks: Sequence[str], limit: int | None
    ) -> dict[str, Results]:
        """label -> results of models that no run changes, evaluated once per content and task.

        What another run is evaluating comes last, and is waited for: workers that start together
        share the models out.
        """
        found: dict[str, dict[str, TaskResult]] = {baseline.label: {} for baseline in asked}
        left = [(baseline, task) for baseline in asked for task in tasks]
        for patience in (0.0, WAIT_S):
            later = []
            for baseline, task in left:
                result = self._baseline(baseline, task, limit, patience)
                if result is None:
                    later.append((baseline, task))
                else:
                    found[baseline.label][task] = result
            left = later
        return {label: {task: by_task[task] for task in tasks} for label, by_task in found.items()}

    def _baseline(
        self, baseline: Baseline, task: str, limit: int | None, patience: float
    ) -> TaskResult | None:
        """None where another run is at it, and no patience is given."""
        file = self.file_of(baseline, task, limit)
        known = self.processes.lead(lambda: read_shipped(baseline.shipped, file.stem))
        if known is not None:
            return TaskResult.from_json(known)
        with ExitStack() as held:

            def take() -> bool:
                file.parent.mkdir(parents=True, exist_ok=True)
                with suppress(Timeout):
                    lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=patience)
                    held.enter_context(lock)
                    clear_temporary(file.parent, file.name)
                    return True
                return False

            while not self.processes.lead(take):
                if not patience:
                    return None
                self.progress.start(f"another run evaluates {baseline.label} on {task}; waiting", 1)
            known = self.processes.lead(lambda: _read_sealed(file, self.progress.note))
            if known is not None:
                return TaskResult.from_json(known)
            result = self.examine(
                baseline.model, baseline.tokenizer, [task], baseline.stops, baseline.label, limit
            )[task]
            self.processes.lead(lambda: _write_sealed(file, result.to_json()))
            return result

    def file_of(self, baseline: Baseline, task: str, limit: int | None) -> Path:
        """Where a baseline's score is kept; its name says all that the score depends on."""
        key = digest8(
            {
                "model": baseline.sha256,
                "task": task,
                "code": code_digest(EVALUATION_CODE),
                "data": data_sha256(data) if (data := task_settings(task).data) else None,
                "asking": asdict(self.asking.of(task)),
                "stops": sorted(baseline.stops),
                "limit": limit,
                "precision": self.processes.precision,
            }
        )
        return self.runtime.runs_dir / "baselines" / f"{baseline.label}-{task}-{key}.json"


def read_shipped(file: Path | None, name: str) -> dict[str, Any] | None:
    """A score that came with a model; None where it is of other code, settings or content.

    Raises ConfigError where the file is damaged.
    """
    if file is None or not file.is_file():
        return None
    found = read_json(file).get(name)
    if found is None:
        return None
    if found.get("sha256") != _seal(found.get("result")):
        raise ConfigError(f"{str(file)!r} is damaged: the checksum of {name} is another")
    return found["result"]


def write_shipped(file: Path, results: Mapping[str, TaskResult]) -> None:
    """name of a kept score -> the score, as `read_shipped` reads them."""
    values = {name: result.to_json() for name, result in results.items()}
    sealed = {name: {"sha256": _seal(value), "result": value} for name, value in values.items()}
    write_bytes(file, (canonical_json(sealed) + "\n").encode())


def _write_sealed(file: Path, value: dict[str, Any]) -> None:
    """A value with its own checksum."""
    write_json(file, {"sha256": _seal(value), "result": value})


def _read_sealed(file: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The value of a file as it was written; None where there is none. A damaged file is set aside,
    and said: what it holds is computed again.
    """
    if not file.is_file():
        return None
    try:
        found = read_json(file)
        if found["sha256"] == _seal(found["result"]):
            return found["result"]
        why = "its checksum is another"
    except (ConfigError, KeyError, TypeError) as error:
        why = str(error)
    aside = file.with_name(f".damaged-{file.name}")
    file.replace(aside)
    say(f"the kept score {file} is damaged and set aside as {aside}: {why}")
    return None


def _seal(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
