"""Claims that a sweep is run to test, named in its file: what is said, of which rules, since when.

`[claims]` in a sweep's file, read by the sweep and quoted by the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.core.keep_schedule import HEADLINE_KEEP


class Claim(BaseModel):
    """One paired comparison at one budget: that the rule is better than the reference or, with a
    margin, that it is no worse than the reference by more than that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: Annotated[str, Field(min_length=1)]
    rule: str
    reference: str
    keep: Annotated[float, Field(gt=0, le=1)] = HEADLINE_KEEP
    """Of both rules; `full` has none."""
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the items, 0.02 for two points; None for a claim of superiority."""

    @model_validator(mode="after")
    def _check_rules(self) -> "Claim":
        if self.rule == self.reference:
            raise ValueError(f"reference: {self.reference!r} is the rule itself")
        return self


Expected = Literal["better", "no worse", "alike", "worse"]


class Prediction(Claim):
    """What a paper would expect of one comparison, registered before the runs and scored after.

    "alike" and "no worse" need a margin; the other two take none.
    """

    by: Annotated[str, Field(min_length=1)]
    """Who: a paper by name and arXiv id."""
    expects: Expected
    pairs: tuple[str, ...] = ()
    """Where it is expected; all pairs of the sweep where none is named."""

    @model_validator(mode="after")
    def _check_margin(self) -> "Prediction":
        if (self.margin is not None) != (self.expects in ("no worse", "alike")):
            raise ValueError(
                f"margin: {self.margin} is not accepted with expects {self.expects!r}: 'no worse' "
                "and 'alike' need one, 'better' and 'worse' take none"
            )
        return self


class Claims(BaseModel):
    """What a sweep claims, and the day on which that was written down.

    Primary claims are few and share one Holm family; the secondary ones another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    named: date
    rows: str = "results/rows.jsonl"
    """The published rows that the claims are asked of; those of another file are not."""
    primary: tuple[Claim, ...] = ()
    secondary: tuple[Claim, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    """Of no family: each is scored by its own interval."""
    registered: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """What is expected of more than one comparison, in words; answered in words."""

    @model_validator(mode="after")
    def _check_claims(self) -> "Claims":
        asked = [(c.rule, c.reference, c.keep) for c in (*self.primary, *self.secondary)]
        if not asked and not self.predictions:
            raise ValueError("primary: no claim is named, neither here nor under secondary")
        if twice := next((a for a in asked if asked.count(a) > 1), None):
            rule, reference, keep = twice
            raise ValueError(f"{rule} − {reference} at {keep:g} is named twice")
        return self


@dataclass(frozen=True)
class NamedClaims:
    """The claims of one sweep file, and which experiments they are about."""

    source: str
    """The file, as it was given."""
    sweep: str
    claims: Claims
    experiments: Sequence[Mapping[str, Any]]
    """All fields of the sweep's points, by name."""
    is_tuned: bool
    """Its points are run at the values that a tuning found."""
