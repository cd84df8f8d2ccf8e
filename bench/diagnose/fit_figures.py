"""A diagnostic's record -> figures of its fits: coefficients, what C explains, robustness."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.diagnose.figure_marks import (
    CURVES,
    INTERVALS,
    PARTS,
    RANDOM,
    Record,
    close,
    colour_of,
)
from bench.diagnose.fit_sheets import correlated
from bench.tables.sheet import headline_keep, keep_percent
from bench.tables.style import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    WIDE,
    WIDTH,
    hide_left_axis,
    log_ks,
    name_ends,
    push_apart,
)

PROXIES = {
    "exact_mass": "exact mass C",
    "raw_product": "exact mass, not normalised",
    "overlap": "overlap |S∩T|/K",
    "jaccard": "Jaccard |S∩T|/|S∪T|",
    "bhattacharyya": "Bhattacharyya on S∪T",
    "teacher_top1": "teacher's top-1 in S",
}


def coefficients(record: Record) -> Figure | None:
    """The learnable and the incompatible coefficient at every K."""
    ks = [int(k) for k in record["regressions"]]
    if not ks:
        return None
    figure = Figure((WIDE - 1.2, 2.7), layout="constrained")
    panels = figure.subplots(1, 2)
    units = {
        "standardised": "coefficient (sd of G per sd)",
        "per_nat": "KL removed per nat",
    }
    colours = {"learnable": BLUE, "incompatible": PURPLE}
    for axes, (unit, label) in zip(panels, units.items(), strict=True):
        axes.axhline(0, color=BLACK, lw=0.8)
        ends = []
        for number, (name, colour) in enumerate(colours.items()):
            found = [record["regressions"][str(k)]["split"][unit][name] for k in ks]
            _at_each_k(axes, ks, found, colour, PARTS[name], number - 0.5)
            if found[-1]["value"] is not None:
                ends.append((found[-1]["value"], PARTS[name], colour))
        axes.set_ylabel(label)
        _k_axis(axes, ks)
        name_ends(axes, ends)
    if max(abs(end) for end in panels[1].get_ylim()) > 5:
        # C near 1 leaves D·(1−C) so little spread that its interval would hide the rest.
        panels[1].set_yscale("symlog", linthresh=1)
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    r2 = record["regressions"][str(record["k"])]["split"]["r2_out_of_prompt"]["value"]
    note = (
        f"{INTERVALS} Least squares of the gain on H, D·C, D·(1−C), position and teacher entropy"
        + (f"; out-of-prompt R² {r2:.2f} at K = {record['k']}." if r2 is not None else ".")
    )
    claim = "Does a nat of learnable disagreement remove more KL than an incompatible one?"
    return close(figure, record, claim, note)


def _at_each_k(
    axes: Axes,
    ks: Sequence[int],
    found: Sequence[Mapping[str, Any]],
    colour: str,
    label: str,
    shift: float,
) -> None:
    x = np.array(ks, dtype=float) * 1.04**shift
    known = [(at, one) for at, one in zip(x, found, strict=True) if one["value"] is not None]
    for at, one in known:
        if one["ci95"] is not None:
            axes.vlines(at, *one["ci95"], color=colour, lw=1)
    axes.plot([at for at, _ in known], [one["value"] for _, one in known], color=colour,
              marker="o", label=label)  # fmt: skip


def _k_axis(axes: Axes, ks: Sequence[int]) -> None:
    log_ks(axes, ks)
    axes.set_xlabel("K of the student's top-K set")


def explained(record: Record) -> Figure | None:
    """What C adds to the share of the gain's variance that is explained, at every K."""
    ks = [int(k) for k in record["regressions"]]
    if not ks:
        return None
    figure = Figure((WIDTH + 1.7, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=BLACK, lw=0.8)
    ends = []
    models = {
        "with_compatibility": ("C added", GREEN),
        "split": ("D·C and D·(1−C) for D", BLUE),
    }
    for number, (model, (label, colour)) in enumerate(models.items()):
        found = [record["regressions"][str(k)][model]["delta_r2_out_of_prompt"] for k in ks]
        _at_each_k(axes, ks, found, colour, label, number - 0.5)
        if found[-1]["value"] is not None:
            ends.append((found[-1]["value"], label, colour))
    _k_axis(axes, ks)
    axes.set_ylabel("ΔR² on held-out prompts")
    name_ends(axes, ends)
    base = record["regressions"][str(record["k"])]["base"]["r2_out_of_prompt"]["value"]
    known = f" The base explains {base:.2f}." if base is not None else ""
    note = f"{INTERVALS} Over the base {{H, D, H×D, position, teacher entropy}}.{known}"
    claim = "Does compatibility explain gain that disagreement does not?"
    return close(figure, record, claim, note)


def robustness(record: Record) -> Figure | None:
    """ΔSpearman of D times each proxy of C against D, at every K."""
    found = {p: by_k for p, by_k in record["robustness"].items() if p in PROXIES}
    if not found:
        return None
    ks = [int(k) for k in next(iter(found.values()))]
    colours = dict(zip(PROXIES, (BLUE, SKY, GREEN, ORANGE, PURPLE, GREY), strict=True))
    figure = Figure((WIDTH + 1.7, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=BLACK, lw=0.8)
    ends = []
    for number, proxy in enumerate(found):
        deltas = [found[proxy][str(k)]["delta_spearman"] for k in ks]
        _at_each_k(axes, ks, deltas, colours[proxy], PROXIES[proxy], number - 2.5)
        if deltas[-1]["value"] is not None:
            ends.append((deltas[-1]["value"], PROXIES[proxy], colours[proxy]))
    _k_axis(axes, ks)
    axes.set_ylabel("ΔSpearman of D × proxy against D")
    name_ends(axes, ends)
    note = f"{INTERVALS} Both factors normalised (norm_q05), but for the product of D and C itself."
    claim = "Does the gain over D depend on how compatibility is measured?"
    return close(figure, record, claim, note)


def against(record: Record) -> Figure | None:
    """Gain per kept context against accuracy, a panel a keep."""
    panels_of = correlated(record)
    if not panels_of:
        return None
    columns = min(2, len(panels_of))
    rows = -(-len(panels_of) // columns)
    figure = Figure((3.4 * columns, 0.8 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(panels_of) :]:
        axes.set_visible(False)
    for axes, (task, keep, found) in zip(panels, panels_of, strict=False):
        named = []
        for name, rule in found["rules"].items():
            colour = ORANGE if name == RANDOM else colour_of(name)
            gain, accuracy = rule["gain"], 100 * rule["accuracy"]
            is_named = name in CURVES
            axes.plot(gain, accuracy, marker="o", color=colour, ls="none",
                      alpha=1 if is_named else 0.5, zorder=3 if is_named else 2)  # fmt: skip
            named += [(gain, accuracy, name, colour)] if is_named else []
        _name_points(axes, named)
        title = f"{task}, keep {keep_percent(keep)}: ρ = {found['rank_correlation']:.2f}"
        if found["ci95_rules"] is not None:
            low, high = found["ci95_rules"]
            title += f" [{low:.2f}, {high:.2f}]"
        axes.set_title(title, loc="left", fontsize=6.5)
        axes.set_xlabel("KL removed per kept context (nats)")
        axes.set_ylabel("accuracy after training (%)")
        axes.margins(0.08)
    note = (
        "A dot a rule, trained on its top tokens in the same regime; the page names the grey ones. "
        "ρ: rank correlation over "
        "rules; its interval draws rules, prompts, update seeds, items and training seeds."
    )
    claim = "Does gain on fixed contexts predict accuracy after training?"
    return close(figure, record, claim, note)


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names right of the panel, in the order of the dots' heights, with a line to each dot."""
    low, high = axes.get_ylim()
    gap = 0.07 * (high - low)
    ranked = sorted(points, key=lambda point: point[1])
    place = push_apart([y for _, y, _, _ in ranked], gap)
    for at, (x, y, name, colour) in zip(place, ranked, strict=True):
        axes.annotate(name, (x, y), xytext=(1.03, at), textcoords=axes.get_yaxis_transform(),
                      fontsize=6, color=colour, va="center", annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6,
                                  "shrinkA": 0, "shrinkB": 2})  # fmt: skip
    axes.set_ylim(low, high)


def gradients(record: Record) -> Figure | None:
    """Share of the summed gradient norm in each score's top contexts, by objective."""
    if "gradients" not in record:
        return None
    objectives = list(record["gradients"])
    keep = headline_keep(record["gradients"][objectives[0]])
    scores = record["gradients"][objectives[0]][keep]
    rows = sorted(scores, key=lambda name: scores[name]["share"] or 0.0)
    figure = Figure((WIDE, 1.0 + 0.14 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(objectives), sharey=True)
    for axes, objective in zip(np.atleast_1d(panels), objectives, strict=True):
        axes.axvline(100 * float(keep), color=ORANGE, lw=0.8, ls=DASHED)
        for y, name in enumerate(rows):
            found = record["gradients"][objective][keep][name]
            colour = ORANGE if name == RANDOM else colour_of(name)
            if found["share"] is None:
                continue
            if found["ci95"] is not None:
                axes.hlines(y, *(100 * end for end in found["ci95"]), color=colour, lw=1.2)
            axes.plot(100 * found["share"], y, marker="o", color=colour, ls="none")
        axes.set_title(objective, loc="left")
        axes.set_ylim(-0.6, len(rows) - 0.4)
        hide_left_axis(axes)
    first = np.atleast_1d(panels)[0]
    first.set_yticks(range(len(rows)), rows)
    share = keep_percent(keep)
    for axes in np.atleast_1d(panels):
        axes.set_xlabel("share of the gradient norm (%)")
    note = (
        "Norm of each objective's gradient with respect to the student's logits, in closed form. "
        "Bars: 95 % intervals over prompts. Dashed: random."
    )
    claim = f"How much of the gradient lies in a score's top {share} of contexts?"
    return close(figure, record, claim, note)
