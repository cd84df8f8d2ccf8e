"""Teacher-student pairs by name. A pair is two models that share a tokenizer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.config import ConfigError, unknown_name

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Pair:
    """Where a pair's models are: a local folder or a hub id each."""

    name: str
    teacher: str
    student: str
    summary: str = ""
    stop_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Stop tokens declared for "student" and "teacher" where their configurations differ."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What sets it apart in a family of pairs (`style_share`), as its build.json states it."""

    def __post_init__(self) -> None:
        if self.stop_ids and set(self.stop_ids) != {"student", "teacher"}:
            raise ConfigError(
                f"pair {self.name!r}: stop_ids has {sorted(self.stop_ids)}; it names the stop "
                "tokens of both 'student' and 'teacher'"
            )


def _embedded(name: str, summary: str) -> Pair:
    return Pair(name, str(ASSETS / name / "teacher"), str(ASSETS / name / "student"), summary)


_PAIRS: dict[str, Pair] = {
    pair.name: pair
    for pair in (
        _embedded(
            "tiny-qwen3",
            "Qwen3 classes; the student learned the teacher's wording and was stopped early",
        ),
        _embedded(
            "tiny-qwen2.5",
            "Qwen2 classes; the student words its steps otherwise than the teacher prefers",
        ),
    )
}


def pair_names() -> list[str]:
    """The names that `get_pair` knows, in the order in which they are listed."""
    return list(_PAIRS)


def get_pair(name: str) -> Pair:
    """The pair of this name, or the pair in a folder that holds `teacher/` and `student/`.

    Raises ConfigError for a folder that is not there, or an unknown name, with the nearest one.
    """
    if name in _PAIRS:
        return _PAIRS[name]
    folder = Path(name)
    if (folder / "teacher").is_dir() and (folder / "student").is_dir():
        teacher, student = str(folder / "teacher"), str(folder / "student")
        return Pair(name, teacher, student, "a local folder", facts=_facts(folder))
    if "/" in name:
        raise ConfigError(
            f"pair: {name!r} is no folder that holds teacher/ and student/; `bench pairs build` "
            "and `bench pairs retune` make one"
        )
    raise unknown_name("pair", name, _PAIRS)


def _facts(folder: Path) -> dict[str, float]:
    build = folder / "build.json"
    return json.loads(build.read_text()).get("facts", {}) if build.is_file() else {}
