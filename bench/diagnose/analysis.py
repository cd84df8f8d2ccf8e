"""Measured contexts -> the diagnostic's record: every analysis, interval and verdict. Pure.

What is asked: does a score, computed before an update, order contexts by the KL that the update
removes there? Scores and gains are compared on the grid of `measured.RESOLUTION`: differences that
rounding alone can make are ties. `random` is its own expectation, not one draw: Spearman 0, AUROC
1/2, and the mean gain of all contexts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bench.core.stats import holm
from bench.diagnose.bootstrap import Draws, Resampled, make_draws, resampled, significant
from bench.diagnose.contrasts import (
    Plane,
    heat_map,
    matched_within_prompts,
    quadrant3,
    top_against_bottom,
)
from bench.diagnose.matched import Kept, budgets, keep_top, make_order
from bench.diagnose.measured import KINDS, on_grid
from bench.diagnose.orderings import Association, associate
from bench.diagnose.regression import Fit, Moments
from bench.selection.population import NEUTRAL, SMALLEST_RANGE, norm_q05, quantiles

MAIN = KINDS[0]
TEACHABLE, RAW, REFERENCE, RANDOM = "teachability", "teachability_raw", "forward_kl", "random"
ORACLE, ORACLE_OTHERS = "oracle", "oracle_other_seeds"
MIN_EFFECT = 0.01
"""Differences of Spearman under this are ties, however certain."""
LEVEL = 0.05
MODELS: dict[str, tuple[str, ...]] = {
    "base": ("entropy", "divergence", "entropy_x_divergence", "position", "teacher_entropy"),
    "with_compatibility": (
        "entropy", "divergence", "entropy_x_divergence", "position", "teacher_entropy",
        "compatibility",
    ),
    "split": ("entropy", "learnable", "incompatible", "position", "teacher_entropy"),
}  # fmt: skip
"""Regressors of the three models of arXiv 2605.26844: learnable is D·C, incompatible D·(1-C)."""

Advance = Callable[[str, int, int], None]
"""Hears of a phase's name, its pieces done, and its pieces."""


@dataclass(frozen=True)
class Measured:
    """Every context with what was known before the update, and what each update removed there."""

    prompt_N: np.ndarray
    position_N: np.ndarray
    entropy_N: np.ndarray
    """H(p), nats."""
    teacher_entropy_N: np.ndarray
    divergence_N: np.ndarray
    """D = KL(q‖p), nats."""
    compatibility_N: Mapping[int, np.ndarray]
    """K -> C, the teacher's mass on the student's top K."""
    proxy_N: Mapping[str, Mapping[int, np.ndarray]]
    """Proxy of C -> K -> its value."""
    score_N: Mapping[str, np.ndarray]
    """Selector -> its score at the main K."""
    gain_SN: Mapping[str, np.ndarray]
    """Kind -> gain, a row an update seed."""
    tie_N: np.ndarray
    """A hash that orders equal scores."""
    k: int
    resolution: float
    weights: frozenset[str] = frozenset()
    """Selectors that weight tokens; ranked by their weight."""
    gradient_N: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Objective -> norm of its gradient with respect to the student's logits."""

    @property
    def seeds(self) -> int:
        return len(self.gain_SN[MAIN])


def spread(value_N: np.ndarray) -> float:
    """Q95 - Q05."""
    value = torch.from_numpy(np.asarray(value_N, dtype=float))[None]
    low, high = quantiles(value, torch.ones_like(value, dtype=torch.bool), 0.05, 0.95)
    return high - low


def normalised(value_N: np.ndarray) -> np.ndarray:
    """norm_q05 over the bank: 0.5 everywhere where the 5-95 % range is under 1e-5."""
    value = torch.from_numpy(np.asarray(value_N, dtype=float))[None]
    return norm_q05(value, torch.ones_like(value, dtype=torch.bool))[0].numpy()


def comparable(score_N: np.ndarray, resolution: float) -> np.ndarray:
    """A score on the grid: steps of `resolution` times its largest magnitude, at most 1."""
    score_N = np.asarray(score_N, dtype=float)
    finite_N = score_N[np.isfinite(score_N)]
    largest = float(np.abs(finite_N).max()) if finite_N.size else 0.0
    return on_grid(score_N, resolution * min(1.0, largest)) if largest else score_N


class Analysis:
    """All statistics of one bank, each a value for every update seed in the bank and each draw."""

    def __init__(
        self, measured: Measured, keeps: Sequence[float], draws: int, seed: int, advance: Advance
    ):
        self.measured, self.keeps, self.advance = measured, list(keeps), advance
        self.draws: Draws = make_draws(measured.prompt_N, draws, seed)
        self.scores = {
            name: comparable(value_N, measured.resolution)
            for name, value_N in measured.score_N.items()
            if name != RANDOM
        }
        self.gain_AN = np.concatenate([measured.gain_SN[kind] for kind in KINDS])
        self.budget_DC = budgets(self.keeps, self.draws)

    def columns(self, kind: str) -> slice:
        """The gains of a kind among all A of them."""
        first = KINDS.index(kind) * self.measured.seeds
        return slice(first, first + self.measured.seeds)

    def resample(self, value_DS: np.ndarray, *bounds: float) -> Resampled:
        limits = (bounds[0], bounds[1]) if bounds else (-np.inf, np.inf)
        return resampled(value_DS, self.draws.prompts, limits)

    @cached_property
    def robustness_scores(self) -> dict[tuple[str, int], np.ndarray]:
        """(proxy, K) -> D̂ times the normalised proxy; `raw_product` is D·C itself."""
        measured = self.measured
        d_hat_N = normalised(measured.divergence_N)
        found = {}
        for k, exact_N in measured.compatibility_N.items():
            found["exact_mass", k] = d_hat_N * normalised(exact_N)
            for proxy, by_k in measured.proxy_N.items():
                found[proxy, k] = d_hat_N * normalised(by_k[k])
            found["raw_product", k] = measured.divergence_N * exact_N
        return {key: comparable(value, measured.resolution) for key, value in found.items()}

    @cached_property
    def others_AN(self) -> np.ndarray | None:
        """For each gain, the mean gain of the same kind under the other update seeds."""
        if self.measured.seeds < 2:
            return None
        by_kind = [self.measured.gain_SN[kind] for kind in KINDS]
        return np.concatenate(
            [(g_SN.sum(0) - g_SN) / (self.measured.seeds - 1) for g_SN in by_kind]
        )

    @cached_property
    def association(self) -> Association:
        scores = [*self.scores.values(), *self.robustness_scores.values()]
        if self.others_AN is not None:
            scores += list(self.others_AN)
        measured = self.measured
        controls_CN = np.stack(
            [comparable(measured.entropy_N, measured.resolution), measured.position_N]
        )
        return associate(
            np.stack(scores), controls_CN, self.gain_AN, self.draws,
            lambda done, total: self.advance("rank correlations", done, total),
        )  # fmt: skip

    @cached_property
    def row(self) -> dict[Any, int]:
        """Score name or (proxy, K) -> its row in `association`."""
        return {key: j for j, key in enumerate([*self.scores, *self.robustness_scores])}

    def of(self, which: str, key: Any, kind: str) -> np.ndarray:
        """A statistic of one score for a kind of gain, (D, S). `random` is its expectation."""
        if key == RANDOM:
            shape = (len(self.draws.weight_DP), self.measured.seeds)
            return np.full(shape, 0.5 if which == "auroc" else 0.0)
        value_DJA = getattr(self.association, f"{which}_DJA")
        if key == ORACLE_OTHERS:
            first = len(self.row)
            return np.stack(
                [value_DJA[:, first + a, a] for a in range(*self.columns(kind).indices(10**6))], -1
            )
        return value_DJA[:, self.row[key], self.columns(kind)]

    @cached_property
    def mean_gain_DA(self) -> np.ndarray:
        """Mean gain of all contexts in each draw: what random contexts gain in expectation."""
        return self.draws.sums(self.gain_AN.T) / self.draws.total_D()[:, None]

    @cached_property
    def kept(self) -> dict[str, Kept]:
        """Top-N means of every score, and of the two oracles."""
        values_AN = np.concatenate([self.gain_AN, *([g] for g in self.gradients_GN)])
        found, total = {}, len(self.scores) + 1 + (self.others_AN is not None)
        for done, (name, score_N) in enumerate(self.scores.items()):
            order = make_order(score_N, self.measured.tie_N)
            found[name] = keep_top(order, values_AN, self.budget_DC, self.draws)
            self.advance("matched top-N", done + 1, total)
        found[ORACLE] = self._own_orders(self.gain_AN)
        self.advance("matched top-N", len(self.scores) + 1, total)
        if self.others_AN is not None:
            found[ORACLE_OTHERS] = self._own_orders(self.others_AN)
            self.advance("matched top-N", total, total)
        return found

    def _own_orders(self, score_AN: np.ndarray) -> Kept:
        """Each gain in an order of its own."""
        parts = [
            keep_top(make_order(score_N, self.measured.tie_N), gain_N[None], self.budget_DC,
                     self.draws)
            for score_N, gain_N in zip(score_AN, self.gain_AN, strict=True)
        ]  # fmt: skip
        return Kept(*(np.concatenate([getattr(part, name) for part in parts], -1)
                      for name in ("top_DCA", "bucket_DBA", "covered_DCA")))  # fmt: skip

    @property
    def gradients_GN(self) -> list[np.ndarray]:
        return list(self.measured.gradient_N.values())

    def top(self, name: str, keep: float, kind: str) -> np.ndarray:
        """Gain per kept context of a score, (D, S)."""
        if name == RANDOM:
            return self.mean_gain_DA[:, self.columns(kind)]
        return self.kept[name].top_DCA[:, self.keeps.index(keep), self.columns(kind)]

    @cached_property
    def fits(self) -> dict[int, dict[str, Fit]]:
        """K -> model -> its fit of all gains."""
        found = {}
        for done, k in enumerate(self.measured.compatibility_N):
            moments = Moments(self.regressors(k), self.gain_AN.T, self.draws)
            names = regressor_names()
            found[k] = {
                model: moments.fit([names.index(name) for name in regressors])
                for model, regressors in MODELS.items()
            }
            self.advance("regressions", done + 1, len(self.measured.compatibility_N))
        return found

    def regressors(self, k: int) -> np.ndarray:
        """regressor_NX, columns as `regressor_names`; a C without spread is 0.5 everywhere."""
        measured = self.measured
        c_N = np.asarray(measured.compatibility_N[k], dtype=float)
        if spread(c_N) < SMALLEST_RANGE:
            c_N = np.full_like(c_N, NEUTRAL)
        h_N, d_N = measured.entropy_N.astype(float), measured.divergence_N.astype(float)
        product_N = _standardised(h_N) * _standardised(d_N)
        columns = (h_N, d_N, product_N, measured.position_N, measured.teacher_entropy_N, c_N,
                   d_N * c_N, d_N * (1 - c_N))  # fmt: skip
        return np.stack(columns, axis=1).astype(float)


def regressor_names() -> list[str]:
    return list(dict.fromkeys(name for names in MODELS.values() for name in names))


def _standardised(value_N: np.ndarray) -> np.ndarray:
    return (value_N - value_N.mean()) / (value_N.std() or 1.0)


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
