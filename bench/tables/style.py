"""The house style of every figure: colours, sizes, claim and note, and its SVG and PNG bytes. Pure.

Text is drawn as paths of a font that matplotlib brings along, markers and clips have numbers for
names and no date is written, so an SVG depends on its data and on matplotlib's version alone. A PNG
also depends on the zlib it was packed with, and no `--check` compares it.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.tables.table import Line

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""Okabe and Ito's palette, but for its yellow: told apart by colour-blind readers."""
GREY, PALE = "#6E6E6E", "#D5D5D5"
DASHED = (0, (4, 2))
WIDTH, WIDE = 3.5, 7.2
"""Inches: one column of a paper, and two."""
STYLE: dict[str, Any] = {
    "svg.hashsalt": "opd-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "text.parse_math": False,  # a dollar in the name of a file or a rule is a dollar
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


def render(figures: Iterable[tuple[str, Figure]]) -> dict[str, bytes]:
    """File name -> content of named figures, each as SVG and PNG.

    The house style holds while the figures are asked for: an iterator that makes them has it.
    """
    with house_style():
        drawn = {}
        for name, figure in figures:
            for kind in ("svg", "png"):
                drawn[f"{name}.{kind}"] = _bytes(figure, kind)
        return drawn


def _bytes(figure: Figure, kind: str) -> bytes:
    """The figure as svg or png."""
    file = BytesIO()
    metadata = {"Date": None, "Creator": "opd-bench"} if kind == "svg" else {"Software": None}
    figure.savefig(file, format=kind, dpi=200, metadata=metadata)
    return _numbered(file.getvalue()) if kind == "svg" else file.getvalue()


def _numbered(svg: bytes) -> bytes:
    """The drawing with its markers and clips called by number: matplotlib calls them by a hash of
    their floats, whose last bits are the machine's.
    """
    numbers: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return numbers.setdefault(found[0], b"%b%d" % (found[1], len(numbers) + 1))

    return re.sub(rb"(?<=[#\"])([mp])[0-9a-f]{10}(?=[)\"])", number, svg)


def per_cent(value: float | Sequence[float] | np.ndarray) -> Any:
    return 100 * np.asarray(value)


def frame(figure: Figure, claim: str, note: str) -> None:
    """The claim above the panels, the note below."""
    figure.suptitle(claim, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    foot = (0.1 + 0.09 * write_note(figure, note)) / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, foot, 1, 1 - foot))


def write_note(figure: Figure, note: str) -> int:
    """The note at the bottom, over the whole width; how many lines it takes."""
    text = textwrap.fill(note, int(24 * figure.get_figwidth()))
    figure.text(0.01, 0.04 / figure.get_figheight(), text, fontsize=5.5, color=GREY, va="bottom")
    return text.count("\n") + 1


def x_ticks(
    axes: Axes, values: Iterable[float], text: Callable[[float], str] = "{:g}".format
) -> None:
    """Ticks at the values alone, each with its text."""
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def log_keeps(axes: Axes, keeps: Iterable[float]) -> None:
    """A log axis of the keeps, in per cent."""
    axes.set_xscale("log")
    x_ticks(axes, keeps, lambda keep: f"{100 * keep:g}")


def log_ks(axes: Axes, ks: Iterable[int]) -> None:
    """A log axis of the Ks, in powers of two."""
    axes.set_xscale("log", base=2)
    x_ticks(axes, ks)


def hide_left_axis(axes: Axes) -> None:
    """For panels whose rows have names, not values."""
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)


def accuracy_band(
    axes: Axes, x: Sequence[float], lines: Sequence[Line], colour: str, **kw: Any
) -> None:
    """Mean accuracies with their 95 % intervals over training seeds."""
    low, high = zip(*(line.seeds_ci95 for line in lines), strict=True)
    if len(x) > 1:
        axes.fill_between(x, per_cent(low), per_cent(high), color=colour, alpha=0.2, lw=0)
    else:
        axes.vlines(x, per_cent(low), per_cent(high), color=colour, alpha=0.5, lw=1)
    axes.plot(x, per_cent([line.accuracy for line in lines]), color=colour, marker="o", **kw)


def panel_grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels with shared axes, four at the most in a row."""
    columns = min(4, count)
    rows = -(-count // columns)
    width = {1: WIDTH, 2: 4.8}.get(columns, WIDE)
    figure = Figure((width, 0.75 + 1.25 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
        panels[list(panels).index(axes) - columns].tick_params(labelbottom=True)
    return figure, list(panels[:count])


def label_edges(panels: Sequence[Axes], x: str, y: str) -> None:
    """Axis names at the left edge of a grid, and under the lowest panel of each column."""
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(y)
    for axes in panels[-4:]:
        axes.set_xlabel(x)


def name_ends(
    axes: Axes,
    ends: Iterable[tuple[float, str, str]],
    gap: float = 0.06,
    offset: float = 4,
    downwards: bool = False,
) -> None:
    """Names right of the panel at the height of the last values, pushed apart.

    `ends` are (height, name, colour). `gap`: the least distance, as a share of the axis; `offset`:
    points from the panel's edge; `downwards`: the highest name stays at its height.
    """
    low, high = axes.get_ylim()
    ends = sorted(ends, reverse=downwards)
    push = push_down if downwards else push_apart
    heights = push([y for y, _, _ in ends], gap * (high - low))
    for height, (_, label, colour) in zip(heights, ends, strict=True):
        axes.annotate(label, (1, height), xycoords=("axes fraction", "data"), xytext=(offset, 0),
                      textcoords="offset points", fontsize=6, color=colour,
                      va="center", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)


def push_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights from the lowest, pushed both ways until each two differ by the gap."""
    place = list(heights)
    for _ in range(200):
        for i in range(len(place) - 1):
            short = gap - (place[i + 1] - place[i])
            if short > 1e-9:
                place[i] -= short / 2
                place[i + 1] += short / 2
    return place


def push_down(heights: Sequence[float], gap: float) -> list[float]:
    """Heights from the highest, each at least the gap under the one before."""
    place = list(heights)
    for i in range(1, len(place)):
        place[i] = min(place[i], place[i - 1] - gap)
    return place
