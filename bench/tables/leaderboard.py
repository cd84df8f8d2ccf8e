"""Rows of finished runs -> tables, as data; table_sheets writes them. Pure: no input or output.

A table holds one pair, one task and one regime (`bench.tables.rows`).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.core.errors import ConfigError
from bench.core.files import canonical_json
from bench.core.moderated import seed_variances
from bench.core.presets import PRESETS
from bench.core.stats import (
    crossed_mean,
    mean_estimate,
    moderated_difference,
    probability_of_improvement,
    sampling_variance,
    verdicts,
)
from bench.tables.rows import (
    BASELINES,
    Row,
    Tuned,
    plain,
    regime_changes,
    regime_name,
)
from bench.tables.table import Comparison, Line, Table, scores_of
from bench.tables.versions import (
    Versions,
    counted,
    engine_warnings,
    left_out_warnings,
    of_newest_task,
    training_of,
)

UNREAD: dict[str, tuple[str, ...]] = {
    "full": (
        "k", "keep", "scope", "min_keep_per_response", "refill", "population", "ties",
        "score_model",
    ),
    "random": ("k", "population", "score_model"),
}  # fmt: skip
"""Fields that a reference trains alike under any value of: neither reads a signal, so no top-K set,
and `full` selects every token whatever spends the budget. (A `random` that another rule fills reads
what that rule reads.)"""


def make_tables(
    rows: Sequence[Row], tunings: Iterable[Tuned] = (), versions: Versions = "newest"
) -> list[Table]:
    """Every table, the default regime first. Raises ConfigError where items do not pair up.

    `rows` are in order of age. Of several runs of one training the newest engine's counts, of these
    the newest; of several versions of a rule the newest does, or all. A table lacks no `full` or
    `random` that was run in a regime where they train alike. A tuning adds a table for each pair,
    of the rows that were run at each rule's own best values, and takes away those that would only
    hold a part of it.
    """
    rows, left_out = counted(rows, versions)
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    alike: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.run_id):
        changes, selector = regime_changes(row.experiment), row.experiment["selector"]
        for task in row.scores["trained"]:
            groups[canonical_json(changes), row.experiment["pair"], task].append(row)
            if selector in UNREAD:
                read = _read_by(selector, changes)
                alike[selector, read, row.experiment["pair"], task].append(row)
    tables = []
    for (text, pair, task), own in groups.items():
        changes, keeps = json.loads(text), {row.experiment["keep"] for row in own}
        known = {row.run_id for row in own}
        borrowed = [
            row
            for name in UNREAD
            for row in alike.get((name, _read_by(name, changes), pair, task), ())
            if row.run_id not in known and (name == "full" or row.experiment["keep"] in keeps)
        ]
        tables += _tables(pair, task, changes, own, borrowed)
    tunings = list(tunings)
    tuned = [
        table for tuning in tunings if not tuning.has_front for table in _tuned_tables(rows, tuning)
    ]
    tables = [table for table in tables if not any(_is_part(table, of) for of in tuned)]
    in_fronts = _in_fronts(rows, [tuning for tuning in tunings if tuning.has_front])
    tables = [table for table in tables if not _runs_of(table) <= in_fronts]
    return sorted(
        [
            replace(table, warnings=(*table.warnings, *left_out_warnings(left_out, table.rules)))
            for table in (*tables, *tuned)
        ],
        key=lambda t: (t.tuning is not None, _regime_order(t.changes), t.pair, t.task,
                       t.has_no_keep),
    )  # fmt: skip


def _read_by(reference: str, changes: Mapping[str, Any]) -> str:
    """The part of a regime that decides how a reference trains."""
    unread = () if reference == "random" and "refill" in changes else UNREAD[reference]
    read = {name: value for name, value in changes.items() if name not in unread}
    if reference == "full" and read.get("normalize") == "all":
        del read["normalize"]  # all sampled tokens are the selected ones: the same denominator
    return canonical_json(read)


def _tables(
    pair: str, task: str, changes: dict[str, Any], own: Sequence[Row], borrowed: Sequence[Row] = ()
) -> Iterator[Table]:
    """The table of the rules at a keep, and that of the rules without one, where there are any."""
    for has_no_keep in (False, True):
        if any(row.has_no_keep == has_no_keep for row in own):
            yield _table(pair, task, changes, [*own, *borrowed], has_no_keep)


def _tuned_tables(rows: Sequence[Row], tuning: Tuned) -> Iterator[Table]:
    """The tables of one tuning. `full` and the rules are each at their own best values."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for cell in tuning.cells.values():
        wanted = but_seed({**cell.experiment, **cell.best})
        changes = {
            name: value
            for name, value in regime_changes(cell.experiment).items()
            if name not in tuning.ranges
        }
        for row in rows:
            if but_seed(row.experiment) == wanted:
                for task in row.scores["trained"]:
                    groups[canonical_json(changes), row.experiment["pair"], task].append(row)
    for (changes, pair, task), group in groups.items():
        group.sort(key=lambda row: row.run_id)
        for table in _tables(pair, task, json.loads(changes), group):
            yield replace(table, tuning=tuning)


def _in_fronts(rows: Sequence[Row], tunings: Sequence[Tuned]) -> set[str]:
    """The runs at points of fronts: a table of these alone says nothing (`bench.tables.fronts`)."""
    wanted = {
        but_seed({**cell.experiment, **point.params})
        for tuning in tunings
        for cell in tuning.cells.values()
        for point in cell.front
    }
    return {row.run_id for row in rows if wanted and but_seed(row.experiment) in wanted}


def _runs_of(table: Table) -> set[str]:
    return {run.run_id for line in table.arms() for run in line.runs}


def _is_part(table: Table, tuned: Table) -> bool:
    """Only the tuning made this regime: a reference is missing, and all its runs are in `tuned`."""
    assert tuned.tuning is not None
    changed = set(table.changes) & set(tuned.tuning.ranges)
    if not changed or all(table.arms(name) for name in UNREAD):
        return False
    runs, others = ({run.run_id for line in t.arms() for run in line.runs} for t in (table, tuned))
    return table.task == tuned.task and runs <= others


def but_seed(experiment: Mapping[str, Any]) -> str:
    """What decides the trained weights but the seed."""
    return training_of({**experiment, "seed": 0})


def is_main(table: Table) -> bool:
    """The default regime or a preset."""
    return table.tuning is None and regime_name(table.changes) in ("default", *PRESETS)


def _regime_order(changes: Mapping[str, Any]) -> tuple:
    name = regime_name(changes)
    numbers = tuple(float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", name))
    return (name != "default", not name.startswith(tuple(PRESETS)), re.sub(r"[\d.]", "", name),
            numbers, name)  # fmt: skip


def _table(
    pair: str, task: str, changes: dict[str, Any], rows: Sequence[Row], has_no_keep: bool
) -> Table:
    """The table of these rows: those of the newest version of the task, one of each seed an arm.

    A borrowed run counts where the regime has no own one of its seed.
    """
    rows, warnings = of_newest_task(task, rows)
    sizes = {len(row.items["trained"][task]): row.run_id for row in rows}
    if len(sizes) > 1:
        named = ", ".join(f"{run_id!r} {n}" for n, run_id in sorted(sizes.items()))
        raise ConfigError(f"{task}: runs of one table answered different numbers of items: {named}")
    arms: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        made_of = row.experiment
        if row.has_no_keep == has_no_keep or made_of["selector"] == "full":
            params = _params(made_of["selector_params"])
            arm = arms[made_of["selector"], params, row.keep]
            if made_of["seed"] not in {run.experiment["seed"] for run in arm}:
                arm.append(row)
    several = {s for s, n in Counter(s for s, _ in {(s, p) for s, p, _ in arms}).items() if n > 1}
    lines = _moderated([_arm(task, key, runs, key[0] in several) for key, runs in arms.items()])
    full = next((line for line in lines if line.selector == "full"), None)
    random = {line.keep: line for line in lines if line.selector == "random"}
    lines = _judged([_compared(line, full, random.get(line.keep)) for line in lines])
    lines.sort(key=lambda line: (line.selector != "full", line.keep, -line.accuracy, line.label))
    baselines, disagreements = _baselines(task, rows)
    warnings += [*disagreements, *engine_warnings(run for line in lines for run in line.runs)]
    warnings += [
        f"Warning: {line.label} spent {spent:.3f} of keep {line.keep:g}: it left budget unspent"
        for line in lines
        if not has_no_keep
        and (spent := line.mean_of(lambda run: run.realised_keep)) < 0.98 * line.keep
    ]
    return Table(pair, task, changes, (*baselines, *lines), has_no_keep, tuple(warnings))


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={plain(value)}" for name, value in sorted(params.items()))


def _arm(task: str, key: tuple[str, str, float], rows: Iterable[Row], show_params: bool) -> Line:
    """One line. Parameters are shown where a table holds a rule with several of them."""
    selector, params, keep = key
    runs = tuple(sorted(rows, key=lambda row: row.seed))
    score_SI = scores_of(runs, task)
    if len(runs) > 1:
        low, high = crossed_mean(score_SI).ci95
    else:
        low, high = mean_estimate(score_SI[0].tolist()).ci95
    scores = [run.scores["trained"][task] for run in runs]
    return Line(
        label=f"{selector} ({params})" if params and show_params else selector,
        accuracy=float(score_SI.mean()),
        ci95=(max(0.0, low), min(1.0, high)),
        parse_failure_rate=sum(s["parse_failure_rate"] for s in scores) / len(scores),
        truncation_rate=sum(s["truncation_rate"] for s in scores) / len(scores),
        task=task,
        selector=selector,
        params=params,
        keep=keep,
        runs=runs,
    )


def _moderated(lines: Sequence[Line]) -> list[Line]:
    """The lines with the variances of their seeds, each moderated by those of all."""
    found = seed_variances(
        [dict(zip(line.seeds, line.accuracy_S, strict=True)) for line in lines],
        [line.selector in UNREAD for line in lines],
        [sampling_variance(line.score_SI) if len(line.runs) > 1 else 0.0 for line in lines],
    )
    return [
        replace(line, seed_variance=variance) for line, variance in zip(lines, found, strict=True)
    ]


def _baselines(task: str, rows: Sequence[Row]) -> tuple[list[Line], list[str]]:
    """The untrained student and the teacher, and a warning where runs disagree about them."""
    lines, warnings = [], []
    for who in BASELINES:
        means = sorted({float(np.mean(row.items[who][task])) for row in rows})
        if len({row.items[who][task] for row in rows}) > 1:
            warnings.append(
                f"Warning: the runs disagree about {who} ({100 * means[0]:.1f} to "
                f"{100 * means[-1]:.1f} %): other machines, or a pair that was rebuilt"
            )
        row = rows[0]
        score, estimate = row.scores[who][task], mean_estimate(row.items[who][task])
        lines.append(
            Line(who, estimate.mean, estimate.ci95, score["parse_failure_rate"],
                 score["truncation_rate"], task)
        )  # fmt: skip
    return lines, warnings


def compare(line: Line, reference: Line | None) -> Comparison | None:
    """The paired difference over the seeds that both have; None where there is none."""
    if reference is None or reference is line:
        return None
    common = sorted(set(line.seeds) & set(reference.seeds))
    if not common:
        return None
    place = [[arm.seeds.index(seed) for seed in common] for arm in (line, reference)]
    difference_SI = line.score_SI[place[0]] - reference.score_SI[place[1]]
    crossed = None
    if len(common) > 1:
        assert line.seed_variance is not None and reference.seed_variance is not None
        crossed = moderated_difference(difference_SI, line.seed_variance, reference.seed_variance)
    has_more = set(line.seeds) != set(reference.seeds)
    only_seeds = tuple(common) if has_more else ()
    return Comparison(float(difference_SI.mean()), len(common), crossed, only_seeds=only_seeds)


def _compared(line: Line, full: Line | None, random: Line | None) -> Line:
    beats = None
    if random not in (None, line) and min(len(line.runs), len(random.runs)) > 1:
        beats = probability_of_improvement(line.accuracy_S, random.accuracy_S)
    return replace(
        line,
        vs_full=compare(line, full),
        vs_random=compare(line, random),
        beats_random=beats,
    )


def _judged(lines: Sequence[Line]) -> list[Line]:
    """The lines with verdicts: one Holm family over every comparison of the table."""
    places = [(number, name) for number in range(len(lines)) for name in ("vs_full", "vs_random")]
    open_ = {
        (number, name): comparison
        for number, name in places
        if (comparison := getattr(lines[number], name)) and comparison.can_be_judged
    }
    found = verdicts([comparison.crossed for comparison in open_.values()]) if open_ else []
    judged = list(lines)
    for ((number, name), comparison), verdict in zip(open_.items(), found, strict=True):
        judged[number] = replace(judged[number], **{name: replace(comparison, verdict=verdict)})
    return judged
