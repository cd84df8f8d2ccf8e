"""Records and lists as tables for a person to read. Prints only."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.core.config import Runtime, rows_file
from bench.core.keep_schedule import headline_keep, keep_name
from bench.core.records import RunRecord
from bench.pairs.pair import Pair
from bench.selection.registry import Selector
from bench.shadow.overlap import Overlap

if TYPE_CHECKING:
    from bench.selection.contract import Finding

WHO = ("untrained", "trained", "teacher")
PHASES = {
    "rollout": "rollout",
    "teacher": "teacher",
    "score": "student scoring",
    "loss": "loss",
    "shadow": "shadow panel",
    "evaluate": "evaluation",
    "total": "total",
}
"""The record's phases as the table calls them."""


def console() -> Console:
    """Standard output; as wide as the terminal, or wide enough for a log."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def print_record(record: RunRecord) -> None:
    """The run's verdict: accuracies, tokens, seconds, memory and where everything is."""
    out, experiment, seconds = console(), record.experiment, record.seconds
    title = (
        f"{experiment['selector']} at keep {keep_name(experiment['keep'])} on "
        f"{experiment['pair']}, seed {experiment['seed']}, {experiment['steps']} steps"
    )
    out.print(score_table(title, {who: record.scores[who] for who in WHO}))
    facts = Table(show_header=False, box=None, pad_edge=False)
    tokens = record.tokens
    facts.add_row(
        "tokens",
        f"{tokens['sampled']:,} sampled, {tokens['scored']:,} scored by the teacher, "
        f"{tokens['trained']:,} trained on",
    )
    facts.add_row("realised keep", f"{record.realised_keep:.4f}")
    if record.effective_sample_size is not None:
        facts.add_row("effective sample size", f"{record.effective_sample_size:,.0f} tokens")
    phases = [f"{v} {seconds[k]:.1f}" for k, v in PHASES.items() if k in seconds]
    facts.add_row("seconds", ", ".join(phases))
    facts.add_row("peak memory", f"{record.peak_memory_bytes / 2**20:,.0f} MiB")
    facts.add_row("run folder", escape(record.folder))
    out.print(facts)
    for task, change in record.change.items():
        out.print(f"[bold]verdict[/bold]  {task}: {verdict(change)}")


def verdict(change: Mapping[str, Any]) -> str:
    """One sentence: the paired change on the same items, and what it does and does not show."""
    low, high = change["ci95"]
    word = "better than" if low > 0 else "worse than" if high < 0 else "tied with"
    return (
        f"trained is {word} untrained, {100 * change['mean']:+.1f} points "
        f"(95 % {100 * low:+.1f} to {100 * high:+.1f}, {change['n']:,} paired items, one seed)"
    )


def print_scores(scores: Mapping[str, Mapping[str, Any]]) -> None:
    console().print(score_table("evaluation", scores))


def score_table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per model and task."""
    table = Table(title=escape(title), title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy %", "95 % interval", "n", "no answer %", "cut off %", "tokens"):
        table.add_column(name, justify="right")
    every = [score for by_task in scores.values() for score in by_task.values()]
    if is_sampled := any(score.get("samples", 1) > 1 for score in every):
        table.add_column("pass@k %", justify="right")
    for who, by_task in scores.items():
        for task, score in by_task.items():
            low, high = score["ci95"]
            table.add_row(
                escape(who),
                task,
                f"{100 * score['mean']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{score['n']:,}"
                + (f" × {score['samples']}" if score.get("samples", 1) > 1 else ""),
                f"{100 * score['parse_failure_rate']:.1f}",
                f"{100 * score['truncation_rate']:.1f}",
                f"{score['mean_response_tokens']:.1f}",
                *([f"{100 * score['pass_at_k']:.1f}" if "pass_at_k" in score else ""] * is_sampled),
            )
    return table


def print_two_runs(found: Mapping[str, Any]) -> None:
    """How two checkpoints differ on the same items, a line a task, and what that does not show."""
    out, (one, other) = console(), found["runs"]
    table = Table(title=escape(f"A {one}\nB {other}"), title_justify="left")
    table.add_column("task", overflow="fold")
    for name in ("items", "A %", "B %", "A − B (95 % over items)", "A alone", "B alone",
                 "McNemar p"):  # fmt: skip
        table.add_column(name, justify="right")
    for task, of in found["tasks"].items():
        interval = of["ci95"] and " to ".join(f"{100 * end:+.1f}" for end in of["ci95"])
        p_value = of["mcnemar_p"]
        table.add_row(
            task,
            f"{of['items']:,}",
            *(f"{100 * mean:.1f}" for mean in of["accuracy"]),
            f"{100 * of['difference']:+.1f}" + (f" ({interval})" if interval else ""),
            *(f"{of[name]:,}" for name in ("better", "worse")),
            "—" if p_value is None else f"{p_value:.2g}",
        )
    out.print(table)
    out.print(
        "alone: items that only this one got right (higher scores, where scores are not 0 or 1); "
        "McNemar p: exact, two-sided, of right and wrong answers.",
        highlight=False,
    )
    out.print(found["note"], highlight=False)


def print_selectors(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("name", "kind", "keeps", "needs", "source")
    for row in rows:
        needs = ", ".join(row["needs"]) or "nothing"
        table.add_row(
            row["name"], row["kind"], escape(row["summary"]), needs, escape(row["source"])
        )
    console().print(table)


def print_findings(name: str, findings: "Sequence[Finding]") -> None:
    """What a rule keeps of the contract, and how it breaks the rest."""
    table = Table("", "promise", title=escape(name), title_justify="left")
    for finding in findings:
        told = f"[bold]{escape(finding.broken)}[/bold]" if finding.broken else ""
        verdict = "[red]broken[/red]" if finding.broken else "kept"
        table.add_row(verdict, escape(finding.promise) + (f"\n{told}" if told else ""))
    console().print(table)


def selector_page(selector: Selector) -> dict[str, Any]:
    """Everything `bench selectors show` says."""
    import inspect

    parameters = selector.parameters()
    shown = f"'{selector.reference}'" if selector.parts else selector.name
    example = f"bench run --selector {shown}"
    if parameters:
        name, default = next(iter(parameters.items()))
        example += f" --selector-params {name}={default}"
    if selector.keep is None and selector.kind == "score" and not selector.sets_keep:
        example += " --keep 0.05"
    return {
        "name": selector.name,
        "kind": selector.kind,
        "needs": list(selector.needs),
        "source": selector.source,
        "summary": selector.summary,
        "docstring": inspect.getdoc(selector.rule) or "",
        "parameters": parameters,
        "reads_sampled_token": selector.reads_sampled_token,
        "abstains": selector.abstains,
        "formula": selector.formula,
        "cost": selector.cost,
        "deviations": selector.deviations,
        "example": example,
    }


def print_selector(selector: Selector) -> None:
    page, out = selector_page(selector), console()
    out.print(f"[bold]{selector.name}[/bold]  ({selector.kind})")
    out.print(escape(page["docstring"]), highlight=False)
    out.print(f"\nneeds       {', '.join(page['needs']) or 'nothing'}", highlight=False)
    named = ", ".join(f"{name}={default!r}" for name, default in page["parameters"].items())
    out.print(f"cost        {page['cost']}", highlight=False)
    out.print(f"parameters  {escape(named) or 'none'}", highlight=False)
    out.print(f"example     {escape(page['example'])}", highlight=False)


def pair_page(pair: Pair) -> dict[str, Any]:
    """Everything `bench pairs` says of a pair."""
    return {
        "name": pair.name,
        "student": pair.student,
        "student_revision": pair.student_revision,
        "teacher": pair.teacher,
        "teacher_revision": pair.teacher_revision,
        "summary": pair.summary,
        "chat": pair.chat,
        "thinking": pair.thinking,
        "stop_ids": {side: list(ids) for side, ids in pair.stop_ids.items()},
        "settings": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pair.settings.items()
        },
        "source": pair.source,
    }


def print_pairs(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("name", "student", "teacher", "what it is", "for")
    for row in rows:
        table.add_row(
            row["name"], escape(_short(row["student"])), escape(_short(row["teacher"])),
            escape(row["summary"]), escape(row["source"]),
        )  # fmt: skip
    console().print(table)
    console().print("`bench pairs show NAME` prints revisions, stops and settings.")


def _short(place: str) -> str:
    """An embedded model by its folder's name alone."""
    return "embedded" if place.startswith("/") else place


def print_pair(page: Mapping[str, Any]) -> None:
    out = console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for side in ("student", "teacher"):
        revision = page[f"{side}_revision"]
        table.add_row(side, escape(page[side]) + (f" at {revision}" if revision else ""))
    thinking = {True: "thinking on", False: "thinking off", None: "no thinking mode"}
    table.add_row("chat", f"{page['chat']}, {thinking[page['thinking']]}")
    stops = {side: ", ".join(map(str, ids)) for side, ids in page["stop_ids"].items()}
    told = [f"{side} {ids}" for side, ids in stops.items()] or ["as the models' files say"]
    table.add_row("stop tokens", "; ".join(told))
    table.add_row("what it is", escape(page["summary"]))
    table.add_row("for", escape(page["source"]) or "first runs and tests")
    out.print(f"[bold]{page['name']}[/bold]")
    out.print(table, highlight=False)
    flags = [f"bench run --pair {page['name']}"]
    for name, value in page["settings"].items():
        for one in value if isinstance(value, list) else [value]:
            flags.append(f"--{name.replace('_', '-')} {one}")
    out.print("\n" + " ".join(flags), highlight=False, soft_wrap=True)


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    colour = {"pass": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", "found", "what to do")
    for check in checks:
        state = check["state"]
        table.add_row(
            check["name"], f"[{colour[state]}]{state}[/{colour[state]}]", escape(check["said"]),
            escape(check["advice"]),
        )  # fmt: skip
    console().print(table)


def print_data(rows: Sequence[Mapping[str, Any]], folder: str) -> None:
    table = Table("name", "for", "from", "licence", "file")
    for row in rows:
        table.add_row(
            row["name"], row["role"], escape(row["hub"]), row["licence"],
            escape(row["file"]) if row["file"] else "[dim]not here[/dim]",
        )  # fmt: skip
    console().print(table)
    console().print(
        f"Files are looked for in {escape(folder)} ($OPD_BENCH_DATA); `bench data fetch NAME` "
        "downloads one.",
        highlight=False,
    )


def print_prompt_report(report: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("rows", f"{report['rows']:,} in {escape(report['source'])}")
    table.add_row(
        "repeated",
        f"{report['repeated']:,} left out; {report['contradicted']:,} problems repeat with "
        "another answer",
    )
    for name, found in report["overlapping"].items():
        table.add_row(
            f"overlap with {name}",
            f"{found['sharing']:,} share 13 words in a row, {found['contaminated']:,} of them more "
            f"than a stock phrase, with {found['items']:,} of its items",
        )
    table.add_row("contaminated", f"{report['contaminated']:,} left out")
    table.add_row(
        "too long", f"{report['too_long']:,} left out, over {report['longest_allowed']:,} tokens"
    )
    table.add_row("kept", f"{report['kept']:,}")
    lengths = ", ".join(f"{name} {value:,}" for name, value in report["tokens"].items())
    table.add_row("prompt tokens", lengths)
    console().print(table)


def print_dry_run(found: Mapping[str, Any]) -> None:
    table = Table("run", "state", "pair", "selector", "keep", "seed")
    for trial in found["trials"]:
        table.add_row(
            trial["run_id"] or "-", trial["state"], escape(trial["pair"]),
            escape(trial["selector"]), keep_name(trial["keep"]), str(trial["seed"]),
        )  # fmt: skip
    console().print(table)
    if (of_tuning := found["tuning"]) is not None:
        if of_tuning["result"] is None:
            console().print(
                f"tuning comes first and is counted: {of_tuning['total']} trials, "
                f"{of_tuning['done']} done, {of_tuning['left']} left; the rest wait for its values"
            )
        else:
            console().print(f"tuned values are those of {escape(of_tuning['result'])}")
    left = found["seconds_left"]
    estimate = "unknown until a trial is done" if left is None else f"about {left / 60:.0f} minutes"
    console().print(
        f"{found['name']}: {found['total']} trials, {found['done']} done, {found['left']} left; "
        f"time left {estimate}"
    )


def print_sweep(status: Any, runtime: Runtime) -> None:
    out = console()
    rows = rows_file(runtime)
    out.print(f"sweep {status.name}: {status.done} of {status.total} trials done, rows in {rows}")
    for run_id, error in status.failed.items():
        out.print(f"failed  {escape(run_id)}: {escape(error)}")


def print_diagnostic(record: Mapping[str, Any], folder: Any) -> None:
    """Every score in one table, the verdict on the claim, and where the record is."""
    out = console()
    table = Table(
        title=escape(f"{record['pair']}, update {record['update']}"), title_justify="left"
    )
    table.add_column("score", overflow="fold")
    keep = headline_keep(record["matched_top"])
    for name in ("Spearman with G", "AUROC(G > 0)", f"gain per kept token at {keep} (nats)"):
        table.add_column(name, justify="right")
    top = record["matched_top"][keep]
    for score in sorted(top, key=lambda s: (top[s]["gain"] is None, -(top[s]["gain"] or 0.0))):
        measured = (record["spearman"].get(score), record["auroc"].get(score))
        cells = [estimate_text(found) for found in measured]
        table.add_row(escape(score), *cells, estimate_text(top[score], "gain"))
    out.print(table)
    for verdict in record["verdicts"][:1]:
        out.print(f"[bold]verdict[/bold]  {escape(verdict['line'])}")
    out.print(f"record, page and figures in {escape(str(folder))}")


def estimate_text(found: Mapping[str, Any] | None, name: str = "value") -> str:
    """A value with its interval; a dash where it is not defined."""
    if found is None or found[name] is None:
        return "—"
    if found["ci95"] is None:
        return f"{found[name]:.3f}"
    low, high = found["ci95"]
    return f"{found[name]:.3f} ({low:.3f} to {high:.3f})"


WHOLE_MATRIX = 12
"""Rules of which a terminal holds every pair."""


def print_overlap(found: Overlap) -> None:
    """A line a rule, in clustered order; all pairs too where they are few."""
    out = console()
    steps = f"{len(found.steps)} steps" if len(found.steps) != 1 else "1 step"
    table = Table(
        title=f"{escape(found.run_id)}, {steps}, {found.tokens:,} tokens, keep {found.keep:g}",
        title_justify="left",
    )
    table.add_column("rule", no_wrap=True, max_width=36)
    for name in ("with own", "gradient %", "by ties %", "first tenth x", "top entropy x"):
        table.add_column(name, justify="right")
    table.add_column("most alike (Jaccard)", overflow="fold")
    position_RG, entropy_RG = (found.profiles[name].lift_RG for name in ("position", "entropy"))
    for place in found.order():
        name = escape(found.rules[place])
        table.add_row(
            name if place else f"[bold]{name}[/bold]",
            _number(found.jaccard_RR[0, place], 2),
            _number(100 * found.gradient_R[place], 1),
            _number(100 * found.tied_R[place], 1),
            _number(position_RG[place, 0], 1),
            _number(entropy_RG[place, -1], 1),
            ", ".join(f"{escape(other)} {value:.2f}" for other, value in found.nearest(place, 1)),
        )
    out.print(table)
    if len(found.rules) <= WHOLE_MATRIX:
        out.print(_jaccard_table(found))
    out.print(
        f"with own: Jaccard with the run's rule, {found.by_chance:.3f} by chance. gradient: share "
        f"of the norm of {found.gradient_of}'s gradient at the student's logits. by ties: share of "
        "the kept tokens that the tie rule chose among equal scores. x: times as many kept tokens "
        "as by chance.",
        highlight=False,
    )
    for name, reason in found.skipped.items():
        out.print(f"not shown  {escape(name)}: {escape(reason)}", highlight=False)


def _jaccard_table(found: Overlap) -> Table:
    order = found.order()
    names = [found.rules[place] for place in order]
    table = Table("Jaccard", *map(escape, names))
    for place, name in zip(order, names, strict=True):
        table.add_row(escape(name), *(_number(found.jaccard_RR[place, o], 2) for o in order))
    return table


def _number(value: float, digits: int) -> str:
    return "—" if value != value else f"{value:.{digits}f}"
