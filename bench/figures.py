"""Tables -> figures as SVG and PNG bytes. Pure: no input or output; equal tables, equal SVG bytes.

Text is drawn as paths of a font that matplotlib brings along, hashes are salted with a constant and
no date is written, so an SVG depends on the tables and on matplotlib's version alone. A PNG also
depends on the zlib it was packed with, and is not compared by `bench leaderboard --check`.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.across import Dial, dials, k_groups
from bench.leaderboard import Comparison, Line, Table
from bench.records import digest8
from bench.rows import regime_name

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""Okabe and Ito's palette: told apart by colour-blind readers."""
GREY, PALE = "#6E6E6E", "#D5D5D5"
VERDICT_COLOUR = {"better": BLUE, "worse": VERMILION, "tie": GREY, None: GREY}
VERDICT_MARKER = {"better": "^", "worse": "v", "tie": "o", None: "."}
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
WIDTH, WIDE = 3.5, 7.2
"""Inches: one column of a paper, and two."""
STYLE: dict[str, Any] = {
    "svg.hashsalt": "opd-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "axes.grid": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Inside, every figure has STYLE on top of matplotlib's own defaults."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # pyright: ignore
        yield


def draw_all(tables: Sequence[Table]) -> dict[str, bytes]:
    """File name -> content of every figure that has data, each as SVG and PNG."""
    return render(_figures(tables))


def render(figures: Iterable[tuple[str, Figure]]) -> dict[str, bytes]:
    """File name -> content of named figures, each as SVG and PNG, drawn in the house style."""
    with house_style():
        drawn = {}
        for name, figure in figures:
            for kind in ("svg", "png"):
                drawn[f"figures/{name}.{kind}"] = figure_bytes(figure, kind)
        return drawn


def _figures(tables: Sequence[Table]) -> Iterator[tuple[str, Figure]]:
    kinds: dict[str, Callable[[Table], Figure | None]] = {
        "differences": differences,
        "keep": accuracy_by_keep,
        "tokens": lambda table: pareto(table, "tokens"),
        "seconds": lambda table: pareto(table, "seconds"),
        "curve": learning_curves,
    }
    for table in tables:
        for kind, draw in kinds.items():
            figure = None if table.has_no_keep and kind == "keep" else draw(table)
            if figure is not None:
                weights = "-weights" if table.has_no_keep else ""
                place = (table.pair, table.task, table.regime)
                yield f"{kind}{weights}-{'-'.join(map(slug, place))}", figure
    for dial in dials(tables):
        first = next(iter(dial.by_value.values()))
        yield f"dial-{'-'.join(map(slug, (dial.fact, first.task, first.regime)))}", by_dial(dial)
    for by_k in k_groups(tables):
        figure = k_sensitivity(by_k)
        if figure is not None:
            first = next(iter(by_k.values()))
            place = (first.pair, first.task, _without_k(first))
            yield f"k-{'-'.join(map(slug, place))}", figure


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as svg or png."""
    file = BytesIO()
    metadata = {"Date": None, "Creator": "opd-bench"} if kind == "svg" else {"Software": None}
    figure.savefig(file, format=kind, dpi=200, metadata=metadata)
    return file.getvalue()


def slug(text: str) -> str:
    """Part of a file name; where the text does not survive whole, its hash is added."""
    plain = re.sub(r"[^\w.]+", "-", text).strip("-")[-40:].strip("-")
    return plain if re.sub(r"[^\w.]", "-", text) == plain else f"{plain}-{digest8(text)}"


def _without_k(table: Table) -> str:
    return regime_name({name: value for name, value in table.changes.items() if name != "k"})


def _per_cent(value: float | Sequence[float] | np.ndarray) -> Any:
    return 100 * np.asarray(value)


def _keep_name(keep: float) -> str:
    return f"{100 * keep:g} %"


def _frame(
    figure: Figure,
    table: Table,
    claim: str,
    note: str,
    regime: str | None = None,
    pair: str | None = None,
) -> None:
    regime = regime or table.regime
    where = f"{pair or table.pair}, {table.task}, regime {regime}, {table.items:,} items"
    frame(figure, claim, f"{where}. {note}")


def frame(figure: Figure, claim: str, note: str) -> None:
    """The claim above the panels, the note below."""
    figure.suptitle(claim, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    text = textwrap.fill(note, int(24 * figure.get_figwidth()))
    figure.text(0.01, 0.04 / figure.get_figheight(), text, fontsize=5.5, color=GREY, va="bottom")
    foot = (0.1 + 0.09 * (text.count("\n") + 1)) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, foot, 1, 1 - foot))


def _band(axes: Axes, x: Sequence[float], lines: Sequence[Line], colour: str, **kw: Any) -> None:
    """Mean accuracies with their 95 % intervals over training seeds."""
    low, high = zip(*(line.seeds_ci95 for line in lines), strict=True)
    if len(x) > 1:
        axes.fill_between(x, _per_cent(low), _per_cent(high), color=colour, alpha=0.2, lw=0)
    else:
        axes.vlines(x, _per_cent(low), _per_cent(high), color=colour, alpha=0.5, lw=1)
    axes.plot(x, _per_cent([line.accuracy for line in lines]), color=colour, marker="o", **kw)


# --- differences ---------------------------------------------------------------------------------


def differences(table: Table) -> Figure | None:
    """Every rule's paired difference from `random` and from `full`, coloured by verdict."""
    arms = [line for line in table.arms() if line.selector != "full"]
    sides = []
    for name in ("vs_random", "vs_full"):
        found = [getattr(line, name) for line in arms]
        sides += [name] if any(c is not None and c.crossed for c in found) else []
    if not sides:
        return None
    rows, names_of = _rows_by_keep(arms), _names(table)
    height = 0.9 + 0.145 * len(rows)
    figure = Figure((WIDE if len(sides) > 1 else 4.6, height), layout="constrained")
    panels = figure.subplots(1, len(sides), sharex=True, sharey=True, squeeze=False)[0]
    names = {"vs_random": "random at the same keep", "vs_full": "full"}
    for axes, side in zip(panels, sides, strict=True):
        axes.axvline(0, color=BLACK, lw=0.8)
        for y, row in enumerate(rows):
            if isinstance(row, Line):
                _interval(axes, y, getattr(row, side))
        axes.set_xlabel(f"difference from {names[side]} (points)")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [_row_name(row, names_of) for row in rows])
    for text, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        text.set_fontweight("normal" if isinstance(row, Line) else "bold")
    _verdict_key(figure, panels[-1])
    claim = "Which rules differ from random tokens, and from all tokens?"
    if len(sides) == 1:
        claim = f"Which rules differ from {sides[0].removeprefix('vs_')}?"
    note = (
        "Bars: paired 95 % intervals over seeds and items, each by itself; colour: verdict, "
        "Holm-adjusted over the table. n: seeds."
    )
    _frame(figure, table, claim, note)
    return figure


def _rows_by_keep(arms: Iterable[Line]) -> list[Line | str]:
    rows: list[Line | str] = []
    for line in sorted(arms, key=lambda line: (line.keep, -line.accuracy, line.label)):
        head = f"keep {_keep_name(line.keep)}"
        if head not in rows:
            rows.append(head)
        rows.append(line)
    return rows


def _row_name(row: Line | str, names: Mapping[str, str]) -> str:
    return row if isinstance(row, str) else f"{names[row.label]}  n={len(row.runs)}"


def _interval(axes: Axes, y: float, found: Comparison | None) -> None:
    if found is None:
        return
    colour, marker = VERDICT_COLOUR[found.verdict], VERDICT_MARKER[found.verdict]
    if found.crossed is not None:
        axes.hlines(y, *_per_cent(found.crossed.ci95), color=colour, lw=1.2)
    axes.plot(100 * found.mean, y, marker=marker, color=colour, ls="none")


def _verdict_key(figure: Figure, axes: Axes) -> None:
    for verdict in ("better", "tie", "worse"):
        axes.plot([], [], ls="none", marker=VERDICT_MARKER[verdict],
                  color=VERDICT_COLOUR[verdict], label=verdict)  # fmt: skip
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False,
                  fontsize=6.5, handletextpad=0.1, borderpad=0.3, columnspacing=0.8)  # fmt: skip


# --- accuracy against keep -----------------------------------------------------------------------


def accuracy_by_keep(table: Table) -> Figure | None:
    """A panel a rule: its accuracy at each keep, over the band of `random` and the line `full`."""
    by_label = _by_label(table)
    random = by_label.pop("random", [])
    full = by_label.pop("full", [])
    shown = {label: lines for label, lines in by_label.items() if len(lines) > 1}
    if not shown:
        return None
    keeps = sorted({line.keep for lines in [*shown.values(), random] for line in lines})
    figure, panels = _grid(len(shown))
    for axes, (label, lines) in zip(panels, shown.items(), strict=True):
        if full:
            axes.axhline(100 * full[0].accuracy, color=BLACK, lw=0.8, ls=(0, (4, 2)))
        if random:
            _band(axes, [line.keep for line in random], random, GREY, lw=0.8, ms=2)
        _band(axes, [line.keep for line in lines], lines, BLUE)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(keeps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda keep, _: f"{100 * keep:g}"))
        axes.set_title(label, loc="left", color=BLUE)
    panels[0].margins(y=0.18)  # for the name above the line
    _name_references(panels[0], random, full, keeps)
    _label_edges(panels, "tokens kept (%)", "accuracy (%)")
    note = "Grey: random; dashed: full. Bands: 95 % intervals over training seeds, for these items."
    _frame(figure, table, "Accuracy against the share of tokens kept", note)
    return figure


def _by_label(table: Table) -> dict[str, list[Line]]:
    names = _names(table)
    found: dict[str, list[Line]] = {}
    for line in sorted(table.arms(), key=lambda line: (line.label, line.keep)):
        found.setdefault(names[line.label], []).append(line)
    return found


def _names(table: Table) -> dict[str, str]:
    """Label -> its name in a figure: without parameters where the table has one set of them."""
    labels = {line.label: line.selector for line in table.arms()}
    several = Counter(labels.values())
    return {label: label if several[name] > 1 else name for label, name in labels.items()}


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(4, count)
    rows = -(-count // columns)
    width = {1: WIDTH, 2: 4.8}.get(columns, WIDE)
    figure = Figure((width, 0.75 + 1.25 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
        panels[list(panels).index(axes) - columns].tick_params(labelbottom=True)
    return figure, list(panels[:count])


def _label_edges(panels: Sequence[Axes], x: str, y: str) -> None:
    """Axis names at the left edge of a grid, and under the lowest panel of each column."""
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(y)
    for axes in panels[-4:]:
        axes.set_xlabel(x)


def _name_references(
    axes: Axes, random: Sequence[Line], full: Sequence[Line], keeps: Sequence[float]
) -> None:
    if full:
        axes.annotate("full", (keeps[0], 100 * full[0].accuracy), (0, 2), fontsize=6,
                      textcoords="offset points", va="bottom", ha="left")  # fmt: skip
    if random:
        axes.annotate("random", (random[-1].keep, 100 * random[-1].accuracy), (0, -4), fontsize=6,
                      textcoords="offset points", va="top", ha="right", color=GREY)  # fmt: skip


# --- cost ----------------------------------------------------------------------------------------


def pareto(table: Table, cost: str) -> Figure | None:
    """Accuracy against tokens trained or seconds; rules on the Pareto front are named."""
    arms = table.arms()
    if len({line.keep for line in arms if line.selector != "full"}) < 2:
        return None
    price = [_price(line, cost) for line in arms]
    front = pareto_front([(x, line.accuracy) for x, line in zip(price, arms, strict=True)])
    names = _names(table)
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
            axes.vlines(x, *_per_cent(line.seeds_ci95), color=colour, lw=0.7, alpha=0.6)
        if place in front:
            keep = "" if line.selector == "full" else f" {_keep_name(line.keep)}"
            named.append((x, y, names[line.label] + keep, colour))
    path = [(price[place], 100 * arms[place].accuracy) for place in front]
    axes.step(*zip(*path, strict=True), where="post", color=VERMILION, lw=0.8, zorder=0)
    _cost_axis(axes, price, {x: len(text) for x, _, text, _ in named})
    what = "training time" if cost == "seconds" else "tokens trained on"
    unit = "s" if cost == "seconds" else "count"
    axes.set_xlabel(f"{what} per run ({unit})")
    axes.set_ylabel("accuracy (%)")
    _name_front(axes, named)
    note = (
        "Red: Pareto front (costs within 2 % count as equal); diamonds: random; square: full. "
        "Bars: 95 % intervals over training seeds."
    )
    _frame(figure, table, f"Accuracy against {what}", note)
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


def _cost_axis(axes: Axes, values: Sequence[float], name_lengths: Mapping[float, int]) -> None:
    """Room left of the named points, whose names end there. A log axis where the range is large:
    1, 2 and 5 of each power of ten."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    is_log = max(values) >= 5 * min(values)
    there, back = (np.log, np.exp) if is_log else (np.asarray, np.asarray)
    low, high = float(there(min(values))), float(there(max(values)))
    high += 0.1 * ((high - low) or abs(low) or 1.0)
    left = low - 0.1 * (high - low)
    for cost, length in name_lengths.items():
        share = min(0.8, 0.03 + 0.021 * length)  # of the axis, that the name takes
        left = min(left, (float(there(cost)) - share * high) / (1 - share))
    if not is_log:
        axes.set_xlim(left, high)
        return
    powers = range(int(np.floor(low / np.log(10))), int(np.ceil(high / np.log(10))) + 1)
    steps = (1, 2, 5) if high - low < np.log(100) else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axes.set_xscale("log")
    axes.set_xlim(float(back(left)), float(back(high)))
    shown = [tick for tick in ticks if np.exp(low) / 1.5 <= tick <= np.exp(high)]
    axes.xaxis.set_major_locator(FixedLocator(shown[:: 2 if len(shown) > 4 else 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _name_front(axes: Axes, named: Sequence[tuple[float, float, str, str]]) -> None:
    """Names above and left of the front's points, where no point can be; pushed up where close."""
    bottom, top = axes.get_ylim()
    gap, at = 0.055 * (top - bottom), -np.inf
    for x, y, text, colour in sorted(named):
        at = max(y, at + gap)
        axes.annotate(text, (x, at), xytext=(-3, 2), textcoords="offset points", fontsize=6,
                      color=colour, va="bottom", ha="right")  # fmt: skip
    axes.set_ylim(bottom, max(top, at + 2 * gap))


# --- K and learning curves -----------------------------------------------------------------------


def k_sensitivity(by_k: Mapping[int, Table]) -> Figure | None:
    """Accuracy against K of every rule that has several, by keep; `random` does not read K."""
    names: dict[str, str] = {}
    lines: dict[tuple[float, str], dict[int, Line]] = {}
    for k, table in by_k.items():
        names |= _names(table)
        for line in table.arms():
            lines.setdefault((line.keep, line.label), {})[k] = line
    shown = {key: found for key, found in sorted(lines.items())
             if len(found) > 1 and key[1] not in ("full", "random")}  # fmt: skip
    keeps = sorted({keep for keep, _ in shown})
    if not keeps:
        return None
    figure = Figure((WIDTH + 2.4 * (len(keeps) - 1), 2.9), layout="constrained")
    panels = figure.subplots(1, len(keeps), sharey=True, squeeze=False)[0]
    for axes, keep in zip(panels, keeps, strict=True):
        ends = []
        random = lines.get((keep, "random"), {}).values()
        if random:
            line = max(random, key=lambda line: len(line.runs))
            ends.append((100 * line.accuracy, "random", GREY))
            axes.axhspan(*_per_cent(line.seeds_ci95), color=PALE, alpha=0.6, lw=0)
            axes.axhline(100 * line.accuracy, color=GREY, lw=0.8)
        labels = [label for at, label in shown if at == keep]
        for number, label in enumerate(labels):
            found = shown[keep, label]
            colour = LINES[number % len(LINES)]
            shift = 1.02 ** (number - (len(labels) - 1) / 2)  # intervals side by side
            x = [k * shift for k in found]
            values = list(found.values())
            low, high = zip(*(_per_cent(line.seeds_ci95) for line in values), strict=True)
            axes.vlines(x, low, high, color=colour, lw=0.8, alpha=0.6)
            axes.plot(x, [100 * line.accuracy for line in values], color=colour, marker="o")
            ends.append((100 * values[-1].accuracy, names[label], colour))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(list(by_k)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axes.set_title(f"keep {_keep_name(keep)}", loc="left")
        _name_ends(axes, ends)
        axes.set_xlabel("K of the top-K sets")
    panels[0].set_ylabel("accuracy (%)")
    first, note = next(iter(by_k.values())), "Bars and band: 95 % intervals over training seeds."
    _frame(figure, first, "Sensitivity to K", note, _without_k(first))
    return figure


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge at the height of the last values, pushed apart."""
    low, high = axes.get_ylim()
    gap, at = 0.055 * (high - low), np.inf
    for y, label, colour in sorted(ends, reverse=True):
        at = min(y, at - gap)
        axes.annotate(label, (1, at), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", fontsize=6, color=colour,
                      va="center")  # fmt: skip


# --- a family of pairs ---------------------------------------------------------------------------


def by_dial(dial: Dial) -> Figure:
    """Accuracy of every rule at each value of a number that sets the pairs apart; a panel a rule.

    Filled marks: worse than `full` of the same pair by its verdict.
    """
    lines = dial.lines()
    references = {label: found for (_, label), found in lines.items()
                  if label in ("untrained", "teacher", "full")}  # fmt: skip
    random = {keep: found for (keep, label), found in lines.items() if label == "random"}
    rules = [key for key in sorted(lines) if key[1] not in (*references, "random")]
    several = len({keep for keep, _ in rules}) > 1
    figure, panels = _grid(len(rules))
    ticks = list(dial.by_value)
    for axes, (keep, label) in zip(panels, rules, strict=True):
        for name, style in (("full", (0, (4, 2))), ("untrained", ":")):
            if name in references:
                found = references[name]
                axes.plot(list(found), [100 * line.accuracy for line in found.values()],
                          color=BLACK, lw=0.8, ls=style)  # fmt: skip
        if keep in random:
            _band(axes, list(random[keep]), list(random[keep].values()), GREY, lw=0.8, ms=2)
        found = lines[keep, label]
        _band(axes, list(found), list(found.values()), BLUE)
        worse = {value: line for value, line in found.items()
                 if line.vs_full is not None and line.vs_full.verdict == "worse"}  # fmt: skip
        axes.plot(list(worse), [100 * line.accuracy for line in worse.values()], ls="none",
                  marker="v", ms=5, color=VERMILION, zorder=3)  # fmt: skip
        name = f"{label}, keep {_keep_name(keep)}" if several else label
        axes.set_title(name, loc="left", color=BLUE)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label_edges(panels, dial.fact.replace("_", " "), "accuracy (%)")
    first = next(iter(dial.by_value.values()))
    keeps = " and ".join(_keep_name(keep) for keep in sorted({keep for keep, _ in rules}))
    note = (
        f"{keeps} of the tokens kept. Dashed: full; dotted: untrained; grey: random. Bands: 95 % "
        "intervals over training seeds. Red triangle: worse than full (Holm-adjusted verdict)."
    )
    _frame(figure, first, "At which mismatch does each rule break?", note, pair="one student, "
           f"{len(ticks)} teachers")  # fmt: skip
    return figure


def learning_curves(table: Table) -> Figure | None:
    """A panel a rule: accuracy on the curve's tasks during training; bands are the seeds' range."""
    curves = {}
    for label, lines in _by_label(table).items():
        found = {line.keep: curve for line in lines if (curve := seed_curves(line)) is not None}
        if found:
            curves[label] = found
    if not curves:
        return None
    full = curves.pop("full", {}) if len(curves) > 1 else {}
    keeps = sorted({keep for found in curves.values() for keep in found})
    figure, panels = _grid(len(curves))
    for axes, (label, found) in zip(panels, curves.items(), strict=True):
        for steps, accuracy_SE in full.values():
            axes.plot(steps, 100 * accuracy_SE.mean(0), color=BLACK, lw=0.8, ls=(0, (4, 2)))
        for keep, (steps, accuracy_SE) in found.items():
            colour = LINES[keeps.index(keep) % len(LINES)]
            low, high = 100 * accuracy_SE.min(0), 100 * accuracy_SE.max(0)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(steps, 100 * accuracy_SE.mean(0), color=colour)
        axes.set_title(label, loc="left")
    for keep in keeps:
        colour = LINES[keeps.index(keep) % len(LINES)]
        panels[0].plot([], [], color=colour, label=f"keep {_keep_name(keep)}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=len(keeps),
                  frameon=False, fontsize=6.5, borderpad=0.3, handlelength=1.2)  # fmt: skip
    _label_edges(panels, "optimizer step", "accuracy (%)")
    note = "On the run's curve_tasks, mean over training seeds; bands: their range."
    note += " Dashed: full." if full else ""
    _frame(figure, table, "Learning curves", note)
    return figure


def seed_curves(line: Line) -> tuple[list[int], np.ndarray] | None:
    """Steps, and accuracy_SE (seeds, evaluations), over the steps that every seed has; or None."""
    by_seed = [
        {point["step"]: float(np.mean([v for name, v in point.items() if name != "step"]))
         for point in run.curve}
        for run in line.runs if run.curve
    ]  # fmt: skip
    steps = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    if len(steps) < 2:
        return None
    return steps, np.array([[curve[step] for step in steps] for curve in by_seed])
