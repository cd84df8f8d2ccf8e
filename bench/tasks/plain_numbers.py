"""Plain numbers in an answer: integers, decimals, powers of ten, mixed and repeating ones, ratios.
Pure.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from bench.tasks.notation import unwrapped

FLOAT_TOLERANCE = Fraction(1, 10**6)
"""Relative, between a decimal and another number: 0.333333 is 1/3."""
LARGEST_POWER = 400
PATIENCE = Fraction(101, 100)
"""Of a data set's absolute tolerance: 4.3 is within 0.1 of 4.2, whatever their last bits."""

_WHOLE = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?(?P<whole>{_WHOLE}|)(?:\.(?P<decimals>\d*))?"
    r"(?:[eE](?P<e>[+-]?\d+)|"
    r" ?(?:\\times|\\cdot|\*|x) ?10 ?(?:\^|\*\*) ?\{?(?P<power>[+-]?\d+)\}?)?"
)
_POWER_OF_TEN = re.compile(r"(?P<sign>[+-]?)10\^\{?(?P<power>[+-]?\d+)\}?")
_LATEX_RATIO = re.compile(r"([+-]?) ?\\frac\{([^{}]+)\}\{([^{}]+)\}")
_MIXED = re.compile(r"([+-]?)(\d+) ?\\frac\{(\d+)\}\{(\d+)\}|([+-]?)(\d+) (\d+)/(\d+)")
_REPEATING = re.compile(
    r"([+-]?)(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\{(\d+)\}|\\(?:overline|bar|dot) ?(\d)|\((\d+)\))"
)
_GOES_ON = re.compile(r"([+-]?)(\d*)\.(\d+)\\ldots")


@dataclass(frozen=True)
class Tolerance:
    """Between plain numbers, as the data set states it."""

    absolute: float | None = None
    relative: float | None = None


NONE = Tolerance()


@dataclass(frozen=True)
class Number:
    """A plain number, and how far off it may be as it is written."""

    value: Fraction
    step: Fraction = Fraction(0)
    """One in its last place; 0 for an exact one."""

    def __neg__(self) -> "Number":
        return Number(-self.value, self.step)

    def agrees(self, other: "Number", tolerance: Tolerance) -> bool:
        """`other` is the answer: equal if both are exact, else up to a decimal's last place."""
        gap = abs(self.value - other.value)
        if tolerance.absolute is not None and gap <= Fraction(tolerance.absolute) * PATIENCE:
            return True
        if tolerance.relative is not None:
            return gap <= Fraction(tolerance.relative) * abs(self.value)
        near = FLOAT_TOLERANCE * abs(self.value)
        return gap <= min(near, max(self.step, other.step))


def plain_number(text: str) -> Number | None:
    """An integer, decimal, power of ten, mixed number, repeating decimal or ratio; else None."""
    if not text.isascii():
        return None
    if mixed := _MIXED.fullmatch(text):
        sign, whole, above, below = [part for part in mixed.groups() if part is not None]
        if int(above) >= int(below):
            return None
        return _signed(sign, Number(int(whole) + Fraction(int(above), int(below))))
    if repeats := _REPEATING.fullmatch(text):
        sign, whole, decimals, *blocks = repeats.groups()
        block = next(filter(None, blocks))
        return _signed(sign, Number(_repeating(whole, decimals, block)))
    if goes_on := _GOES_ON.fullmatch(text):
        sign, whole, decimals = goes_on.groups()
        return _signed(sign, _going_on(whole, decimals))
    if ratio := _LATEX_RATIO.fullmatch(text):
        sign, above, below = ratio.groups()
        found = _ratio(above, below)
        return _signed(sign, found) if found else None
    if text.count("/") == 1:
        above, below = (unwrapped(part.strip(), "{", "}") for part in text.split("/"))
        return _ratio(above, below)
    if found := _POWER_OF_TEN.fullmatch(text):
        text = f"{found['sign']}1e{found['power']}"
    if not (found := _NUMBER.fullmatch(text)) or not (found["whole"] or found["decimals"]):
        return None
    power = found["e"] or found["power"] or "0"
    if len(power) > 5 or abs(int(power)) > LARGEST_POWER:
        return None
    whole = (found["whole"] or "0").replace(",", "").replace(" ", "")
    decimals = found["decimals"] or ""
    step = Fraction(10) ** (int(power) - len(decimals))
    is_exact = found["decimals"] is None and not (found["e"] or found["power"])
    value = int(whole + decimals) * step
    return _signed(found["sign"], Number(value, Fraction(0) if is_exact else step))


def _signed(sign: str, number: Number) -> Number:
    return -number if sign == "-" else number


def _ratio(above: str, below: str) -> Number | None:
    if "/" in above or "/" in below:
        return None
    top, bottom = plain_number(above.strip()), plain_number(below.strip())
    if top is None or bottom is None or bottom.value == 0:
        return None
    value = top.value / bottom.value
    return Number(value, abs(value) if top.step or bottom.step else Fraction(0))


def _repeating(whole: str, decimals: str, block: str) -> Fraction:
    fixed = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    return fixed + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(decimals))


def _going_on(whole: str, decimals: str) -> Number:
    """0.1666…: the shortest block that ends it twice or more goes on; else a decimal cut short."""
    for length in range(1, len(decimals) // 2 + 1):
        block, times = decimals[-length:], 3 if length == 1 else 2
        if decimals.endswith(block * times):
            return Number(_repeating(whole, decimals[:-length], block))
    step = Fraction(1, 10 ** len(decimals))
    return Number(int((whole or "0") + decimals) * step, step)
