"""A diagnostic's record -> tables of its fits, in the order of the page. Pure.

Regressions of G, contrasts, proxies and other definitions of G, the leaderboard, and gradients.
"""

from collections.abc import Mapping
from typing import Any

from bench.diagnose.estimates import best_first, estimate, number
from bench.tables.sheet import NONE, headline_keep, keep_percent, table

Record = Mapping[str, Any]
REFERENCE = "forward_kl"
KIND_NAMES = {
    "forward_absolute": "KL(q‖p), absolute",
    "forward_relative": "KL(q‖p), relative",
    "reverse_absolute": "KL(p‖q), absolute",
    "reverse_relative": "KL(p‖q), relative",
}
MODEL_NAMES = {
    "base": "H, D, H×D, position, teacher entropy",
    "with_compatibility": "the same, and C",
    "split": "H, D·C, D·(1−C), position, teacher entropy",
}


def regressions(record: Record) -> str:
    rows = []
    for k, models in record["regressions"].items():
        for model, found in models.items():
            rows.append(
                (
                    k,
                    MODEL_NAMES[model],
                    estimate(found["r2"]),
                    estimate(found.get("delta_r2")),
                    estimate(found["r2_out_of_prompt"]),
                    estimate(found.get("delta_r2_out_of_prompt")),
                )
            )
    header = ("K", "regressors", "R²", "ΔR²", "R² out of prompt", "ΔR² out of prompt")
    split = []
    for k, models in record["regressions"].items():
        for unit, name in (("standardised", "sd of G per sd"), ("per_nat", "nats per nat")):
            found = models["split"][unit]
            split.append((k, name, estimate(found["learnable"]), estimate(found["incompatible"]),
                          estimate(found["difference"])))  # fmt: skip
    ranges = ", ".join(
        f"{number(value, 5)} at K = {k}" for k, value in record["compatibility_range"].items()
    )
    return (
        "## Regressions of G\n\n" + table(header, rows) + "\nCoefficients of the split model:\n\n"
        + table(("K", "unit", "learnable D·C", "incompatible D·(1−C)", "difference"), split)
        + f"\nQ95 − Q05 of C: {ranges}. Where it is under 1e-5, C counts as 0.5 everywhere.\n"
    )  # fmt: skip


def contrasts(record: Record) -> str:
    rows = [
        (name, str(found["n"]), estimate(found.get("top")), estimate(found.get("bottom")),
         estimate(found.get("difference")))
        for name, found in record["quadrant3"].items()
    ]  # fmt: skip
    header = ("score", "contexts in Q3", "G, top quarter", "G, bottom quarter", "difference")
    matching = record["within_prompt_matching"]
    text = f"{matching['pairs']:,} pairs"
    if matching["difference"] is not None:
        gaps = ", ".join(f"{n} {number(gap)}" for n, gap in matching["rank_gap"].items())
        text += (
            f"; G at the more compatible minus G at the other: {estimate(matching['difference'])} "
            f"nats. Mean difference of C {number(matching['compatibility_gap'])}; of percentile "
            f"ranks: {gaps}"
        )
    return (
        "## Inside Q3 (student entropy at most its median, disagreement over its median)\n\n"
        + table(header, rows)
        + f"\nMatched within prompts on H, D and position: {text}.\n"
    )


def robustness(record: Record) -> str:
    proxies = record["robustness"]
    ks = list(next(iter(proxies.values())))
    rows = [[proxy, *(estimate(by_k[k]["delta_spearman"]) for k in ks)]
            for proxy, by_k in proxies.items()]  # fmt: skip
    return (
        "## ΔSpearman against D, over proxies of compatibility and K\n\n"
        + table(["proxy", *(f"K = {k}" for k in ks)], rows)
        + "\nD and the proxy are normalised (norm_q05), but for `raw_product`, which is D·C.\n"
    )


def kinds(record: Record) -> str:
    rows = []
    for kind, name in KIND_NAMES.items():
        found = record["gains"].get(kind, record if kind == "forward_absolute" else None)
        if found is None:
            continue
        rows.append(
            (
                name,
                estimate(found["gain"]["mean"], digits=4),
                estimate(found["spearman"].get(REFERENCE)),
                estimate(found["spearman"].get("teachability")),
                estimate(found["delta_spearman"]),
                estimate(found["delta_spearman_raw"]),
            )
        )
    header = ("G", "mean", "Spearman of D", "of D·C", "D·C minus D", "D·C unnormalised minus D")
    return "## The claim under other definitions of G\n\n" + table(header, rows)


def against(record: Record) -> str:
    if "against" not in record:
        return ""
    found = record["against"]
    rows = []
    for task, keeps in found["tasks"].items():
        for keep, one in keeps.items():
            interval = [
                NONE if one[name] is None else " to ".join(number(end, 2) for end in one[name])
                for name in ("ci95", "ci95_rules")
            ]
            rows.append((task, keep_percent(keep), str(len(one["rules"])),
                         number(one["rank_correlation"], 2), *interval))  # fmt: skip
    header = ("task", "keep", "rules", "rank correlation", "95 %, these rules", "95 %, rules drawn")
    body = table(header, rows) if rows else "No rows of this pair and regime.\n"
    return (
        "## Does the diagnostic predict the leaderboard?\n\n"
        f"Over rules: gain per kept context against accuracy after training at the same keep, "
        f"regime {found['regime']}, from {found['rows']:,} rows.\n\n{body}\n"
        "The first interval draws prompts, update seeds, evaluation items and training seeds (none "
        "of a rule with one seed); the second the rules as well.\n"
    )


def correlated(record: Record) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(task, keep, what was found there) wherever gain and accuracy have a rank correlation."""
    return [
        (task, keep, found)
        for task, keeps in record.get("against", {}).get("tasks", {}).items()
        for keep, found in keeps.items()
        if found["rank_correlation"] is not None
    ]


def rules_against(record: Record) -> str:
    """Gain and accuracy of every rule, at the keeps that have a correlation."""
    shown = correlated(record)
    if not shown:
        return ""
    header: list[str] = ["rule"]
    lines: dict[str, list[str]] = {}
    for place, (task, keep, found) in enumerate(shown):
        share = keep_percent(keep)
        header += [f"G, {task} at {share} (nats)", "accuracy % (seeds)"]
        for rule, values in found["rules"].items():
            cells = lines.setdefault(rule, [NONE] * (2 * len(shown)))
            cells[2 * place] = number(values["gain"])
            cells[2 * place + 1] = f"{100 * values['accuracy']:.1f} ({values['seeds']})"
    rows = [[rule, *cells] for rule, cells in sorted(lines.items())]
    return table(header, rows)


def gradients(record: Record) -> str:
    if "gradients" not in record:
        return ""
    found = record["gradients"]
    objectives = list(found)
    keep = headline_keep(found[objectives[0]])
    scores = found[objectives[0]][keep]
    rows = [
        [score, *(estimate(found[objective][keep][score], "share") for objective in objectives)]
        for score in best_first(scores, "share")
    ]
    return (
        f"## Share of the gradient norm in the top {keep_percent(keep)}\n\n"
        "Norm of each objective's gradient with respect to the student's logits, before the "
        "update.\n\n" + table(["score", *objectives], rows)
    )
