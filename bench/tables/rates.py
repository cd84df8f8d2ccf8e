"""Arms over learning rates: what a rate does to each, and which verdicts it turns. Pure.

An arm is everything but the learning rate and the seed. Its own best rate has the highest mean
accuracy on the tune split after the last step; what is said of it is its accuracy on the reported
items, by the same training runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from bench.core.files import canonical_json
from bench.core.stats import Verdict, verdicts
from bench.tables.leaderboard import compare
from bench.tables.rows import DEFAULTS, regime_name
from bench.tables.sheet import NONE, Sheet, _short, points
from bench.tables.table import Line, Table

RATE = "learning_rate"
ARM_FIELDS = ("objective", "gradient_clip", "prompts_per_step")
"""Besides the rule, what tells the arms of one matrix apart."""
LEAST_RATES, LEAST_ARMS = 3, 2


@dataclass(frozen=True)
class Arm:
    """A rule at a keep, and what else its training differs in, over several rates."""

    label: str
    keep: float
    by_rate: Mapping[float, Line]

    @cached_property
    def best(self) -> float | None:
        """Its rate with the highest mean on tune, of equal ones the smallest; None where a run was
        never evaluated there."""
        on_tune = {rate: _on_tune(line) for rate, line in self.by_rate.items()}
        if any(value is None for value in on_tune.values()):
            return None
        return max(sorted(on_tune), key=lambda rate: on_tune[rate] or 0.0)

    @property
    def swing(self) -> float:
        """Largest minus smallest accuracy over the rates."""
        found = [line.accuracy for line in self.by_rate.values()]
        return max(found) - min(found)


def _on_tune(line: Line) -> float | None:
    """Mean over seeds of the accuracy on the curve's task after the last step."""
    found = []
    for run in line.runs:
        last = run.curve[-1] if run.curve else {}
        values = [v for name, v in last.items() if name not in ("step", line.task)]
        if last.get("step") != run.experiment["steps"] or len(values) != 1:
            return None
        found.append(values[0])
    return sum(found) / len(found)


@dataclass(frozen=True)
class Matrix:
    """All arms of one pair, task and number of steps, over the rates of any."""

    pair: str
    task: str
    changes: Mapping[str, Any]
    """What differs from the defaults in all of them."""
    items: int
    arms: tuple[Arm, ...]

    @cached_property
    def rates(self) -> tuple[float, ...]:
        return tuple(sorted({rate for arm in self.arms for rate in arm.by_rate}))

    @property
    def shared(self) -> float:
        """The rate that all are compared at: the default one, or the middle of the rates."""
        default = DEFAULTS[RATE]
        return default if default in self.rates else self.rates[len(self.rates) // 2]

    @property
    def where(self) -> str:
        return f"{self.pair}, {self.task}, regime {regime_name(self.changes)}"

    def at(self, rate: float) -> dict[str, Line]:
        """Every arm that was run at a rate."""
        return {arm.label: arm.by_rate[rate] for arm in self.arms if rate in arm.by_rate}

    def at_best(self) -> dict[str, Line]:
        """Every arm at its own best rate."""
        return {arm.label: arm.by_rate[arm.best] for arm in self.arms if arm.best is not None}


def matrices(tables: Iterable[Table]) -> list[Matrix]:
    """The families of tables that differ in the learning rate, where arms have several rates."""
    groups: dict[str, list[Table]] = defaultdict(list)
    for table in tables:
        if not table.has_no_keep and table.tuning is None:
            groups[canonical_json([table.pair, table.task, _shared_changes(table)])].append(table)
    found = []
    for group in groups.values():
        arms = [arm for arm in _arms(group) if _has_several(arm)]
        if len(arms) >= LEAST_ARMS:
            others = [arm for arm in _arms(group) if not _has_several(arm)]
            first = group[0]
            found.append(
                Matrix(first.pair, first.task, _shared_changes(first), first.items,
                       (*arms, *others))
            )  # fmt: skip
    return found


def _shared_changes(table: Table) -> dict[str, Any]:
    return {n: v for n, v in table.changes.items() if n not in (RATE, *ARM_FIELDS)}


def _has_several(arm: Arm) -> bool:
    return len(arm.by_rate) >= LEAST_RATES


def _arms(group: Sequence[Table]) -> list[Arm]:
    """The arms of all tables; a run that a table borrowed is counted where it is at home."""
    found: dict[tuple[str, float], dict[float, Line]] = defaultdict(dict)
    for table in group:
        rate = table.changes.get(RATE, DEFAULTS[RATE])
        differs = {name: table.changes[name] for name in ARM_FIELDS if name in table.changes}
        for line in table.arms():
            found[_label(line, differs), line.keep].setdefault(rate, line)
    arms = [Arm(label, keep, dict(sorted(lines.items()))) for (label, keep), lines in found.items()]
    return sorted(arms, key=lambda arm: (arm.label != "full", -_mean(arm), arm.label))


def _mean(arm: Arm) -> float:
    return sum(line.accuracy for line in arm.by_rate.values()) / len(arm.by_rate)


def _label(line: Line, differs: Mapping[str, Any]) -> str:
    """`random`, `random, unclipped`, `opsa` (which has a rule only in name)."""
    rule = line.label
    if "objective" in differs:
        name = str(differs["objective"])
        rule = name if line.selector == "full" else f"{line.label} by {name}"
    if "gradient_clip" in differs:
        clip = differs["gradient_clip"]
        rule += f", clipped at {clip:g}" if clip else ", unclipped"
    if "prompts_per_step" in differs:
        rule += f", {differs['prompts_per_step']} prompts"
    return rule


Pair = tuple[str, str]


def pairwise(lines: Mapping[str, Line]) -> dict[Pair, Verdict]:
    """Verdict of the first arm against the second, for all pairs of arms: one Holm family."""
    found = {}
    for one, other in combinations(sorted(lines), 2):
        difference = compare(lines[one], lines[other])
        if difference is not None and difference.can_be_judged:
            found[one, other] = difference.crossed
    judged = verdicts([crossed for crossed in found.values() if crossed is not None])
    return dict(zip(found, judged, strict=True))


@dataclass(frozen=True)
class Flips:
    """How verdicts at one choice of rates differ from those at the shared one."""

    pairs: int
    """Compared at both."""
    changed: int
    reversed: int
    """Of the changed, those that turned from better to worse or back."""


def flips(before: Mapping[Pair, Verdict], after: Mapping[Pair, Verdict]) -> Flips:
    both = before.keys() & after.keys()
    changed = [pair for pair in both if before[pair] != after[pair]]
    reversed_ = [pair for pair in changed if "tie" not in (before[pair], after[pair])]
    return Flips(len(both), len(changed), len(reversed_))


def rates_sheet(matrix: Matrix) -> Sheet:
    """Accuracy of every arm at every rate, its swing, and its own best."""
    rows = []
    for arm in matrix.arms:
        cells = [arm.by_rate.get(rate) for rate in matrix.rates]
        best = NONE if arm.best is None or not _has_several(arm) else f"{arm.best:g}"
        at_best = NONE if best == NONE else points(arm.by_rate[float(best)].accuracy, False)
        rows.append((
            arm.label, f"{arm.keep:g}", *(NONE if x is None else _short(x) for x in cells),
            points(arm.swing, False) if _has_several(arm) else NONE, best, at_best,
        ))  # fmt: skip
    return Sheet(
        f"By learning rate: {matrix.where}",
        ("arm", "keep", *(f"{rate:g}" for rate in matrix.rates), "swing", "own best", "there"),
        tuple(rows),
        (
            f"Accuracy % ± seed sd (seeds), {matrix.items:,} items. *Swing*: largest minus "
            "smallest over the rates. *Own best*: the rate with the highest mean on the tune split "
            "after the last step, and the accuracy there on the reported items (the same training "
            "runs).",
        ),
    )


def flips_sheet(matrix: Matrix) -> Sheet | None:
    """Verdicts between all arms at each rate and at each one's best, against the shared rate."""
    shared = pairwise(matrix.at(matrix.shared))
    if not shared:
        return None
    choices = {
        f"{rate:g} for all": pairwise(matrix.at(rate))
        for rate in matrix.rates
        if rate != matrix.shared
    }
    if best := matrix.at_best():
        choices["each at its own best"] = pairwise(best)
    rows = [(f"{matrix.shared:g} for all", str(len(shared)), *_counts(shared), NONE, NONE)]
    for name, judged in choices.items():
        if judged:
            turned = flips(shared, judged)
            rows.append((
                name, str(len(judged)), *_counts(judged), f"{turned.changed} of {turned.pairs}",
                str(turned.reversed),
            ))  # fmt: skip
    return Sheet(
        f"Verdicts that a rate turns: {matrix.where}",
        ("rate", "pairs of arms", "one is better", "ties", "other than at the shared rate",
         "reversed"),
        tuple(rows),
        (
            "Every arm against every other, seeds paired; one Holm family a line of this table. "
            "*Reversed*: the better of the two is another.",
        ),
    )  # fmt: skip


def _counts(judged: Mapping[Pair, Verdict]) -> tuple[str, str]:
    ties = sum(verdict == "tie" for verdict in judged.values())
    return str(len(judged) - ties), str(ties)


def against_sheet(matrix: Matrix) -> Sheet | None:
    """Every arm against `full`, `random` and the teacher-free control, shared and own best."""
    references = [n for n in ("full", "random", "opsa") if n in matrix.at(matrix.shared)]
    best = matrix.at_best()
    if not references or not best:
        return None
    judged = {"shared": matrix.at(matrix.shared), "own best": best}
    found = {name: pairwise(lines) for name, lines in judged.items()}
    rows = []
    for arm in matrix.arms:
        cells = []
        for reference in references:
            for name, lines in judged.items():
                cells.append(_against(arm.label, reference, lines, found[name]))
        if any(cell != NONE for cell in cells):
            rows.append((arm.label, *cells))
    header = [f"− {reference}, {name}" for reference in references for name in judged]
    return Sheet(
        f"At the shared rate and at each one's best: {matrix.where}",
        ("arm", *header),
        tuple(rows),
        (
            f"Difference in points and verdict, at {matrix.shared:g} and with both arms at their "
            "own best rate; the verdicts are those of the table before.",
        ),
    )


def _against(
    label: str, reference: str, lines: Mapping[str, Line], judged: Mapping[Pair, Verdict]
) -> str:
    if label == reference or label not in lines or reference not in lines:
        return NONE
    difference = compare(lines[label], lines[reference])
    if difference is None:
        return NONE
    turned = {"better": "worse", "worse": "better", "tie": "tie"}
    verdict = judged.get((label, reference))
    if verdict is None and (other := judged.get((reference, label))) is not None:
        verdict = turned[other]
    return f"{points(difference.mean)} {verdict or NONE}"


FACTS = {
    "gradient norm": lambda run: run.training.get("grad_norm"),
    "clipped steps": lambda run: run.clipped_step_share,
    "displacement": lambda run: run.training.get("displacement"),
    "overlap with untrained": lambda run: run.training.get("overlap_with_initial"),
}
"""What a run says of its steps: name -> its mean over them."""


def steps_sheet(matrix: Matrix) -> Sheet | None:
    """What the steps of every arm were like at every rate."""
    rows = []
    for name, value in FACTS.items():
        for arm in matrix.arms:
            cells = [_fact(arm.by_rate.get(rate), value) for rate in matrix.rates]
            if any(cell != NONE for cell in cells):
                rows.append((name, arm.label, *cells))
    if not rows:
        return None
    return Sheet(
        f"What the steps were like: {matrix.where}",
        ("of a step", "arm", *(f"{rate:g}" for rate in matrix.rates)),
        tuple(rows),
        (
            "Means over steps and seeds. The norm is before clipping; displacement is the norm of "
            "what a step adds to the weights; overlap is the share of the selection that the "
            "untrained student would have selected of the same batch, by the same rule.",
        ),
    )


def _fact(line: Line | None, value: Any) -> str:
    found = [] if line is None else [value(run) for run in line.runs]
    known: list[float] = [x for x in found if x is not None]
    return f"{sum(known) / len(known):.3g}" if known and len(known) == len(found) else NONE


def rates_sheets(tables: Iterable[Table]) -> list[Sheet]:
    """Everything that is said of learning rates."""
    sheets = []
    for matrix in matrices(tables):
        made = (rates_sheet, flips_sheet, against_sheet, steps_sheet)
        sheets += [sheet for make in made if (sheet := make(matrix)) is not None]
    return sheets
