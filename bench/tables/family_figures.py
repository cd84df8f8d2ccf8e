"""Families of tables -> figures: accuracy by K, by learning rate, along a dial of pairs. Pure."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from bench.tables.families import Dial, Value, value_text, without_k
from bench.tables.rates import Matrix
from bench.tables.sheet import keep_percent
from bench.tables.style import (
    BLACK,
    BLUE,
    DASHED,
    GREY,
    LINES,
    PALE,
    VERMILION,
    WIDTH,
    accuracy_band,
    frame,
    label_edges,
    log_ks,
    name_ends,
    panel_grid,
    per_cent,
    x_ticks,
)
from bench.tables.table import Line, Table

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
        name_ends(axes, ends, gap=0.055, offset=3, downwards=True)
        axes.set_xlabel("K of the top-K sets")
    panels[0].set_ylabel("accuracy (%)")
    where = without_k(next(iter(by_k.values()))).where
    note = "Bars and band: 95 % intervals over training seeds."
    frame(figure, "Sensitivity to K", f"{where}. {note}")
    return figure


# --- learning rates ------------------------------------------------------------------------------


def by_rate(matrix: Matrix) -> Figure:
    """Accuracy of every arm against the learning rate, a panel an arm, beside `full`."""
    arms = [arm for arm in matrix.arms if len(arm.by_rate) > 1]
    full = next((arm for arm in arms if arm.label == "full"), None)
    figure, panels = panel_grid(len(arms))
    for axes, arm in zip(panels, arms, strict=True):
        axes.set_xscale("log")
        if full is not None and arm is not full:
            axes.plot(list(full.by_rate), [100 * x.accuracy for x in full.by_rate.values()],
                      color=BLACK, lw=0.8, ls=DASHED)  # fmt: skip
        accuracy_band(axes, list(arm.by_rate), list(arm.by_rate.values()), BLUE)
        if arm.best is not None:
            axes.plot([arm.best], [100 * arm.by_rate[arm.best].accuracy], ls="none", marker="o",
                      ms=7, mfc="none", mec=VERMILION, zorder=3)  # fmt: skip
        axes.set_title(f"{arm.label} (swing {100 * arm.swing:.1f})", loc="left", color=BLUE)
        x_ticks(axes, matrix.rates)
    label_edges(panels, "learning rate", "accuracy (%)")
    keeps = " and ".join(keep_percent(k) for k in sorted({a.keep for a in arms if a.keep < 1}))
    note = (
        f"{matrix.where}, {keeps} of the tokens kept. Dashed: full. Bands: 95 % intervals over "
        "training seeds. Ring: the arm's own best rate, chosen on tune."
    )
    frame(figure, "Does the learning rate decide?", note)
    return figure


# --- a dial of pairs or of settings --------------------------------------------------------------

QUESTIONS = {
    "max_new_tokens": "How long must the responses be that are trained on?",
    "scope and normalize": "Who spends the budget, and whose mean?",
}


def by_dial(dial: Dial) -> Figure:
    """Accuracy of every rule at each value of the dial; a panel a rule.

    Filled marks: worse than `full` at the same value by its verdict.
    """
    lines = dial.lines()
    place = _places(dial)
    references = {label: found for (_, label), found in lines.items()
                  if label in ("untrained", "teacher", "full")}  # fmt: skip
    random = {keep: found for (keep, label), found in lines.items() if label == "random"}
    rules = [key for key in sorted(lines) if key[1] not in (*references, "random")]
    several = len({keep for keep, _ in rules}) > 1
    figure, panels = panel_grid(len(rules))
    for axes, (keep, label) in zip(panels, rules, strict=True):
        for name, style in (("full", DASHED), ("untrained", ":")):
            if name in references:
                found = references[name]
                axes.plot([place[value] for value in found],
                          [100 * line.accuracy for line in found.values()],
                          color=BLACK, lw=0.8, ls=style)  # fmt: skip
        if keep in random:
            accuracy_band(axes, [place[value] for value in random[keep]],
                          list(random[keep].values()), GREY, lw=0.8, ms=2)  # fmt: skip
        found = lines[keep, label]
        accuracy_band(axes, [place[value] for value in found], list(found.values()), BLUE)
        worse = {place[value]: line for value, line in found.items()
                 if line.vs_full is not None and line.vs_full.verdict == "worse"}  # fmt: skip
        axes.plot(list(worse), [100 * line.accuracy for line in worse.values()], ls="none",
                  marker="v", ms=5, color=VERMILION, zorder=3)  # fmt: skip
        name = f"{label}, keep {keep_percent(keep)}" if several else label
        axes.set_title(name, loc="left", color=BLUE)
        texts = {x: value_text(value).replace(", ", "\n") for value, x in place.items()}
        x_ticks(axes, texts, lambda x, texts=texts: texts[x])
    label_edges(panels, dial.fact.replace("_", " "), "accuracy (%)")
    keeps = " and ".join(keep_percent(keep) for keep in sorted({keep for keep, _ in rules}))
    note = (
        f"{keeps} of the tokens kept. Dashed: full; dotted: untrained; grey: random. Bands: 95 % "
        "intervals over training seeds. Red triangle: worse than full (Holm-adjusted verdict)."
    )
    if dial.is_of_pairs:
        claim = "At which mismatch does each rule break?"
        where = f"one student, {len(dial.by_value)} teachers, {dial.first.setting}"
    else:
        claim, where = QUESTIONS[dial.fact], f"{dial.where}, {dial.first.items:,} items"
    frame(figure, claim, f"{where}. {note}")
    return figure


def _places(dial: Dial) -> dict[Value, float]:
    """Where each value stands: at itself, or one after another."""
    return {
        value: float(number) if isinstance(value, str) else float(value)
        for number, value in enumerate(dial.by_value)
    }
