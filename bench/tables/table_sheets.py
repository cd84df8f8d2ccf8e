"""Tables -> text: Markdown, CSV, LaTeX, and the README's short table. Pure: no input or output."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from bench.core.keep_schedule import HEADLINE_KEEP
from bench.core.stats import MIN_EFFECT, POWER
from bench.tables.claims import Answer, answers
from bench.tables.leaderboard import UNREAD, Comparison, Line, Table, is_main
from bench.tables.ranks import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    Dial,
    Ranks,
    dials,
    k_groups,
    overall,
    without_k,
)
from bench.tables.rows import Row, Tuned, regime_changes, regime_name
from bench.tables.sheet import bar

HEADLINE = (
    "random", "entropy", "forward_kl", "tip", "teachability", "teachability_released",
    "incompatible",
)  # fmt: skip
"""Rules of the short table, chosen before any result: the paper's own and its rivals."""
NONE = "—"

HEADER = (
    "selector", "keep", "seeds", "accuracy %", "seed sd", "vs full", "vs random, same keep",
    "P(beats random)", "realised keep", "no answer %", "cut off %", "tokens scored",
    "tokens trained", "training s", "peak MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """A table of text, for Markdown and LaTeX alike."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def points(value: float, sign: bool = True) -> str:
    """A share as percentage points with one digit; never minus zero."""
    number = round(100 * value, 1) + 0.0
    return (f"{number:+.1f}" if sign and number else f"{number:.1f}").replace("-", "−")


def difference_text(found: Comparison | None) -> str:
    if found is None:
        return NONE
    if found.crossed is None:
        return f"{points(found.mean)} (1 seed) {NONE}"
    low, high = (points(end) for end in found.crossed.ci95)
    return f"{points(found.mean)} ({low} to {high}) {found.verdict}"


def seeds_text(seeds: Sequence[int]) -> str:
    """`0–4` for a run of numbers, else a list."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "none"


def _cells(line: Line) -> tuple[str, ...]:
    rates = (points(line.parse_failure_rate, False), points(line.truncation_rate, False))
    if not line.runs:
        return (line.label, NONE, NONE, points(line.accuracy, False), *[NONE] * 5, *rates,
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
        f"Holm family: {family} comparison{'' if family == 1 else 's'}; a difference of at most "
        f"{100 * MIN_EFFECT:g} point is a tie."
    )
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


def claims_sheet(asked: Sequence[Answer]) -> Sheet:
    """Each claim in each regime and pair: difference, interval, seeds and verdict."""
    rows = tuple(
        (
            answer.claim.words, f"{answer.claim.rule} − {answer.claim.reference}",
            answer.table.regime, answer.table.pair, str(answer.difference.seeds),
            difference_text(answer.difference),
        )
        for answer in asked
    )  # fmt: skip
    return Sheet(
        f"Claims, each by its own comparison, at keep {HEADLINE_KEEP:g}",
        ("claim", "difference", "regime", "pair", "seeds", "points"),
        rows,
        (
            "What TA-OPD (arXiv 2605.26844) says; the claims were named before any result. "
            "Differences are paired over common seeds and all items; Holm family: all "
            f"{len(rows)} comparisons of this table. A tie under `do as well as all` is no proof "
            "of equality: read the interval.",
        ),
    )


def ranks_sheet(ranks: Ranks) -> Sheet:
    rows = [
        (label, f"{mean:.1f}", f"{low:.1f} to {high:.1f}", *(f"{rank:g}" for rank in by_pair))
        for label, mean, (low, high), by_pair in ranks.lines
    ]
    return Sheet(
        f"Average rank over pairs: {ranks.task}, regime {ranks.regime}, keep {ranks.keep:g}",
        ("selector", "average rank", "95 % over seeds", *ranks.pairs),
        tuple(rows),
        (
            f"Rank 1 is the best of {len(rows)} rules by mean accuracy; ties share a rank. The "
            f"interval resamples the training seeds ({BOOTSTRAP_DRAWS:,} draws, generator seed "
            f"{BOOTSTRAP_SEED}); it holds no variance of items or of pairs.",
        ),
    )


def k_sheet(by_k: Mapping[int, Table]) -> Sheet:
    """Accuracy by K of every rule that has several."""
    lines = {(line.label, line.keep, k): line for k, table in by_k.items() for line in table.arms()}
    by_arm = {
        (keep, label): [lines.get((label, keep, k)) for k in by_k]
        for keep, label in sorted({(keep, label) for label, keep, _ in lines})
    }
    several = {key for key, found in by_arm.items() if sum(x is not None for x in found) > 1}
    keeps = {keep for keep, label in several if label not in ("full", "random")}
    rows = [
        (label, f"{keep:g}", *(NONE if x is None else _short(x) for x in found))
        for (keep, label), found in by_arm.items()
        if (keep, label) in several or label == "full" or (label == "random" and keep in keeps)
    ]
    spread = _spread_of_c(by_arm[arm] for arm in by_arm if arm in several)
    if any(spread):
        rows += [
            ("Q95 − Q05 of C", NONE, *(f"{s[0]:.4f}" if s else NONE for s in spread)),
            ("mean 1 − C", NONE, *(f"{s[1]:.4f}" if s else NONE for s in spread)),
        ]
    first = next(iter(by_k.values()))
    return Sheet(
        f"K-sensitivity: {first.pair}, {first.task}, regime {without_k(first).regime}",
        ("selector", "keep", *(f"K = {k}" for k in by_k)),
        tuple(rows),
        (
            "Accuracy % ± seed sd (seeds). `full` and `random` do not read K. C is the teacher's "
            "mass on the student's top K at sampled tokens: mean over the steps of the runs that "
            "read it, of the lines and seeds that every column has.",
        ),
    )


C_NAME = "teacher_mass_on_student_topk_BT"


def _spread_of_c(arms: Iterable[Sequence[Line | None]]) -> list[tuple[float, float] | None]:
    """Q95 − Q05 and mean 1 − C during training, for each column of a sheet of arms.

    Over the runs that computed C, of the arms and seeds that every column has.
    """
    runs_CR: list[list[Row]] = []
    for found in arms:
        lines = [line for line in found if line is not None]
        if len(lines) < len(found):
            continue
        seeds = set.intersection(*(set(line.seeds) for line in lines))
        runs_CR = runs_CR or [[] for _ in lines]
        for column, line in zip(runs_CR, lines, strict=True):
            column += [run for run in line.runs if run.seed in seeds and C_NAME in run.signals]
    return [_mean_of_c([run.signals[C_NAME] for run in column]) for column in runs_CR]


def _mean_of_c(found: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    if not found:
        return None
    spread = sum(c["q95"] - c["q05"] for c in found) / len(found)
    return spread, sum(1 - c["all"] for c in found) / len(found)


def dial_sheet(dial: Dial) -> Sheet:
    """Accuracy at each value of the dial, with the verdict against `full` of the same pair."""
    rows, arms = [], sorted(dial.lines().items(), key=_dial_order)
    for (keep, label), lines in arms:
        cells = []
        for value in dial.by_value:
            line = lines.get(value)
            verdict = line.vs_full.verdict if line and line.vs_full else None
            text = NONE if line is None else _short(line) if line.runs else _bare(line)
            cells.append(f"{text} {verdict}" if verdict else text)
        rows.append((label, f"{keep:g}" if keep else NONE, *cells))
    spread = _spread_of_c([lines.get(value) for value in dial.by_value] for _, lines in arms)
    if any(spread):
        rows.append(("mean 1 − C", NONE, *(f"{s[1]:.4f}" if s else NONE for s in spread)))
    first = next(iter(dial.by_value.values()))
    return Sheet(
        f"By {dial.fact}: {first.task}, regime {first.regime}",
        ("selector", "keep", *(f"{dial.fact} {value:g}" for value in dial.by_value)),
        tuple(rows),
        (
            "Accuracy % ± seed sd (seeds), and the verdict against `full` of the same pair "
            "(Holm-adjusted over that pair's table). C as in the table of K.",
        ),
    )


def _bare(line: Line) -> str:
    return points(line.accuracy, False)


def _dial_order(item: tuple[tuple[float, str], Mapping[float, Line]]) -> tuple:
    (keep, label), lines = item
    mean = sum(line.accuracy for line in lines.values()) / len(lines)
    first = {"untrained": 0, "teacher": 1, "full": 2}.get(label, 3)
    return (first, keep, -mean, label)


def _short(line: Line) -> str:
    spread = "" if line.seed_sd is None else f" ± {points(line.seed_sd, False)}"
    return f"{points(line.accuracy, False)}{spread} ({len(line.runs)})"


def published_sheet(published: str, tables: Sequence[Table]) -> Sheet:
    """Reported numbers, then ours for the same rules at the same keeps."""
    rows, names, keeps = [], set(), {1.0}
    for source in tomllib.loads(published)["source"]:
        full = {r.get("pair"): r["score"] for r in source["reported"] if r["rule"] == "full"}
        name = source["name"] + (f", arXiv {source['arxiv']}" if "arxiv" in source else "")
        for reported in source["reported"]:
            pair, keep = reported.get("pair"), reported.get("keep")
            is_compared = pair in full and reported["rule"] != "full"
            change = f"{reported['score'] - full[pair]:+.2f}" if is_compared else NONE
            rows.append((
                "reported", name, source.get("benchmark", "not stated"), pair or "not stated",
                reported["rule"], "not stated" if keep is None else f"{keep:g}",
                f"{reported['score']:.2f}", change.replace("-", "−"),
            ))  # fmt: skip
            names |= set(reported["ours"])
            keeps |= set() if keep is None else {keep}
    for table in tables:
        if is_main(table) and not table.has_no_keep:
            for line in table.arms():
                if line.selector in names and line.keep in keeps:
                    rows.append((
                        "measured here", f"regime {table.regime}", table.task, table.pair,
                        line.label, f"{line.keep:g}", points(line.accuracy, False),
                        difference_text(line.vs_full),
                    ))  # fmt: skip
    return Sheet(
        "Reported elsewhere, beside ours",
        ("", "source", "benchmark", "pair", "rule", "keep", "accuracy %", "difference from full"),
        tuple(rows),
        (
            "The reported numbers are others', on other models, data and budgets; none was "
            "measured here. Ours follow for the same rules at the keeps that were reported.",
        ),
    )


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
                line.selector in HEADLINE and line.keep == keep
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
        f"{first.regime}; paired differences in points with verdicts (Holm over all comparisons "
        f"of the full table, at least {100 * MIN_EFFECT:g} point). The rules were chosen before "
        "any result.",
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
    both = [NONE if c is None else f"{points(c.mean)} {c.verdict or '(1 seed)'}"
            for c in (line.vs_full, line.vs_random)]  # fmt: skip
    return (_short(line), both[0], both[1])


INTRODUCTION = """\
# Leaderboard

Generated by `bench leaderboard` from rows.jsonl; do not edit. A table holds one pair, one task and
one regime (`default`: every setting at its default; otherwise what differs). Differences are
paired over common seeds and all items, in points, with 95 % intervals over crossed seeds and items
(`bench/stats.py`); the intervals are of one comparison, the verdicts are Holm-adjusted over the
table. *tie* means: not shown to differ by more than the minimal effect. Seconds are without
evaluation. `leaderboard.csv` has every number.
"""


def to_markdown(sheets: Sequence[Sheet]) -> str:
    return INTRODUCTION + "".join("\n" + _markdown(sheet) for sheet in sheets)


def _markdown(sheet: Sheet) -> str:
    lines = [f"## {sheet.title}", ""] if sheet.title else []
    lines += [bar(sheet.header), "|" + "---|" * len(sheet.header)]
    for row in sheet.rows:
        lines.append(bar([re.sub(r"(?<=[\d)] )(better|worse)$", r"**\1**", cell) for cell in row]))
    return "\n".join([*lines, "", " ".join(sheet.notes), ""])


LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$",
    "±": r"$\pm$", "→": r"$\to$", "–": "--", "—": "---", "<": "$<$", ">": "$>$", "`": "",
}  # fmt: skip


def latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(sheets: Sequence[Sheet]) -> str:
    """One `table` environment a sheet; needs booktabs and graphicx."""
    parts = ["% Generated by bench leaderboard; needs \\usepackage{booktabs,graphicx}."]
    for sheet in sheets:
        columns = "l" + "r" * (len(sheet.header) - 1)
        rows = [" & ".join(map(latex_text, row)) + r" \\" for row in sheet.rows]
        parts += [
            r"\begin{table}",
            rf"\caption{{{latex_text(sheet.title)}. {latex_text(' '.join(sheet.notes))}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(latex_text, sheet.header)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def frame(tables: Iterable[Table]) -> pd.DataFrame:
    """Every line of every table with all its numbers: shares, not per cent."""
    return pd.DataFrame(records(tables))


def records(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """The lines of `frame`, as `bench leaderboard --json` prints them."""
    return [_record(table, line) for table in tables for line in table.lines]


def _kind(line: Line, table: Table) -> str:
    """baseline | score | weight | own budget."""
    if not line.runs:
        return "baseline"
    if not table.has_no_keep or line.selector == "full":
        return "score"
    return "own budget" if line.effective_sample_size is None else "weight"


def _record(table: Table, line: Line) -> dict[str, Any]:
    record: dict[str, Any] = {
        "pair": table.pair, "task": table.task, "regime": table.regime,
        "kind": _kind(line, table),
        "selector": line.selector or line.label, "params": line.params,
        "keep": line.keep if line.runs else None,
        "seeds": len(line.runs) or None, "items": table.items, "accuracy": line.accuracy,
        "ci95_low": line.ci95[0], "ci95_high": line.ci95[1], "seed_sd": line.seed_sd,
    }  # fmt: skip
    family = len(table.comparisons())
    for name in ("vs_full", "vs_random"):
        found: Comparison | None = getattr(line, name)
        crossed = found.crossed if found else None
        record |= {
            name: found.mean if found else None,
            f"{name}_seeds": found.seeds if found else None,
            f"{name}_low": crossed.ci95[0] if crossed else None,
            f"{name}_high": crossed.ci95[1] if crossed else None,
            f"{name}_p": crossed.p_value if crossed else None,
            f"{name}_smallest_detectable": crossed.smallest_detectable() if crossed else None,
            f"{name}_smallest_detectable_holm": (
                crossed.smallest_detectable(family) if crossed else None
            ),
            f"{name}_verdict": found.verdict if found else None,
        }
    record |= {
        "probability_of_improvement": line.beats_random,
        "parse_failure_rate": line.parse_failure_rate,
        "truncation_rate": line.truncation_rate,
    }
    costs = {
        "realised_keep": lambda run: run.realised_keep,
        "tokens_sampled": lambda run: run.tokens["sampled"],
        "tokens_scored": lambda run: run.tokens["scored"],
        "tokens_trained": lambda run: run.tokens["trained"],
        "clipped_step_share": lambda run: run.clipped_step_share,
    }
    return record | {
        **{name: line.mean_of(cost) if line.runs else None for name, cost in costs.items()},
        "training_seconds": line.training_seconds if line.runs else None,
        "peak_memory_bytes": line.peak_memory_bytes if line.runs else None,
        "effective_sample_size": line.effective_sample_size,
    }


def documents(tables: Sequence[Table], published: str) -> dict[str, bytes]:
    """File name -> content: the tables as Markdown, CSV and LaTeX, and the README's short one."""
    ranks, by_pair = overall(tables), {table.pair for table in tables}
    asked = answers(tables)
    sheets = [claims_sheet(asked)] if asked else []
    sheets += [table_sheet(table) for table in tables]
    sheets += [ranks_sheet(found) for found in ranks]
    sheets += [k_sheet(group) for group in k_groups(tables)]
    sheets += [dial_sheet(dial) for dial in dials(tables)]
    tunings = {t.tuning.sweep: t.tuning for t in tables if t.tuning is not None}
    sheets += [tuning_sheet(tuned) for tuned in tunings.values()]
    sheets.append(published_sheet(published, tables))
    markdown = to_markdown(sheets)
    if not ranks:
        why = "one pair" if len(by_pair) == 1 else "no rule that two pairs share in one regime"
        markdown += f"\nAverage rank over pairs: {why}, so there is none.\n"
    headline = headline_sheet(tables)
    csv = frame(tables).round(9).to_csv(index=False, float_format="%.12g", lineterminator="\n")
    texts = {
        "leaderboard.md": markdown,
        "leaderboard.csv": csv,
        "leaderboard.tex": to_latex(sheets),
        "headline.md": _markdown(headline) if headline else "",
    }
    return {name: text.encode() for name, text in texts.items()}
