"""The questions and right answers of an evaluation task, by item id, for whoever shows them."""

from bench.core.errors import BenchError
from bench.tasks.arithmetic import Split
from bench.tasks.maths_sets import MATH_SETS, read_math_set

TINY: dict[str, Split] = {"tiny_math": "eval", "tiny_math_tune": "tune"}


def items_of(task: str) -> dict[str, tuple[str, str]]:
    """item id -> (question, right answer); empty for a task whose files are not here."""
    if task in TINY:
        from bench.tasks.definitions.tiny_math import _documents

        return {doc["id"]: (doc["prompt"], doc["answer"]) for doc in _documents(TINY[task])}
    if task not in MATH_SETS:
        return {}
    try:
        return {one.id: (one.question, one.answer) for one in read_math_set(task)}
    except BenchError:
        return {}
