"""What the tiny_math task files point to: their documents and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from bench.arithmetic import Split, extract_answer, make_problem, prompt_text

ITEMS = 1000


class Documents(list[dict[str, str]]):
    """Documents in memory, with the one attribute of a `datasets.Dataset` that lm-eval reads."""

    @property
    def features(self) -> dict[str, type[str]]:
        """Column names; lm-eval looks `doc_to_text` and `doc_to_target` up in them."""
        return dict.fromkeys(self[0], str)


def dataset(split: Split, **metadata: object) -> dict[str, Documents]:
    """The first ITEMS problems of `split`; lm-eval also passes in the task file's metadata."""
    return {split: _documents(split)}


@cache
def _documents(split: Split) -> Documents:
    problems = [make_problem(split, index) for index in range(ITEMS)]
    return Documents(
        {"id": problem.id, "prompt": prompt_text(problem), "answer": problem.answer}
        for problem in problems
    )


def score(document: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """exact_match: the answer, as written, is the gold one; parse_failure: there is no answer."""
    answer = extract_answer(results[0])
    return {
        "exact_match": float(answer == document["answer"]),
        "parse_failure": float(answer is None),
    }
