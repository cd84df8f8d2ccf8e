"""The objectives there are: what each takes, and what it asks of a run.

`train/objectives` and `train/batch_objectives` have the formulas.
"""

from typing import Literal, NamedTuple


class ObjectiveParameter(NamedTuple):
    """A number that an objective takes."""

    default: float
    kind: Literal["share", "positive", "count", "signed", "flag"]

    def check(self, name: str, value: float) -> None:
        """Raise ValueError where the value is not of the kind."""
        if self.kind == "share" and not 0 < value < 1:
            raise ValueError(f"objective_params: {name}={value} must lie strictly in (0, 1)")
        if self.kind == "positive" and not 0 < value < float("inf"):
            raise ValueError(f"objective_params: {name}={value} must be greater than 0")
        if self.kind == "signed" and not -1 <= value <= 1:
            raise ValueError(f"objective_params: {name}={value} must lie in [-1, 1]")
        if self.kind == "flag" and value not in (0, 1):
            raise ValueError(f"objective_params: {name}={value} must be 0 or 1")
        if self.kind == "count" and not (value >= 1 and value == int(value)):
            raise ValueError(f"objective_params: {name}={value} must be a whole number from 1")


_TOP_K = {"k": ObjectiveParameter(16, "count")}
OBJECTIVES: dict[str, dict[str, ObjectiveParameter]] = {
    "reverse_kl": {},
    "forward_kl": {},
    "jsd": {"beta": ObjectiveParameter(0.5, "share")},
    "sampled_reverse_kl": {},
    "skew_reverse_kl": {"alpha": ObjectiveParameter(0.1, "share")},
    "topk_reverse_kl": _TOP_K,
    "topk_reverse_kl_tail": _TOP_K,
    "topk_reverse_kl_clamped": _TOP_K,
    "topk_forward_kl": _TOP_K,
    "k2": {},
    "eopd": {"threshold": ObjectiveParameter(0.8, "positive"), **_TOP_K},
    "todi": {"beta": ObjectiveParameter(1.0, "positive")},
    "tv_advantage": {},
    "aopd": {
        "threshold": ObjectiveParameter(0.0, "signed"),
        "renormalised": ObjectiveParameter(1, "flag"),
        **_TOP_K,
    },
    "tail_aware_sc": _TOP_K,
    "residual_advantage": {},
    "opd2": _TOP_K,
    "adakd_reverse_kl": {"c": ObjectiveParameter(0.5, "positive")},
    "adakd_forward_kl": {"c": ObjectiveParameter(0.5, "positive")},
    "scope": {},
    "tide": {
        "excess_share": ObjectiveParameter(0.2, "share"),
        "deficit_share": ObjectiveParameter(0.2, "share"),
        "weight": ObjectiveParameter(1.0, "positive"),
        **_TOP_K,
    },
    "opsa": {"share": ObjectiveParameter(0.2, "share")},
    "capped_fkl": {
        "cap": ObjectiveParameter(0.05, "positive"),
        "share": ObjectiveParameter(0.5, "share"),
    },
}
"""Every objective and what it takes; train/objectives has the formula of each."""
ON_SAMPLED_TOKEN = frozenset({
    "sampled_reverse_kl", "k2", "eopd", "tv_advantage", "residual_advantage", "opd2", "aopd",
    "tail_aware_sc", "scope", "tide", "opsa",
})  # fmt: skip
"""Objectives whose gradient is right in the mean over tokens drawn at temperature 1 alone, from the
student as it is."""
SELECT_THEMSELVES = frozenset({"tide", "opsa", "capped_fkl"})
"""Objectives that say which tokens they train on: no rule selects beside them."""


def objective_defaults(objective: str) -> dict[str, float]:
    """Parameter -> its default."""
    return {name: parameter.default for name, parameter in OBJECTIVES[objective].items()}
