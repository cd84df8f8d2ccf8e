"""Prompts, what a set of them promises, and the embedded set."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from bench.core.errors import BenchError
from bench.core.randomness import hash64
from bench.tasks.arithmetic import Split, extract_answer, make_problem, prompt_text
from bench.tasks.chat import Chat
from bench.tasks.rewordings import one_change, paraphrase


@dataclass(frozen=True)
class Prompt:
    """One prompt. `text` is exactly what the model is fed; `id` is stable across runs."""

    id: str
    text: str
    answer: str
    split: str
    paraphrase: str | None = None
    """The same problem in other words, as text that a model is fed; None where its set has none."""
    one_change: str | None = None
    """The same words with one condition changed."""


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

    def check_rewordings(self) -> None:
        """Raise ConfigError where prompts have no paraphrase and no changed condition."""
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
        return [
            Prompt(
                p.id, prompt_text(p), p.answer, p.split, paraphrase(p) + "\n", one_change(p) + "\n"
            )
            for p in problems
        ]

    def sha256(self) -> None:
        return None

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        return extract_answer(response) == prompt.answer

    def check(self) -> None:
        pass

    def check_rewordings(self) -> None:
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
