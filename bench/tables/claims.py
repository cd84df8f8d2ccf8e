"""The claims that the benchmark was made to test, each as one paired comparison of two rules.

The claims were named before any result: TA-OPD (arXiv 2605.26844) says that teachable tokens at a
small budget do at least as well as all tokens, that they do better than the tokens which entropy or
a divergence picks at the same budget, and that what is incompatible must not be trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.core.keep_schedule import HEADLINE_KEEP
from bench.core.stats import verdicts
from bench.tables.leaderboard import Comparison, Line, Table, compare


@dataclass(frozen=True)
class Claim:
    """What is said, and the two rules whose difference tells."""

    words: str
    rule: str
    reference: str


CLAIMS = (
    Claim("teachable tokens do as well as all", "teachability", "full"),
    Claim("better than by entropy", "teachability", "entropy"),
    Claim("better than by divergence", "teachability", "forward_kl"),
    Claim("better than incompatible ones", "teachability", "incompatible"),
)


@dataclass(frozen=True)
class Answer:
    """A claim in one table: the difference rule − reference at HEADLINE_KEEP."""

    claim: Claim
    table: Table
    difference: Comparison


def answers(tables: Sequence[Table]) -> list[Answer]:
    """Every claim in every table that holds its rules, with verdicts of one Holm family.

    Tables of another K are left out: there, the default's claims would be asked again of a part of
    the rules.
    """
    found = [
        Answer(claim, table, difference)
        for claim in CLAIMS
        for table in tables
        if not table.has_no_keep and "k" not in table.changes
        if (difference := _difference(table, claim)) is not None and difference.crossed is not None
    ]
    judged = verdicts([answer.difference.crossed for answer in found if answer.difference.crossed])
    return [
        replace(answer, difference=replace(answer.difference, verdict=verdict))
        for answer, verdict in zip(found, judged, strict=True)
    ]


def _difference(table: Table, claim: Claim) -> Comparison | None:
    rule, reference = _line(table, claim.rule), _line(table, claim.reference)
    return None if rule is None else compare(rule, reference)


def _line(table: Table, selector: str) -> Line | None:
    """The rule with its default parameters at that keep; `full` has none."""
    found = [
        line
        for line in table.arms(selector)
        if not line.params and (selector == "full" or line.keep == HEADLINE_KEEP)
    ]
    return found[0] if found else None
