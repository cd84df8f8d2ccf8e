"""The evaluation tasks, one lm-eval file each, and how a model is asked them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bench.core.config import Experiment
from bench.core.errors import ConfigError, unknown_name
from bench.tasks.chat import PLAIN_TEXT, Chat

TASK_FOLDER = Path(__file__).parent / "definitions"


@dataclass(frozen=True)
class TaskSettings:
    """A task's protocol: the `metadata` of its file."""

    samples: int = 1
    """k: responses to each problem."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    data: str | None = None
    """Its set in bench.tasks.maths_sets; None for a generated one."""
    chat: bool = False
    """Problems are asked through the run's chat template; else the text is fed as it is."""
    version: int = 1
    """Raised when a change of the task changes scores."""


def task_names() -> list[str]:
    """The tasks of this project: one file each, named after it."""
    return sorted(file.stem for file in TASK_FOLDER.glob("*.yaml") if not file.stem.startswith("_"))


def check_tasks(names: Sequence[str]) -> None:
    """Raise ConfigError for the first name that is no task, suggesting the nearest."""
    known = task_names()
    for name in names:
        if name not in known:
            raise unknown_name("task", name, known)


@cache
def task_settings(name: str) -> TaskSettings:
    """The settings of a task. Raises ConfigError for an unknown one."""
    check_tasks([name])
    metadata = _read(f"{name}.yaml").get("metadata", {})
    known = TaskSettings.__dataclass_fields__
    values: dict[str, Any] = {key: value for key, value in metadata.items() if key in known}
    values["version"] = int(metadata.get("version", 1))
    return TaskSettings(**values)


@dataclass(frozen=True)
class Asking:
    """How a model is asked; what is None is each task file's own."""

    chat: Chat = PLAIN_TEXT
    """How the problems of tasks that ask for it are put."""
    max_new_tokens: int = 64
    samples: int | None = None
    temperature: float | None = None
    """0 is greedy, with one sample."""
    top_p: float | None = None

    def of(self, task: str) -> "Asking":
        """Settled for one task. Raises ConfigError where several greedy samples are asked for."""
        own = task_settings(task)
        heat = own.temperature if self.temperature is None else self.temperature
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples: {self.samples} is not accepted: 1 or more")
        if heat == 0:
            if (self.samples or 1) > 1:
                raise ConfigError(
                    f"samples: {self.samples} of {task!r} at temperature 0 would all be the same; "
                    "give a temperature above 0"
                )
            return replace(self, samples=1, temperature=0.0, top_p=1.0)
        top_p = own.top_p if self.top_p is None else self.top_p
        return replace(self, samples=self.samples or own.samples, temperature=heat, top_p=top_p)


DEFAULT_ASKING = Asking()


def asking_of(experiment: Experiment, chat: Chat) -> Asking:
    """How the experiment evaluates: its own settings, and the chat of its training."""
    return Asking(
        chat,
        experiment.eval_max_new_tokens or experiment.max_new_tokens,
        experiment.eval_samples,
        experiment.eval_temperature,
        experiment.eval_top_p,
    )


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's `!function` as a plain word."""


_Loader.add_constructor("!function", lambda loader, node: node.value)


def _read(name: str) -> dict[str, Any]:
    """A task file over the one that it includes, as lm-eval merges them: key by key."""
    values = yaml.load((TASK_FOLDER / name).read_text(encoding="utf-8"), _Loader)
    return _read(values["include"]) | values if "include" in values else values
