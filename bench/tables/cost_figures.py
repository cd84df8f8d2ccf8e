"""Accuracy against what a run costs, with the Pareto front of the rules. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.tables.fronts import COSTS, Fronts
from bench.tables.sheet import keep_percent
from bench.tables.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    WIDTH,
    frame,
    label_edges,
    panel_grid,
    per_cent,
    x_ticks,
)
from bench.tables.table import Line, Table


def pareto(table: Table, cost: str) -> Figure | None:
    """Accuracy against tokens trained or seconds; rules on the Pareto front are named."""
    arms = table.arms()
    if len({line.keep for line in arms if line.selector != "full"}) < 2:
        return None
    price = [_price(line, cost) for line in arms]
    front = pareto_front([(x, line.accuracy) for x, line in zip(price, arms, strict=True)])
    figure = Figure((WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    named = []
    for place, (x, line) in enumerate(zip(price, arms, strict=True)):
        is_reference, y = line.selector in ("full", "random"), 100 * line.accuracy
        colour = BLACK if is_reference else VERMILION if place in front else GREY
        marker = {"full": "s", "random": "D"}.get(line.selector, "o")
        axes.plot(
            x,
            y,
            marker=marker,
            color=colour,
            ls="none",
            alpha=1 if colour != GREY else 0.6,
            zorder=2 if colour == GREY else 3,
        )
        if is_reference or place in front:
            axes.vlines(x, *per_cent(line.seeds_ci95), color=colour, lw=0.7, alpha=0.6)
        if place in front:
            keep = "" if line.selector == "full" else f" {keep_percent(line.keep)}"
            named.append((x, y, line.label + keep, colour))
    path = [(price[place], 100 * arms[place].accuracy) for place in front]
    axes.step(*zip(*path, strict=True), where="post", color=VERMILION, lw=0.8, zorder=0)
    shares = {text: min(0.8, 0.03 + 0.021 * len(text)) for *_, text, _ in named}
    _cost_axis(axes, price, {x: shares[text] for x, _, text, _ in named})
    what = "training time" if cost == "seconds" else "tokens trained on"
    unit = "s" if cost == "seconds" else "count"
    axes.set_xlabel(f"{what} per run ({unit})")
    axes.set_ylabel("accuracy (%)")
    _name_front(axes, named, shares)
    note = (
        "Red: Pareto front (costs within 2 % count as equal); diamonds: random; square: full. "
        "Bars: 95 % intervals over training seeds."
    )
    if cost == "seconds":
        note += " Seconds are by the clock, whatever else the machine ran meanwhile."
    frame(figure, f"Accuracy against {what}", f"{table.where}. {note}")
    return figure


def _price(line: Line, cost: str) -> float:
    if cost == "seconds":
        return line.training_seconds
    return line.mean_of(lambda run: run.tokens["trained"])


def pareto_front(points: Sequence[tuple[float, float]], slack: float = 0.02) -> list[int]:
    """Places of the points that are more accurate than all that cost as much or less.

    From the cheapest up. A cost up to `slack` higher counts as the same: lengths of responses and
    timings vary that much between runs of one budget.
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    front = []
    for number, place in enumerate(order):
        cost, accuracy = points[place]
        rivals = [
            points[other][1]
            for rank, other in enumerate(order)
            if rank != number and points[other][0] <= cost * (1 + slack)
        ]
        is_first = all(points[other][1] < accuracy for other in order[:number])
        if is_first and all(rival <= accuracy for rival in rivals):
            front.append(place)
    return front


def _cost_axis(axes: Axes, values: Sequence[float], name_shares: Mapping[float, float]) -> None:
    """Room left of the named points for their names, shares of the axis; none below zero. A log
    axis where the range is large: 1, 2 and 5 of each power of ten."""
    is_log = max(values) >= 5 * min(values)
    there, back = (np.log, np.exp) if is_log else (np.asarray, np.asarray)
    low, high = float(there(min(values))), float(there(max(values)))
    high += 0.1 * ((high - low) or abs(low) or 1.0)
    left = low - 0.1 * (high - low)
    for cost, share in name_shares.items():
        left = min(left, (float(there(cost)) - share * high) / (1 - share))
    if not is_log:
        axes.set_xlim(max(0.0, left), high)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        return
    powers = range(int(np.floor(low / np.log(10))), int(np.ceil(high / np.log(10))) + 1)
    steps = (1, 2, 5) if high - low < np.log(100) else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axes.set_xscale("log")
    axes.set_xlim(float(back(left)), float(back(high)))
    shown = [tick for tick in ticks if np.exp(low) / 1.5 <= tick <= np.exp(high)]
    x_ticks(axes, shown[:: 2 if len(shown) > 4 else 1], "{:,.6g}".format)


def _name_front(
    axes: Axes, named: Sequence[tuple[float, float, str, str]], shares: Mapping[str, float]
) -> None:
    """Names above and left of the front's points, where no point can be; pushed up where close, and
    right where the axis begins: each takes a share of it."""
    to_share = axes.transScale + axes.transLimits
    bottom, top = axes.get_ylim()
    gap, at = 0.055 * (top - bottom), -np.inf
    for x, y, text, colour in sorted(named):
        at = max(y, at + gap)
        end = max(to_share.transform((x, y))[0], shares[text])
        axes.annotate(text, (end, at), xycoords=("axes fraction", "data"), xytext=(-3, 2),
                      textcoords="offset points", fontsize=6, color=colour, va="bottom",
                      ha="right")  # fmt: skip
    axes.set_ylim(bottom, max(top, at + 2 * gap))


def by_front(fronts: Fronts, cost: str) -> Figure:
    """Reported accuracy against a cost: every rule's front, and the front of all rules."""
    figure, panels = panel_grid(len(fronts.by_rule))
    best = fronts.overall(cost)
    for axes, (rule, found) in zip(panels, fronts.by_rule.items(), strict=True):
        ordered = sorted(found, key=lambda point: point.costs[cost])
        axes.set_xscale("log")
        axes.step([p.costs[cost] for p in best], [100 * p.accuracy for p in best], where="post",
                  color=GREY, lw=0.8)  # fmt: skip
        for point in ordered:
            axes.vlines(point.costs[cost], *per_cent(point.ci95), color=BLUE, lw=0.7, alpha=0.6)
        axes.plot([p.costs[cost] for p in ordered], [100 * p.accuracy for p in ordered],
                  color=BLUE, marker="o")  # fmt: skip
        first = [point for point in ordered if any(point is other for other in best)]
        axes.plot([p.costs[cost] for p in first], [100 * p.accuracy for p in first], ls="none",
                  marker="o", color=VERMILION, zorder=3)  # fmt: skip
        axes.set_title(rule, loc="left", color=BLUE)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    label_edges(panels, COSTS[cost], "accuracy (%)")
    note = (
        f"{fronts.where}. Points were chosen on {fronts.tuning.task}; bars: 95 % intervals over "
        "seeds and items. Grey line and red points: the front of all rules."
    )
    frame(figure, f"How much accuracy for how many {COSTS[cost]}?", note)
    return figure
