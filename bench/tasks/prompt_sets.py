"""Names of prompt sets -> the sets: those for training, those held out, those to keep clear of."""

from pathlib import Path

from bench.core.config import Experiment
from bench.core.errors import ConfigError, unknown_name
from bench.tasks.data_files import SUFFIXES, find_file
from bench.tasks.maths_sets import HUB_ID, MATH_SETS, TRAINING_NAMES
from bench.tasks.prompt_file import PromptFile
from bench.tasks.prompts import Arithmetic, PromptSet, PromptSource
from bench.tasks.protocol import task_settings

_HELD_OUT: dict[str, PromptSet] = {"arithmetic": Arithmetic("tune")}
"""Prompts like those of a training set that no training run is given."""


def prompt_set_names() -> list[str]:
    """The names that `--prompts` knows, besides files and hub ids."""
    plain = {full: short for short, full in TRAINING_NAMES.items()}
    training = [name for name, found in MATH_SETS.items() if found.role == "train"]
    return ["arithmetic", *(plain.get(name, name) for name in training)]


def get_prompts(experiment: Experiment) -> PromptSource:
    """What the experiment's `prompts` names: a known set, a .jsonl or .parquet file, or a hub id.

    Raises ConfigError for an unknown name, with the nearest, and for a file that is not there.
    """
    name = experiment.prompts
    if experiment.columns and name in prompt_set_names():
        raise ConfigError(f"columns: {name!r} is a known set; columns are for files and hub sets")
    if name == "arithmetic":
        return Arithmetic()
    path = Path(name)
    if name in prompt_set_names():
        stem = TRAINING_NAMES.get(name, name)
        path, name = find_file(stem), stem
    elif path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"prompts: file {name!r} does not exist")
    elif path.is_file() or name.startswith((".", "/", "~")):
        raise ConfigError(f"prompts: {name!r} is not read: a file of prompts is .jsonl or .parquet")
    elif HUB_ID.fullmatch(name):
        stem = name.replace("/", "--")
        path, name = find_file(stem), name
    else:
        raise unknown_name("prompts", name, prompt_set_names())
    return PromptFile(
        name=name,
        path=path,
        columns=tuple(sorted(experiment.columns.items())),
        instruction=experiment.instruction,
        max_prompt_tokens=experiment.max_prompt_tokens,
        against=evaluation_sets(experiment),
    )


def evaluation_sets(experiment: Experiment) -> tuple[str, ...]:
    """The sets that `decontaminate` names. Raises ConfigError for an unknown one."""
    known = [name for name, found in MATH_SETS.items() if found.role == "evaluation"]
    tasks = [*experiment.eval_tasks, *(experiment.curve_tasks if experiment.eval_every else ())]
    found: list[str] = []
    for name in experiment.decontaminate:
        match name:
            case "none":
                if len(experiment.decontaminate) > 1:
                    raise ConfigError("decontaminate: none stands alone")
            case "all":
                found += known
            case "tasks":
                found += [data for task in tasks if (data := task_settings(task).data)]
            case _ if name in known:
                found.append(name)
            case _:
                raise unknown_name("decontaminate", name, [*known, "tasks", "all", "none"])
    return tuple(dict.fromkeys(found))


def get_held_out(experiment: Experiment) -> PromptSet:
    """Prompts like those of a generated training set that no training run is given.

    Raises ConfigError for an unknown set, and for one that has none.
    """
    get_prompts(experiment)
    if experiment.prompts not in _HELD_OUT:
        raise unknown_name("prompts: no held-out prompts go with", experiment.prompts, _HELD_OUT)
    return _HELD_OUT[experiment.prompts]
