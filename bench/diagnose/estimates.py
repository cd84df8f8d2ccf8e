"""Numbers of a record as text: fixed digits, a dash for what is not defined, intervals. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from bench.tables.sheet import NONE


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits, a real minus sign, never minus zero."""
    if value is None:
        return NONE
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def estimate(
    found: Mapping[str, Any] | None,
    name: str = "value",
    digits: int = 3,
    write: Callable[[float, int], str] = number,
) -> str:
    """`value (low to high)`, each as `write` writes it; the value alone without an interval."""
    if found is None or found[name] is None:
        return NONE
    text = write(found[name], digits)
    if found["ci95"] is None:
        return text
    low, high = (write(end, digits) for end in found["ci95"])
    return f"{text} ({low} to {high})"


def best_first(found: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """Scores by their value, the highest first; those without one last."""
    return sorted(found, key=lambda s: (found[s][name] is None, -(found[s][name] or 0.0)))
