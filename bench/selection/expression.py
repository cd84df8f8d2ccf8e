"""The tree of a selector expression -> Selector, with what its rules declare joined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.errors import ConfigError, unknown_name
from bench.selection.combinations import COMBINATIONS, Combination, check_number
from bench.selection.grammar import Call, Literal, Node, fail_at
from bench.selection.selector import Selector, source_of

Find = Callable[[str], Selector]
CONTROLS_OF_SCORES = {
    "bottom": "they are not negative; reversed(...) turns them over",
    "matched": "they keep every token; shuffled(...) deals them out anew",
}
"""Controls that take no weights, and why."""
CONTROLS = ("shuffled", "reversed", *CONTROLS_OF_SCORES)
"""Words that leave a rule what it is: its kind, its budget."""


def build(node: Call, text: str, find: Find, params: Mapping[str, Any]) -> Selector:
    """The selector of an expression; `find` gives a rule by name or place.

    params   parameters of the outermost word, given beside the expression.

    Raises ConfigError pointing at the place in `text`.
    """
    both = [name for name, _ in node.keywords if name in params]
    if both:
        raise ConfigError(f"selector_params: {both[0]} is also given in the selector itself")
    if node.name not in COMBINATIONS:
        return _rule(node, text, find, params)
    return _combination(node, COMBINATIONS[node.name], text, find, params)


def _rule(node: Call, text: str, find: Find, params: Mapping[str, Any]) -> Selector:
    """A rule, perhaps with parameters: `tip(norm='rank')`."""
    try:
        found = find(node.name)
    except ConfigError as error:
        message = _message(error).partition(" known:")[0].rstrip(";")
        known = ", ".join(COMBINATIONS)
        fail_at(text, node.at, f"{message}; `bench selectors` lists the rules, and {known} "
                               "join them")  # fmt: skip
    for argument in node.arguments:
        fail_at(text, argument.at, f"{node.name} is a rule and joins no others; "
                                   "its parameters are written name=value")  # fmt: skip
    given = {name: literal.value for name, literal in node.keywords}
    try:
        return replace(found.bind({**given, **params}), reference=node.name)
    except ConfigError as error:
        wrong = [literal for name, literal in node.keywords if f" {name!r}" in f" {error}"
                 or f" {name}:" in f" {error}"]  # fmt: skip
        if not wrong and params:
            raise
        fail_at(text, wrong[0].at if wrong else node.at, _message(error))


def _message(error: ConfigError) -> str:
    message = str(error).removeprefix("selector: ").removeprefix("selector_params: ")
    return message.replace("unknown name", "unknown rule")


def _combination(
    node: Call, found: Combination, text: str, find: Find, params: Mapping[str, Any]
) -> Selector:
    rules, numbers = _arguments(node, found, text)
    parts = tuple(build(rule, text, find, {}) for rule in rules)
    keywords = _keywords(node, found, text, params)
    weights = {"weights": tuple(n.value for n in numbers)} if numbers else {}
    is_control = found.name in CONTROLS
    kind = parts[0].kind if is_control else "score"
    if kind == "weight" and found.name in CONTROLS_OF_SCORES:
        fail_at(text, node.at, f"{parts[0].name} gives weights: {CONTROLS_OF_SCORES[found.name]}")

    def combine(signals):
        scores = [part(signals) for part in parts]
        return found.function(signals, scores, **keywords, **weights)

    spelling = _spell(node, found, parts, numbers, keywords)
    combine.__doc__ = f"Keep tokens by {spelling}: {found.formula}"
    return Selector(
        name=spelling,
        rule=combine,
        needs=tuple(dict.fromkeys(need for part in parts for need in part.needs)),
        kind=kind,
        abstains=found.abstains or any(part.abstains for part in parts),
        reads_sampled_token=any(part.reads_sampled_token for part in parts),
        keep=parts[0].keep if is_control else None,
        sets_keep=is_control and parts[0].sets_keep,
        responses=max(part.responses for part in parts),
        parts=parts,
        code=source_of(found.function),
        reference=spelling,
    )


def _arguments(node: Call, found: Combination, text: str) -> tuple[list[Call], list[Literal]]:
    """(the rules, the numbers) of a combination, checked against what it takes."""
    arguments = node.arguments
    pattern = {
        "rules": "r" * max(2, len(arguments)),
        "weighted": "nr" * max(2, (len(arguments) + 1) // 2),
        "share": "nrr",
        "two": "rr",
        "one": "r",
    }[found.takes]
    wants = f"{node.name} is written {found.form}"
    for argument, expected in zip(arguments, pattern, strict=False):
        if expected == "r" and isinstance(argument, Literal):
            fail_at(text, argument.at, f"{argument.value!r} is not a rule; {wants}")
        if expected == "n":
            _check_number(argument, found, text, wants)
    if len(arguments) > len(pattern):
        fail_at(text, arguments[len(pattern)].at, f"one too many; {wants}")
    if len(arguments) < len(pattern):
        fail_at(text, node.at, f"something is missing; {wants}")
    return (
        [argument for argument in arguments if isinstance(argument, Call)],
        [argument for argument in arguments if isinstance(argument, Literal)],
    )


def _check_number(argument: Node, found: Combination, text: str, wants: str) -> None:
    if not isinstance(argument, Literal) or isinstance(argument.value, bool | str):
        shown = argument.name if isinstance(argument, Call) else repr(argument.value)
        fail_at(text, argument.at, f"{shown} is not a number; {wants}")
    wrong = check_number("share" if found.takes == "share" else "weight", argument.value)
    if wrong:
        fail_at(text, argument.at, wrong)


def _keywords(
    node: Call, found: Combination, text: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    settled = dict(found.keywords)
    places = {name: literal.at for name, literal in node.keywords}
    given = {**{name: literal.value for name, literal in node.keywords}, **params}
    for name, value in given.items():
        at = places.get(name, node.at)
        if name not in settled:
            takes = f"it takes {', '.join(settled)}" if settled else "it takes none"
            fail_at(text, at, f"{name!r} is not a parameter of {node.name}; {takes}")
        if name in found.accepts:
            if value not in found.accepts[name]:
                error = unknown_name(name, str(value), found.accepts[name])
                fail_at(text, at, str(error))
            settled[name] = value
            continue
        try:
            settled[name] = float(value)
        except (TypeError, ValueError):
            fail_at(text, at, f"{name}: {value!r} is not a number")
        if wrong := check_number(name, settled[name]):
            fail_at(text, at, f"{name}: {wrong}")
    return settled


def _spell(
    node: Call,
    found: Combination,
    parts: Sequence[Selector],
    numbers: Sequence[Literal],
    keywords: Mapping[str, Any],
) -> str:
    """The one spelling of an expression, whatever blanks and defaults were written."""
    words = iter([spell_rule(part) for part in parts])
    values = iter([_plain(float(number.value)) for number in numbers])
    items = [next(words) if isinstance(item, Call) else next(values) for item in node.arguments]
    items += [
        f"{name}={_plain(value)}"
        for name, value in keywords.items()
        if value != found.keywords[name]
    ]
    return f"{node.name}({', '.join(items)})"


def spell_rule(selector: Selector) -> str:
    """How a bound selector is written inside an expression."""
    if selector.parts:
        return selector.reference
    defaults = selector.parameters()
    given = [
        f"{name}={_plain(value)}"
        for name, value in sorted(selector.params.items())
        if value != defaults[name]
    ]
    return f"{selector.reference}({', '.join(given)})" if given else selector.reference


def _plain(value: Any) -> str:
    """A value as the grammar reads it: 0.5, 1, 'rank', true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(value)
