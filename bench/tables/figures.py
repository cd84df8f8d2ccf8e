"""Tables -> figures as SVG and PNG bytes, in the house style. Pure: no input or output."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.keep_schedule import keep_percent
from bench.core.records import digest8
from bench.tables.cost_figures import pareto
from bench.tables.leaderboard import Comparison, Line, Table
from bench.tables.ranks import Dial, dials, k_groups, without_k
from bench.tables.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    WIDE,
    WIDTH,
    frame,
    hide_left_axis,
    log_keeps,
    log_ks,
    per_cent,
    render,
    x_ticks,
)

VERDICT_COLOUR = {"better": BLUE, "worse": VERMILION, "tie": GREY, None: GREY}
VERDICT_MARKER = {"better": "^", "worse": "v", "tie": "o", None: "."}
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)


def draw_all(tables: Sequence[Table]) -> dict[str, bytes]:
    """File name -> content of every figure that has data, each as SVG and PNG."""
    return render(_figures(tables))


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
                shown = f"{kind}-weights" if table.has_no_keep else kind
                yield _name(shown, table.pair, table.task, table.regime), figure
    for dial in dials(tables):
        first = next(iter(dial.by_value.values()))
        yield _name("dial", dial.fact, first.task, first.regime), by_dial(dial)
    for by_k in k_groups(tables):
        figure = k_sensitivity(by_k)
        if figure is not None:
            first = without_k(next(iter(by_k.values())))
            yield _name("k", first.pair, first.task, first.regime), figure


def _name(kind: str, *place: str) -> str:
    return f"figures/{kind}-{'-'.join(map(_slug, place))}"


def _slug(text: str) -> str:
    """Part of a file name; where the text does not survive whole, its hash is added."""
    plain = re.sub(r"[^\w.]+", "-", text).strip("-")[-40:].strip("-")
    return plain if re.sub(r"[^\w.]", "-", text) == plain else f"{plain}-{digest8(text)}"


def _band(axes: Axes, x: Sequence[float], lines: Sequence[Line], colour: str, **kw: Any) -> None:
    """Mean accuracies with their 95 % intervals over training seeds."""
    low, high = zip(*(line.seeds_ci95 for line in lines), strict=True)
    if len(x) > 1:
        axes.fill_between(x, per_cent(low), per_cent(high), color=colour, alpha=0.2, lw=0)
    else:
        axes.vlines(x, per_cent(low), per_cent(high), color=colour, alpha=0.5, lw=1)
    axes.plot(x, per_cent([line.accuracy for line in lines]), color=colour, marker="o", **kw)


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
    rows = _rows_by_keep(arms)
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
        hide_left_axis(axes)
    panels[0].set_yticks(range(len(rows)), list(map(_row_name, rows)))
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
    frame(figure, claim, f"{table.where}. {note}")
    return figure


def _rows_by_keep(arms: Iterable[Line]) -> list[Line | str]:
    rows: list[Line | str] = []
    for line in sorted(arms, key=lambda line: (line.keep, -line.accuracy, line.label)):
        head = f"keep {keep_percent(line.keep)}"
        if head not in rows:
            rows.append(head)
        rows.append(line)
    return rows


def _row_name(row: Line | str) -> str:
    return row if isinstance(row, str) else f"{row.label}  n={len(row.runs)}"


def _interval(axes: Axes, y: float, found: Comparison | None) -> None:
    if found is None:
        return
    colour, marker = VERDICT_COLOUR[found.verdict], VERDICT_MARKER[found.verdict]
    if found.crossed is not None:
        axes.hlines(y, *per_cent(found.crossed.ci95), color=colour, lw=1.2)
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
            axes.axhline(100 * full[0].accuracy, color=BLACK, lw=0.8, ls=DASHED)
        if random:
            _band(axes, [line.keep for line in random], random, GREY, lw=0.8, ms=2)
        _band(axes, [line.keep for line in lines], lines, BLUE)
        log_keeps(axes, keeps)
        axes.set_title(label, loc="left", color=BLUE)
    panels[0].margins(y=0.18)  # for the name above the line
    _name_references(panels[0], random, full, keeps)
    _label_edges(panels, "tokens kept (%)", "accuracy (%)")
    note = "Grey: random; dashed: full. Bands: 95 % intervals over training seeds, for these items."
    frame(figure, "Accuracy against the share of tokens kept", f"{table.where}. {note}")
    return figure


def _by_label(table: Table) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in sorted(table.arms(), key=lambda line: (line.label, line.keep)):
        found.setdefault(line.label, []).append(line)
    return found


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


# --- K and learning curves -----------------------------------------------------------------------


def k_sensitivity(by_k: Mapping[int, Table]) -> Figure | None:
    """Accuracy against K of every rule that has several, by keep; `random` does not read K."""
    lines: dict[tuple[float, str], dict[int, Line]] = {}
    for k, table in by_k.items():
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
            axes.axhspan(*per_cent(line.seeds_ci95), color=PALE, alpha=0.6, lw=0)
            axes.axhline(100 * line.accuracy, color=GREY, lw=0.8)
        labels = [label for at, label in shown if at == keep]
        for number, label in enumerate(labels):
            found = shown[keep, label]
            colour = LINES[number % len(LINES)]
            shift = 1.02 ** (number - (len(labels) - 1) / 2)  # intervals side by side
            x = [k * shift for k in found]
            values = list(found.values())
            low, high = zip(*(per_cent(line.seeds_ci95) for line in values), strict=True)
            axes.vlines(x, low, high, color=colour, lw=0.8, alpha=0.6)
            axes.plot(x, [100 * line.accuracy for line in values], color=colour, marker="o")
            ends.append((100 * values[-1].accuracy, label, colour))
        log_ks(axes, by_k)
        axes.set_title(f"keep {keep_percent(keep)}", loc="left")
        _name_ends(axes, ends)
        axes.set_xlabel("K of the top-K sets")
    panels[0].set_ylabel("accuracy (%)")
    where = without_k(next(iter(by_k.values()))).where
    note = "Bars and band: 95 % intervals over training seeds."
    frame(figure, "Sensitivity to K", f"{where}. {note}")
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
    for axes, (keep, label) in zip(panels, rules, strict=True):
        for name, style in (("full", DASHED), ("untrained", ":")):
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
        name = f"{label}, keep {keep_percent(keep)}" if several else label
        axes.set_title(name, loc="left", color=BLUE)
        x_ticks(axes, dial.by_value)
    _label_edges(panels, dial.fact.replace("_", " "), "accuracy (%)")
    first = next(iter(dial.by_value.values()))
    keeps = " and ".join(keep_percent(keep) for keep in sorted({keep for keep, _ in rules}))
    note = (
        f"{keeps} of the tokens kept. Dashed: full; dotted: untrained; grey: random. Bands: 95 % "
        "intervals over training seeds. Red triangle: worse than full (Holm-adjusted verdict)."
    )
    where = f"one student, {len(dial.by_value)} teachers, {first.setting}"
    frame(figure, "At which mismatch does each rule break?", f"{where}. {note}")
    return figure


def learning_curves(table: Table) -> Figure | None:
    """A panel a rule: accuracy on the curve's tasks during training; bands are the seeds' range."""
    curves = {}
    for label, lines in _by_label(table).items():
        found = {line.keep: curve for line in lines if (curve := seed_curves(line)) is not None}
        if found:
            curves[label] = found
    full = curves.pop("full", {})
    if not curves:
        return None
    keeps = sorted({keep for found in curves.values() for keep in found})
    figure, panels = _grid(len(curves))
    for axes, (label, found) in zip(panels, curves.items(), strict=True):
        for steps, accuracy_SE in full.values():
            axes.plot(steps, 100 * accuracy_SE.mean(0), color=BLACK, lw=0.8, ls=DASHED)
        for keep, (steps, accuracy_SE) in found.items():
            colour = LINES[keeps.index(keep) % len(LINES)]
            low, high = 100 * accuracy_SE.min(0), 100 * accuracy_SE.max(0)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(steps, 100 * accuracy_SE.mean(0), color=colour)
        axes.set_title(label, loc="left")
    for keep in keeps:
        colour = LINES[keeps.index(keep) % len(LINES)]
        panels[0].plot([], [], color=colour, label=f"keep {keep_percent(keep)}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=len(keeps),
                  frameon=False, fontsize=6.5, borderpad=0.3, handlelength=1.2)  # fmt: skip
    _label_edges(panels, "optimizer step", "accuracy (%)")
    note = f"Accuracy on {curve_sets(table)}, mean over training seeds; bands: their range."
    note += " Dashed: full." if full else ""
    frame(figure, "Learning curves", f"{table.pair}, regime {table.regime}. {note}")
    return figure


def curve_sets(table: Table) -> str:
    """The tasks that the table's learning curves were measured on, and how many items of each."""
    runs = [run for line in table.arms() for run in line.runs if run.curve]
    found = {(task, run.experiment["curve_items"])
             for run in runs for task in run.curve[0] if task != "step"}  # fmt: skip
    return " and ".join(f"{task} (first {items:,} items)" for task, items in sorted(found))


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
