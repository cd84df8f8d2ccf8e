r"""The question and the gold answer of a row of a file, in the layouts that files have. Pure.

A question is text, or chat messages whose content is text or parts of text. A gold answer is text,
a number, or a list of these; inside text it stands after `####`, in a `\boxed{}`, or alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.tasks.answers import boxed_answer
from bench.tasks.notation import LONGEST

QUESTION_COLUMNS = ("problem", "question", "prompt", "messages")
GOLD_COLUMNS = (
    "answer", "final_answer", "reward_model.ground_truth", "ground_truth", "gold", "target",
    "expected_answer", "solution",
)  # fmt: skip
"""Tried in this order; a dot leads inside a column."""
Row = Mapping[str, Any]


def field(row: Row, path: str) -> Any:
    """What a column holds, or what a dotted path leads to; None where there is nothing."""
    if path in row:
        return row[path]
    first, _, rest = path.partition(".")
    inside = row.get(first)
    return field(inside, rest) if rest and isinstance(inside, Mapping) else None


def question_text(row: Row, columns: Iterable[str]) -> str:
    """The problem. Raises KeyError where no column is there, ValueError for what is no text."""
    for column in columns:
        if (value := field(row, column)) is not None:
            text = checked_text(_user_text(value))
            if not text.strip():
                raise ValueError(f"column {column!r} is empty")
            return text
    raise KeyError(f"no column {' or '.join(columns)}")


def _user_text(value: Any) -> str:
    if isinstance(value, str | bytes):
        return _decoded(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, Sequence) and all(isinstance(message, Mapping) for message in value):
        asked = [message for message in value if message.get("role") == "user"]
        others = {message.get("role") for message in value} - {"user"}
        if len(asked) == 1 and not others:
            return _content(asked[0].get("content"))
    raise ValueError("a prompt is text or one user message")


def _content(content: Any) -> str:
    """Text, or parts of text as multimodal chat files have them."""
    if isinstance(content, str | bytes):
        return _decoded(content)
    if isinstance(content, Sequence) and content:
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
            for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(text for text in texts if text)
    raise ValueError("the content of a user message is text, or parts of type text")


def gold_answer(row: Row, columns: Iterable[str]) -> str:
    """The gold answer; empty where the row has none, or none that can be told from its rationale.

    Raises ValueError for what is no answer: a truth value, an object.
    """
    for column in columns:
        if (value := field(row, column)) is not None:
            found = _stated(value, column)
            if found:
                return found
    return ""


def _stated(value: Any, column: str) -> str:
    if isinstance(value, bool | Mapping):
        raise ValueError(f"column {column!r} holds {type(value).__name__} {value!r:.60}, no answer")
    if isinstance(value, str | bytes):
        return in_text(checked_text(_decoded(value)))
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        items = value if isinstance(value, Sequence) else value.tolist()
        return ", ".join(
            filter(None, (_stated(item, column) for item in items if item is not None))
        )
    return checked_text(str(value))


def in_text(text: str) -> str:
    """The answer that a text states: after its last `####`, in its last box, or all of it where it
    is one line; a rationale without either states none.
    """
    if "####" in text:
        return text.rpartition("####")[2].strip().split("\n")[0].replace(",", "").strip()
    if (boxed := boxed_answer(text)) is not None:
        return boxed
    text = text.strip()
    return "" if "\n" in text or len(text) > LONGEST else text


def _decoded(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8")


def checked_text(text: str) -> str:
    """The text. Raises ValueError for halves of surrogate pairs, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"it holds {text[error.start]!r}, half of a character") from None
    return text
