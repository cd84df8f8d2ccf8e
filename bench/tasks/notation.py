r"""One way of writing for each answer: of Unicode, spacing, dollars, sizes and fonts. Pure.

Nothing here changes what is said: spaces between numbers stay, row breaks of matrices stay.
"""

import re

_UNICODE = {
    "−": "-", "—": "-", "‒": "-", "﹣": "-", "－": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    "∞": r"\infty ", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ",
    "ℝ": r"\mathbb{R}", "…": r"\ldots ", "⁄": "/", "∕": "/", "≈": r"\approx ", "％": "%",
    **dict.fromkeys("€£¥₹\u200b\ufeff", ""),
    **{one: rf"\frac{{{above}}}{{{below}}}" for one, above, below in (
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5),
        ("⅗", 3, 5), ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8),
        ("⅞", 7, 8),
    )},
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
RANGE = "\x01"
"""Stands for a dash between two numbers that is no minus sign."""
_SPACES = re.compile(r"\\\\|\\(?:!\s*|[,;: ]|q?quad(?![a-zA-Z]))|~")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]ig+[lr]?|displaystyle|textstyle|limits)(?![a-zA-Z])(?:\s*\.(?!\d))?"
)
_FONTS = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf)?|mbox|math(?:rm|bf|it|sf|bfit)|operatorname)\s*\{"
)
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])\s*(\d|\{)")
_SYNONYMS = (
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset"),
    (re.compile(r"\\l?dots(?![a-zA-Z])|\\cdots(?![a-zA-Z])|\.\.\."), r"\\ldots"),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\s*(?:\\%|\\text\{\s*per ?cent\s*\}|(?<![a-zA-Z])per ?cent(?![a-zA-Z]))"), "%"),
    (re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))"), r"^{\\circ}"),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"\\log_ ?(?:\{e\}|e(?![a-zA-Z]))"), r"\\ln"),
    (re.compile(r"(?<=\w) *(?:\\text\{ *)?\bbase *\}? *(\d+)"), r"_{\1}"),
    (re.compile(r"\s*\{\s*,\s*\}\s*"), ","),
    (re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\text\{\s*infinity\s*\}|(?<![a-zA-Z\\])infinity(?![a-zA-Z])"), r"\\infty"),
    (re.compile(r"\\(?:d|t|c)frac(?![a-zA-Z])"), r"\\frac"),
)


def plain(text: str) -> str:
    """The text with one writing for each thing; a single space where there were several."""
    text = re.sub(r"(?<=[\d}])\s*–\s*(?=\d)", RANGE, text).replace("–", "-")
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = re.sub(
        r"√\s*(?:\(([^()]*)\)|(\d+|[a-zA-Z]))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text
    )
    text = text.translate(_TABLE).replace("\\$", "").replace("$", "")
    text = re.sub(r"^\s*\\[(\[]|\\[)\]]\s*$", "", text)
    text = _SPACES.sub(lambda m: m[0] if m[0] == "\\\\" else "" if "!" in m[0] else " ", text)
    text = _FONTS.sub(r"\\text{", _SIZES.sub("", text))
    for pattern, other in _SYNONYMS:
        text = pattern.sub(other, text)
    text = _braced_fractions(" ".join(text.split()))
    if not text.endswith("\\ldots"):
        text = re.sub(r"(?<!\\)\\$", "", text.rstrip(".,; ")).rstrip(".,; ")
    text = re.sub(r"^(?:=|\\approx(?![a-zA-Z])) ?", "", text)
    text = unwrapped(text, "{", "}")
    whole = re.fullmatch(r"\\text\{([^{}]*(?:[\d,]|\b(?:and|or)\b)[^{}]*)\}", text)
    return whole[1].rstrip(".,; ").strip() if whole else text


def compact(text: str) -> str:
    """Without the spaces that separate nothing: not words, not numbers, no command's end."""
    if "\\text" in text:
        return text
    kept = re.sub(r"(\\[a-zA-Z]+|\d) (?=\w)(?!(?<=\d )[^\W\d])", "\\1\0", text)
    return kept.replace(" ", "").replace("\0", " ")


def unwrapped(text: str, opening: str, closing: str) -> str:
    """Without a pair of brackets that encloses all of it."""
    while text.startswith(opening) and closing_of(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def closing_of(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` is closed; of any kind, escaped or not."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
            if depth == 0:
                return place
    return None


def split(text: str, pattern: str) -> list[str]:
    """The parts between matches of a pattern outside all brackets."""
    separators = {m.start(): m.end() for m in re.finditer(pattern, text)}
    parts, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
        if depth == 0 and place in separators:
            parts.append(text[begin:place])
            begin = place = max(separators[place], place + 1)
            continue
        place += 1
    return [part.strip() for part in [*parts, text[begin:]]]


def _braced_fractions(text: str) -> str:
    r"""`\frac12`, `\frac 1 2` and `\frac1{2}` with both braces."""

    def take(place: int) -> tuple[str, int] | None:
        while place < len(text) and text[place] == " ":
            place += 1
        if place < len(text) and text[place] == "{":
            end = closing_of(text, place)
            return None if end is None else (text[place + 1 : end], end + 1)
        if place < len(text) and (text[place].isalnum()):
            return text[place], place + 1
        return None

    parts, place = [], 0
    while (found := text.find("\\frac", place)) >= 0:
        above = take(found + 5)
        below = take(above[1]) if above else None
        if above is None or below is None or len(text) > LONGEST:
            return text
        parts += [text[place:found], f"\\frac{{{_braced_fractions(above[0])}}}"]
        parts.append(f"{{{_braced_fractions(below[0])}}}")
        place = below[1]
    return "".join([*parts, text[place:]])


LONGEST = 2_000
"""Characters of an answer that is compared; no problem of these sets has a longer one."""
