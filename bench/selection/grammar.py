"""The text of a selector expression -> its tree. A parser of its own: nothing is evaluated.

    expression = name | name "(" [item {"," item}] ")"
    item       = expression | number | text | word "=" value
    name       = word | module ":" word | file ".py:" word
    value      = number | text | "true" | "false"

A text stands in single or double quotes.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from bench.core.errors import ConfigError

Value = float | int | bool | str

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<place>[\w./~+-]+\.py:\w+|[A-Za-z_][\w.]*:\w+)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<text>'[^']*'|"[^"]*")
    | (?P<mark>[(),=])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Literal:
    """A number or a text, and where it stands."""

    value: Value
    at: int


@dataclass(frozen=True)
class Call:
    """A rule or a combination by name, with what stands between its parentheses."""

    name: str
    at: int
    arguments: tuple["Node", ...] = ()
    keywords: tuple[tuple[str, Literal], ...] = ()
    has_parentheses: bool = False


Node = Call | Literal


def is_expression(text: str) -> bool:
    """Whether the text of a selector has parentheses, beyond the path of a file."""
    return "(" in text and not re.fullmatch(r"[^,]*\.py:\w+", text)


LONGEST, DEEPEST, MOST = 4_000, 40, 200
"""Characters of an expression, calls inside calls, and rules in all."""
SHOWN = 100
"""Characters of an expression on either side of the place that an error points at."""


def check_length(text: str) -> None:
    """Raise ConfigError for the name of a rule that is longer than any."""
    if len(text) > LONGEST:
        raise ConfigError(
            f"selector: {text[:40]!r}… has {len(text):,} characters; accepted: up to {LONGEST:,}"
        )


def parse(text: str) -> Call:
    """The tree of an expression. Raises ConfigError that points at the place."""
    check_length(text)
    parser = _Parser(text)
    node = parser.expression()
    if parser.kind != "end":
        parser.fail("the expression ends before this")
    return node


def fail_at(text: str, at: int, message: str) -> NoReturn:
    """Raise ConfigError with the expression and a caret under character `at`."""
    place = at + 1
    flat = re.sub(r"\s", " ", text)
    if (first := max(0, at - SHOWN)) or len(flat) > at + SHOWN:
        before, after = "…" * bool(first), "…" * (len(flat) > at + SHOWN)
        flat, at = before + flat[first : at + SHOWN] + after, at - first + len(before)
    raise ConfigError(f"selector: {message}, at character {place}\n  {flat}\n  {' ' * at}^")


class _Parser:
    """One token ahead: its kind, its text, and where it stands."""

    def __init__(self, text: str):
        self.source = text
        self.end = 0
        self.depth = self.rules = 0
        self.advance()

    def fail(self, message: str) -> NoReturn:
        fail_at(self.source, self.at, message)

    def advance(self) -> None:
        rest = self.source[self.end :]
        self.at = self.end + len(rest) - len(rest.lstrip())
        if not rest.strip():
            self.kind, self.token = "end", ""
            return
        found = _TOKEN.match(self.source, self.end)
        if found is None:
            fail_at(self.source, self.at, f"{self.source[self.at]!r} is not expected")
        self.kind = str(found.lastgroup)
        self.token, self.end = found[self.kind], found.end()

    def take(self) -> str:
        token = self.token
        self.advance()
        return token

    def expression(self) -> Call:
        if self.kind not in ("word", "place"):
            self.fail("the name of a rule is missing" if self.kind == "end" else
                      f"{self.token!r} is not the name of a rule")  # fmt: skip
        at, name = self.at, self.take()
        return self.called(name, at)

    def called(self, name: str, at: int) -> Call:
        self.rules += 1
        if self.rules > MOST:
            fail_at(self.source, at, f"there are more than {MOST} rules")
        return self.call(name, at) if self.token == "(" else Call(name, at)

    def call(self, name: str, at: int) -> Call:
        arguments: list[Node] = []
        keywords: dict[str, Literal] = {}
        self.take()
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"there are more than {DEEPEST} calls inside each other")
        while self.token != ")":
            self.item(arguments, keywords)
            if self.token == ",":
                self.take()
            elif self.token != ")":
                self.fail(f"'(' of {name} is not closed" if self.kind == "end" else
                          f"a comma or ')' is missing before {self.token!r}")  # fmt: skip
        self.take()
        self.depth -= 1
        return Call(name, at, tuple(arguments), tuple(keywords.items()), True)

    def item(self, arguments: list[Node], keywords: dict[str, Literal]) -> None:
        if self.kind in ("number", "text"):
            self.after_keyword(keywords)
            arguments.append(self.literal())
            return
        at = self.at
        if self.kind == "word":
            word = self.take()
            if self.token == "=":
                self.take()
                if word in keywords:
                    fail_at(self.source, at, f"{word} is given twice")
                keywords[word] = self.literal()
                return
            self.after_keyword(keywords, at)
            arguments.append(self.called(word, at))
            return
        self.after_keyword(keywords)
        arguments.append(self.expression())

    def after_keyword(self, keywords: dict[str, Literal], at: int | None = None) -> None:
        if keywords:
            fail_at(self.source, self.at if at is None else at, "name=value comes last")

    def literal(self) -> Literal:
        at, kind = self.at, self.kind
        if kind == "text":
            return Literal(self.take()[1:-1], at)
        if kind == "number":
            token = self.take()
            return Literal(int(token) if re.fullmatch(r"[+-]?\d+", token) else float(token), at)
        if self.token.lower() in ("true", "false"):
            return Literal(self.take().lower() == "true", at)
        self.fail("a number or a text in quotes is missing")
