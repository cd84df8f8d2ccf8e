"""A diagnostic's record -> its figures, one claim each, as SVG and PNG bytes. Pure.

Dots are values, bars 95 % intervals over prompts and update seeds. Colours: D·C and its readings
blue, D red, what an oracle reaches black, everything else grey.
"""

from collections.abc import Iterator

import numpy as np
from matplotlib.colors import Colormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.diagnose.figure_marks import (
    CURVES,
    INTERVALS,
    ORACLES,
    PARTS,
    RANDOM,
    REFERENCE,
    Record,
    close,
    colour_of,
    defined,
    forest,
)
from bench.diagnose.fit_figures import against, coefficients, explained, gradients, robustness
from bench.tables.sheet import headline_keep, keep_percent
from bench.tables.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    WIDE,
    WIDTH,
    log_keeps,
    name_ends,
    render,
)

DECILES = {
    "forward_kl": "D = KL(q‖p)",
    "teachability": "D·C, normalised",
    "entropy": "student entropy H",
    "compatibility": "compatibility C",
    "incompatible": "D·(1−C), normalised",
    "teacher_entropy": "teacher entropy",
}


def draw_all(record: Record) -> dict[str, bytes]:
    """File name -> content of every figure that the record has data for."""
    return render(_figures(record))


def _figures(record: Record) -> Iterator[tuple[str, Figure]]:
    for name, draw in {
        "spearman": spearman,
        "top": top_curves,
        "top-rules": top_rules,
        "deciles": deciles,
        "quadrant3": quadrant3,
        "plane": plane,
        "coefficients": coefficients,
        "explained": explained,
        "robustness": robustness,
        "against": against,
        "gradients": gradients,
    }.items():
        figure = draw(record)
        if figure is not None:
            yield f"figures/{name}", figure


def spearman(record: Record) -> Figure | None:
    found = defined(record["spearman"], "value")
    if not found:
        return None
    figure = Figure((WIDTH + 0.9, 0.9 + 0.14 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, lw=0.8)
    if REFERENCE in found:
        axes.axvline(found[REFERENCE]["value"], color=VERMILION, lw=0.8, ls=DASHED)
    forest(axes, found, "value", {RANDOM: ORANGE})
    axes.set_xlabel("Spearman correlation with the KL that the update removes")
    note = (
        f"{INTERVALS} Dashed: D itself. Blue: readings of D·C. Black: mean gain under the other "
        "update seeds, what no score of the context alone can be expected to exceed."
    )
    return close(figure, record, "Which scores predict the KL that an update removes?", note)


def top_curves(record: Record) -> Figure | None:
    keeps = [float(keep) for keep in record["matched_top"]]
    first = next(iter(record["matched_top"].values()))
    shown = [name for name in CURVES if name in first]
    if len(keeps) < 2:
        return None
    figure = Figure((WIDTH + 1.6, 2.9), layout="constrained")
    axes = figure.subplots()
    ends = []
    for number, name in enumerate(shown):
        colour, label = CURVES[name]
        found = [by_score[name] for by_score in record["matched_top"].values()]
        value = [one["gain"] for one in found]
        if None in value:
            continue
        shift = 1.015 ** (number - (len(shown) - 1) / 2)
        x = [keep * shift for keep in keeps]
        for at, one in zip(x, found, strict=True):
            if one["ci95"] is not None:
                axes.vlines(at, *one["ci95"], color=colour, lw=0.9, alpha=0.7)
        style = (0, (3, 2)) if name in (RANDOM, *ORACLES) else "-"
        axes.plot(x, value, color=colour, marker="o", ls=style)
        ends.append((value[-1], label, colour))
    axes.axhline(0, color=BLACK, lw=0.8)
    log_keeps(axes, keeps)
    axes.set_xlabel("contexts kept (%)")
    axes.set_ylabel("KL removed per kept context (nats)")
    name_ends(axes, ends)
    note = f"{INTERVALS} Points of one keep are set side by side."
    return close(figure, record, "How much do the contexts gain that a score keeps?", note)


def top_rules(record: Record) -> Figure | None:
    keep = headline_keep(record["matched_top"])
    found = defined(record["matched_top"][keep], "gain")
    oracle = found.pop("oracle", None)
    if not found:
        return None
    figure = Figure((WIDTH + 0.9, 0.9 + 0.14 * len(found)), layout="constrained")
    axes = figure.subplots()
    if RANDOM in found:
        axes.axvline(found[RANDOM]["gain"], color=ORANGE, lw=0.8, ls=DASHED)
    forest(axes, found, "gain", {RANDOM: ORANGE})
    axes.set_xlabel("KL removed per kept context (nats)")
    share = keep_percent(keep)
    top = f" The oracle that ranks by G itself reaches {oracle['gain']:.3g}." if oracle else ""
    note = f"{INTERVALS} Every rule keeps {share} of the contexts. Dashed: random.{top}"
    claim = f"Which rule's top {share} of contexts lose the most KL?"
    return close(figure, record, claim, note)


def deciles(record: Record) -> Figure | None:
    shown = {name: title for name, title in DECILES.items() if name in record["buckets"]}
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure((1.0 + 1.9 * columns, 0.8 + 1.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, title) in zip(panels, shown.items(), strict=False):
        tenths = record["buckets"][name]
        x, y = range(1, len(tenths) + 1), [tenth["value"] for tenth in tenths]
        colour = colour_of(name)
        for at, tenth in zip(x, tenths, strict=True):
            if tenth["ci95"] is not None:
                axes.vlines(at, *tenth["ci95"], color=colour, lw=1)
        axes.axhline(0, color=BLACK, lw=0.6)
        axes.axhline(record["gain"]["mean"]["value"], color=ORANGE, lw=0.8, ls=DASHED)
        axes.plot(x, y, color=colour, marker="o")
        axes.set_title(title, loc="left", color=colour)
        axes.xaxis.set_major_locator(FixedLocator([1, 4, 7, 10]))
    for number, axes in enumerate(panels[: len(shown)]):
        if number % columns == 0:
            axes.set_ylabel("KL removed (nats)")
        if number + columns >= len(shown):
            axes.set_xlabel("tenth of the contexts by score")
            axes.tick_params(labelbottom=True)
    note = f"{INTERVALS} Tenth 10 has the highest scores; dashed: mean of all contexts."
    return close(figure, record, "Where along each score do contexts gain?", note)


def quadrant3(record: Record) -> Figure | None:
    found = {
        label: record["quadrant3"][name]["difference"]
        for name, label in PARTS.items()
        if record["quadrant3"].get(name, {}).get("difference") is not None
    }
    if not found:
        return None
    figure = Figure((WIDTH + 0.6, 0.9 + 0.2 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, lw=0.8)
    colours = dict(zip(PARTS.values(), (BLUE, PURPLE, GREY, VERMILION), strict=True))
    forest(axes, found, "value", colours)
    axes.set_xlabel("KL removed: top quarter − bottom quarter of the score (nats)")
    inside = record["quadrant3"]["learnable"]["n"]
    note = (
        f"{INTERVALS} {inside:,} contexts with student entropy at most, and disagreement over, "
        "their medians."
    )
    return close(figure, record, "Where the student is sure and wrong, what marks the gain?", note)


def plane(record: Record) -> Figure | None:
    heat = record["heat_map"]
    maps = {
        "compatibility": ("mean compatibility C", "cividis"),
        "gain": ("mean KL removed (nats)", "RdBu"),
    }
    figure = Figure((WIDE, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, (title, colours)) in zip(panels, maps.items(), strict=True):
        value = np.array([[np.nan if x is None else x for x in row] for row in heat[name]])
        if not np.isfinite(value).any():
            return None
        norm = None
        if name == "gain":
            most = float(np.nanmax(np.abs(value))) or 1.0
            norm = SymLogNorm(most / 100, vmin=-most, vmax=most)
        shown = axes.imshow(value, origin="lower", cmap=_colours(colours), norm=norm,
                            aspect="auto", extent=(0.5, 10.5, 0.5, 10.5))  # fmt: skip
        bar = figure.colorbar(shown, ax=axes, label=title, shrink=0.9)
        if name == "gain":
            bar.set_ticks(_log_ticks(float(shown.norm.vmax or 1.0)))
            bar.ax.minorticks_off()
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("student entropy H (tenth)")
        axes.xaxis.set_major_locator(FixedLocator(range(1, 11)))
        axes.yaxis.set_major_locator(FixedLocator(range(1, 11)))
        if name == "gain":
            for row, line in enumerate(heat["gain_ci95"]):
                for column, ends in enumerate(line):
                    if ends is not None and ends[0] <= 0 <= ends[1]:
                        axes.plot(column + 1, row + 1, marker="x", color=BLACK, ms=3, mew=0.6)
    panels[0].set_ylabel("disagreement D (tenth)")
    note = (
        "Tenths of all contexts by value, from the lowest. Cells with fewer than 8 contexts are "
        "grey; gains are on a logarithmic scale but near 0. A cross: the 95 % interval of the "
        "cell's mean gain holds 0."
    )
    return close(figure, record, "Where over entropy and disagreement do contexts gain?", note)


def _log_ticks(most: float) -> list[float]:
    """0 and the powers of ten, both ways, within the two decades that a symmetric scale shows."""
    powers = [10.0**e for e in range(-12, 13) if most / 40 <= 10.0**e <= most]
    return [*(-power for power in reversed(powers)), 0.0, *powers]


def _colours(name: str) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=PALE)
