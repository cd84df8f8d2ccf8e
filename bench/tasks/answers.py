"""The answer that a response states. Pure, and linear in the response's length."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(\{|[^\s{}$\\.,;]+)")
_BETWEEN = re.compile(r"[\s$]*(?:[,;]|(?:[,;][\s$]*)?(?:and|or)(?![a-zA-Z]))[\s$]*")
"""Between boxes that are one answer in several parts."""
MOST_PARTS = 64


def boxed_answer(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`; None where there is none or it is empty.

    Boxes with nothing but a comma, `and` or `or` between them are one answer: `\boxed{1} and
    \boxed{2}` is "1, 2". Without braces the word after the command is its content: `\boxed 2`.
    """
    closing = _closing_braces(text)
    boxes = []
    for match in _BOX.finditer(text):
        if match[1] != "{":
            boxes.append((match.start(), match.end(), match[1]))
        elif (end := closing.get(match.start(1))) is not None:
            boxes.append((match.start(), end + 1, (match.end(), end)))
    if not boxes:
        return None
    parts: list[str] = []
    begins = len(text)
    for start, end, content in reversed(boxes):
        if parts and (len(parts) == MOST_PARTS or not _BETWEEN.fullmatch(text, end, begins)):
            break
        said = content if isinstance(content, str) else text[content[0] : content[1]]
        parts.append(said.strip())
        begins = start
    return ", ".join(dict.fromkeys(filter(None, reversed(parts)))) or None


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace that opens is closed."""
    found, opened = {}, []
    # An escaped brace is part of a set's notation and is balanced like any other.
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            found[opened.pop()] = match.start()
    return found


def marked_answer(text: str) -> str | None:
    """The number after the first "#### ", GSM8K's own form, as lm-eval's strict filter reads it."""
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found[1].replace(",", "").removesuffix(".") if found else None
