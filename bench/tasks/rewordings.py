"""The embedded task's problems told again: in other words, or with one operand changed.

What CROP (arXiv 2608.13387) has a language model write, exact here: a paraphrase keeps the
arithmetic and changes wording alone, a counterfactual changes one number and nothing else.
"""

from bench.core.randomness import hash64
from bench.tasks.arithmetic import (
    GAIN_AT_PLACE,
    GAIN_FROM_NAME,
    LOSE_AT_PLACE,
    LOSE_TO_NAME,
    MAX_OPERAND,
    MAX_VALUE,
    MIN_OPERAND,
    NAMES,
    PLACES,
    Problem,
)

SYNONYMS = {
    verb: group
    for group in (GAIN_AT_PLACE, GAIN_FROM_NAME, LOSE_AT_PLACE, LOSE_TO_NAME)
    for verb in group
}
"""verb -> the verbs that may stand in its place."""


def paraphrase(problem: Problem) -> str:
    """The same arithmetic with another verb in every step, and other places and partners."""
    first, *steps, question = problem.question.split(". ")
    told = [_other_words(problem, place, step) for place, step in enumerate(steps)]
    return ". ".join([first, *told, question])


def one_change(problem: Problem) -> str:
    """The same words with one operand another one, such that every running value stays in range."""
    first, *steps, question = problem.question.split(". ")
    places = sorted(range(len(steps)), key=lambda p: hash64("one change", problem.id, p))
    for place in places:
        others = _other_operands(problem, place)
        if others:
            number = others[hash64("operand", problem.id, place) % len(others)]
            name, verb, _, *rest = steps[place].split(" ")
            steps[place] = " ".join([name, verb, str(number), *rest])
            return ". ".join([first, *steps, question])
    raise AssertionError(f"{problem.id}: no operand can be another one")  # a step of 2..20 has some


def _other_words(problem: Problem, place: int, step: str) -> str:
    name, verb, operand, item, *where = step.split(" ")
    verb = _another(verb, SYNONYMS[verb], "verb", problem.id, place)
    if where:
        known = PLACES if where[-1] in PLACES else tuple(n for n in NAMES if n != problem.name)
        where[-1] = _another(where[-1], known, "where", problem.id, place)
    return " ".join([name, verb, operand, item, *where])


def _another(word: str, words: tuple[str, ...], *key: str | int) -> str:
    others = [other for other in words if other != word]
    return others[hash64("paraphrase", *key) % len(others)]


def _other_operands(problem: Problem, place: int) -> list[int]:
    """Operands of a step, besides its own, that leave all later values within 0 to MAX_VALUE."""
    step = problem.steps[place]
    sign = 1 if step.operation == "+" else -1
    later = [other.result for other in problem.steps[place:]]
    return [
        number
        for number in range(MIN_OPERAND, MAX_OPERAND + 1)
        if number != step.operand
        and all(0 <= value + sign * (number - step.operand) <= MAX_VALUE for value in later)
    ]
