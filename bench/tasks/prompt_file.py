"""Prompt sets: what the student answers during training. The only file that touches `datasets`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as filled
from pathlib import Path
from typing import Any

from bench.core.errors import ConfigError
from bench.core.randomness import hash64
from bench.tasks.answers import boxed_answer, marked_answer
from bench.tasks.chat import Chat, message_of
from bench.tasks.contamination import overlaps
from bench.tasks.data_files import file_sha256, missing, read_rows
from bench.tasks.grader import Comparison, shared_grader
from bench.tasks.maths_sets import (
    MATH_SETS,
    MathProblem,
    problem_id,
    question_of,
    read_math_set,
)
from bench.tasks.prompts import Prompt
from bench.tasks.row_fields import GOLD_COLUMNS, QUESTION_COLUMNS, field, gold_answer

REWORDINGS = ("paraphrase", "one_change")
"""Columns of a prompt file that rules of other wordings read."""


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
    unanswered: int
    """Of those kept, how many have no gold answer that could be read."""
    longest_allowed: int
    tokens: dict[str, int] = filled(default_factory=dict)
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

    def check_rewordings(self) -> None:
        missed = [name for name in REWORDINGS if name not in dict(self.columns)]
        if missed:
            raise ConfigError(
                f"columns: {self.name!r} needs a column with each {' and each '.join(missed)} of "
                "its questions for this selector: --columns "
                f"{','.join(f'{name}=NAME' for name in REWORDINGS)} (arithmetic writes both)"
            )

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

        def told(question: str | None) -> str | None:
            if question is None:
                return None
            return chat.text(tokenizer, message_of(question, self.instruction))

        prompts = tuple(
            Prompt(
                problem.id, text, problem.answer, "train", told(problem.paraphrase),
                told(problem.one_change),
            )
            for problem, text, length in zip(clean, texts, lengths, strict=True)
            if length <= self.max_prompt_tokens
        )  # fmt: skip
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
            unanswered=sum(not prompt.answer for prompt in prompts),
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
        answers = [columns["answer"]] if "answer" in columns else GOLD_COLUMNS
        found, rows = [], read_rows(self.path)
        named = columns.get("answer")
        if named and rows and not any(_has(row, named) for row in rows):
            raise ConfigError(
                f"prompts: {self.path}: no column {named!r}; it has {', '.join(rows[0])}"
            )
        for number, row in enumerate(rows, 1):
            try:
                question, answer = question_of(row, asked), gold_answer(row, answers)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"prompts: {self.path}: row {number}: {error.args[0]}; it has "
                    f"{', '.join(map(str, row))}; name others with --columns "
                    "question=NAME,answer=NAME"
                ) from None
            paraphrase, one_change = (
                self._reworded(row, number, columns.get(name)) for name in REWORDINGS
            )
            found.append(
                MathProblem(
                    problem_id("prompt", question), question, answer,
                    paraphrase=paraphrase, one_change=one_change,
                )
            )  # fmt: skip
        return found

    def _reworded(self, row: Mapping[str, Any], number: int, column: str | None) -> str | None:
        if column is None:
            return None
        text = field(row, column)
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f"prompts: {self.path}: row {number}: no text in column {column!r}; it has "
                f"{', '.join(map(str, row))}"
            )
        return text


def _has(row: Mapping[str, Any], path: str) -> bool:
    return path in row or field(row, path) is not None


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
