"""The panel: many rules on one batch of signals, what each would keep, and how they compare.

Nothing here trains. N are the tokens under the mask in row-major order, R the panel's rules; the
run's own rule is the first of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import ConfigError
from bench.core.randomness import RowKeys
from bench.selection.budget import select_each
from bench.selection.population import average_ranks, percentile_rank
from bench.selection.registry import Selector, SelectorError, get_selector, selector_names
from bench.selection.signals import SIGNAL_NAMES, TokenSignals
from bench.shadow.token_classes import TOKEN_CLASSES
from bench.train.extra_signals import FREE

BINS = 10
"""Bins of the position in a response and of the student's entropy."""
DIGITS = 6
"""Significant digits of a logged number."""


@dataclass(frozen=True)
class Member:
    """A rule of the panel and the name that it is logged under."""

    label: str
    rule: Selector


@dataclass(frozen=True)
class Panel:
    """The rules that are shadowed, the run's own first, and why others are not."""

    members: tuple[Member, ...]
    skipped: Mapping[str, str]

    @property
    def needs(self) -> tuple[str, ...]:
        """Every signal that a rule of the panel reads."""
        return tuple(dict.fromkeys(name for m in self.members for name in m.rule.needs))


def make_panel(names: Sequence[str], own: Selector, logged: Sequence[str] = ()) -> Panel:
    """`own` and the named rules; `all` stands for every registered one.

    logged   signals that the run computes for its log, besides its own rule's.

    Raises ConfigError for an unknown name. A rule that keeps every token, and one that needs what a
    run does not compute, is skipped with the reason.
    """
    members, skipped = [Member(_label(own), own)], {}
    asked = [n for name in names for n in (selector_names() if name == "all" else [name])]
    for name in dict.fromkeys(asked):
        try:
            rule = get_selector(name)
        except ConfigError as error:
            if name not in selector_names() or name in names:
                raise ConfigError(f"shadow: {error}") from error
            skipped[name] = str(error)
            continue
        label = _label(rule)
        reason = _reason_to_skip(rule, {*own.needs, *logged, *FREE})
        if (label, rule.rule) == (_label(own), own.rule):
            continue
        if reason:
            skipped[label] = reason
        else:
            members.append(Member(label, rule))
    if len({member.label for member in members}) < len(members):
        members[0] = Member(f"{members[0].label} (this run's)", own)
    return Panel(tuple(members), skipped)


def _reason_to_skip(rule: Selector, computed: Collection[str]) -> str:
    if rule.keep == 1 and not rule.abstains:
        return "keeps every token"
    if rule.has_memory:
        return "has a memory across steps, which a panel does not keep"
    absent = [n for n in rule.needs if n not in SIGNAL_NAMES and n not in computed]
    if not absent:
        return ""
    named = ",".join(absent)
    return f"needs {named}, which this run does not compute without --log-signals {named}"


def _label(rule: Selector) -> str:
    """The rule's name, with the parameters that are not at their defaults."""
    defaults = rule.parameters()
    changed = [f"{n}={v}" for n, v in sorted(rule.params.items()) if v != defaults[n]]
    return f"{rule.name}({', '.join(changed)})" if changed else rule.name


@dataclass(frozen=True)
class Spend:
    """How each rule of the panel spends its budget: as the run does."""

    keep: float
    scope: Literal["batch", "response"]
    min_keep_per_response: int
    ties: Literal["hash", "earlier"]
    seed: int
    step: int
    row_key_B: RowKeys | None


@dataclass(frozen=True)
class Choices:
    """What the rules of a panel scored and keep on one batch."""

    labels: tuple[str, ...]
    score_RN: Tensor
    selected_RN: Tensor
    tied_R: Tensor
    """Kept tokens that the tie rule chose among equal scores."""
    skipped: Mapping[str, str]
    """Label -> reason, of rules that gave no scores."""


def choose(panel: Panel, signals: TokenSignals, spend: Spend) -> Choices:
    """Every rule's scores and mask. A weight counts as a score.

    A rule that breaks its contract on this batch is skipped with its error: it trains nothing.
    """
    score_of, skipped = {}, dict(panel.skipped)
    for member in panel.members:
        try:
            score_of[member.label] = member.rule(signals)[signals.mask_BT]
        except SelectorError as error:
            skipped[member.label] = str(error)
    wide = any(score_N.dtype == torch.float64 for score_N in score_of.values())
    dtype = torch.float64 if wide else torch.float32
    score_RN = torch.stack([score_N.to(dtype) for score_N in score_of.values()])
    spent = select_each(score_RN, signals.mask_BT, **vars(spend))
    selected_RN, tied_R = spent.selected_RN, spent.tied_R
    for place, member in enumerate(m for m in panel.members if m.label in score_of):
        if member.rule.keep == 1 and member.rule.abstains:  # its budget is its own
            selected_RN[place], tied_R[place] = score_RN[place] > -torch.inf, 0
    return Choices(tuple(score_of), score_RN, selected_RN, tied_R, skipped)


@dataclass(frozen=True)
class Groups:
    """Which bin each of the N tokens falls in, for every way of binning that is logged."""

    position_N: Tensor
    """Tenth of its response."""
    entropy_N: Tensor
    """Decile of the student's entropy in the batch, ties in one decile."""
    class_N: Tensor
    """Place in TOKEN_CLASSES."""

    def sizes(self) -> dict[str, tuple[Tensor, int]]:
        return {
            "position": (self.position_N, BINS),
            "entropy": (self.entropy_N, BINS),
            "class": (self.class_N, len(TOKEN_CLASSES)),
        }


def group_tokens(signals: TokenSignals, class_V: Tensor) -> Groups:
    """The groups of a batch. Needs student_entropy_BT."""
    mask_BT = signals.mask_BT
    length_BT = signals.length_B[:, None].expand_as(signals.position_BT)
    tenth_N = (BINS * signals.position_BT[mask_BT]) // length_BT[mask_BT]
    rank_N = percentile_rank(signals.student_entropy_BT.double(), mask_BT)[mask_BT]
    return Groups(
        position_N=tenth_N.clamp(max=BINS - 1),
        entropy_N=(BINS * rank_N).long().clamp(max=BINS - 1),
        class_N=class_V.to(mask_BT.device)[signals.token_BT[mask_BT]],
    )


def compare(
    choices: Choices, signals: TokenSignals, groups: Groups, gradient_N: Tensor
) -> dict[str, Any]:
    """One line of shadow.jsonl without its head: see `shadow.py` for every field."""
    selected_RN = choices.selected_RN.double()
    kept_R = selected_RN.sum(1)
    values = {
        "position": signals.position_BT[signals.mask_BT],
        "logit_gradient_norm": gradient_N,
        **{
            name.removesuffix("_BT"): value_BT[signals.mask_BT]
            for name, value_BT in signals.computed().items()
            if value_BT.ndim == 2
        },
    }
    value_NS = torch.stack([value_N.double() for value_N in values.values()], 1)
    mean_RS = selected_RN @ value_NS / kept_R[:, None]  # NaN, logged as null, where none is kept
    gradient_N = gradient_N.double()
    line: dict[str, Any] = {
        "rules": list(choices.labels),
        "skipped": dict(choices.skipped),
        "kept": [int(kept) for kept in kept_R.tolist()],
        "tied": choices.tied_R.tolist(),
        "jaccard": _above_diagonal(jaccard(selected_RN)),
        "spearman": _above_diagonal(spearman(choices.score_RN)),
        "gradient_share": rounded(selected_RN @ gradient_N / gradient_N.sum().clamp(min=1e-38)),
        "signals": {
            "names": list(values),
            "all": rounded(value_NS.mean(0)),
            "kept": [rounded(mean_S) for mean_S in mean_RS],
        },
    }  # fmt: skip
    for name, (group_N, size) in groups.sizes().items():
        member_NG = torch.nn.functional.one_hot(group_N, size).double()
        line[name] = {
            "all": member_NG.sum(0).long().tolist(),
            "kept": (selected_RN @ member_NG).long().tolist(),
        }
    return line


def jaccard(selected_RN: Tensor) -> Tensor:
    """|A ∩ B| / |A ∪ B| of every two masks, float64 (R, R); NaN for two empty ones."""
    selected_RN = selected_RN.double()
    both_RR = selected_RN @ selected_RN.T
    size_R = both_RR.diagonal()
    return both_RR / (size_R[:, None] + size_R[None, :] - both_RR)


def spearman(score_RN: Tensor) -> Tensor:
    """Rank correlation of every two rules' scores, ties averaged, float64 (R, R).

    -inf is the lowest score. NaN where a rule gives every token the same score.
    """
    rank_RN = average_ranks(score_RN)
    rank_RN = rank_RN - rank_RN.mean(1, keepdim=True)
    norm_R1 = rank_RN.norm(dim=1, keepdim=True)
    norm_R1 = torch.where(norm_R1 > 0, norm_R1, torch.nan)
    return ((rank_RN / norm_R1) @ (rank_RN / norm_R1).T).clamp(-1, 1)


def _above_diagonal(value_RR: Tensor) -> list[float | None]:
    """Row by row: (0, 1), (0, 2), ..., (1, 2), ..."""
    row, column = torch.triu_indices(*value_RR.shape, offset=1)
    return rounded(value_RR[row, column])


def rounded(value_N: Tensor) -> list[float | None]:
    """Numbers for JSON: DIGITS significant digits, None for NaN."""
    return [
        None if value != value else float(f"{value:.{DIGITS}g}")
        for value in value_N.double().tolist()
    ]
