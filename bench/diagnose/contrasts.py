"""Comparisons between groups of contexts: inside Q3, over the H x D plane, within prompts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.diagnose.bootstrap import Draws, resampled, significant
from bench.diagnose.orderings import make_order

CELLS = 10
FEWEST = 8
"""Contexts in a group, or pairs, below which no mean is given."""
CALIPER = 0.1
"""Largest distance of a matched pair in each of H, D and position, in percentile ranks."""


@dataclass(frozen=True)
class Plane:
    """What a context is, N contexts."""

    entropy_N: np.ndarray
    divergence_N: np.ndarray
    position_N: np.ndarray
    compatibility_N: np.ndarray
    tie_N: np.ndarray


def quadrant3(plane: Plane) -> np.ndarray:
    """bool: student entropy at most its median, disagreement over its median."""
    return (plane.entropy_N <= np.median(plane.entropy_N)) & (
        plane.divergence_N > np.median(plane.divergence_N)
    )


def top_against_bottom(
    score_N: np.ndarray, inside_N: np.ndarray, tie_N: np.ndarray, gain_SN: np.ndarray, draws: Draws
) -> dict[str, Any]:
    """Mean gain of the top quarter of a score among the contexts inside, minus the bottom's.

    Equal scores are split by the hash. The quarters are those of the bank in every draw.
    """
    place_M = np.flatnonzero(inside_N)
    quarter = len(place_M) // 4
    if quarter < FEWEST:
        return {"n": len(place_M), "difference": None}
    ranked_M = place_M[make_order(score_N[place_M], tie_N[place_M]).place_N]
    top_N, bottom_N = np.zeros(len(score_N), dtype=bool), np.zeros(len(score_N), dtype=bool)
    top_N[ranked_M[:quarter]] = True
    bottom_N[ranked_M[-quarter:]] = True
    top_DS, bottom_DS = (draws.means(gain_SN.T, chosen) for chosen in (top_N, bottom_N))
    return {
        "n": len(place_M),
        "top": resampled(top_DS, draws.prompts).to_json(),
        "bottom": resampled(bottom_DS, draws.prompts).to_json(),
        "difference": resampled(top_DS - bottom_DS, draws.prompts).to_json(),
    }


def heat_map(plane: Plane, gain_SN: np.ndarray, draws: Draws) -> dict[str, Any]:
    """Mean C and mean gain in each cell of tenths of H by tenths of D; rows are D, from low.

    Equal values fall into one tenth, so a value that many contexts share leaves cells empty.
    """
    row_N = _bins(plane.divergence_N)
    column_N = _bins(plane.entropy_N)
    cells: dict[str, Any] = {"n": [], "compatibility": [], "gain": [], "gain_ci95": []}
    for row in range(CELLS):
        line: dict[str, list[Any]] = {name: [] for name in cells}
        for column in range(CELLS):
            inside_N = (row_N == row) & (column_N == column)
            count = int(inside_N.sum())
            line["n"].append(count)
            if count < FEWEST:
                for name in ("compatibility", "gain", "gain_ci95"):
                    line[name].append(None)
                continue
            found = resampled(draws.means(gain_SN.T, inside_N), draws.prompts).to_json()
            line["compatibility"].append(significant(plane.compatibility_N[inside_N].mean()))
            line["gain"].append(found["value"])
            line["gain_ci95"].append(found["ci95"])
        for name, values in line.items():
            cells[name].append(values)
    shares = np.linspace(0, 1, CELLS + 1)
    edges = {
        "entropy_edges": np.quantile(plane.entropy_N, shares),
        "divergence_edges": np.quantile(plane.divergence_N, shares),
    }
    return cells | {n: [significant(edge) for edge in value] for n, value in edges.items()}


def _bins(value_N: np.ndarray) -> np.ndarray:
    """The tenth of each value, 0 to 9, by its mid-rank."""
    return np.minimum((CELLS * percentile(value_N)).astype(int), CELLS - 1)


def percentile(value_N: np.ndarray) -> np.ndarray:
    """Mid-rank in (0, 1), equal values alike."""
    _, group_N, count_G = np.unique(value_N, return_inverse=True, return_counts=True)
    return ((np.cumsum(count_G) - count_G / 2) / len(value_N))[group_N]


def matched_within_prompts(plane: Plane, gain_SN: np.ndarray, draws: Draws) -> dict[str, Any]:
    """Gain where C ranks in the upper half minus gain at the nearest context of the same prompt
    where it does not, nearest in H, D and position; and how alike the pairs are.

    A pair lies within the caliper in each of the three; a context may be matched several times.
    """
    is_high_N = percentile(plane.compatibility_N) > 0.5
    feature_NF = np.stack(
        [percentile(x) for x in (plane.entropy_N, plane.divergence_N, plane.position_N)], axis=1
    )
    high, low = [], []
    for prompt in range(draws.prompts):
        place_M = np.flatnonzero(draws.prompt_N == prompt)
        above, below = place_M[is_high_N[place_M]], place_M[~is_high_N[place_M]]
        if not len(above) or not len(below):
            continue
        gap_ABF = np.abs(feature_NF[above][:, None] - feature_NF[below][None])
        distance_AB = np.where((gap_ABF <= CALIPER).all(-1), gap_ABF.sum(-1), np.inf)
        nearest_A = distance_AB.argmin(1)
        within_A = np.isfinite(distance_AB.min(1))
        high.append(above[within_A])
        low.append(below[nearest_A[within_A]])
    pairs_high, pairs_low = (np.concatenate([[], *x]).astype(int) for x in (high, low))
    if len(pairs_high) < FEWEST:
        return {"pairs": len(pairs_high), "difference": None}
    by_pair = Draws(draws.prompt_N[pairs_high], draws.weight_DP)
    every = np.ones(len(pairs_high), dtype=bool)
    difference_DS = by_pair.means((gain_SN[:, pairs_high] - gain_SN[:, pairs_low]).T, every)
    gap_F = (feature_NF[pairs_high] - feature_NF[pairs_low]).mean(0)
    names = ("entropy", "divergence", "position")
    c_gap = plane.compatibility_N[pairs_high] - plane.compatibility_N[pairs_low]
    return {
        "pairs": len(pairs_high),
        "difference": resampled(difference_DS, draws.prompts).to_json(),
        "compatibility_gap": significant(c_gap.mean()),
        "rank_gap": {n: significant(gap) for n, gap in zip(names, gap_F, strict=True)},
    }
