"""What the task files of the public maths sets point to: documents, grading and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.core.config import INSTRUCTION
from bench.tasks.answers import boxed_answer, marked_answer
from bench.tasks.chat import message_of
from bench.tasks.definitions.documents import Documents
from bench.tasks.grader import Comparison, Graded, shared_grader
from bench.tasks.maths_sets import read_math_set

Document = Mapping[str, Any]


def dataset(
    data: str, relative: float | None = None, marked: bool = False, **metadata: object
) -> dict[str, Documents]:
    """The problems of a set; lm-eval passes in the whole metadata of the task file.

    `relative` is a tolerance between numbers; `marked` accepts an answer after "####".
    """
    return {
        "test": Documents(
            {
                "id": problem.id,
                "message": message_of(problem.question, INSTRUCTION),
                "answer": problem.answer,
                "absolute": problem.absolute,
                "relative": relative,
                "marked": marked,
            }
            for problem in read_math_set(data)
        )
    }


def extract(response: str, document: Document) -> str | None:
    """The answer that a response states."""
    answer = boxed_answer(response)
    return marked_answer(response) if answer is None and document["marked"] else answer


def grade(responses: Sequence[Sequence[str]], documents: Sequence[Document]) -> list[list[Graded]]:
    """lm-eval's filter: every sample of every document, compared side by side."""
    answers = [
        [extract(response, document) for response in samples]
        for samples, document in zip(responses, documents, strict=True)
    ]
    asked = {
        (row, answer): Comparison(d["answer"], answer, d["absolute"], d["relative"])
        for row, (given, d) in enumerate(zip(answers, documents, strict=True))
        for answer in given
        if answer is not None
    }
    verdicts = dict(zip(asked, shared_grader().verdicts(list(asked.values())), strict=True))
    return [
        [
            Graded(answer, "no answer" if answer is None else verdicts[row, answer])
            for answer in given
        ]
        for row, given in enumerate(answers)
    ]


def score(document: Document, results: Sequence[Sequence[Graded]]) -> dict[str, float]:
    """accuracy: share of right samples (avg@k); pass_at_k: is any of them right?"""
    scores = [graded.score for graded in results[0]]
    return {"accuracy": fmean(scores), "pass_at_k": max(scores)}
