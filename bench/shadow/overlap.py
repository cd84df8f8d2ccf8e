"""shadow.jsonl -> how far rules keep the same tokens, and what kind of tokens each keeps.

Pure: no input or output. R are the rules in the order of the log, the run's own first; matrices are
means over the logged steps, counts are sums over them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from bench.core.errors import ConfigError
from bench.core.result_rows import SUM, row_sum
from bench.shadow.token_classes import TOKEN_CLASSES

GROUPS = ("position", "entropy", "class")


@dataclass(frozen=True)
class Profile:
    """Tokens by group: of all sampled tokens, and of those that each rule keeps."""

    names: tuple[str, ...]
    all_G: np.ndarray
    kept_RG: np.ndarray

    @property
    def lift_RG(self) -> np.ndarray:
        """Share of the kept tokens over share of all tokens; NaN for a group without tokens."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.kept_RG / self.kept_RG.sum(1, keepdims=True)) / (
                self.all_G / self.all_G.sum()
            )


@dataclass(frozen=True)
class Overlap:
    """What a run's shadow log amounts to."""

    run_id: str
    rules: tuple[str, ...]
    steps: tuple[int, ...]
    tokens: int
    """Sampled tokens of all logged steps."""
    keep: float
    gradient_of: str
    jaccard_RR: np.ndarray
    jaccard_sd_RR: np.ndarray
    """Standard deviation over steps; NaN for a single step."""
    spearman_RR: np.ndarray
    tied_R: np.ndarray
    """Share of the kept tokens that the tie rule chose among equal scores."""
    gradient_R: np.ndarray
    """Share of the logit-gradient norm that the kept tokens carry, mean over steps."""
    gradient_sd_R: np.ndarray
    profiles: Mapping[str, Profile]
    signals: tuple[str, ...]
    signal_all_S: np.ndarray
    signal_kept_RS: np.ndarray
    skipped: Mapping[str, str]

    @property
    def by_chance(self) -> float:
        """Jaccard of two independent random masks of this keep, for many tokens."""
        return self.keep / (2 - self.keep)

    def order(self) -> list[int]:
        """Places of the rules, like next to like: average linkage on 1 - Jaccard."""
        if len(self.rules) < 3:
            return list(range(len(self.rules)))
        distance_RR = 1 - np.nan_to_num(self.jaccard_RR, nan=0.0)
        np.fill_diagonal(distance_RR, 0)
        condensed = squareform((distance_RR + distance_RR.T) / 2, checks=False)
        tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
        return leaves_list(tree).tolist()

    def nearest(self, place: int, count: int = 3) -> list[tuple[str, float]]:
        """The rules whose masks overlap most with this one's."""
        found = [
            (self.rules[other], float(value))
            for other, value in enumerate(self.jaccard_RR[place])
            if other != place and value == value
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:count]

    def to_json(self) -> dict[str, Any]:
        """One document of plain values; NaN as null."""
        return {
            "run_id": self.run_id,
            "steps": list(self.steps),
            "tokens": self.tokens,
            "keep": self.keep,
            "gradient_of": self.gradient_of,
            "jaccard_by_chance": self.by_chance,
            "rules": list(self.rules),
            "clustered_order": self.order(),
            "jaccard": _plain(self.jaccard_RR),
            "jaccard_sd": _plain(self.jaccard_sd_RR),
            "spearman": _plain(self.spearman_RR),
            "tied_share": _plain(self.tied_R),
            "gradient_share": _plain(self.gradient_R),
            "gradient_share_sd": _plain(self.gradient_sd_R),
            "profiles": {
                name: {
                    "names": list(profile.names),
                    "all": _plain(profile.all_G),
                    "kept": _plain(profile.kept_RG),
                }
                for name, profile in self.profiles.items()
            },
            "signals": {
                "names": list(self.signals),
                "all": _plain(self.signal_all_S),
                "kept": _plain(self.signal_kept_RS),
            },
            "skipped": dict(self.skipped),
        }


def read_shadow(text: str, run_id: str) -> Overlap:
    """The overlap of a shadow.jsonl's text.

    Only rules that every line has are compared; others are in `skipped`. Raises ConfigError for an
    empty log, a broken line, or lines of different budgets.
    """
    lines = _read_lines(text, run_id)
    try:
        return _overlap(lines, run_id)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"{run_id}: shadow.jsonl is damaged: {type(error).__name__}: {error}"
        ) from error


def _overlap(lines: list[dict[str, Any]], run_id: str) -> Overlap:
    in_all = set.intersection(*(set(line["rules"]) for line in lines))
    rules = tuple(rule for rule in lines[0]["rules"] if rule in in_all)
    places = [[line["rules"].index(rule) for rule in rules] for line in lines]
    signals = _common(line["signals"]["names"] for line in lines)
    kept_LR = np.array([_pick(line["kept"], at) for line, at in zip(lines, places, strict=True)])
    tokens_L = np.array([line["tokens"] for line in lines], dtype=float)
    jaccard_LRR = _matrices(lines, places, "jaccard")
    gradient_LR = _rows(lines, places, "gradient_share")
    tied_LR = _rows(lines, places, "tied")
    all_LS = np.array([_signal(line, line["signals"]["all"], signals) for line in lines])
    kept_LRS = np.array([
        [_signal(line, line["signals"]["kept"][place], signals) for place in at]
        for line, at in zip(lines, places, strict=True)
    ])  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        kept_mean_RS = np.nansum(kept_LRS * kept_LR[..., None], 0) / kept_LR.sum(0)[:, None]
        tied_R = tied_LR.sum(0) / kept_LR.sum(0)
    return Overlap(
        run_id=run_id,
        rules=rules,
        steps=tuple(line["step"] for line in lines),
        tokens=int(tokens_L.sum()),
        keep=lines[0]["keep"],
        gradient_of=lines[0]["gradient_of"],
        jaccard_RR=_mean(jaccard_LRR),
        jaccard_sd_RR=_sd(jaccard_LRR),
        spearman_RR=_mean(_matrices(lines, places, "spearman")),
        tied_R=tied_R,
        gradient_R=_mean(gradient_LR),
        gradient_sd_R=_sd(gradient_LR),
        profiles=_profiles(lines, places),
        signals=signals,
        signal_all_S=tokens_L @ all_LS / tokens_L.sum(),
        signal_kept_RS=kept_mean_RS,
        skipped=_skipped(lines, in_all),
    )


def _read_lines(text: str, run_id: str) -> list[dict[str, Any]]:
    """The lines of one panel; ConfigError where there is none, or they are not of one panel."""
    lines = []
    whole = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(whole, 1):
        try:
            lines.append(json.loads(line))
            if not isinstance(lines[-1], dict):
                raise ValueError("it holds no object")
            if lines[-1].get(SUM) not in (None, row_sum(lines[-1])):
                raise ValueError("it changed since it was written")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{run_id}: shadow.jsonl line {number} is broken: {error}") from None
    if not lines:
        raise ConfigError(f"{run_id}: shadow.jsonl has no line yet")
    steps = [line.get("step") for line in lines]
    if not all(isinstance(step, int) for step in steps) or steps != sorted(set(steps)):
        raise ConfigError(f"{run_id}: shadow.jsonl is damaged: its steps do not rise: {steps[:9]}")
    for field in ("keep", "gradient_of"):
        values = sorted({line[field] for line in lines}, key=str)
        if len(values) > 1:
            raise ConfigError(
                f"{run_id}: the lines of shadow.jsonl differ in {field} ({values}); the run was "
                "resumed with other settings of the shadow panel"
            )
    return lines


def _skipped(lines: Sequence[Mapping[str, Any]], in_all: set[str]) -> dict[str, str]:
    """Rule -> why it is not compared: the log's reasons, and the rules that some lines lack."""
    skipped = {name: reason for line in lines for name, reason in line["skipped"].items()}
    return skipped | {
        rule: "is missing in some steps"
        for line in lines for rule in line["rules"] if rule not in in_all and rule not in skipped
    }  # fmt: skip


def _profiles(
    lines: Sequence[Mapping[str, Any]], places: Sequence[list[int]]
) -> dict[str, Profile]:
    names = {"position": _tenths(), "entropy": _tenths(), "class": TOKEN_CLASSES}
    return {
        group: Profile(
            tuple(names[group]),
            np.sum([line[group]["all"] for line in lines], 0),
            np.sum(
                [_pick(line[group]["kept"], at) for line, at in zip(lines, places, strict=True)], 0
            ),
        )
        for group in GROUPS
    }


def _tenths() -> list[str]:
    return [f"{10 * place}–{10 * (place + 1)} %" for place in range(10)]


def _common(names: Iterable[Sequence[str]]) -> tuple[str, ...]:
    every = list(names)
    return tuple(name for name in every[0] if all(name in other for other in every))


def _pick(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]


def _signal(line: Mapping[str, Any], values: Sequence[Any], names: Sequence[str]) -> list[float]:
    found = dict(zip(line["signals"]["names"], values, strict=True))
    return [np.nan if found[name] is None else found[name] for name in names]


def _rows(lines: Sequence[Mapping[str, Any]], places: Sequence[list[int]], field: str):
    rows = [_pick(line[field], at) for line, at in zip(lines, places, strict=True)]
    return np.array(rows, dtype=float)


def _matrices(lines: Sequence[Mapping[str, Any]], places: Sequence[list[int]], field: str):
    """LRR of a field that is logged above the diagonal; the diagonal is 1."""
    found = []
    for line, at in zip(lines, places, strict=True):
        full_RR = np.eye(len(line["rules"]))
        above = np.triu_indices(len(full_RR), 1)
        full_RR[above] = np.array(line[field], dtype=float)
        full_RR.T[above] = full_RR[above]
        found.append(full_RR[np.ix_(at, at)])
    return np.array(found)


def _mean(value_L: np.ndarray) -> np.ndarray:
    """Mean over steps without NaN; NaN where there is nothing else."""
    count = np.sum(~np.isnan(value_L), 0)
    return np.where(count > 0, np.nansum(value_L, 0) / np.maximum(count, 1), np.nan)


def _sd(value_L: np.ndarray) -> np.ndarray:
    count = np.sum(~np.isnan(value_L), 0)
    square = np.nansum((value_L - _mean(value_L)) ** 2, 0)
    return np.where(count > 1, np.sqrt(square / np.maximum(count - 1, 1)), np.nan)


def _plain(value: np.ndarray) -> Any:
    if value.ndim:
        return [_plain(part) for part in value]
    number = value.item()
    return None if number != number else number
