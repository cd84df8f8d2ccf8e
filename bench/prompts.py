"""Prompt sets: what the student answers during training."""

import re
from dataclasses import dataclass
from typing import Protocol

from bench.arithmetic import Split, extract_answer, make_problem, prompt_text
from bench.config import BenchError, unknown_name
from bench.keys import hash64


@dataclass(frozen=True)
class Prompt:
    """One prompt. `text` is exactly what the model is fed; `id` is stable across runs."""

    id: str
    text: str
    answer: str
    split: str


class PromptSet(Protocol):
    """A source of training prompts."""

    def draw(self, step: int, count: int, seed: int) -> list[Prompt]:
        """The prompts of step `step` (from 0): a function of the arguments alone."""
        ...

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        """Whether the response (text before the stop token) has the prompt's answer."""
        ...


@dataclass(frozen=True)
class Arithmetic:
    """The embedded task: unlimited word problems, disjoint by problem from `tune` and `eval`."""

    split: Split = "train"

    def draw(self, step: int, count: int, seed: int) -> list[Prompt]:
        problems = [make_problem(self.split, step * count + i, seed) for i in range(count)]
        return [Prompt(p.id, prompt_text(p), p.answer, p.split) for p in problems]

    def is_correct(self, prompt: Prompt, response: str) -> bool:
        return extract_answer(response) == prompt.answer


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


_PROMPT_SETS: dict[str, PromptSet] = {"arithmetic": Arithmetic()}


_HELD_OUT: dict[str, PromptSet] = {"arithmetic": Arithmetic("tune")}
"""Prompts like those of a training set that no training run is given."""


def prompt_set_names() -> list[str]:
    """The names that `get_prompts` knows."""
    return list(_PROMPT_SETS)


def get_prompts(name: str) -> PromptSet:
    """The prompt set of this name. Raises ConfigError for an unknown one, with the nearest."""
    if name not in _PROMPT_SETS:
        raise unknown_name("prompts", name, _PROMPT_SETS)
    return _PROMPT_SETS[name]


def get_held_out(name: str) -> PromptSet:
    """The held-out prompts that go with a training set; ConfigError where it has none."""
    get_prompts(name)
    if name not in _HELD_OUT:
        raise unknown_name("prompts: no held-out prompts go with", name, _HELD_OUT)
    return _HELD_OUT[name]
