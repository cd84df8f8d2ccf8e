"""Selector: a rule with its parameters bound, what it declares of itself, and its memory."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from bench.selection.signals import TokenSignals

Kind = Literal["score", "weight"]
Rule = Callable[..., Any]
Choices = Mapping[str, Mapping[str, tuple[str, ...]]]

COST_CLASSES = ("no teacher", "sampled log-probs", "top-K", "full vocabulary", "extra pass")
"""What a rule asks of the teacher and beyond, from cheap to dear."""

EXTRA_PASSES = frozenset({
    "reference_logprob_BT", "reference_logprob_on_student_topk_BTK", "counterfactual_logprob_BT",
    "one_change_logprob_BT", "one_change_jsd_BT", "paraphrase_jsd_BT", "teacher_one_change_jsd_BT",
    "teacher_paraphrase_jsd_BT", "negative_logprob_BT", "gain_BT",
})  # fmt: skip
"""Signals that take another pass of a model over the responses."""
REWORDED = frozenset({
    "one_change_logprob_BT", "one_change_jsd_BT", "paraphrase_jsd_BT", "teacher_one_change_jsd_BT",
    "teacher_paraphrase_jsd_BT",
})  # fmt: skip
"""Signals that take other wordings of each prompt, which its set must have."""


class SelectorError(ConfigError):
    """A selector that cannot be loaded, or that broke its contract: the message names it."""


class Memory:
    """What a rule carries from step to step: plain values and tensors, one per bound selector."""

    def __init__(self, state: Any):
        self.state = deepcopy(state)


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
    choices: Choices = field(default_factory=dict)
    """Parameters that are words: each accepted value with the signals that it alone needs."""
    state: Any = None
    """What the rule's memory holds before the first step; None for a rule without one."""
    sets_keep: bool = False
    """The rule puts the step's budget in its memory, under "keep"."""
    responses: int = 1
    """Responses to a prompt that the rule compares, at least."""
    own_norm: str | None = None
    """The normalisation inside the rule, where `norm` may replace it."""
    parts: tuple["Selector", ...] = ()
    """The rules that an expression is made of."""
    code: str | None = None
    """Source of what is not in `rule` (an expression's words)."""
    params: Mapping[str, Any] = field(default_factory=dict)
    reference: str = field(default="", compare=False)
    """How `get_selector` finds it again: a name, a place, or an expression's one spelling."""
    memory: Memory = field(default_factory=lambda: Memory(None), compare=False, repr=False)

    def __call__(self, signals: "TokenSignals") -> "Tensor":
        """score_BT, or weight_BT >= 0 for kind "weight". Raises SelectorError naming the rule.

        A rule with a memory takes one step: call it once for each batch.
        """
        import torch

        from bench.selection.guard import Misdeed, alone

        absent = [name for name in self.needs if getattr(signals, name) is None]
        if absent:
            raise SelectorError(f"selector {self.name!r} needs {', '.join(absent)}: not computed")
        with torch.no_grad():
            try:
                with alone(signals):
                    score_BT = self.score_unchecked(signals.only(self.needs))
            except SelectorError:
                raise
            except Misdeed as error:
                raise SelectorError(f"selector {self.name!r} {error}") from None
            except Exception as error:  # a user's rule may raise anything; the message names it
                raise SelectorError(
                    f"selector {self.name!r} failed{self._where(error)}: {type(error).__name__}: "
                    f"{error} ({self._reads()})"
                ) from error
        self._check(score_BT, signals.mask_BT)
        return score_BT

    def _where(self, error: Exception) -> str:
        """` at FILE:LINE`, the line of the rule's own file that an error came from."""
        file = inspect.getsourcefile(inspect.unwrap(self.rule))
        lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == file]
        return f" at {Path(file).name}:{lines[-1]}" if file and lines else ""

    def score_unchecked(self, signals: "TokenSignals") -> Any:
        """What the rule returns for these signals, whatever it declares; a memory takes a step."""
        params = dict(self.params)
        if self.own_norm is not None and "norm" in params:
            signals = signals.renormalised(params.pop("norm"))
        if self.state is None:
            return self.rule(signals, **params)
        returned = self.rule(signals, deepcopy(self.memory.state), **params)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise SelectorError(
                f"selector {self.name!r} has a memory, so it returns (score_BT, state), "
                f"not {type(returned).__name__}"
            )
        from bench.selection.guard import odd_part

        score_BT, state = returned
        if (odd := odd_part(state)) is not None:
            raise SelectorError(
                f"selector {self.name!r} put more than plain values and tensors in its memory "
                f"({odd}): no checkpoint could load it again"
            )
        self.memory.state = state
        return score_BT

    def _check(self, score_BT: Any, mask_BT: "Tensor") -> None:
        import torch

        if not isinstance(score_BT, torch.Tensor):
            raise SelectorError(
                f"selector {self.name!r} returned {type(score_BT).__name__}, not a tensor"
                + (f" ({self._reads()})" if score_BT is None and self.undeclared() else "")
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
        if self.sets_keep and not 0 < self.step_keep <= 1:
            raise SelectorError(
                f"selector {self.name!r} set keep={self.step_keep!r}; accepted: in (0, 1]"
            )

    def _reads(self) -> str:
        """What is said of a rule that broke: perhaps it reads what it does not declare."""
        if undeclared := self.undeclared():
            needs = ", ".join(f'"{name}"' for name in (*self.needs, *undeclared))
            return (
                f"it reads {', '.join(undeclared)}, which it does not declare, so that is None: "
                f"write needs=({needs}{',' if len(self.needs) + len(undeclared) == 1 else ''})"
            )
        return f"it may read only what it declares: {', '.join(self.needs) or 'no signal'}"

    def undeclared(self) -> list[str]:
        """Signals that stand in the rule's source and not in its `needs`, in their order there."""
        from bench.selection.signals import EXTRA_SIGNALS, SIGNAL_NAMES

        try:
            found = re.findall(r"\.(\w+)", source_of(self.rule))
        except (OSError, TypeError, SyntaxError):
            return []
        known = {*SIGNAL_NAMES, *EXTRA_SIGNALS} - set(self.needs)
        return [name for name in dict.fromkeys(found) if name in known]

    @property
    def step_keep(self) -> float:
        """The budget that the rule set for the batch it has just scored (only with sets_keep)."""
        return self.parts[0].step_keep if self.parts else self.memory.state["keep"]

    @property
    def ships(self) -> bool:
        """Is it made of this package's own code alone, which its tests have called?"""
        return self.rule.__module__.startswith("token_selectors.")

    @property
    def has_memory(self) -> bool:
        """Whether a step depends on the steps before it."""
        return self.state is not None or any(part.has_memory for part in self.parts)

    def state_dict(self) -> dict[str, Any]:
        """The memory of the rule and of its parts, for a checkpoint."""
        return {
            "state": deepcopy(self.memory.state),
            "parts": [part.state_dict() for part in self.parts],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put the memory back as `state_dict` gave it."""
        self.memory.state = deepcopy(saved["state"])
        for part, state in zip(self.parts, saved["parts"], strict=True):
            part.load_state_dict(state)

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.rule) or ""

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring: what is kept."""
        return self.doc.split("\n\n")[0].replace("\n", " ")

    @property
    def source(self) -> str:
        """What the docstring's `Source:` line names."""
        return self._paragraph("Source").removesuffix(".")

    @property
    def formula(self) -> str:
        """What the docstring's `Formula:` paragraph says."""
        return self._paragraph("Formula")

    @property
    def deviations(self) -> str:
        """What the docstring's `Deviations:` paragraph says: where we read or do otherwise."""
        return self._paragraph("Deviations")

    def _paragraph(self, head: str) -> str:
        found = re.search(rf"^{head}: (.+?)(?:\n\n|\Z)", self.doc, re.MULTILINE | re.DOTALL)
        return " ".join(found.group(1).split()) if found else ""

    @property
    def cost(self) -> str:
        """One of COST_CLASSES: the dearest signal that the rule reads."""
        from bench.selection.signals import STUDENT_ONLY

        classes = [0]
        for need in self.needs:
            if need in ("reward_B", "group_B", "stop_BT"):
                continue
            if need in EXTRA_PASSES:
                classes.append(4)
            elif need == "teacher_logprob_BT":
                classes.append(1)
            elif need not in STUDENT_ONLY and "teacher" in need and "topk" in need:
                classes.append(2)
            elif need not in STUDENT_ONLY:
                classes.append(3)
        return COST_CLASSES[max(classes)]

    def parameters(self) -> dict[str, Any]:
        """Every parameter with its default."""
        if self.parts:
            return {}
        given = 1 if self.state is None else 2
        own = {
            name: parameter.default
            for name, parameter in list(inspect.signature(self.rule).parameters.items())[given:]
        }
        return own if self.own_norm is None else {**own, "norm": self.own_norm}

    def code_sha256(self) -> str:
        """Hash of the file that a user's rule lives in, or of a built-in rule's own source.

        That of an expression covers its words and every rule inside it.
        """
        if self.parts:
            hashes = [part.code_sha256() for part in self.parts]
            return hashlib.sha256("\n".join([str(self.code), *hashes]).encode()).hexdigest()
        path = inspect.getsourcefile(self.rule)
        if path and not self.rule.__module__.startswith("token_selectors."):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return hashlib.sha256(source_of(self.rule).encode()).hexdigest()

    def bind(self, params: Mapping[str, Any]) -> "Selector":
        """The same rule with parameters and a fresh memory.

        Raises ConfigError for an unknown parameter or a wrong type.
        """
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
        settled = {**known, **bound}
        needs = list(self.needs)
        for name, accepted in self.choices.items():
            if settled[name] not in accepted:
                raise unknown_name(f"selector_params: {name}", str(settled[name]), accepted)
            needs += accepted[settled[name]]
        if self.own_norm is not None and settled["norm"] == self.own_norm:
            del settled["norm"]  # the rule as it always was
        return replace(
            self,
            params=settled,
            needs=tuple(dict.fromkeys(needs)),
            memory=Memory(self.state),
        )


def source_of(function: Callable[..., Any]) -> str:
    """A function's source without its docstring, comments or layout."""
    import ast
    import textwrap

    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = tree.body[0]
    if isinstance(found, ast.FunctionDef) and ast.get_docstring(found) is not None:
        found.body = found.body[1:] or [ast.Pass()]
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
