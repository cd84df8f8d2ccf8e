"""What is compared across tables that differ in one thing: K, a number that their pairs state, or a
setting. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.core.files import canonical_json
from bench.tables.rows import DEFAULTS, Row, regime_name
from bench.tables.sheet import NONE, Sheet, _short, points
from bench.tables.table import Line, Table


def without_k(table: Table) -> Table:
    """The table with K left out of its regime, for what holds several of them."""
    return replace(table, changes={n: v for n, v in table.changes.items() if n != "k"})


def k_groups(tables: Iterable[Table]) -> list[dict[int, Table]]:
    """Tables that differ in k alone, k -> table, where there are several."""
    groups: dict[str, dict[int, Table]] = defaultdict(dict)
    for table in tables:
        if not table.has_no_keep and table.tuning is None:
            key = canonical_json([table.pair, table.task, without_k(table).changes])
            groups[key][table.changes.get("k", DEFAULTS["k"])] = table
    return [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]


Value = float | str


@dataclass(frozen=True)
class Dial:
    """Tables that differ in one thing alone, in its order: a number that each of their pairs states
    (`style_share`), or settings of one pair.
    """

    fact: str
    by_value: Mapping[Value, Table]
    is_of_pairs: bool
    regime: str
    """What all of them share besides."""

    @property
    def first(self) -> Table:
        return next(iter(self.by_value.values()))

    @property
    def where(self) -> str:
        pair = "" if self.is_of_pairs else f"{self.first.pair}, "
        return f"{pair}{self.first.task}, regime {self.regime}"

    def lines(self) -> dict[tuple[float, str], dict[Value, Line]]:
        """(keep, label) -> value of the dial -> line, of the baselines and of every rule that
        stands at several values."""
        found: dict[tuple[float, str], dict[Value, Line]] = defaultdict(dict)
        for value, table in self.by_value.items():
            for line in table.lines:
                found[line.keep, line.label][value] = line
        return {key: lines for key, lines in found.items() if len(lines) > 1}


FEWEST = 3
"""Values without which there is no dial."""
SETTINGS = (("max_new_tokens",), ("scope", "normalize"))
"""Settings that are dials: of several, every combination is a value."""


def dials(tables: Sequence[Table], settings: Sequence[tuple[str, ...]] = SETTINGS) -> list[Dial]:
    """Families of at least FEWEST tables: pairs that state another number each, then settings."""
    usable = [t for t in tables if not t.has_no_keep and t.tuning is None and t.arms()]
    return [*_pair_dials(usable), *_setting_dials(usable, settings)]


def _pair_dials(tables: Sequence[Table]) -> list[Dial]:
    groups: dict[tuple[str, str, str], dict[Value, Table]] = defaultdict(dict)
    for table in tables:
        for fact, value in table.facts.items():
            groups[fact, table.task, table.regime][value] = table
    return [
        Dial(fact, dict(sorted(by_value.items())), True, regime)
        for (fact, _, regime), by_value in groups.items()
        if len(by_value) >= FEWEST
    ]


def _setting_dials(tables: Sequence[Table], settings: Sequence[tuple[str, ...]]) -> list[Dial]:
    found = []
    for names in settings:
        groups: dict[str, dict[tuple[Value, ...], Table]] = defaultdict(dict)
        for table in tables:
            shared = {n: v for n, v in table.changes.items() if n not in names}
            value = tuple(table.changes.get(name, DEFAULTS[name]) for name in names)
            groups[canonical_json([table.pair, table.task, shared])][value] = table
        for group in groups.values():
            if len(group) >= FEWEST and _share_rules(group.values()):
                table = next(iter(group.values()))
                shared = {n: v for n, v in table.changes.items() if n not in names}
                found.append(
                    Dial(" and ".join(names), _named(group), False, regime_name(shared))
                )  # fmt: skip
    return found


def _share_rules(tables: Iterable[Table]) -> bool:
    """Whether a rule besides the references stands in all of them."""
    shared = set.intersection(*({(x.label, x.keep) for x in table.arms()} for table in tables))
    return bool({label for label, _ in shared} - {"full", "random"})


def _named(group: Mapping[tuple[Value, ...], Table]) -> dict[Value, Table]:
    """Single values as they are, combinations as text."""
    return {
        value[0] if len(value) == 1 else ", ".join(map(str, value)): table
        for value, table in sorted(group.items())
    }


def k_sheet(by_k: Mapping[int, Table]) -> Sheet:
    """Accuracy by K of every rule that has several."""
    lines = {(line.label, line.keep, k): line for k, table in by_k.items() for line in table.arms()}
    by_arm = {
        (keep, label): [lines.get((label, keep, k)) for k in by_k]
        for keep, label in sorted({(keep, label) for label, keep, _ in lines})
    }
    several = {key for key, found in by_arm.items() if sum(x is not None for x in found) > 1}
    keeps = {keep for keep, label in several if label not in ("full", "random")}
    rows = [
        (label, f"{keep:g}", *(NONE if x is None else _short(x) for x in found))
        for (keep, label), found in by_arm.items()
        if (keep, label) in several or label == "full" or (label == "random" and keep in keeps)
    ]
    spread = _spread_of_c(by_arm[arm] for arm in by_arm if arm in several)
    if any(spread):
        rows += [
            ("Q95 − Q05 of C", NONE, *(f"{s[0]:.4f}" if s else NONE for s in spread)),
            ("mean 1 − C", NONE, *(f"{s[1]:.4f}" if s else NONE for s in spread)),
        ]
    first = next(iter(by_k.values()))
    return Sheet(
        f"K-sensitivity: {first.pair}, {first.task}, regime {without_k(first).regime}",
        ("selector", "keep", *(f"K = {k}" for k in by_k)),
        tuple(rows),
        (
            "Accuracy % ± seed sd (seeds). `full` and `random` do not read K. C is the teacher's "
            "mass on the student's top K at sampled tokens: mean over the steps of the runs that "
            "read it, of the lines and seeds that every column has.",
        ),
    )


C_NAME = "teacher_mass_on_student_topk_BT"


def _spread_of_c(arms: Iterable[Sequence[Line | None]]) -> list[tuple[float, float] | None]:
    """Q95 − Q05 and mean 1 − C during training, for each column of a sheet of arms.

    Over the runs that computed C, of the arms and seeds that every column has.
    """
    runs_CR: list[list[Row]] = []
    for found in arms:
        lines = [line for line in found if line is not None]
        if len(lines) < len(found):
            continue
        seeds = set.intersection(*(set(line.seeds) for line in lines))
        runs_CR = runs_CR or [[] for _ in lines]
        for column, line in zip(runs_CR, lines, strict=True):
            column += [run for run in line.runs if run.seed in seeds and C_NAME in run.signals]
    return [_mean_of_c([run.signals[C_NAME] for run in column]) for column in runs_CR]


def _mean_of_c(found: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    if not found:
        return None
    spread = sum(c["q95"] - c["q05"] for c in found) / len(found)
    return spread, sum(1 - c["all"] for c in found) / len(found)


def dial_sheet(dial: Dial) -> Sheet:
    """Accuracy at each value of the dial, with the verdict against `full` of the same pair."""
    rows, arms = [], sorted(dial.lines().items(), key=_dial_order)
    for (keep, label), lines in arms:
        cells = []
        for value in dial.by_value:
            line = lines.get(value)
            verdict = line.vs_full.verdict if line and line.vs_full else None
            text = NONE if line is None else _short(line) if line.runs else _bare(line)
            cells.append(f"{text} {verdict}" if verdict else text)
        rows.append((label, f"{keep:g}" if keep else NONE, *cells))
    spread = _spread_of_c([lines.get(value) for value in dial.by_value] for _, lines in arms)
    if any(spread):
        rows.append(("mean 1 − C", NONE, *(f"{s[1]:.4f}" if s else NONE for s in spread)))
    names = [value_text(value) for value in dial.by_value]
    return Sheet(
        f"By {dial.fact}: {dial.where}",
        ("selector", "keep", *(f"{dial.fact} {n}" if dial.is_of_pairs else n for n in names)),
        tuple(rows),
        (
            "Accuracy % ± seed sd (seeds), and the verdict against `full` of the same column "
            "(Holm-adjusted over that table). C as in the table of K.",
        ),
    )


def value_text(value: Value) -> str:
    """A value of a dial, as headers and figures show it."""
    return value if isinstance(value, str) else f"{value:g}"


def _bare(line: Line) -> str:
    return points(line.accuracy, False)


def _dial_order(item: tuple[tuple[float, str], Mapping[Value, Line]]) -> tuple:
    (keep, label), lines = item
    mean = sum(line.accuracy for line in lines.values()) / len(lines)
    first = {"untrained": 0, "teacher": 1, "full": 2}.get(label, 3)
    return (first, keep, -mean, label)
