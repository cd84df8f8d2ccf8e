"""The claims of the sweeps, each as one paired comparison of two rules, and what became of it.

A claim of superiority is shown where its difference is clearly above zero; one with a margin is of
non-inferiority, shown where the difference is clearly above minus that margin. The primary claims
are one Holm family, the secondary ones another. Pure: no input or output.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, get_args

from bench.core.claims import Claim, NamedClaims, Prediction
from bench.core.files import canonical_json
from bench.core.moderated import TEST_VERSION
from bench.core.stats import CONFIDENCE, MIN_EFFECT, holm
from bench.tables.leaderboard import compare
from bench.tables.rows import regime_changes
from bench.tables.sheet import NONE, Sheet, interval_text, points
from bench.tables.table import Comparison, Line, Table

Kind = Literal["primary", "secondary"]
Outcome = Literal["shown", "not shown", "the opposite shown"]


@dataclass(frozen=True)
class Answer:
    """A claim in one table: the difference rule − reference at the claim's keep."""

    claim: Claim
    kind: Kind
    named: NamedClaims
    table: Table
    lines: tuple[Line, Line]
    difference: Comparison
    outcome: Outcome = "not shown"
    also: tuple[str, ...] = ()
    """Tables in which the same runs answer the same claim: counted here alone."""

    @property
    def p_value(self) -> float:
        """Of no difference, or of a difference of minus the margin; two-sided."""
        assert self.difference.crossed is not None
        return self.difference.crossed.p_value_of(-(self.claim.margin or 0.0))

    @property
    def runs(self) -> tuple[object, ...]:
        """What the answer is made of: the runs of both rules, and the claim."""
        common = set(self.lines[0].seeds) & set(self.lines[1].seeds)
        ids = [sorted(r.run_id for r in line.runs if r.seed in common) for line in self.lines]
        return (*map(tuple, ids), self.claim.margin)


def answers(tables: Sequence[Table], named: Sequence[NamedClaims]) -> list[Answer]:
    """Every claim in every table of its sweep that holds its rules, each comparison once.

    Where the same runs answer a claim twice (a tuning that kept the default), the first counts;
    a primary claim goes before a secondary one.
    """
    found: dict[tuple[object, ...], Answer] = {}
    for kind in ("primary", "secondary"):
        for source in named:
            for claim in getattr(source.claims, kind):
                for table in tables:
                    if not _is_of(table, source):
                        continue
                    answer = _answer(claim, kind, source, table)
                    if answer is None:
                        continue
                    if (first := found.get(answer.runs)) is not None:
                        place = f"{table.regime} on {table.pair}"
                        if first.table is table or place in first.also:  # by another file
                            continue
                        answer = replace(first, also=(*first.also, place))
                    found[answer.runs] = answer
    return [
        answer
        for kind in ("primary", "secondary")
        for answer in _judged([a for a in found.values() if a.kind == kind])
    ]


def _is_of(table: Table, named: NamedClaims) -> bool:
    """Is the table one of that sweep's?"""
    if table.has_no_keep:
        return False
    if named.is_tuned or table.tuning is not None:
        return table.tuning is not None and table.tuning.sweep == named.sweep
    here = (table.pair, canonical_json(table.changes))
    return any(
        (values["pair"], canonical_json(regime_changes(values))) == here
        for values in named.experiments
    )


def _answer(claim: Claim, kind: Kind, named: NamedClaims, table: Table) -> Answer | None:
    rule, reference = (_line(table, name, claim.keep) for name in (claim.rule, claim.reference))
    if rule is None or reference is None:
        return None
    difference = compare(rule, reference)
    if difference is None or not difference.can_be_judged:
        return None
    return Answer(claim, kind, named, table, (rule, reference), difference)


def _line(table: Table, selector: str, keep: float) -> Line | None:
    """The rule with its default parameters at that keep; `full` has none."""
    found = [
        line
        for line in table.arms(selector)
        if not line.params and (selector == "full" or line.keep == keep)
    ]
    return found[0] if found else None


def _judged(family: Sequence[Answer]) -> list[Answer]:
    """The answers with their outcomes: one Holm family."""
    adjusted = holm([answer.p_value for answer in family])
    return [
        replace(answer, outcome=_outcome(answer, p_value))
        for answer, p_value in zip(family, adjusted, strict=True)
    ]


def _outcome(answer: Answer, adjusted: float) -> Outcome:
    """A claim of superiority also needs a difference of more than MIN_EFFECT, as a verdict does."""
    distance = answer.difference.mean + (answer.claim.margin or 0.0)
    least = MIN_EFFECT if answer.claim.margin is None else 0.0
    if adjusted >= 1 - CONFIDENCE or abs(distance) <= least:
        return "not shown"
    return "shown" if distance > 0 else "the opposite shown"


Score = Literal["came true", "undecided", "did not come true"]


@dataclass(frozen=True)
class Scored:
    """A prediction in one table, and what became of it there."""

    prediction: Prediction
    named: NamedClaims
    table: Table
    lines: tuple[Line, Line]
    difference: Comparison

    @property
    def score(self) -> Score:
        """By the interval of this one comparison: all inside what was expected, all outside, or
        neither."""
        assert self.difference.crossed is not None
        low, high = self.difference.crossed.ci95
        margin = self.prediction.margin or 0.0
        least, most = {
            "better": (0.0, math.inf),
            "no worse": (-margin, math.inf),
            "alike": (-margin, margin),
            "worse": (-math.inf, 0.0),
        }[self.prediction.expects]
        if least <= low and high <= most:
            return "came true"
        return "did not come true" if high < least or low > most else "undecided"


def scored_predictions(tables: Sequence[Table], named: Sequence[NamedClaims]) -> list[Scored]:
    """Every prediction in every table of its sweep that holds its rules."""
    return [
        Scored(prediction, source, table, answer.lines, answer.difference)
        for source in named
        for prediction in source.claims.predictions
        for table in tables
        if _is_of(table, source) and (not prediction.pairs or table.pair in prediction.pairs)
        if (answer := _answer(prediction, "secondary", source, table)) is not None
    ]


def predictions_sheet(found: Sequence[Scored]) -> Sheet:
    """What papers would expect, registered before the runs, and what became of it."""
    rows = tuple(
        (
            one.prediction.by, one.prediction.words,
            f"{one.prediction.rule} − {one.prediction.reference}", f"{one.prediction.keep:g}",
            _expected_text(one.prediction), one.table.regime, one.table.pair,
            str(one.difference.seeds), interval_text(one.difference), one.score,
        )
        for one in found
    )  # fmt: skip
    counts = Counter(one.score for one in found)
    told = ", ".join(f"{counts[score]} {score}" for score in get_args(Score))
    return Sheet(
        "Predictions",
        ("by", "prediction", "difference", "keep", "expected", "regime", "pair", "seeds", "points",
         "became"),
        rows,
        (
            f"Of {len(rows)}: {told}. Ours of what a paper's authors would expect, registered in "
            "the sweep's file; each is scored by the interval of its own comparison, which is no "
            "verdict: *came true* where all of it lies inside what was expected, *did not come "
            "true* where all of it lies outside.",
            *(
                _named_note(source, [x for one in found if one.named == source for x in one.lines])
                for source in _sources(found)
            ),
        ),
    )  # fmt: skip


def registered_sheet(named: Sequence[NamedClaims]) -> Sheet | None:
    """What is expected of more than one comparison, in words; None where nothing is."""
    rows = tuple(
        (f"`{source.source}`", str(source.claims.named), text)
        for source in named
        for text in source.claims.registered
    )
    return (
        Sheet(
            "Registered in words",
            ("sweep", "named on", "what would be expected"),
            rows,
            ("Of more than one comparison, before the runs: answered in words, not by a test.",),
        )
        if rows
        else None
    )


def _expected_text(prediction: Prediction) -> str:
    if prediction.margin is None:
        return prediction.expects
    return f"{prediction.expects}, within {points(prediction.margin, False)}"


def claims_sheets(asked: Sequence[Answer]) -> list[Sheet]:
    """The primary claims, then the secondary ones: difference, interval, seeds and outcome."""
    return [
        _claims_sheet(kind, family)
        for kind in ("primary", "secondary")
        if (family := [answer for answer in asked if answer.kind == kind])
    ]


def _claims_sheet(kind: Kind, family: Sequence[Answer]) -> Sheet:
    rows = tuple(
        (
            answer.claim.words, f"{answer.claim.rule} − {answer.claim.reference}",
            f"{answer.claim.keep:g}",
            NONE if answer.claim.margin is None else points(answer.claim.margin, False),
            answer.table.regime, answer.table.pair, str(answer.difference.seeds),
            interval_text(answer.difference), answer.outcome,
        )
        for answer in family
    )  # fmt: skip
    count = f"all {len(rows)} comparisons" if len(rows) > 1 else "the one comparison"
    notes = [
        f"Test version {TEST_VERSION}, seeds and items both drawn; Holm family: {count} of this "
        "table; differences are paired over common seeds and all items, intervals are of one "
        "comparison. With a margin the claim is that the rule is no worse by more than that: "
        "*shown* and *the opposite shown* are of a difference from minus the margin; without, of "
        f"one from zero, of more than {100 * MIN_EFFECT:g} point.",
    ]
    for source in _sources(family):
        lines = [line for answer in family if answer.named == source for line in answer.lines]
        notes.append(_named_note(source, lines))
    notes += [
        f"Counted once: {a.claim.rule} − {a.claim.reference} under {a.table.regime} on "
        f"{a.table.pair} has the runs of {', '.join(a.also)} too."
        for a in family
        if a.also
    ]
    return Sheet(
        f"{kind.capitalize()} claims",
        ("claim", "difference", "keep", "margin", "regime", "pair", "seeds", "points", "outcome"),
        rows,
        tuple(notes),
    )


def _sources(family: Sequence[Answer | Scored]) -> list[NamedClaims]:
    found: list[NamedClaims] = []
    for answer in family:
        if answer.named not in found:
            found.append(answer.named)
    return found


def _named_note(source: NamedClaims, lines: Sequence[Line]) -> str:
    """When the claims of a file were named, and whether any of the lines' runs is older."""
    runs = [run for line in lines for run in line.runs]
    named = source.claims.named
    ended = [run.ended for run in runs]
    first = min((date.fromisoformat(end[:10]) for end in ended if end is not None), default=named)
    if None in ended or first < named:
        when = "after rows that they are tested on"
    else:
        when = "on the day of" if first == named else "before"
        when += " the first of its rows"
    return f"Named on {named} in `{source.source}`, {when}."
