"""Is an answer the gold one? Units, bases, ranges, words and what is made of parts are read here;
numbers in `plain_numbers`, and what is left in `symbolic`. Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from bench.tasks.notation import LONGEST, RANGE, closing_of, compact, plain, split, unwrapped
from bench.tasks.plain_numbers import NONE, Number, Tolerance, plain_number
from bench.tasks.symbolic import state_the_same
from bench.tasks.units import without_unit

VERSION = 2
"""Of what is right: raised, as the task files' own, when a change here or in what it reads with
changes a verdict. It is in the id of a run whose rule reads rewards of a file's problems.
"""
DEEPEST = 8
"""Brackets inside brackets that are read."""
MANY = 64
"""Parts of a list that are compared with each other in any order."""
_BASED = re.compile(r"([0-9A-Za-z]+)_(?:\{ ?(?:\\text\{)? ?([0-9]+|[a-z]+) ?\}?\}?|(\d))")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip
_RANGE = re.compile(rf"(-?[\d.,]+) ?(?:{RANGE}|--| to ) ?(-?[\d.,]+)")
_HYPHENED = re.compile(r"([\d.,]+)-([\d.,]+)")
_ASSIGNED = re.compile(r"(\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([\w, ]+\))?|\([\w, ]+\)) ?(?:=|\\in) ?")
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|in|approx)(?![a-zA-Z])")
_SEPARATORS = (
    r",? ?\\text\{ ?(?:and|or) ?\}|,? (?:and|or) |;|,(?! ?\d{3}(?!\d))|, |(?<=[)\]}]),|,(?=\d{3})"
)
_MATRIX = re.compile(
    r"[(\[]? ?\\begin\{([pbBvV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{\1\} ?[)\]]?",
    re.DOTALL,
)


def is_equal(
    gold: str, answer: str, absolute: float | None = None, relative: float | None = None
) -> bool:
    """Do both state the same value? LaTeX or plain text.

    `absolute` and `relative` are the tolerances of the data set between plain numbers. Exact
    numbers (no decimal point) are equal or not; a decimal may differ by FLOAT_TOLERANCE.
    """
    if len(gold) > LONGEST or len(answer) > LONGEST:
        # Padding carries no value, and is taken off in linear time.
        gold, answer = re.sub(r"\\[ ,]|\s+", " ", gold).strip(), re.sub(r"\\[ ,]|\s+", " ", answer)
        answer = " ".join(answer.split()).rstrip("\\ ")
        if len(gold) > LONGEST or len(answer) > LONGEST:
            return gold.strip() == answer
    return _same(plain(gold), plain(answer), Tolerance(absolute, relative), 0)


def _same(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool:
    if not gold or not answer or depth > DEEPEST:
        return False
    if gold == answer or compact(gold) == compact(answer):
        return True
    for read in (_as_numbers, _as_range, _as_based, _as_quantity, _as_words, _as_matrices,
                 _as_assigned, _as_parts):  # fmt: skip
        verdict = read(gold, answer, tolerance, depth)
        if verdict is not None:
            return verdict
    if re.search(r"\d \d", gold) or re.search(r"\d \d", answer):
        return False  # two numbers side by side are not one
    return state_the_same(compact(_in_radians(gold)), compact(_in_radians(answer)))


# Each reader says None where the pair is not of its kind.


def _as_numbers(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    of_gold, of_answer = plain_number(gold), plain_number(answer)
    if of_gold is None or of_answer is None:
        return None
    return of_gold.agrees(of_answer, tolerance)


def _as_range(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """10–20: two numbers, and no difference."""
    ranges = [_RANGE.fullmatch(text) for text in (gold, answer)]
    if not any(ranges):
        return None
    found = [r or _HYPHENED.fullmatch(t) for r, t in zip(ranges, (gold, answer), strict=True)]
    if not all(found):
        return False
    (low, high), (other_low, other_high) = ((m[1], m[2]) for m in found if m)
    return _same(low, other_low, NONE, depth + 1) and _same(high, other_high, NONE, depth + 1)


def _as_based(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """1011_2: digits and their base; a number without one is taken to be of the other's."""
    of_gold, of_answer = _based(gold), _based(answer)
    if of_gold is None and of_answer is None:
        return None
    if of_gold is not None and of_answer is not None:
        return of_gold == of_answer
    digits = _digits(answer if of_gold is not None else gold)
    if of_gold is not None:
        return digits == of_gold[0]
    assert of_answer is not None
    value = plain_number(gold)
    return digits == of_answer[0] or (value is not None and value.value == int(*of_answer))


def _based(text: str) -> tuple[str, int] | None:
    found = _BASED.fullmatch(text)
    if not found or not re.search(r"\d", found[1]):
        return None
    named = found[2] or found[3]
    base = int(named) if named.isdigit() else _BASES.get(named, 0)
    try:
        int(found[1], base)
    except ValueError:
        return None
    return (_digits(found[1]), base) if base >= 2 else None


def _digits(text: str) -> str:
    return text.replace(" ", "").replace(",", "").casefold().lstrip("0") or "0"


def _as_quantity(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """Units agree where both are named; a percentage is the number or its hundredth."""
    (gold_core, gold_unit), (answer_core, answer_unit) = without_unit(gold), without_unit(answer)
    if (gold_core, answer_core) != (gold, answer):
        if gold_unit and answer_unit and gold_unit != answer_unit:
            return False
        if _same(gold_core, answer_core, tolerance, depth + 1):
            return True
        if {gold_unit, answer_unit} != {"deg", None}:
            return False
        return _same(_in_radians(gold), _in_radians(answer), NONE, depth + 1)
    shares = gold.endswith("%"), answer.endswith("%")
    if not any(shares):
        return None
    bare = gold.removesuffix("%").strip(), answer.removesuffix("%").strip()
    if _same(*bare, tolerance, depth + 1):
        return True
    if all(shares):
        return False
    scaled = []
    for text, is_share in zip(bare, shares, strict=True):
        number, by = plain_number(text), Fraction(1, 100) if is_share else Fraction(1)
        if number is None:
            return False
        scaled.append(Number(number.value * by, number.step * by))
    return scaled[0].agrees(scaled[1], NONE)


def _as_words(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """Letters in their order: a word is no product of its letters."""
    words = [_word(text) for text in (gold, answer)]
    if words[0] is None or words[1] is None:
        return None
    (first, first_is_text), (second, second_is_text) = words[0], words[1]
    if not (first_is_text or second_is_text or _is_word(first) or _is_word(second)):
        return None
    if len(first) == len(second) == 1 and not (first_is_text or second_is_text):
        return first == second
    return first.casefold() == second.casefold()


def _word(text: str) -> tuple[str, bool] | None:
    """(letters, are they written as text) of an answer that is words alone."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    bare = re.sub(r"^(?:an?|the) (?=\w)", "", " ".join(bare.split()), flags=re.IGNORECASE)
    bare = re.sub(r"^\(([A-Za-z])\)$", r"\1", bare)
    if not re.fullmatch(r"[^\W\d_][^\W\d_' .-]*(?:[ '-][^\W\d_]+)*", bare):
        return None
    return bare, "\\text" in text


def _is_word(letters: str) -> bool:
    """Of letters in no text: several words, capitals as a name, or more than a short product."""
    if " " in letters or not letters.isascii():
        return True
    if letters.islower():
        is_alphabet = max(map(ord, letters)) - min(map(ord, letters)) == len(set(letters)) - 1
        return len(letters) > 3 and not is_alphabet
    return len(letters) > 2


def _as_matrices(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """Of one shape, and each entry the same."""
    found = [_MATRIX.fullmatch(text) for text in (gold, answer)]
    if found[0] is None or found[1] is None:
        if not any(found):
            return None
        other, body = (answer, found[0][2]) if found[0] else (gold, found[1][2] if found[1] else "")
        parts, vector = _parts(other), [entry for row in _entries(body) for entry in row]
        if parts is None or parts.opening != "(":
            return False if plain_number(other) else None
        return len(parts.of) == len(vector) and all(
            _same(*pair, NONE, depth + 1) for pair in zip(parts.of, vector, strict=True)
        )
    if any(match[1].startswith(("v", "V")) for match in found if match):
        return None  # a determinant or a norm
    first, second = (_entries(match[2]) for match in found if match)
    if [len(row) for row in first] != [len(row) for row in second]:
        return False
    return all(
        _same(one, other, NONE, depth + 1)
        for row, other_row in zip(first, second, strict=True)
        for one, other in zip(row, other_row, strict=True)
    )


def _entries(body: str) -> list[list[str]]:
    rows = re.split(r"\\\\(?: ?\[[^\[\]]*\])?", body.replace("\\hline", ""))
    return [[part.strip() for part in row.split("&")] for row in rows if row.strip()]


def _as_assigned(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """x = 5 is 5, and x = 5 where both name what they are."""
    (gold_name, gold_rest), (answer_name, answer_rest) = _assigned(gold), _assigned(answer)
    if gold_name is None and answer_name is None:
        return None
    if gold_name is not None and answer_name is not None:
        if gold_name != answer_name:
            return None
        return _same(gold_rest, answer_rest, tolerance, depth + 1)
    other = answer if gold_name is not None else gold
    if _RELATION.search(other):
        return None
    return _same(gold_rest, answer_rest, tolerance, depth + 1)


def _assigned(text: str) -> tuple[str | None, str]:
    """(name, value) of one assignment; (None, text) of anything else."""
    found = _ASSIGNED.match(text)
    if found and not _RELATION.search(text, found.end()) and found.end() < len(text):
        return found[1].replace(" ", ""), text[found.end() :].strip()
    return None, text


@dataclass(frozen=True)
class Parts:
    """What a list, a set, a tuple, an interval or a union is made of."""

    of: tuple[str, ...]
    opening: str = ""
    closing: str = ""
    is_union: bool = False
    is_set: bool = False

    @property
    def is_ordered(self) -> bool:
        return bool(self.opening)


def _as_parts(gold: str, answer: str, tolerance: Tolerance, depth: int) -> bool | None:
    """Part by part: in any order for lists and sets, in theirs for tuples and intervals."""
    first, second = _parts(gold), _parts(answer)
    if first is None and second is None:
        return None
    if first is None or second is None:
        bare = [unwrapped(text, "(", ")") for text in (gold, answer)]
        if bare != [gold, answer] and all(bare):
            return _same(bare[0], bare[1], tolerance, depth + 1)
        alone, parts = (gold, second) if first is None else (answer, first)
        if parts is None or _RELATION.search(alone) or parts.is_union or "\\" in alone:
            return None
        return False  # a number is not several
    if first.is_union or second.is_union:
        same = first.is_union == second.is_union and _any_order(first.of, second.of, depth)
        return True if same else None  # two unions may be one set in two ways
    if len(first.of) != len(second.of):
        return False
    if (first.is_ordered and second.is_set) or (first.is_set and second.is_ordered):
        return False
    if not (first.is_ordered or second.is_ordered):
        return _any_order(first.of, second.of, depth)
    brackets = {(parts.opening, parts.closing) for parts in (first, second) if parts.is_ordered}
    if len(brackets) == 2 and len(first.of) == 2:
        return False
    return all(
        _same(one, other, NONE, depth + 1) for one, other in zip(first.of, second.of, strict=True)
    )


def _parts(text: str) -> Parts | None:
    r"""None for a single value. `\pm` makes two of one."""
    if len(pieces := split(text, r"\\cup(?![a-zA-Z])")) > 1:
        return Parts(tuple(pieces), is_union=True)
    if text.startswith("\\{") and text.endswith("\\}") and closing_of(text, 1) == len(text) - 1:
        pieces = _spread(split(text[2:-2].strip(), _SEPARATORS))
        return Parts(tuple(pieces), is_set=True)
    if text[0] in "([" and closing_of(text, 0) == len(text) - 1:
        pieces = split(text[1:-1].strip(), _SEPARATORS)
        return Parts(tuple(pieces), text[0], text[-1]) if len(pieces) > 1 else None
    pieces = _spread([piece for piece in split(text, _SEPARATORS) if piece])
    return Parts(tuple(pieces)) if len(pieces) > 1 else None


def _spread(pieces: Sequence[str]) -> list[str]:
    found = []
    for piece in pieces:
        if piece.count("\\pm") == 1 and "\\mp" not in piece:
            found += [piece.replace("\\pm", sign) for sign in "+-"]
        else:
            found.append(piece)
    return [re.sub(r"^\+ ?", "", piece) for piece in found]


def _any_order(gold: Sequence[str], answer: Sequence[str], depth: int) -> bool:
    if len(gold) != len(answer) or len(gold) > MANY:
        return False
    left = list(answer)
    for one in gold:
        match = next((other for other in left if _same(one, other, NONE, depth + 1)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _in_radians(text: str) -> str:
    """An angle in degrees as the number that it is."""
    text = re.sub(r"(?<=\d) ?\\text\{ ?deg(?:ree)?s? ?\}$", r"^{\\circ}", text)
    return re.sub(r"([\d.]+)\^\{\\circ\}", r"{\\frac{\1 \\pi}{180}}", text)
