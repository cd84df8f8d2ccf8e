"""A diagnostic's record -> its figures, one claim each, as SVG and PNG bytes. Pure.

Dots are values, bars 95 % intervals over prompts and update seeds. Colours: D·C and its readings
blue, D red, what an oracle reaches black, everything else grey.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.core.keep_schedule import headline_keep, keep_percent
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
    render,
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
DECILES = {
    "forward_kl": "D = KL(q‖p)",
    "teachability": "D·C, normalised",
    "entropy": "student entropy H",
    "compatibility": "compatibility C",
    "incompatible": "D·(1−C), normalised",
    "teacher_entropy": "teacher entropy",
}
PARTS = {
    "learnable": "D·C",
    "incompatible": "D·(1−C)",
    "compatibility": "C",
    "divergence": "D",
}
PROXIES = {
    "exact_mass": "exact mass C",
    "raw_product": "exact mass, not normalised",
    "overlap": "overlap |S∩T|/K",
    "jaccard": "Jaccard |S∩T|/|S∪T|",
    "bhattacharyya": "Bhattacharyya on S∪T",
    "teacher_top1": "teacher's top-1 in S",
}
NATS = "KL removed, KL(q‖p) before − after (nats)"


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


def _close(figure: Figure, record: Record, claim: str, note: str) -> Figure:
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


def _colour(score: str) -> str:
    if score in ORACLES:
        return BLACK
    return VERMILION if score == REFERENCE else BLUE if score.startswith(FAMILY) else GREY


def _forest(
    axes: Axes, found: Mapping[str, Mapping[str, Any]], name: str, colours: Mapping[str, str] = {}
) -> None:
    """A row a score, the highest value on top."""
    rows = sorted(found, key=lambda score: found[score][name])
    for y, score in enumerate(rows):
        colour = colours.get(score) or _colour(score)
        if found[score]["ci95"] is not None:
            axes.hlines(y, *found[score]["ci95"], color=colour, lw=1.2)
        axes.plot(found[score][name], y, marker="o", color=colour, ls="none")
    axes.set_yticks(range(len(rows)), rows)
    for text, score in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color(colours.get(score) or _colour(score))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    hide_left_axis(axes)


def _defined(found: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {score: value for score, value in found.items() if value[name] is not None}


def spearman(record: Record) -> Figure | None:
    found = _defined(record["spearman"], "value")
    if not found:
        return None
    figure = Figure((WIDTH + 0.9, 0.9 + 0.14 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, lw=0.8)
    if REFERENCE in found:
        axes.axvline(found[REFERENCE]["value"], color=VERMILION, lw=0.8, ls=DASHED)
    _forest(axes, found, "value", {RANDOM: ORANGE})
    axes.set_xlabel("Spearman correlation with the KL that the update removes")
    note = (
        f"{INTERVALS} Dashed: D itself. Blue: readings of D·C. Black: mean gain under the other "
        "update seeds, what no score of the context alone can be expected to exceed."
    )
    return _close(figure, record, "Which scores predict the KL that an update removes?", note)


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
    _name_ends(axes, ends)
    note = f"{INTERVALS} Points of one keep are set side by side."
    return _close(figure, record, "How much do the contexts gain that a score keeps?", note)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge at the height of the last values, pushed apart both ways."""
    low, high = axes.get_ylim()
    gap = 0.06 * (high - low)
    ends = sorted(ends)
    place = _apart([y for y, _, _ in ends], gap)
    for at, (_, label, colour) in zip(place, ends, strict=True):
        axes.annotate(label, (1, at), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", fontsize=6, color=colour,
                      va="center", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)


def top_rules(record: Record) -> Figure | None:
    keep = headline_keep(record["matched_top"])
    found = _defined(record["matched_top"][keep], "gain")
    oracle = found.pop("oracle", None)
    if not found:
        return None
    figure = Figure((WIDTH + 0.9, 0.9 + 0.14 * len(found)), layout="constrained")
    axes = figure.subplots()
    if RANDOM in found:
        axes.axvline(found[RANDOM]["gain"], color=ORANGE, lw=0.8, ls=DASHED)
    _forest(axes, found, "gain", {RANDOM: ORANGE})
    axes.set_xlabel("KL removed per kept context (nats)")
    share = keep_percent(keep)
    top = f" The oracle that ranks by G itself reaches {oracle['gain']:.3g}." if oracle else ""
    note = f"{INTERVALS} Every rule keeps {share} of the contexts. Dashed: random.{top}"
    claim = f"Which rule's top {share} of contexts lose the most KL?"
    return _close(figure, record, claim, note)


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
        colour = _colour(name)
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
    return _close(figure, record, "Where along each score do contexts gain?", note)


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
    _forest(axes, found, "value", colours)
    axes.set_xlabel("KL removed: top quarter − bottom quarter of the score (nats)")
    inside = record["quadrant3"]["learnable"]["n"]
    note = (
        f"{INTERVALS} {inside:,} contexts with student entropy at most, and disagreement over, "
        "their medians."
    )
    return _close(figure, record, "Where the student is sure and wrong, what marks the gain?", note)


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
    return _close(figure, record, "Where over entropy and disagreement do contexts gain?", note)


def _log_ticks(most: float) -> list[float]:
    """0 and the powers of ten, both ways, within the two decades that a symmetric scale shows."""
    powers = [10.0**e for e in range(-12, 13) if most / 40 <= 10.0**e <= most]
    return [*(-power for power in reversed(powers)), 0.0, *powers]


def _colours(name: str) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=PALE)


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
        _name_ends(axes, ends)
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
    return _close(figure, record, claim, note)


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
    _name_ends(axes, ends)
    base = record["regressions"][str(record["k"])]["base"]["r2_out_of_prompt"]["value"]
    known = f" The base explains {base:.2f}." if base is not None else ""
    note = f"{INTERVALS} Over the base {{H, D, H×D, position, teacher entropy}}.{known}"
    claim = "Does compatibility explain gain that disagreement does not?"
    return _close(figure, record, claim, note)


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
    _name_ends(axes, ends)
    note = f"{INTERVALS} Both factors normalised (norm_q05), but for the product of D and C itself."
    claim = "Does the gain over D depend on how compatibility is measured?"
    return _close(figure, record, claim, note)


def against(record: Record) -> Figure | None:
    """Gain per kept context against accuracy, a panel a keep."""
    tasks = record.get("against", {}).get("tasks", {})
    panels_of = [
        (task, keep, found)
        for task, keeps in tasks.items()
        for keep, found in keeps.items()
        if found["rank_correlation"] is not None
    ]
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
            colour = ORANGE if name == RANDOM else _colour(name)
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
    return _close(figure, record, claim, note)


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names right of the panel, in the order of the dots' heights, with a line to each dot."""
    low, high = axes.get_ylim()
    gap = 0.07 * (high - low)
    ranked = sorted(points, key=lambda point: point[1])
    place = _apart([y for _, y, _, _ in ranked], gap)
    for at, (x, y, name, colour) in zip(place, ranked, strict=True):
        axes.annotate(name, (x, y), xytext=(1.03, at), textcoords=axes.get_yaxis_transform(),
                      fontsize=6, color=colour, va="center", annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6,
                                  "shrinkA": 0, "shrinkB": 2})  # fmt: skip
    axes.set_ylim(low, high)


def _apart(place: list[float], gap: float) -> list[float]:
    """Sorted heights, pushed apart both ways until each two differ by the gap."""
    place = list(place)
    for _ in range(200):
        for i in range(len(place) - 1):
            short = gap - (place[i + 1] - place[i])
            if short > 1e-9:
                place[i] -= short / 2
                place[i + 1] += short / 2
    return place


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
            colour = ORANGE if name == RANDOM else _colour(name)
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
    return _close(figure, record, claim, note)
