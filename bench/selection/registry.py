"""The one registry: `@selector` files a rule, `get_selector` finds it by name, module or file.

Rules are found in every module of `token_selectors` (the folder `selectors/`), then in the entry
points of group `opd_bench.selectors`. `pkg.module:function` and `path/file.py:function` need no
registration. An expression, `soft_or(entropy, teachability)`, joins rules under no name of its own.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.core.errors import ConfigError, unknown_name
from bench.selection.combinations import COMBINATIONS
from bench.selection.expression import build
from bench.selection.grammar import check_length, is_expression, parse
from bench.selection.population import UNIT_NORMS
from bench.selection.selector import Choices, Kind, Rule, Selector, SelectorError
from bench.selection.signals import EXTRA_SIGNALS, SIGNAL_NAMES

NORMS: dict[str, tuple[str, ...]] = dict.fromkeys(UNIT_NORMS, ())
"""The choices of a parameter `norm`: none needs a signal of its own."""

ENTRY_POINT_GROUP = "opd_bench.selectors"
_REGISTRY: dict[str, Selector] = {}
_filing: dict[str, Selector] = _REGISTRY
"""Where `@selector` files: the registry, or a dict of its own while a user's file is loaded."""


def selector(
    name: str,
    *,
    needs: Sequence[str] = (),
    kind: Kind = "score",
    abstains: bool = False,
    reads_sampled_token: bool = False,
    keep: float | None = None,
    choices: Choices | None = None,
    state: Any = None,
    sets_keep: bool = False,
    responses: int = 1,
) -> Callable[[Rule], Rule]:
    """File a function from TokenSignals to score_BT under `name`.

    needs          every signal it reads beyond the base fields (mask, token, position, length,
                   uniform); a run computes only these.
    kind           "score" (higher is kept, -inf never) or "weight" (>= 0, spends no budget).
    abstains       it may leave budget unspent by scoring tokens -inf.
    reads_sampled_token
                   its score depends on the sampled token itself, which biases the gradient of a
                   sampled objective.
    keep           the budget it always spends, for rules that have no choice. With `abstains`, 1.0
                   means that the rule decides by itself what is kept.
    choices        parameters that are words: each accepted value with the signals it alone needs.
    state          what its memory holds before the first step, plain values and tensors. Such a
                   rule is `rule(signals, state, ...) -> (score_BT, state)`.
    sets_keep      the rule puts the budget of the step in its state, under "keep".
    responses      how many responses to a prompt it compares: a run with fewer is refused.

    Raises SelectorError when the name is taken by another function, or a need is no signal.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.-]{0,99}", name):
        raise SelectorError(
            f"selector {name[:100]!r}: a name is letters, digits, '_', '-' and '.', up to 100"
        )
    if isinstance(needs, str):
        raise SelectorError(f"selector {name!r}: needs: {needs!r} is text, not a tuple of names")
    chosen = [need for values in (choices or {}).values() for n in values.values() for need in n]
    for need in (*needs, *chosen):
        if need not in (*SIGNAL_NAMES, *EXTRA_SIGNALS):
            raise unknown_name(f"selector {name!r}: needs", need, (*SIGNAL_NAMES, *EXTRA_SIGNALS))
    if _filing is _REGISTRY and name in COMBINATIONS:
        raise SelectorError(f"selector {name!r}: the name is a word of selector expressions")

    def file(rule: Rule) -> Rule:
        taken = _filing.get(name)
        if taken is not None and not _same_place(taken.rule, rule):
            raise SelectorError(
                f"selector {name!r} is registered twice: in {taken.rule.__module__} "
                f"and in {rule.__module__}"
            )
        found = Selector(
            name, rule, tuple(needs), kind, abstains, reads_sampled_token, keep,
            choices or {}, state, sets_keep, responses,
        )  # fmt: skip
        _filing[name] = found
        rule.__dict__["selector"] = found
        return rule

    return file


def norm_parameter(default: str, *rules: Rule) -> None:
    """Give filed rules a parameter `norm` that replaces the normalisation inside them.

    default      what the rules have: "q05" (signals.norm_q05) or "minmax" (signals.norm_minmax).

    A rule at its default is the same rule as before, with the same parameters and run ids.
    """
    for rule in rules:
        filed = rule.__dict__["selector"]
        found = replace(
            filed,
            own_norm=default,
            choices={**filed.choices, "norm": dict.fromkeys(UNIT_NORMS, ())},
        )
        _filing[found.name] = rule.__dict__["selector"] = found


def _same_place(one: Rule, other: Rule) -> bool:
    """The same definition loaded again (a file run twice) is no clash."""
    place = [(rule.__qualname__, inspect.getsourcefile(rule)) for rule in (one, other)]
    return place[0] == place[1]


@contextmanager
def _aside() -> Iterator[None]:
    """File what is loaded apart: a rule named by its place may be called what it likes."""
    global _filing
    before, _filing = _filing, {}
    try:
        yield
    finally:
        _filing = before


@cache
def _discover() -> None:
    import token_selectors

    for module in pkgutil.iter_modules(token_selectors.__path__):
        importlib.import_module(f"token_selectors.{module.name}")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            raise SelectorError(
                f"selectors of {entry.value!r}, an entry point of {ENTRY_POINT_GROUP}, do not "
                f"load: {type(error).__name__}: {error}"
            ) from error


def selector_names() -> list[str]:
    """The registered names, sorted."""
    _discover()
    return sorted(_REGISTRY)


def get_selector(name: str, **params: Any) -> Selector:
    """The selector of this name, place or expression, with its parameters and a fresh memory.

    name     a registered name; `module:function` or `file.py:function`; or an expression of these,
             as `soft_or(entropy, teachability)`. Parameters belong to the outermost word.

    Raises ConfigError for an unknown name (with the nearest one) or parameter, for an expression
    that cannot be read (pointing at the place), and SelectorError for a file or module that does
    not load.
    """
    check_length(name)
    if is_expression(name):
        return build(parse(name), name, _find, params)
    return replace(_find(name).bind(params), reference=name)


def _find(name: str) -> Selector:
    """A registered rule or one named by its place, unbound."""
    _discover()
    found = _load(name) if ":" in name else _REGISTRY.get(name)
    if found is None and name.endswith(".py"):
        raise ConfigError(_without_function(name))
    if found is None:
        raise unknown_name("selector", name, _REGISTRY)
    return found


def _without_function(name: str) -> str:
    """What is said of a file without one of its rules."""
    with _aside():
        module = _load_file(Path(name))
    rules = [
        key for key, value in vars(module).items()
        if isinstance(getattr(value, "__dict__", {}).get("selector"), Selector)
        and getattr(value, "__module__", None) == module.__name__
    ]  # fmt: skip
    if not rules:
        return f"selector: the file {name!r} has no function under a @selector(...) line"
    asked = " or ".join(repr(f"{name}:{rule}") for rule in rules)
    return f"selector: {name!r} is a file; name the rule in it: {asked}"


def _load(name: str) -> Selector:
    place, _, function = name.rpartition(":")
    with _aside():
        module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    rule = getattr(module, function, None)
    if not callable(rule):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown_name(f"selector {name!r}: function", function, known)
    found = getattr(rule, "__dict__", {}).get("selector")
    if not isinstance(found, Selector):
        raise SelectorError(
            f"selector {name!r}: {function} has no @selector(...) line, which declares the "
            "signals it reads"
        )
    return found


def _import(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise SelectorError(f"selector module {place!r} does not load: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SelectorError(f"selector file {str(path)!r} does not exist")
    name = f"opd_bench_rule_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, ConfigError):
            raise
        raise SelectorError(
            f"selector file {str(path)!r} does not load: {type(error).__name__}: {error}"
        ) from error
    return module
