"""What the diagnostic's figures share: colours, rows of intervals, where a figure was measured."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.tables.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    frame,
    hide_left_axis,
)

Record = Mapping[str, Any]
REFERENCE, RANDOM, ORACLES = "forward_kl", "random", ("oracle", "oracle_other_seeds")
FAMILY = "teachability"

CURVES = {
    "oracle": (BLACK, "oracle (G itself)"),
    "oracle_other_seeds": (GREY, "oracle of the other seeds"),
    "teachability": (BLUE, "D·C (teachability)"),
    "teachability_raw": (SKY, "D·C without normalisation"),
    "forward_kl": (VERMILION, "D (forward_kl)"),
    "entropy": (GREEN, "H (entropy)"),
    "incompatible": (PURPLE, "D·(1−C) (incompatible)"),
    "random": (ORANGE, "random (expected)"),
}

PARTS = {
    "learnable": "D·C",
    "incompatible": "D·(1−C)",
    "compatibility": "C",
    "divergence": "D",
}


def close(figure: Figure, record: Record, claim: str, note: str) -> Figure:
    """The claim above; below, where it was measured and what the marks are."""
    seeds = len(record["update_seeds"])
    where = (
        f"{record['pair']}, update {record['update'].partition(':')[0]}, {record['n_contexts']:,} "
        f"contexts in {record['n_prompts']:,} prompts, {seeds} update "
        f"seed{'' if seeds == 1 else 's'}, K = {record['k']}"
    )
    frame(figure, claim, f"{where}. {note}")
    return figure


INTERVALS = "Bars: 95 % intervals over prompts and update seeds."


def colour_of(score: str) -> str:
    if score in ORACLES:
        return BLACK
    return VERMILION if score == REFERENCE else BLUE if score.startswith(FAMILY) else GREY


def forest(
    axes: Axes, found: Mapping[str, Mapping[str, Any]], name: str, colours: Mapping[str, str] = {}
) -> None:
    """A row a score, the highest value on top."""
    rows = sorted(found, key=lambda score: found[score][name])
    for y, score in enumerate(rows):
        colour = colours.get(score) or colour_of(score)
        if found[score]["ci95"] is not None:
            axes.hlines(y, *found[score]["ci95"], color=colour, lw=1.2)
        axes.plot(found[score][name], y, marker="o", color=colour, ls="none")
    axes.set_yticks(range(len(rows)), rows)
    for text, score in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color(colours.get(score) or colour_of(score))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    hide_left_axis(axes)


def defined(found: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {score: value for score, value in found.items() if value[name] is not None}
