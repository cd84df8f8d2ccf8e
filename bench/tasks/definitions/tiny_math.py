"""What the tiny_math task files point to: their documents and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean

from bench.tasks.arithmetic import Split, extract_answer, make_problem, prompt_text
from bench.tasks.definitions.documents import Documents
from bench.tasks.grader import Graded

ITEMS = 1000


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


def grade(
    responses: Sequence[Sequence[str]], documents: Sequence[Mapping[str, str]]
) -> list[list[Graded]]:
    """lm-eval's filter: an answer is right if it is the gold one as written."""
    return [
        [_graded(extract_answer(response), document["answer"]) for response in samples]
        for samples, document in zip(responses, documents, strict=True)
    ]


def _graded(answer: str | None, gold: str) -> Graded:
    return Graded(answer, "no answer" if answer is None else "right" if answer == gold else "wrong")


def score(document: Mapping[str, str], results: Sequence[Sequence[Graded]]) -> dict[str, float]:
    """exact_match: share of samples with the gold answer; pass_at_k: does any have it?"""
    scores = [graded.score for graded in results[0]]
    return {"exact_match": fmean(scores), "pass_at_k": max(scores)}
