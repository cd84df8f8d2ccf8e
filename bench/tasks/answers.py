"""The answer in a response, and whether it is the gold one. Pure.

math-verify's comparisons can hang or eat memory: `grader` makes them in processes that it can kill.
"""

import re
from fractions import Fraction

FLOAT_TOLERANCE = 1e-6
"""Relative, between a decimal and another plain number: 0.333333 is 1/3."""
_INTEGER = r"\d{1,3}(?:,\d{3})+|\d+"

_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?P<whole>{_INTEGER}|)(?:\.(?P<decimals>\d*))?"
    r"(?:[eE](?P<e>[+-]?\d+)|(?:\\times|\\cdot|\*|x)10(?:\^|\*\*)\{?(?P<power>[+-]?\d+)\}?)?"
)

_POWER_OF_TEN = re.compile(r"(?P<sign>[+-]?)10\^\{?(?P<power>[+-]?\d+)\}?")
_LATEX_RATIO = re.compile(r"([+-]?)\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}|([+-]?)\\[dt]?frac(\d)(\d)")
LARGEST_POWER = 400


def is_equal(
    gold: str, answer: str, absolute: float | None = None, relative: float | None = None
) -> bool:
    """Do both state the same value? LaTeX or plain text; math-verify decides all but the plain.

    `absolute` and `relative` are the tolerances of the data set between plain numbers. Exact
    numbers (no decimal point) are equal or not; a decimal may differ by FLOAT_TOLERANCE.
    """
    gold, answer = tidy(gold), tidy(answer)
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    of_gold, of_answer = plain_number(gold), plain_number(answer)
    if of_gold is not None and of_answer is not None:
        return _numbers_agree(of_gold, of_answer, absolute, relative)
    return _math_verify(gold, answer)


def tidy(text: str) -> str:
    """Without what carries no value: spaces, math delimiters, sizes, units of one symbol."""
    text = text.replace("\\$", "").lstrip("$ \t\n").rstrip("$. \t\n")
    text = re.sub(r"\\(?:left|right|displaystyle|limits|!|,|;|:| )(?![a-zA-Z])", "", text)
    text = re.sub(r"\\(?:d|t)frac(?![a-zA-Z])", r"\\frac", text)
    text = text.replace("\\%", "").replace("%", "").replace("−", "-")
    text = re.sub(r"\^\{?\\circ\}?|°", "", text)
    if "\\text" in text:
        return " ".join(text.split())
    # A space ends a command before a letter (\pi r); elsewhere it means nothing.
    kept = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", text)
    return re.sub(r"\s+", "", kept).replace("\0", " ")


def plain_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, is exact) of an integer, decimal, power of ten or ratio of them; else None."""
    if ratio := _LATEX_RATIO.fullmatch(text):
        sign, above, below = [part for part in ratio.groups() if part is not None]
        return _ratio(sign + above, below)
    if text.count("/") == 1:
        return _ratio(*text.split("/"))
    if found := _POWER_OF_TEN.fullmatch(text):
        text = f"{found['sign']}1e{found['power']}"
    found = _NUMBER.fullmatch(text)
    if not found or not (found["whole"] or found["decimals"]):
        return None
    power = int(found["e"] or found["power"] or 0)
    if abs(power) > LARGEST_POWER:
        return None
    whole, decimals = (found["whole"] or "0").replace(",", ""), found["decimals"] or ""
    value = Fraction(int(whole + decimals), 10 ** len(decimals)) * Fraction(10) ** power
    is_exact = found["decimals"] is None and not (found["e"] or found["power"])
    return (-value if found["sign"] == "-" else value), is_exact


def _ratio(above: str, below: str) -> tuple[Fraction, bool] | None:
    top, bottom = plain_number(above), plain_number(below)
    if top is None or bottom is None or bottom[0] == 0:
        return None
    return top[0] / bottom[0], top[1] and bottom[1]


def _numbers_agree(
    gold: tuple[Fraction, bool],
    answer: tuple[Fraction, bool],
    absolute: float | None,
    relative: float | None,
) -> bool:
    gap = abs(gold[0] - answer[0])
    if absolute is not None and gap <= Fraction(absolute) * Fraction(101, 100):
        return True
    if relative is None:
        relative = 0.0 if gold[1] and answer[1] else FLOAT_TOLERANCE
    return gap <= Fraction(relative) * abs(gold[0])


def _math_verify(gold: str, answer: str) -> bool:
    from math_verify import parse, verify

    # Whoever runs this kills it when it hangs: math-verify's own alarm would only swallow that.
    read = [parse(f"\\boxed{{{text}}}", parsing_timeout=0) for text in (gold, answer)]
    return bool(verify(read[0], read[1], timeout_seconds=0))


def boxed_answer(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`; None where there is none or it is empty."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for place in range(match.end(), len(text)):
            # An escaped brace is part of a set's notation and is balanced like any other.
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[match.end() : place].strip() or None
    return None


def marked_answer(text: str) -> str | None:
    """The number after the first "#### ", GSM8K's own form, as lm-eval's strict filter reads it."""
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found[1].replace(",", "").removesuffix(".") if found else None
