"""An analysis -> the diagnostic's record: statistics with intervals, and verdicts. Pure."""

from typing import Any

import numpy as np

from bench.core.stats import holm
from bench.diagnose.analysis import (
    MODELS,
    ORACLE,
    ORACLE_OTHERS,
    RANDOM,
    RAW,
    REFERENCE,
    TEACHABLE,
    Analysis,
    comparable,
    spread,
)
from bench.diagnose.bootstrap import Resampled, significant
from bench.diagnose.contrasts import (
    Plane,
    heat_map,
    matched_within_prompts,
    quadrant3,
    top_against_bottom,
)
from bench.diagnose.measured import KINDS, MAIN, Measured
from bench.diagnose.regression import Fit

MIN_EFFECT = 0.01
"""Differences of Spearman under this are ties, however certain."""
LEVEL = 0.05


# --- the record ----------------------------------------------------------------------------------


def make_record(analysis: Analysis) -> dict[str, Any]:
    """The science of diagnostic.json; the caller adds where it comes from."""
    measured = analysis.measured
    main = of_kind(analysis, MAIN)
    context = {
        "n_contexts": len(measured.prompt_N),
        "n_prompts": analysis.draws.prompts,
        "k": measured.k,
        "compatibility_range": {
            str(k): significant(spread(c_N)) for k, c_N in measured.compatibility_N.items()
        },
    }
    verdicts = make_verdicts(analysis)
    return {
        **context,
        **main,
        "verdicts": verdicts,
        "buckets": _buckets(analysis),
        "quadrant3": _quadrant3(analysis),
        "heat_map": heat_map(_plane(measured), measured.gain_SN[MAIN], analysis.draws),
        "within_prompt_matching": matched_within_prompts(
            _plane(measured), measured.gain_SN[MAIN], analysis.draws
        ),
        "robustness": _robustness(analysis),
        "gains": {kind: of_kind(analysis, kind) for kind in KINDS if kind != MAIN},
        **({"gradients": _gradients(analysis)} if measured.gradient_N else {}),
    }


def of_kind(analysis: Analysis, kind: str) -> dict[str, Any]:
    """Everything that is measured for each kind of gain."""
    ranked = [*analysis.scores, RANDOM]
    if analysis.others_AN is not None:
        ranked.append(ORACLE_OTHERS)
    bounds = {"spearman": (-1.0, 1.0), "partial_spearman": (-1.0, 1.0), "auroc": (0.0, 1.0)}
    found: dict[str, Any] = {
        "gain": {
            "mean": analysis.resample(analysis.mean_gain_DA[:, analysis.columns(kind)]).to_json(),
            "positive_share": significant((analysis.measured.gain_SN[kind] > 0).mean()),
            "none_share": significant((analysis.measured.gain_SN[kind] == 0).mean()),
        }
    }
    for name, limits in bounds.items():
        which = name.removesuffix("_spearman")
        found[name] = {
            score: analysis.resample(analysis.of(which, score, kind), *limits).to_json()
            for score in ranked
            if name != "partial_spearman" or score != RANDOM
        }
    found["delta_spearman"] = _delta(analysis, TEACHABLE, REFERENCE, kind)
    found["delta_spearman_raw"] = _delta(analysis, RAW, REFERENCE, kind)
    found["regressions"] = _regressions(analysis, kind)
    found["matched_top"] = {
        f"{keep:g}": {
            score: analysis.resample(analysis.top(score, keep, kind)).to_json("gain")
            | _against(analysis, score, keep, kind)
            for score in [*analysis.kept, RANDOM]
        }
        for keep in analysis.keeps
    }
    return found


def _buckets(analysis: Analysis) -> dict[str, Any]:
    """Score -> mean gain in each tenth of the contexts, from its lowest values to its highest."""
    return {
        score: [
            analysis.resample(kept.bucket_DBA[:, tenth, analysis.columns(MAIN)]).to_json()
            for tenth in range(kept.bucket_DBA.shape[1])
        ]
        for score, kept in analysis.kept.items()
        if score not in (ORACLE, ORACLE_OTHERS)
    }


def _delta(analysis: Analysis, score: str, reference: str, kind: str) -> dict[str, Any] | None:
    if score not in analysis.scores or reference not in (*analysis.scores, RANDOM):
        return None
    difference_DS = analysis.of("spearman", score, kind) - analysis.of("spearman", reference, kind)
    return analysis.resample(difference_DS).to_json()


def _against(analysis: Analysis, score: str, keep: float, kind: str) -> dict[str, Any]:
    """The paired differences of the gain per kept context from the two references."""
    top_DS = analysis.top(score, keep, kind)
    found = {}
    for reference in (RANDOM, REFERENCE):
        if score != reference and (reference == RANDOM or reference in analysis.kept):
            difference_DS = top_DS - analysis.top(reference, keep, kind)
            found[f"vs_{reference}"] = analysis.resample(difference_DS).to_json("difference")
    return found


def _regressions(analysis: Analysis, kind: str) -> dict[str, Any]:
    """K -> model -> R² (in sample, and out of prompt), what each gains over the base, and β."""
    columns = analysis.columns(kind)
    found = {}
    for k, fits in analysis.fits.items():
        base = fits["base"]
        models: dict[str, Any] = {}
        for model, fit in fits.items():
            own = {
                "r2": analysis.resample(fit.r2_DA[:, columns], 0.0, 1.0).to_json(),
                "r2_out_of_prompt": analysis.resample(fit.out_of_prompt_DA[:, columns]).to_json(),
                "coefficients": {
                    name: analysis.resample(fit.standardised_DXA[:, x, columns]).to_json()
                    for x, name in enumerate(MODELS[model])
                },
            }
            if model != "base":
                own["delta_r2"] = analysis.resample(
                    fit.r2_DA[:, columns] - base.r2_DA[:, columns]
                ).to_json()
                own["delta_r2_out_of_prompt"] = analysis.resample(
                    fit.out_of_prompt_DA[:, columns] - base.out_of_prompt_DA[:, columns]
                ).to_json()
            models[model] = own
        models["split"] |= _learnable_against_incompatible(analysis, fits["split"], columns)
        found[str(k)] = models
    return found


def _learnable_against_incompatible(analysis: Analysis, fit: Fit, columns: slice) -> dict[str, Any]:
    """The two coefficients of the split model, per standard deviation and per nat."""
    place = {name: MODELS["split"].index(name) for name in ("learnable", "incompatible")}
    found: dict[str, Any] = {}
    for unit, value_DXA in (("standardised", fit.standardised_DXA), ("per_nat", fit.per_unit_DXA)):
        by_name = {name: value_DXA[:, x, columns] for name, x in place.items()}
        found[unit] = {name: analysis.resample(v).to_json() for name, v in by_name.items()}
        found[unit]["difference"] = analysis.resample(
            by_name["learnable"] - by_name["incompatible"]
        ).to_json()
    return found


def _plane(measured: Measured) -> Plane:
    def on(value_N: np.ndarray) -> np.ndarray:
        return comparable(value_N, measured.resolution)

    return Plane(on(measured.entropy_N), on(measured.divergence_N), measured.position_N,
                 on(measured.compatibility_N[measured.k]), measured.tie_N)  # fmt: skip


def _quadrant3(analysis: Analysis) -> dict[str, Any]:
    """Inside low H and high D: the top quarter of D·C, D·(1-C) and C against the bottom one."""
    measured, plane = analysis.measured, _plane(analysis.measured)
    inside_N, c_N = quadrant3(plane), plane.compatibility_N
    scores = {
        "learnable": measured.divergence_N * c_N,
        "incompatible": measured.divergence_N * (1 - c_N),
        "compatibility": c_N,
        "divergence": measured.divergence_N,
    }
    return {
        name: top_against_bottom(
            comparable(score_N, measured.resolution), inside_N, measured.tie_N,
            measured.gain_SN[MAIN], analysis.draws,
        )
        for name, score_N in scores.items()
    }  # fmt: skip


def _robustness(analysis: Analysis) -> dict[str, Any]:
    """Proxy -> K -> ΔSpearman of D̂ times the normalised proxy against D."""
    found: dict[str, Any] = {}
    reference_DS = analysis.of("spearman", REFERENCE, MAIN)
    for proxy, k in analysis.robustness_scores:
        value_DS = analysis.of("spearman", (proxy, k), MAIN)
        found.setdefault(proxy, {})[str(k)] = {
            "spearman": analysis.resample(value_DS, -1.0, 1.0).to_json(),
            "delta_spearman": analysis.resample(value_DS - reference_DS).to_json(),
        }
    return found


def _gradients(analysis: Analysis) -> dict[str, Any]:
    """Objective -> keep -> score -> share of the summed gradient norm in its top contexts."""
    first = len(analysis.gain_AN)
    return {
        objective: {
            f"{keep:g}": {
                score: analysis.resample(
                    kept.covered_DCA[:, c, first + g : first + g + 1], 0.0, 1.0
                ).to_json("share")
                for score, kept in analysis.kept.items()
                if score not in (ORACLE, ORACLE_OTHERS)
            }
            | {RANDOM: {"share": keep, "ci95": [keep, keep]}}
            for c, keep in enumerate(analysis.keeps)
        }
        for g, objective in enumerate(analysis.measured.gradient_N)
    }


# --- verdicts ------------------------------------------------------------------------------------


def make_verdicts(analysis: Analysis) -> list[dict[str, Any]]:
    """The claim itself in its two readings; then every other score against D and random.

    Holm-adjusted in each of the two families.
    """
    pairs = [(score, REFERENCE) for score in (TEACHABLE, RAW) if score in analysis.scores]
    if REFERENCE not in analysis.scores:
        pairs = []
    rest = [
        (score, reference)
        for reference in (REFERENCE, RANDOM)
        for score in analysis.scores
        if score != reference
        and (score, reference) not in pairs
        and reference in (*analysis.scores, RANDOM)
    ]
    found = []
    for family in (pairs, rest):
        differences = [
            analysis.resample(
                analysis.of("spearman", score, MAIN) - analysis.of("spearman", reference, MAIN)
            )
            for score, reference in family
        ]
        defined = [d for d in differences if d.is_defined and np.isfinite(d.p_value)]
        adjusted = iter(holm([d.p_value for d in defined]))
        for (score, reference), difference in zip(family, differences, strict=True):
            if difference not in defined:
                continue
            p_value = next(adjusted)
            found.append(_verdict(analysis, score, reference, difference, p_value))
    return found


def _verdict(
    analysis: Analysis, score: str, reference: str, difference: Resampled, p_value: float
) -> dict[str, Any]:
    is_clear = p_value < LEVEL and abs(difference.value) > MIN_EFFECT
    word = ("yes" if difference.value > 0 else "no") if is_clear else "tie"
    names = {TEACHABLE: "D·C", RAW: "D·C without normalisation", REFERENCE: "D"}
    claim = f"{names.get(score, score)} predicts G better than {names.get(reference, reference)}"
    value, low, high = (round(x, 3) + 0.0 for x in (difference.value, *difference.ci95))
    seeds = analysis.measured.seeds
    line = (
        f"{claim}: ΔSpearman = {value:+.3f} [{low:+.3f}, {high:+.3f}], over "
        f"{len(analysis.measured.prompt_N):,} contexts in {analysis.draws.prompts:,} prompts, "
        f"{seeds} seed{'' if seeds == 1 else 's'}: {word}"
    )
    return {
        "score": score,
        "reference": reference,
        **difference.to_json("delta_spearman"),
        "p_adjusted": significant(p_value),
        "by_seed": [significant(value) for value in difference.by_seed],
        "verdict": word,
        "line": line,
    }
