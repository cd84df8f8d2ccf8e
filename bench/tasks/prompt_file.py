"""Prompt sets: what the student answers during training. The only file that touches `datasets`."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.core.config import BenchError, ConfigError, Experiment, unknown_name
from bench.core.randomness import hash64
from bench.tasks.arithmetic import Split, extract_answer, make_problem, prompt_text
from bench.tasks.chat import Chat, message_of
from bench.tasks.contamination import overlaps
from bench.tasks.grader import Comparison, boxed_answer, marked_answer, shared_grader
from bench.tasks.maths_sets import (
    ANSWER_COLUMNS,
    MATH_SETS,
    QUESTION_COLUMNS,
    SUFFIXES,
    TRAINING_NAMES,
    MathProblem,
    data_folder,
    file_sha256,
    find_file,
    missing,
    problem_id,
    question_of,
    read_math_set,
    read_rows,
)
from bench.tasks.protocol import task_settings

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `text` is exactly what the model is fed; `id` is stable across runs."""

    id: str
    text: str
    answer: str
    split: str


class PromptSet(Protocol):
    """A source of training prompts, ready to be fed."""

    def draw(self, step: int, count: int, seed: int) -> list[Prompt]:
        """The prompts of step `step` (from 0): a function of the arguments alone."""
        ...

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        """Whether the response (text before the stop token) has the prompt's answer."""
        ...


class PromptSource(Protocol):
    """What `--prompts` names, before a tokenizer is loaded."""

    def sha256(self) -> str | None:
        """Hash of the file behind it; None where there is no file."""
        ...

    def check(self) -> None:
        """Raise ConfigError where the file is not here."""
        ...

    def prepare(self, tokenizer: Any, chat: Chat) -> PromptSet:
        """The prompts that this tokenizer is fed. Raises ConfigError where data is missing."""
        ...


@dataclass(frozen=True)
class Arithmetic:
    """The embedded task: unlimited word problems, disjoint by problem from `tune` and `eval`."""

    split: Split = "train"

    def draw(self, step: int, count: int, seed: int) -> list[Prompt]:
        problems = [make_problem(self.split, step * count + i, seed) for i in range(count)]
        return [Prompt(p.id, prompt_text(p), p.answer, p.split) for p in problems]

    def sha256(self) -> None:
        return None

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        return extract_answer(response) == prompt.answer

    def check(self) -> None:
        pass

    def prepare(self, tokenizer: Any, chat: Chat) -> "Arithmetic":
        """Plain text, whatever the chat."""
        return self


def counterfactual(prompt: Prompt) -> str:
    """The prompt's text with every whole number another one of as many digits, keyed by its id.

    Equal numbers stay equal. Raises BenchError for a prompt without a number.
    """
    if not re.search(r"\d", prompt.text):
        raise BenchError(f"prompt {prompt.id!r} has no number, so it has no counterfactual")

    def other(found: re.Match[str]) -> str:
        low = 10 ** (len(found[0]) - 1) if len(found[0]) > 1 else 0
        size = 10 ** len(found[0]) - low
        # A shift by less than the whole range never comes back to the same number.
        shift = 1 + hash64("counterfactual", prompt.id, found[0]) % (size - 1)
        return str(low + (int(found[0]) - low + shift) % size)

    return re.sub(r"\d+", other, prompt.text)


@dataclass(frozen=True)
class PromptReport:
    """What became of the rows of a prompt file."""

    source: str
    rows: int
    repeated: int
    """Rows whose problem an earlier row has, case and spacing aside; left out."""
    contradicted: int
    """Problems that repeat with another answer; the first one is kept."""
    overlapping: dict[str, dict[str, int]]
    """By evaluation set: problems left that share 13 words in a row with it (`sharing`), those of
    them that share more than a stock phrase (`contaminated`), and the set's `items` concerned."""
    contaminated: int
    """Problems left out because any of those sets contaminates them."""
    too_long: int
    """Problems left out because their prompt has more than `longest_allowed` tokens."""
    kept: int
    longest_allowed: int
    tokens: dict[str, int] = field(default_factory=dict)
    """Length of the prompts before the cap: median, p99, longest."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FilePrompts:
    """The prompts of a file, in an order of the seed's; every one once before any comes again."""

    prompts: tuple[Prompt, ...]
    report: PromptReport

    def draw(self, step: int, count: int, seed: int) -> list[Prompt]:
        """Raises ConfigError where a step asks for more prompts than there are."""
        steps_in_epoch = len(self.prompts) // count
        if not steps_in_epoch:
            raise ConfigError(
                f"prompts_per_step: {count} is not accepted: {self.report.source!r} has "
                f"{len(self.prompts)} prompts after filtering"
            )
        epoch, place = divmod(step, steps_in_epoch)
        return self._order(seed, epoch)[place * count : (place + 1) * count]

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        answer = boxed_answer(response) or marked_answer(response)
        if answer is None:
            return False
        (verdict,) = shared_grader().verdicts([Comparison(prompt.answer, answer)])
        return verdict == "right"

    def undrawn(self, steps: int, count: int, seeds: Sequence[int]) -> list[Prompt]:
        """The prompts that no run of so many steps at one of the seeds is given, by key."""
        drawn = {p.id for seed in seeds for step in range(steps)
                 for p in self.draw(step, count, seed)}  # fmt: skip
        left = [prompt for prompt in self.prompts if prompt.id not in drawn]
        return sorted(left, key=lambda prompt: hash64("held out", prompt.id))

    def _order(self, seed: int, epoch: int) -> list[Prompt]:
        return sorted(self.prompts, key=lambda prompt: hash64(seed, "prompts", epoch, prompt.id))


@dataclass(frozen=True)
class PromptFile:
    """A public set or a file of one's own, and how its rows become prompts."""

    name: str
    path: Path | None
    """None where the file of a named set is not here."""
    columns: tuple[tuple[str, str], ...]
    instruction: str
    max_prompt_tokens: int
    against: tuple[str, ...]
    """Evaluation sets that the prompts must not overlap with."""

    def sha256(self) -> str:
        return file_sha256(self.path) if self.path else "missing"

    def check(self) -> None:
        if self.path is None:
            raise ConfigError(missing(self.name))

    def prepare(self, tokenizer: Any, chat: Chat) -> FilePrompts:
        """Unique, uncontaminated, short enough, through the chat template.

        Raises ConfigError where data is missing, or no prompt is left.
        """
        rows = self.problems()
        unique = list({problem.id: problem for problem in reversed(rows)}.values())[::-1]
        sets = {name: [p.question for p in read_math_set(name)] for name in self.against}
        shared = overlaps([problem.question for problem in unique], sets)
        dirty = {index for found in shared.values() for index in found.contaminated}
        clean = [problem for index, problem in enumerate(unique) if index not in dirty]
        texts = [chat.text(tokenizer, message_of(p.question, self.instruction)) for p in clean]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        lengths = [len(tokens) for tokens in ids]
        prompts = tuple(
            Prompt(problem.id, text, problem.answer, "train")
            for problem, text, length in zip(clean, texts, lengths, strict=True)
            if length <= self.max_prompt_tokens
        )
        report = PromptReport(
            source=self.name,
            rows=len(rows),
            repeated=len(rows) - len(unique),
            contradicted=_contradicted(rows),
            overlapping={
                name: {part: len(where) for part, where in vars(found).items()}
                for name, found in shared.items()
            },
            contaminated=len(dirty),
            too_long=len(clean) - len(prompts),
            kept=len(prompts),
            longest_allowed=self.max_prompt_tokens,
            tokens=_spread(lengths),
        )
        if not prompts:
            raise ConfigError(f"prompts: {self.name!r} has none left: {report.to_json()}")
        return FilePrompts(prompts, report)

    def problems(self) -> list[MathProblem]:
        """Every row of the file, repeated ones too."""
        self.check()
        assert self.path is not None
        if self.name in MATH_SETS:
            return read_math_set(self.name)
        columns = dict(self.columns)
        asked = [columns["question"]] if "question" in columns else QUESTION_COLUMNS
        answers = [columns["answer"]] if "answer" in columns else ANSWER_COLUMNS
        found = []
        for number, row in enumerate(read_rows(self.path), 1):
            try:
                question = question_of(row, asked)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"prompts: {self.path}: row {number}: {error.args[0]}; it has "
                    f"{', '.join(row)}; name one with --columns question=NAME"
                ) from None
            if "answer" in columns and columns["answer"] not in row:
                raise ConfigError(
                    f"prompts: {self.path}: row {number} has no column {columns['answer']!r}; "
                    f"it has {', '.join(row)}"
                )
            answer = next((str(row[name]) for name in answers if row.get(name) is not None), "")
            found.append(MathProblem(problem_id("prompt", question), question, answer))
        return found


def _contradicted(rows: Sequence[MathProblem]) -> int:
    answers = {(problem.id, problem.answer.strip()) for problem in rows}
    return sum(count > 1 for count in Counter(which for which, _ in answers).values())


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {
        "median": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "longest": ordered[-1],
    }


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
    elif path.suffix in SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"prompts: file {name!r} does not exist")
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


def fetch(name: str, config: str | None = None, split: str = "train") -> Path:
    """Download a named set, or any hub data set, into the data folder; returns its file.

    The only place that downloads data. Raises ConfigError when HF_HUB_OFFLINE is set, or the hub
    does not give it.
    """
    if name in MATH_SETS:
        found = MATH_SETS[name]
        hub, config, split, stem = found.hub, found.config, found.split, name
    elif HUB_ID.fullmatch(name):
        hub, stem = name, name.replace("/", "--")
    else:
        raise unknown_name("data set", name, MATH_SETS)
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(f"data set {name!r} is not fetched: HF_HUB_OFFLINE is set")
    import datasets

    path = data_folder() / f"{stem}.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = datasets.load_dataset(hub, config, split=split)
        temporary = path.with_suffix(".tmp")
        rows.to_parquet(str(temporary))
        temporary.replace(path)
    except Exception as error:  # the hub, the network and the disk each raise their own
        raise ConfigError(
            f"data set {name!r} could not be fetched from {hub!r}: {type(error).__name__}: {error}"
        ) from error
    return path


def get_held_out(experiment: Experiment) -> PromptSet:
    """Prompts like those of a generated training set that no training run is given.

    Raises ConfigError for an unknown set, and for one that has none.
    """
    get_prompts(experiment)
    if experiment.prompts not in _HELD_OUT:
        raise unknown_name("prompts: no held-out prompts go with", experiment.prompts, _HELD_OUT)
    return _HELD_OUT[experiment.prompts]
