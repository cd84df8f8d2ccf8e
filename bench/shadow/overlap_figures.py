"""Overlap -> figures as SVG and PNG bytes, in the house style. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.shadow.overlap import Overlap, Profile
from bench.tables.sheet import keep_percent
from bench.tables.style import BLACK, BLUE, DASHED, GREY, PALE, VERMILION, WIDE, render, write_note

SHARED = LinearSegmentedColormap.from_list("shared", ["#FFFFFF", "#9CC3E0", BLUE, "#00263D"])
"""White for none to dark blue for all."""
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#7A3300", VERMILION, "#F4C9A8", "#FFFFFF", "#A9CFE6", BLUE, "#00263D"]
)
"""Red below, white in the middle, blue above."""
MOST_LIFT = 8.0
"""Ends of the colours of the profiles: an eighth, and eight times as many as by chance."""
TITLES = {
    "position": "tenth of the response",
    "entropy": "decile of student entropy",
    "class": "token class",
}


def draw_overlap(found: Overlap) -> dict[str, bytes]:
    """File name -> content: the overlap matrix and the profiles, each as SVG and PNG."""
    kinds = {"overlap": overlap_matrix, "profiles": profiles}
    return render((name, draw(found)) for name, draw in kinds.items())


def overlap_matrix(found: Overlap) -> Figure:
    """Below the diagonal Jaccard of masks, above it Spearman of scores; like rules side by side."""
    order, rules = found.order(), len(found.rules)
    jaccard = found.jaccard_RR[np.ix_(order, order)]
    spearman = found.spearman_RR[np.ix_(order, order)]
    below = np.tri(rules, k=-1, dtype=bool)
    side = max(2.0, min(6.4, 0.4 + 0.145 * rules))  # of the matrix, in inches
    size = min(6.5, 72 * side / rules * 0.9)
    names = [found.rules[place] for place in order]
    left, right, top = _name_length(names, size), 0.75, 0.32
    bottom = left + 0.42
    width, height = side + left + right, side + top + bottom
    figure = Figure((width, height))
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    overlap_norm, rank_norm = Normalize(0, 1), Normalize(-1, 1)
    axes.imshow(np.where(below, jaccard, np.nan), cmap=SHARED, norm=overlap_norm)
    axes.imshow(np.where(below.T, spearman, np.nan), cmap=SIGNED, norm=rank_norm)
    if rules <= 26:
        _write_cells(axes, jaccard, below, 0.55, size * 0.62)
        _write_cells(axes, spearman, below.T, 0.62, size * 0.62)
    axes.set_xticks(range(rules), names, rotation=90, fontsize=size)
    axes.set_yticks(range(rules), names, fontsize=size)
    axes.tick_params(length=0, pad=2)
    axes.set_xticks(np.arange(-0.5, rules), minor=True)
    axes.set_yticks(np.arange(-0.5, rules), minor=True)
    _part_cells(axes)
    _embolden(axes.get_xticklabels(), found.rules[0])
    _embolden(axes.get_yticklabels(), found.rules[0])
    scales = (
        ("Jaccard of masks", SHARED, overlap_norm, 0.0),
        ("Spearman of scores", SIGNED, rank_norm, 0.56),
    )
    for title, colours, norm, at in scales:
        place = (
            (left + side + 0.15) / width, (bottom + at * side) / height,
            0.09 / width, min(0.44 * side, 1.6) / height,
        )  # fmt: skip
        bar = figure.colorbar(ScalarMappable(norm, colours), cax=figure.add_axes(place))
        bar.set_label(title, fontsize=6.5)
        bar.outline.set_visible(False)  # pyright: ignore
        bar.ax.tick_params(length=2, width=0.5, labelsize=6)
    note = (
        "Below the diagonal: Jaccard of the two masks "
        f"({found.by_chance:.3f} for two random ones); above it: Spearman of the scores over all "
        "tokens; means over steps, cells in hundredths. Order: average linkage on 1 − Jaccard. "
        "Bold: the run's own rule."
    )
    _frame(figure, found, "Do the rules keep the same tokens?", note)
    return figure


def _name_length(names: list[str], size: float) -> float:
    """Inches that the longest name takes, with room at both ends."""
    return 0.16 + max(map(len, names)) * size * 0.0088


def _write_cells(
    axes: Axes, value_RR: np.ndarray, where_RR: np.ndarray, dark: float, size: float
) -> None:
    for y, x in zip(*np.nonzero(where_RR & ~np.isnan(value_RR)), strict=True):
        value = float(value_RR[y, x])
        text = f"{round(100 * value)}".replace("-", "−")
        colour = "white" if abs(value) > dark else BLACK
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color=colour)


def _part_cells(axes: Axes) -> None:
    """White lines at the minor ticks, and no frame."""
    axes.grid(which="minor", color="white", lw=0.4)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _embolden(labels: Iterable[Text], own: str) -> None:
    """The run's own rule in bold."""
    for label in labels:
        label.set_fontweight("bold" if label.get_text() == own else "normal")


def profiles(found: Overlap) -> Figure:
    """What kind of tokens each rule keeps: a row a rule, by group, gradient and ties."""
    order, rules = found.order(), len(found.rules)
    side = 0.15 + 0.135 * rules
    names = [found.rules[place] for place in order]
    left, right, top, bottom = _name_length(names, 6), 0.1, 0.6, 1.3
    height = side + top + bottom
    figure = Figure((WIDE, height))
    shares = {"position": 10, "entropy": 10, "class": 7, "gradient": 4.6, "ties": 4.6}
    gap = 0.1
    unit = (WIDE - left - right - gap * (len(shares) - 1)) / sum(shares.values())
    at = left
    panels: dict[str, Axes] = {}
    for name, share in shares.items():
        panels[name] = figure.add_axes(
            (at / WIDE, bottom / height, share * unit / WIDE, side / height)
        )
        at += share * unit + gap
    for name, profile in found.profiles.items():
        _draw_lift(panels[name], name, profile, order)
    _draw_shares(panels, found, order)
    for number, (name, axes) in enumerate(panels.items()):
        axes.set_ylim(rules - 0.5, -0.5)
        axes.set_yticks(range(rules), [] if number else names)
        axes.tick_params(length=0, pad=2, labelsize=6)
        if name in found.profiles:
            axes.set_yticks(np.arange(-0.5, rules), minor=True)
            _part_cells(axes)
    _embolden(panels["position"].get_yticklabels(), found.rules[0])
    _draw_scale(figure, (left / WIDE, 0.62 / height, 20.3 * unit / WIDE, 0.08 / height))
    note = (
        "Entropy: deciles within each step, 10 the highest. Gradient: Σ of the norm of "
        f"{found.gradient_of}'s gradient at the student's logits; dashed: the share by chance. "
        "Rows in the order of the overlap matrix; blue and bold: the run's own rule."
    )
    _frame(figure, found, "What kind of tokens does each rule keep?", note)
    return figure


def _draw_lift(axes: Axes, name: str, profile: Profile, order: Sequence[int]) -> None:
    """Times as many kept tokens as by chance, of the groups that have tokens."""
    used = profile.all_G > 0
    lift_RG = profile.lift_RG[order][:, used]
    labels = [n for n, u in zip(profile.names, used, strict=True) if u]
    axes.set_facecolor(PALE)
    axes.imshow(
        np.clip(lift_RG, 1 / MOST_LIFT, MOST_LIFT), cmap=SIGNED, norm=_lift_norm(), aspect="auto"
    )
    if name != "class":
        labels = [f"{number + 1}" for number in range(len(labels))]
    axes.set_xticks(range(len(labels)), labels, rotation=90 if name == "class" else 0)
    axes.set_title(TITLES[name], loc="left", fontsize=6.5)
    axes.set_xticks(np.arange(-0.5, len(labels)), minor=True)


def _draw_shares(panels: Mapping[str, Axes], found: Overlap, order: Sequence[int]) -> None:
    """Bars: the gradient that each rule covers, and what the tie rule chose."""
    colours = [GREY if place else BLUE for place in order]
    for name, values, title in (
        ("gradient", found.gradient_R[order], "gradient norm\ncovered (%)"),
        ("ties", found.tied_R[order], "kept by the\ntie rule (%)"),
    ):
        axes = panels[name]
        axes.barh(range(len(order)), 100 * np.nan_to_num(values), color=colours, height=0.72)
        axes.set_title(title, loc="left", fontsize=6.5)
        axes.set_xlim(0, max(1.0, 1.12 * float(np.nanmax(100 * values))))
        axes.spines["left"].set_linewidth(0.4)
    panels["gradient"].axvline(100 * found.keep, color=BLACK, lw=0.6, ls=DASHED)


def _draw_scale(figure: Figure, place: tuple[float, float, float, float]) -> None:
    """The scale of the lifts, lying under the panels."""
    bar = figure.colorbar(
        ScalarMappable(_lift_norm(), SIGNED), cax=figure.add_axes(place), orientation="horizontal"
    )
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    bar.set_ticks(ticks, labels=["⅛", "¼", "½", "1", "2", "4", "8"], fontsize=6)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # pyright: ignore
    bar.ax.tick_params(length=2, width=0.5)
    bar.set_label("times as many kept tokens as by chance", fontsize=6.5)


def _lift_norm() -> LogNorm:
    return LogNorm(1 / MOST_LIFT, MOST_LIFT)


def _frame(figure: Figure, found: Overlap, claim: str, note: str) -> None:
    """The claim above; below, where it was measured and what the marks are."""
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.08 / height, claim, fontsize=8.5, fontweight="bold", va="top")
    steps = len(found.steps)
    where = (
        f"{found.run_id}, {steps:,} step{'' if steps == 1 else 's'} ({found.steps[0]} to "
        f"{found.steps[-1]}), {found.tokens:,} tokens, keep {keep_percent(found.keep)}."
    )
    write_note(figure, f"{where} {note}")
