"""The one registry: `@selector` files a rule, `get_selector` finds it by name, module or file.

Rules are found in every module of `token_selectors` (the folder `selectors/`), then in the entry
points of group `opd_bench.selectors`. `pkg.module:function` and `path/file.py:function` need no
registration.
"""

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from bench.config import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from bench.signals import TokenSignals

Kind = Literal["score", "weight"]
Rule = Callable[..., "Tensor"]

ENTRY_POINT_GROUP = "opd_bench.selectors"


class SelectorError(ConfigError):
    """A selector that cannot be loaded, or that broke its contract: the message names it."""


@dataclass(frozen=True)
class Selector:
    """A rule with its parameters bound: TokenSignals -> score_BT, float (B, T), higher is kept."""

    name: str
    rule: Rule
    needs: tuple[str, ...] = ()
    kind: Kind = "score"
    abstains: bool = False
    reads_sampled_token: bool = False
    keep: float | None = None
    """The budget that the rule always spends (`full`), or None where `keep` is the user's."""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, signals: "TokenSignals") -> "Tensor":
        """score_BT, or weight_BT >= 0 for kind "weight". Raises SelectorError naming the rule."""
        import torch

        absent = [name for name in self.needs if getattr(signals, name) is None]
        if absent:
            raise SelectorError(f"selector {self.name!r} needs {', '.join(absent)}: not computed")
        with torch.no_grad():
            try:
                score_BT = self.rule(signals.only(self.needs), **self.params)
            except Exception as error:  # a user's rule may raise anything; the message names it
                raise SelectorError(
                    f"selector {self.name!r} failed: {type(error).__name__}: {error} (it may read "
                    f"only what it declares: {', '.join(self.needs) or 'no signal'})"
                ) from error
        self._check(score_BT, signals.mask_BT)
        return score_BT

    def _check(self, score_BT: Any, mask_BT: "Tensor") -> None:
        import torch

        if not isinstance(score_BT, torch.Tensor):
            raise SelectorError(
                f"selector {self.name!r} returned {type(score_BT).__name__}, not a tensor"
            )
        if score_BT.shape != mask_BT.shape or not score_BT.is_floating_point():
            raise SelectorError(
                f"selector {self.name!r} returned {score_BT.dtype} {tuple(score_BT.shape)}, "
                f"not float {tuple(mask_BT.shape)}"
            )
        under_N = score_BT[mask_BT]
        if bool(under_N.isnan().any()):
            raise SelectorError(
                f"selector {self.name!r} returned {int(under_N.isnan().sum())} NaN "
                f"of {under_N.numel()} scores"
            )
        if self.kind == "weight" and bool(((under_N < 0) | under_N.isinf()).any()):
            raise SelectorError(f"selector {self.name!r} returned negative or infinite weights")

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring: what is kept."""
        return (inspect.getdoc(self.rule) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def source(self) -> str:
        """What the docstring's `Source:` line names."""
        found = re.search(r"^Source: (.+?)\.?$", inspect.getdoc(self.rule) or "", re.MULTILINE)
        return found.group(1) if found else ""

    def parameters(self) -> dict[str, Any]:
        """Every parameter with its default."""
        return {
            name: parameter.default
            for name, parameter in list(inspect.signature(self.rule).parameters.items())[1:]
        }

    def code_sha256(self) -> str:
        """Hash of the file that a user's rule lives in, or of a built-in rule's own source."""
        path = inspect.getsourcefile(self.rule)
        if path and not self.rule.__module__.startswith("token_selectors."):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return hashlib.sha256(_code(self.rule).encode()).hexdigest()

    def bind(self, params: Mapping[str, Any]) -> "Selector":
        """The same rule with parameters. Raises ConfigError for an unknown one or a wrong type."""
        known = self.parameters()
        bound = {}
        for name, value in params.items():
            if name not in known:
                takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                raise ConfigError(
                    f"selector_params: {name!r} is not a parameter of {self.name!r}; {takes}"
                )
            bound[name] = _as_type_of(known[name], value, f"selector_params: {name}")
        missing = [n for n, d in known.items() if d is inspect.Parameter.empty and n not in bound]
        if missing:
            raise ConfigError(f"selector_params: {self.name!r} needs {', '.join(missing)}")
        return replace(self, params={**known, **bound})


def _code(rule: Rule) -> str:
    """A function's source without its docstring, comments or layout."""
    import ast
    import textwrap

    tree = ast.parse(textwrap.dedent(inspect.getsource(rule)))
    function = tree.body[0]
    if isinstance(function, ast.FunctionDef) and ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    """`value` in the type of the parameter's default; a flag on the command line is text."""
    if default is inspect.Parameter.empty or default is None or isinstance(value, type(default)):
        return value
    wanted = type(default)
    accepted = {
        bool: {"true": True, "false": False}.get(str(value).lower()),
        float: _number(value, float),
        int: _number(value, int),
        str: str(value),
    }
    result = accepted.get(wanted)
    if result is None:
        raise ConfigError(f"{name}: {value!r} is not accepted: {wanted.__name__}")
    return result


def _number(value: Any, kind: type) -> Any:
    try:
        return kind(value) if not (kind is int and isinstance(value, float)) else None
    except (TypeError, ValueError):
        return None


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
) -> Callable[[Rule], Rule]:
    """File a function from TokenSignals to score_BT under `name`.

    needs          every signal it reads beyond the base fields (mask, token, position, length,
                   uniform); a run computes only these.
    kind           "score" (higher is kept, -inf never) or "weight" (>= 0, spends no budget).
    abstains       it may leave budget unspent by scoring tokens -inf.
    reads_sampled_token
                   its score depends on the sampled token itself, which biases the gradient of a
                   sampled objective.
    keep           the budget it always spends, for rules that have no choice.

    Raises SelectorError when the name is taken by another function, or a need is no signal.
    """
    from bench.signals import SIGNAL_NAMES

    if isinstance(needs, str):
        raise SelectorError(f"selector {name!r}: needs: {needs!r} is text, not a tuple of names")
    for need in needs:
        if need not in SIGNAL_NAMES:
            raise unknown_name(f"selector {name!r}: needs", need, SIGNAL_NAMES)

    def file(rule: Rule) -> Rule:
        taken = _filing.get(name)
        if taken is not None and not _same_place(taken.rule, rule):
            raise SelectorError(
                f"selector {name!r} is registered twice: in {taken.rule.__module__} "
                f"and in {rule.__module__}"
            )
        found = Selector(name, rule, tuple(needs), kind, abstains, reads_sampled_token, keep)
        _filing[name] = found
        rule.__dict__["selector"] = found
        return rule

    return file


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
        entry.load()


def selector_names() -> list[str]:
    """The registered names, sorted."""
    _discover()
    return sorted(_REGISTRY)


def get_selector(name: str, **params: Any) -> Selector:
    """The selector of this name, `module:function` or `file.py:function`, with its parameters.

    Raises ConfigError for an unknown name (with the nearest one) or parameter, and SelectorError
    for a file or module that does not load.
    """
    _discover()
    found = _load(name) if ":" in name else _REGISTRY.get(name)
    if found is None:
        raise unknown_name("selector", name, _REGISTRY)
    return found.bind(params)


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
    except Exception as error:
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
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, ConfigError):
            raise
        raise SelectorError(
            f"selector file {str(path)!r} does not load: {type(error).__name__}: {error}"
        ) from error
    return module
