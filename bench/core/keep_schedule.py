"""The budget over the steps of a run: a fraction, or a schedule of fractions.

A schedule is a text: `linear(0.5, 0.05)`, `cosine(0.5, 0.05)` (from the first step to the last) or
`step(0.5, 0.05, at=0.5)` (the second fraction from that share of the steps on). Imports no sibling.
"""

import math
import re

Keep = float | str
_FORMS = "linear(a, b), cosine(a, b), step(a, b, at=0.5) or constant(a)"
_NUMBER = r"\s*([0-9.eE+-]+)\s*"
_SCHEDULE = re.compile(
    rf"\s*(linear|cosine|step|constant)\s*\({_NUMBER}(?:,{_NUMBER})?(?:,\s*(?:at\s*=)?{_NUMBER})?\)\s*"
)
HEADLINE_KEEP = 0.05
"""The budget of a table or figure that shows one."""
DIGITS = 12
"""Fractions of a schedule are rounded to this many digits: the budget reads their text."""


def read_keep(value: object) -> Keep:
    """A fraction in (0, 1] as a float, or a schedule in its one spelling.

    Raises ValueError that says what is accepted.
    """
    if isinstance(value, str) and (found := _SCHEDULE.fullmatch(value)):
        return _schedule(found[1], [float(text) for text in found.groups()[1:] if text is not None])
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"it should be a valid number in (0, 1], or {_FORMS}") from None
    return _fraction(number)


def _fraction(number: float) -> float:
    if not number > 0:
        raise ValueError("a fraction should be greater than 0")
    if number > 1:
        raise ValueError("a fraction should be less than or equal to 1")
    return number


def _schedule(shape: str, numbers: list[float]) -> Keep:
    wanted = {"constant": (1,), "linear": (2,), "cosine": (2,), "step": (2, 3)}[shape]
    if len(numbers) not in wanted:
        raise ValueError(f"{shape} has {len(numbers)} numbers; accepted: {_FORMS}")
    first, *rest = numbers
    _fraction(first)
    if shape == "constant":
        return first
    last = _fraction(rest[0])
    if shape != "step":
        return f"{shape}({first:g}, {last:g})"
    at = rest[1] if len(rest) > 1 else 0.5
    if not 0 < at < 1:
        raise ValueError(f"at={at:g} is not a share of the steps in (0, 1)")
    return f"step({first:g}, {last:g}, at={at:g})"


def keep_at(keep: Keep, step: int, steps: int) -> float:
    """The fraction of step `step` (from 0) of `steps`."""
    if not isinstance(keep, str):
        return keep
    found = _SCHEDULE.fullmatch(keep)
    assert found is not None, keep
    first, last = float(found[2]), float(found[3])
    passed = step / (steps - 1) if steps > 1 else 0.0
    match found[1]:
        case "linear":
            done = passed
        case "cosine":
            done = (1 - math.cos(math.pi * passed)) / 2
        case _:
            done = float(step >= float(found[4]) * steps)
    return round(first + (last - first) * done, DIGITS)


def mean_keep(keep: Keep, steps: int) -> float:
    """The mean fraction over the steps."""
    if not isinstance(keep, str):
        return keep
    return round(sum(keep_at(keep, step, steps) for step in range(steps)) / steps, DIGITS)


def keep_name(keep: Keep) -> str:
    """The budget as tables and folders show it: `0.05`, or the schedule."""
    return keep if isinstance(keep, str) else f"{keep:g}"
