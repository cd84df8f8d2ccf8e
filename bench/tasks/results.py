"""What a model did on a task: its samples, their verdicts, and the rates that qualify the mean."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Self

from bench.tasks.grader import Verdict


@dataclass(frozen=True)
class Sample:
    """One response to one item."""

    text: str
    """Before the stop token."""
    tokens: int
    """The stop token counts, as it does in a rollout's mask."""
    is_truncated: bool
    """Reached max_new_tokens without a stop token."""
    answer: str | None
    """What was extracted and compared."""
    verdict: Verdict


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task; per-item values are in the task's item order."""

    task: str
    metric: str
    n: int
    k: int
    """Samples of each item."""
    mean: float
    """avg@k: the mean over items of the share of right samples."""
    pass_at_k: float
    """Share of items with a right sample among the k."""
    score_I: tuple[float, ...]
    """Share of right samples; an interval over items clusters the samples by problem."""
    item_id_I: tuple[str, ...]
    sample_IK: tuple[tuple[Sample, ...], ...]
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        lengths = len(self.score_I), len(self.item_id_I), len(self.sample_IK)
        if lengths != (self.n,) * 3:
            raise ValueError(
                f"{self.task}: n is {self.n}, but there are {lengths[0]} scores, {lengths[1]} item "
                f"ids and {lengths[2]} responses"
            )
        if any(len(samples) != self.k for samples in self.sample_IK):
            raise ValueError(f"{self.task}: not every item has {self.k} samples")

    def _share(self, holds: Callable[[Sample], bool]) -> float:
        return fmean(holds(sample) for samples in self.sample_IK for sample in samples)

    @property
    def parse_failure_rate(self) -> float:
        """Share of responses from which no answer could be extracted."""
        return self._share(lambda sample: sample.verdict == "no answer")

    @property
    def comparison_failure_rate(self) -> float:
        """Share of responses whose comparison timed out or crashed; they count as wrong."""
        return self._share(lambda sample: sample.verdict in ("timeout", "crash"))

    @property
    def truncation_rate(self) -> float:
        """Share of responses that reached max_new_tokens without a stop token."""
        return self._share(lambda sample: sample.is_truncated)

    @property
    def mean_response_tokens(self) -> float:
        return fmean(sample.tokens for samples in self.sample_IK for sample in samples)

    def to_json(self) -> dict[str, Any]:
        """Plain values that survive a JSON round trip."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            **{
                **values,
                "score_I": tuple(values["score_I"]),
                "item_id_I": tuple(values["item_id_I"]),
                "sample_IK": tuple(
                    tuple(Sample(**sample) for sample in samples) for samples in values["sample_IK"]
                ),
            }
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
