"""Tables -> text: Markdown, CSV, LaTeX, and the README's short table. Pure: no input or output."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.core.keep_schedule import HEADLINE_KEEP
from bench.core.moderated import MIN_SEEDS, TEST_VERSION
from bench.core.stats import MIN_EFFECT, POWER
from bench.tables.leaderboard import UNREAD
from bench.tables.rows import Tuned, regime_changes, regime_name
from bench.tables.sheet import NONE, Sheet, _short, difference_text, points, seeds_text
from bench.tables.table import Line, Table
from bench.tables.versions import Repeat, repeat_sd

HEADLINE = (
    "random", "entropy", "forward_kl", "tip", "teachability", "teachability_released",
    "incompatible",
)  # fmt: skip
"""Rules of the short table, chosen before any result: the paper's own and its rivals."""

HEADER = (
    "selector", "keep", "seeds", "accuracy %", "seed sd", "vs full", "vs random, same keep",
    "P(beats random)", "realised keep", "clipped %", "no answer %", "cut off %", "tokens scored",
    "tokens trained", "training s", "peak MiB",
)  # fmt: skip


def _cells(line: Line) -> tuple[str, ...]:
    rates = (points(line.parse_failure_rate, False), points(line.truncation_rate, False))
    if not line.runs:
        return (line.label, NONE, NONE, points(line.accuracy, False), *[NONE] * 6, *rates,
                *[NONE] * 4)  # fmt: skip
    return (
        line.label,
        f"{line.keep:g}",
        str(len(line.runs)),
        points(line.accuracy, False),
        NONE if line.seed_sd is None else points(line.seed_sd, False),
        difference_text(line.vs_full),
        difference_text(line.vs_random),
        NONE if line.beats_random is None else f"{line.beats_random:.2f}",
        f"{line.mean_of(lambda run: run.realised_keep):.4f}",
        f"{100 * line.mean_of(lambda run: run.clipped_step_share):.0f}",
        *rates,
        f"{line.mean_of(lambda run: run.tokens['scored']):,.0f}",
        f"{line.mean_of(lambda run: run.tokens['trained']):,.0f}",
        f"{line.training_seconds:.0f}",
        f"{line.peak_memory_bytes / 2**20:,.0f}",
    )


def table_sheet(table: Table) -> Sheet:
    kind = ", rules without a keep to match" if table.has_no_keep else ""
    header, rows = HEADER, [_cells(line) for line in table.lines]
    if table.has_no_keep:  # no keep to match, so no `random` to compare with
        header = tuple("effective tokens" if n == "keep" else n for n in header)
        sizes = [line.effective_sample_size for line in table.lines]
        rows = [(row[0], NONE if size is None else f"{size:,.0f}", *row[2:])
                for row, size in zip(rows, sizes, strict=True)]  # fmt: skip
        left_out = {HEADER.index("vs random, same keep"), HEADER.index("P(beats random)")}
        header = tuple(n for i, n in enumerate(header) if i not in left_out)
        rows = [tuple(c for i, c in enumerate(row) if i not in left_out) for row in rows]
    title = f"{table.pair}, {table.task}, regime {table.regime}{kind}"
    return Sheet(title, header, tuple(rows), tuple(_notes(table)))


def _notes(table: Table) -> list[str]:
    family = len(table.comparisons())
    notes = [f"{table.items:,} items; every seed's checkpoint answers all of them."]
    if family:
        found = f"for one comparison at 5 %, {_smallest(table, 1)}"
        if family > 1:
            found += f"; at Holm's first step (5 % / {family}), {_smallest(table, family)}"
        notes.append(
            f"Smallest effect found with {100 * POWER:g} % power (points, median over rows): "
            f"{found}."
        )
    seeds = [f"{line.label}{'' if line.label == 'full' else f' at keep {line.keep:g}'} "
             f"{seeds_text(line.seeds)}"
             for name in ("full", "random") for line in table.arms(name)]  # fmt: skip
    notes += [f"Seeds: {'; '.join(seeds)}."] if seeds else []
    if borrowed := _borrowed(table):
        notes.append(f"Runs of a regime that trains them alike: {'; '.join(borrowed)}.")
    notes.append(
        f"Verdicts: test version {TEST_VERSION}, seeds and items both drawn; Holm family: {family} "
        f"comparison{'' if family == 1 else 's'}; a difference of at most {100 * MIN_EFFECT:g} "
        f"point is a tie, fewer than {MIN_SEEDS} common seeds get no verdict."
    )
    if any(c is not None and c.only_seeds for line in table.lines
           for c in (line.vs_full, line.vs_random)):  # fmt: skip
        notes.append(
            "Accuracies are over all seeds of a line; a difference that names seeds is over those, "
            "which both have, so it is not the difference of the two accuracies."
        )
    notes.append("Clipped: share of the training steps whose gradient was cut to the largest norm.")
    notes += _tuning_notes(table)
    notes.append(f"Checkpoint: last step of a fixed horizon ({table.steps} steps).")
    machines = sorted({(run.provenance.get("device", "?"), run.provenance.get("threads", "?"))
                       for line in table.arms() for run in line.runs}, key=str)  # fmt: skip
    notes.append(f"Ran on: {'; '.join(f'{d} (threads: {n})' for d, n in machines)}.")
    missing = [] if table.arms("full") else ["no `full` run: no difference from it"]
    if not table.has_no_keep:
        keeps = {line.keep for line in table.arms() if line.selector != "full"}
        keeps -= {line.keep for line in table.arms("random")}
        missing += [f"no `random` run at keep {keep:g}" for keep in sorted(keeps)]
    notes += [f"Missing: {'; '.join(missing)}."] if missing else []
    return [*notes, *(f"{warning}." for warning in table.warnings)]


def _borrowed(table: Table) -> list[str]:
    """The references that were run in another regime, and in which."""
    if table.tuning is not None:
        return []
    found = []
    for name in UNREAD:
        changes = [regime_changes(r.experiment) for line in table.arms(name) for r in line.runs]
        regimes = sorted({regime_name(c) for c in changes if c != table.changes})
        found += [f"`{name}` of {' and '.join(regimes)}"] if regimes else []
    return found


def _smallest(table: Table, comparisons: int) -> str:
    """The smallest effects that the table's comparisons detect, against each reference."""
    parts = []
    for name in ("full", "random"):
        of_name = [getattr(line, f"vs_{name}") for line in table.lines]
        sizes = [c.crossed.smallest_detectable(comparisons) for c in of_name if c and c.crossed]
        if sizes:
            size = median(sizes)
            parts.append(f"{'over 100' if size > 1 else points(size, False)} against {name}")
    return ", ".join(parts)


def _tuning_notes(table: Table) -> list[str]:
    """The budget of the tuning, and what it chose for each line."""
    if table.tuning is None:
        return []
    tuned, names = table.tuning, list(table.tuning.ranges)
    chosen = []
    for line in table.arms():
        values = {name: line.runs[0].experiment[name] for name in names}
        at_end = [name for name in names if values[name] in range_ends(tuned.ranges[name])]
        text = ", ".join(f"{value:g}" for value in values.values())
        keep = "" if line.selector == "full" else f" at keep {line.keep:g}"
        chosen.append(f"{line.label}{keep} {text}{' (end of the range)' if at_end else ''}")
    return [
        f"Every rule at its own best {' and '.join(names)}, chosen by the sweep {tuned.sweep} with "
        f"{tuned.trials} trials each ({tuned.sampler}) on {tuned.task} at seed {tuned.seed}, "
        f"which is no seed of this table: {'; '.join(chosen)}."
    ]


def range_ends(span: Mapping[str, Any]) -> tuple[float, float]:
    """The lowest and the highest value that a range of a tuning allows."""
    values = span.get("values") or (span["low"], span["high"])
    return min(values), max(values)


def tuning_sheet(tuned: Tuned) -> Sheet:
    """What each trial of a tuning scored."""
    names = list(tuned.ranges)
    rows = []
    for cell in tuned.cells.values():
        place = [str(cell.experiment[name]) for name in ("pair", "selector", "keep")]
        for trial in sorted(cell.trials, key=lambda trial: list(trial["params"].values())):
            values = [f"{trial['params'][name]:g}" for name in names]
            score = NONE if trial["value"] is None else points(trial["value"], False)
            mark = "chosen" if trial["params"] == cell.best else trial["state"]
            rows.append((*place, *values, score, "" if mark == "complete" else mark))
    return Sheet(
        f"Tuning: {tuned.sweep}",
        ("pair", "selector", "keep", *names, f"{tuned.task} %", ""),
        tuple(sorted(rows, key=lambda row: row[:3])),
        (
            f"{tuned.trials} trials for every rule, {tuned.sampler}, one training seed "
            f"({tuned.seed}) that no reported run has. The reported runs follow at the chosen "
            "values, on a split that the tuning never saw.",
        ),
    )


def repeats_sheet(repeated: Sequence[Repeat]) -> Sheet:
    """Trainings that were run more than once, and what that says of the noise between runs."""
    rows = []
    for found in repeated:
        counted, accuracy_R = found.runs[-1], found.accuracy_R
        made_of = counted.experiment
        rows.append((
            made_of["pair"], found.task, found.regime, made_of["selector"], f"{counted.keep:g}",
            str(counted.seed), ", ".join(points(value, False) for value in accuracy_R[:-1]),
            points(accuracy_R[-1], False), points(accuracy_R[-1] - accuracy_R[-2]),
            counted.run_id,
        ))  # fmt: skip
    same = sum(len(set(found.accuracy_R)) == 1 for found in repeated)
    return Sheet(
        "Repeats",
        ("pair", "task", "regime", "selector", "keep", "seed", "before %", "counts %", "change",
         "run that counts"),
        tuple(sorted(rows)),
        (
            f"{len(repeated)} trainings were run more than once, on other machines or with other "
            "versions of the libraries; the newest engine's run counts, of these the newest. "
            f"{same} of them ended with the same accuracy; between machines and versions one run "
            f"has a standard deviation of {100 * repeat_sd(repeated):.2f} points.",
        ),
    )  # fmt: skip


def headline_sheet(tables: Sequence[Table]) -> Sheet | None:
    """The rules of HEADLINE at one keep, a pair a column, in the first regime that has them."""
    scored = [table for table in tables if not table.has_no_keep and table.arms()]
    if not scored:
        return None
    first = scored[0]
    same = (first.changes, first.task, first.tuning)
    shown = [table for table in scored if (table.changes, table.task, table.tuning) == same]
    keeps = sorted({line.keep for t in shown for line in t.arms() if line.selector != "full"})
    if not keeps:
        return None
    keep = HEADLINE_KEEP if HEADLINE_KEEP in keeps else keeps[0]
    named: dict[str, list[Line | None]] = {}
    for place, table in enumerate(shown):
        for line in table.lines:
            is_shown = line.selector in ("", "full") or (
                line.rule in HEADLINE and line.keep == keep
            )
            if is_shown:
                named.setdefault(line.label, [None] * len(shown))[place] = line
    rows = sorted(named.items(), key=lambda item: _headline_order(*item))
    header = ["selector"]
    for table in shown:
        header += [f"{table.pair} %", "vs full", "vs random"]
    text = [
        (label, *(cell for line in lines for cell in _headline_cells(line)))
        for label, lines in rows
    ]
    notes = (
        f"Accuracy on {first.task} ± seed sd (seeds), {first.items:,} items, keep {keep:g}, regime "
        f"{first.regime}; paired differences in points with verdicts (test version {TEST_VERSION}, "
        f"Holm over all comparisons of the full table, at least {100 * MIN_EFFECT:g} point). The "
        "rules were chosen before any result.",
    )
    return Sheet("", tuple(header), tuple(text), notes)


def _headline_order(label: str, lines: Sequence[Line | None]) -> tuple:
    first = {"untrained": 0, "teacher": 1, "full": 2}.get(label, 3)
    return (first, -sum(line.accuracy for line in lines if line) / len(lines), label)


def _headline_cells(line: Line | None) -> tuple[str, str, str]:
    if line is None:
        return (NONE, NONE, NONE)
    if not line.runs:
        return (points(line.accuracy, False), NONE, NONE)
    both = [NONE if c is None else f"{points(c.mean)} {c.verdict or NONE}"
            for c in (line.vs_full, line.vs_random)]  # fmt: skip
    return (_short(line), both[0], both[1])
