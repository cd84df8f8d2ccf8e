"""Teacher-student pairs by name. A pair is two models that share a tokenizer."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.core.config import Experiment
from bench.core.errors import ConfigError, unknown_name
from bench.core.files import read_json

ASSETS = Path(__file__).parent / "assets"
ChatForm = Literal["auto", "template", "plain"]


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
    teacher_revision: str | None = None
    """Commit on the hub; None is whatever `main` is when it is loaded."""
    student_revision: str | None = None
    chat: ChatForm = "auto"
    """auto: through the student's chat template if its tokenizer has one, else plain text."""
    thinking: bool | None = None
    """Thinking mode of the template, for both sides; None for templates without one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its own values of Experiment fields: they hold wherever nothing else is given."""
    source: str = ""
    """The paper or audit that the pair serves."""
    baselines: Path | None = None
    """File of both models' scores before any training, where it ships beside them."""

    def __post_init__(self) -> None:
        if self.stop_ids and set(self.stop_ids) != {"student", "teacher"}:
            raise ConfigError(
                f"pair {self.name!r}: stop_ids has {sorted(self.stop_ids)}; it names the stop "
                "tokens of both 'student' and 'teacher'"
            )


TINY = {
    "prompts": "arithmetic",
    "prompts_per_step": 64,
    "max_new_tokens": 64,
    "learning_rate": 3e-4,
    "steps": 60,
    "dtype": "float32",
    "eval_tasks": ("tiny_math",),
}
"""What the embedded pairs are made for: the defaults of an experiment."""


def _embedded(name: str, summary: str) -> Pair:
    folder = ASSETS / name
    return Pair(
        name, str(folder / "teacher"), str(folder / "student"), summary, chat="plain",
        settings=TINY, baselines=folder / "baselines.json",
    )  # fmt: skip


ENDOFTEXT, IM_END = 151643, 151645
"""Qwen's `<|endoftext|>` and `<|im_end|>`."""
BOTH_STOPS = (ENDOFTEXT, IM_END)
REVISIONS = {
    "Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca",
    "Qwen/Qwen3-1.7B": "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e",
    "Qwen/Qwen3-1.7B-Base": "ea980cb0a6c2ae4b936e82123acc929f1cec04c1",
    "Qwen/Qwen3-4B": "1cfa9a7208912126459214e8b04321603b3df60c",
    "Qwen/Qwen3-4B-Instruct-2507": "cdbee75f17c01a7cc42f958dc650907174af0554",
    "Qwen/Qwen3-8B": "b968826d9c46dd6066d109eabc6255188de91218",
    "Qwen/Qwen3-14B": "40c069824f4251a91eefaf281ebe4c544efd3e18",
    "Qwen/Qwen2.5-0.5B-Instruct": "7ae557604adf67be50417f59c2c2f167def9a775",
    "Qwen/Qwen2.5-1.5B-Instruct": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
    "Qwen/Qwen2.5-3B": "3aab1f1954e9cc14eb9509a215f9e5ca08227a9b",
    "Qwen/Qwen2.5-7B-Instruct": "a09a35458c702b33eeacc393d103063234e8bc28",
    "Qwen/Qwen2.5-14B-Instruct": "cf98f3b3bbb457ad9e2bb7baf9a0125b6b88caa8",
    "Qwen/Qwen2.5-Math-1.5B": "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2",
    "Qwen/Qwen2.5-Math-7B": "b101308fe89651ea5ce025f25317fea6fc07e96e",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": "1df8507178afcc1bef68cd8c393f61a886323761",
}
"""Commits as public code pins them; no hub was reached to confirm that they are the newest."""

PROTOCOL = {
    "prompts": "dapo-math-17k",
    "prompts_per_step": 64,
    "max_new_tokens": 1024,
    "learning_rate": 1e-6,
    "steps": 200,
    "dtype": "bfloat16",
    "eval_tasks": ("math500", "aime24", "aime25"),
    "eval_max_new_tokens": 16384,
}
"""The small scale of published protocols: 64 responses a step, 1,024 tokens, lr 1e-6, 200 steps."""


def _hub(
    name: str,
    student: str,
    teacher: str,
    summary: str,
    source: str,
    *,
    stops: tuple[int, ...] = BOTH_STOPS,
    chat: ChatForm = "template",
    thinking: bool | None = None,
    **settings: Any,
) -> Pair:
    return Pair(
        name, teacher, student, summary,
        stop_ids={"student": stops, "teacher": stops},
        teacher_revision=REVISIONS[teacher], student_revision=REVISIONS[student],
        chat=chat, thinking=thinking, settings={**PROTOCOL, **settings}, source=source,
    )  # fmt: skip


def _qwen3(student: str, teacher: str, source: str, **settings: Any) -> Pair:
    name = f"qwen3-{student.lower()}-from-{teacher.lower()}"
    return _hub(
        name, f"Qwen/Qwen3-{student}", f"Qwen/Qwen3-{teacher}",
        "hybrid models, thinking off on both sides", source, thinking=False, **settings,
    )  # fmt: skip


def _qwen25(student: str, teacher: str, source: str, **settings: Any) -> Pair:
    name = f"qwen2.5-{student.lower()}-from-{teacher.lower()}"
    return _hub(
        name, f"Qwen/Qwen2.5-{student}-Instruct", f"Qwen/Qwen2.5-{teacher}-Instruct",
        "Instruct models", source, **settings,
    )  # fmt: skip


UNDER_1B = {"learning_rate": 5e-7}
TA_OPD = "TA-OPD, arXiv 2605.26844"

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
        _qwen3("0.6B", "1.7B", "the smallest hybrid pair, for a first run", **UNDER_1B),
        _qwen3("0.6B", "4B", "DIAL-OPD, arXiv 2610.11659: TA-OPD collapses here", **UNDER_1B),
        _qwen3("1.7B", "4B", f"{TA_OPD}; re-run by CROP, arXiv 2608.13387"),
        _qwen3("1.7B", "8B", "DIAL-OPD, arXiv 2610.11659: TA-OPD leads here"),
        _qwen3("4B", "8B", f"{TA_OPD} with a GRPO-trained 8B: give that as --teacher"),
        _qwen3("4B", "14B", TA_OPD),
        _hub("qwen3-1.7b-base-from-4b-instruct-2507", "Qwen/Qwen3-1.7B-Base",
             "Qwen/Qwen3-4B-Instruct-2507",
             "base student, non-thinking teacher; both stop on <|endoftext|> and <|im_end|>",
             "base students: whether selection matters more before instruction tuning"),
        _qwen25("0.5B", "1.5B", "the smallest Instruct pair, for a first run", **UNDER_1B),
        _qwen25("1.5B", "7B", "unequal padded vocabularies: 151,936 and 152,064 logits"),
        _qwen25("1.5B", "14B", "a large gap in size at equal wording"),
        _hub("qwen2.5-3b-from-r1-distill-14b", "Qwen/Qwen2.5-3B",
             "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
             "the teacher renames ids 151643-151649: plain text prompts, and of those ids only "
             "the stop, 151643, stays in the vocabulary",
             TA_OPD, stops=(ENDOFTEXT,), chat="plain"),
        _hub("qwen2.5-math-1.5b-from-math-7b", "Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-7B",
             "base maths models of 4,096 positions; both stop on <|endoftext|> and <|im_end|>",
             "a specialist pair of one training recipe", eval_max_new_tokens=3072),
    )
}  # fmt: skip


def pair_names() -> list[str]:
    """The names that `get_pair` knows, in the order in which they are listed."""
    return list(_PAIRS)


def embedded_pair_names() -> list[str]:
    """The pairs that ship inside the package."""
    return [name for name, pair in _PAIRS.items() if Path(pair.teacher).is_relative_to(ASSETS)]


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
    if not build.is_file():
        return {}
    said = read_json(build)
    facts = said.get("facts", {}) if isinstance(said, dict) else None
    if not isinstance(facts, dict) or not all(
        type(value) in (int, float) and math.isfinite(value) for value in facts.values()
    ):
        raise ConfigError(f"{str(build)!r} is damaged: facts {facts!r} are no names with numbers")
    return facts


def pair_of(experiment: Experiment) -> Pair:
    """The experiment's pair: the named one, with the models and settings given instead of its own.

    With both `teacher` and `student` given, `pair` is only a label. Raises ConfigError for a model
    that is neither a folder nor a hub id.
    """
    teacher, student = experiment.teacher, experiment.student
    if teacher is not None and student is not None:
        pair = Pair(experiment.pair, teacher, student, "made on the spot")
    else:
        pair = get_pair(experiment.pair)
    for side, given in (("teacher", teacher), ("student", student)):
        if given is not None:
            place, revision = _place(side, given)
            pair = replace(pair, **{side: place, f"{side}_revision": revision})
    if experiment.stop_ids:
        stops = tuple(sorted(set(experiment.stop_ids)))
        pair = replace(pair, stop_ids={"student": stops, "teacher": stops})
    if experiment.chat != "pair":
        pair = replace(pair, chat=experiment.chat)
    if experiment.thinking != "pair":
        pair = replace(pair, thinking=experiment.thinking == "on")
    return pair


def settings_of(experiment: Experiment) -> Mapping[str, Any]:
    """What the experiment's named pair sets; nothing of a folder, or of two models given."""
    if experiment.pair not in _PAIRS or (experiment.teacher and experiment.student):
        return {}
    return _PAIRS[experiment.pair].settings


def alone(model: str, experiment: Experiment) -> Pair:
    """A single model as its own pair, with the experiment's stops, chat and thinking mode."""
    own = experiment.model_copy(update={"teacher": model, "student": model})
    return pair_of(own)


def label_of(teacher: str, student: str) -> str:
    """The name of a pair made on the spot."""
    names = [Path(place.partition("@")[0]).name.lower() for place in (student, teacher)]
    return "-from-".join(names)


def _place(side: str, given: str) -> tuple[str, str | None]:
    """(folder, None), or (hub id, revision) of owner/name[@revision]."""
    if Path(given).is_dir():
        return given, None
    found = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?", given)
    if not found:
        raise ConfigError(
            f"{side}: {given!r} is no folder here and no hub id (owner/name, owner/name@revision)"
        )
    return found[1], found[2]
