"""Expressions by their value, or by math-verify. Pure.

math-verify's comparisons can hang or eat memory: `grader` makes them in processes that it can kill.
"""

from typing import Any

from bench.tasks.plain_numbers import FLOAT_TOLERANCE

DIGITS = 200
"""Of the decimals by which two exact expressions are told apart."""


def state_the_same(gold: str, answer: str) -> bool:
    """Expressions without variables by their value to DIGITS; all else by math-verify, whose yes
    (six decimals, small terms chopped) stands where values at some points do not refute it.
    """
    from math_verify import parse, verify
    from sympy import Expr

    # Whoever runs this kills it when it hangs: math-verify's own alarm would only swallow that.
    read = [parse(f"\\boxed{{{text}}}", parsing_timeout=0) for text in (gold, answer)]
    first, second = (found[0] if found else None for found in read)
    if isinstance(first, Expr) and isinstance(second, Expr):
        if not (first.free_symbols or second.free_symbols):
            verdict = _values_agree(first, second)
            if verdict is not None:
                return verdict
        elif _is_refuted(first, second):
            return False
    return bool(verify(read[0], read[1], timeout_seconds=0, allow_set_relation_comp=True))


def _values_agree(first: Any, second: Any) -> bool | None:
    """None where they cannot be computed, or are too near to tell."""
    from sympy import Float, Rational, nan, oo, zoo

    first, second = first.doit(), second.doit()
    if isinstance(first, Rational) and isinstance(second, Rational):
        return bool(first == second)
    values = [expression.evalf(DIGITS) for expression in (first, second)]
    endless = [value in (oo, -oo, zoo, nan) or value.has(oo, zoo, nan) for value in values]
    if any(endless):
        return values[0] == values[1] and values[0] not in (zoo, nan)
    if not all((value.is_number and value.is_comparable) or value.is_complex for value in values):
        return None
    try:
        gap, size = (abs(values[0] - values[1]), max(abs(values[0]), abs(values[1])))
        if first.has(Float) or second.has(Float):
            return bool(gap <= float(FLOAT_TOLERANCE) * size)
        if gap > size * Float(10) ** (20 - DIGITS) and gap > Float(10) ** (20 - DIGITS):
            return False
        return True if gap <= size * Float(10) ** (20 - DIGITS) else None
    except (TypeError, ValueError):
        return None


POINTS = ((3, 7), (11, 13), (29, 5))
"""Numerators and denominators from which variables get values."""


def _is_refuted(first: Any, second: Any) -> bool:
    """Do they differ by more than rounding at some point where both have a value?"""
    from sympy import Float, Rational

    names = sorted(first.free_symbols | second.free_symbols, key=str)
    tolerance = float(FLOAT_TOLERANCE) if first.has(Float) or second.has(Float) else 1e-12
    for above, below in POINTS:
        at = {name: Rational(above + 2 * place, below) for place, name in enumerate(names)}
        try:
            one, other = (e.subs(at).doit().evalf(30) for e in (first, second))
            gap, size = abs(one - other), max(abs(one), abs(other))
            if not (gap.is_comparable and size.is_comparable):
                continue
            if gap > tolerance * size:
                return True
        except Exception:  # sympy raises anything; math-verify decides
            continue
    return False
