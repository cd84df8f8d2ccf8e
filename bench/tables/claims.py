"""The claims that the benchmark was made to test, each as one paired comparison of two rules.

The claims were named before any result: TA-OPD (arXiv 2605.26844) says that teachable tokens at a
small budget do at least as well as all tokens, that they do better than the tokens which entropy or
a divergence picks at the same budget, and that what is incompatible must not be trained on.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core.keep_schedule import HEADLINE_KEEP
from bench.core.stats import verdicts
from bench.tables.leaderboard import compare, is_main
from bench.tables.sheet import NONE, Sheet, difference_text, points
from bench.tables.table import Comparison, Line, Table

PUBLISHED = Path(__file__).parent / "published.toml"
"""What papers reported, as `published_sheet` reads it."""


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


def claims_sheet(asked: Sequence[Answer]) -> Sheet:
    """Each claim in each regime and pair: difference, interval, seeds and verdict."""
    rows = tuple(
        (
            answer.claim.words, f"{answer.claim.rule} − {answer.claim.reference}",
            answer.table.regime, answer.table.pair, str(answer.difference.seeds),
            difference_text(answer.difference),
        )
        for answer in asked
    )  # fmt: skip
    return Sheet(
        f"Claims, each by its own comparison, at keep {HEADLINE_KEEP:g}",
        ("claim", "difference", "regime", "pair", "seeds", "points"),
        rows,
        (
            "What TA-OPD (arXiv 2605.26844) says; the claims were named before any result. "
            "Differences are paired over common seeds and all items; Holm family: all "
            f"{len(rows)} comparisons of this table. A tie under `do as well as all` is no proof "
            "of equality: read the interval.",
        ),
    )


def published_sheet(published: str, tables: Sequence[Table]) -> Sheet:
    """Reported numbers, then ours for the same rules at the same keeps."""
    rows, names, keeps = [], set(), {1.0}
    for source in tomllib.loads(published)["source"]:
        full = {r.get("pair"): r["score"] for r in source["reported"] if r["rule"] == "full"}
        name = source["name"] + (f", arXiv {source['arxiv']}" if "arxiv" in source else "")
        for reported in source["reported"]:
            pair, keep = reported.get("pair"), reported.get("keep")
            is_compared = pair in full and reported["rule"] != "full"
            change = f"{reported['score'] - full[pair]:+.2f}" if is_compared else NONE
            rows.append((
                "reported", name, source.get("benchmark", "not stated"), pair or "not stated",
                reported["rule"], "not stated" if keep is None else f"{keep:g}",
                f"{reported['score']:.2f}", change.replace("-", "−"),
            ))  # fmt: skip
            names |= set(reported["ours"])
            keeps |= set() if keep is None else {keep}
    for table in tables:
        if is_main(table) and not table.has_no_keep:
            for line in table.arms():
                if line.selector in names and line.keep in keeps:
                    rows.append((
                        "measured here", f"regime {table.regime}", table.task, table.pair,
                        line.label, f"{line.keep:g}", points(line.accuracy, False),
                        difference_text(line.vs_full),
                    ))  # fmt: skip
    return Sheet(
        "Reported elsewhere, beside ours",
        ("", "source", "benchmark", "pair", "rule", "keep", "accuracy %", "difference from full"),
        tuple(rows),
        (
            "The reported numbers are others', on other models, data and budgets; none was "
            "measured here. Ours follow for the same rules at the keeps that were reported.",
        ),
    )
