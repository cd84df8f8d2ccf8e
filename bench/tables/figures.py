"""Tables -> figures as SVG and PNG bytes, in the house style. Pure: no input or output."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.files import digest8
from bench.tables.cost_figures import by_front, pareto
from bench.tables.families import dials, k_groups, without_k
from bench.tables.family_figures import by_dial, by_rate, k_sensitivity
from bench.tables.fronts import Fronts
from bench.tables.rates import matrices
from bench.tables.sheet import keep_percent
from bench.tables.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    LINES,
    VERMILION,
    WIDE,
    accuracy_band,
    frame,
    hide_left_axis,
    label_edges,
    log_keeps,
    panel_grid,
    per_cent,
    render,
)
from bench.tables.table import Comparison, Line, Table

VERDICT_COLOUR = {"better": BLUE, "worse": VERMILION, "tie": GREY, None: GREY}
VERDICT_MARKER = {"better": "^", "worse": "v", "tie": "o", None: "."}


def draw_all(tables: Sequence[Table], fronts: Sequence[Fronts] = ()) -> dict[str, bytes]:
    """File name -> content of every figure that has data, each as SVG and PNG."""
    return render(_figures(tables, fronts))


def _figures(tables: Sequence[Table], fronts: Sequence[Fronts]) -> Iterator[tuple[str, Figure]]:
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
        own = () if dial.is_of_pairs else (dial.first.pair,)
        yield _name("dial", dial.fact, *own, dial.first.task, dial.regime), by_dial(dial)
    for found in fronts:
        for cost in found.costs:
            yield (
                _name("front", cost, found.pair, found.task, found.tuning.sweep),
                by_front(found, cost),
            )
    for matrix in matrices(tables):
        yield _name("rates", matrix.where), by_rate(matrix)
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
    figure, panels = panel_grid(len(shown))
    for axes, (label, lines) in zip(panels, shown.items(), strict=True):
        if full:
            axes.axhline(100 * full[0].accuracy, color=BLACK, lw=0.8, ls=DASHED)
        if random:
            accuracy_band(axes, [line.keep for line in random], random, GREY, lw=0.8, ms=2)
        accuracy_band(axes, [line.keep for line in lines], lines, BLUE)
        log_keeps(axes, keeps)
        axes.set_title(label, loc="left", color=BLUE)
    panels[0].margins(y=0.18)  # for the name above the line
    _name_references(panels[0], random, full, keeps)
    label_edges(panels, "tokens kept (%)", "accuracy (%)")
    note = "Grey: random; dashed: full. Bands: 95 % intervals over training seeds, for these items."
    frame(figure, "Accuracy against the share of tokens kept", f"{table.where}. {note}")
    return figure


def _by_label(table: Table) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in sorted(table.arms(), key=lambda line: (line.label, line.keep)):
        found.setdefault(line.label, []).append(line)
    return found


def _name_references(
    axes: Axes, random: Sequence[Line], full: Sequence[Line], keeps: Sequence[float]
) -> None:
    if full:
        axes.annotate("full", (keeps[0], 100 * full[0].accuracy), (0, 2), fontsize=6,
                      textcoords="offset points", va="bottom", ha="left")  # fmt: skip
    if random:
        axes.annotate("random", (random[-1].keep, 100 * random[-1].accuracy), (0, -4), fontsize=6,
                      textcoords="offset points", va="top", ha="right", color=GREY)  # fmt: skip


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
    figure, panels = panel_grid(len(curves))
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
    label_edges(panels, "optimizer step", "accuracy (%)")
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
