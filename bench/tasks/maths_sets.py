"""Public maths sets by name: problems with their gold answers, read from the data files.

Only `fetch` downloads, which `bench data fetch` calls.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.core.config import INSTRUCTION
from bench.core.errors import ConfigError, unknown_name
from bench.core.files import written_whole
from bench.tasks.answers import boxed_answer, marked_answer
from bench.tasks.data_files import data_folder, find_file, missing, read_rows
from bench.tasks.row_fields import QUESTION_COLUMNS, gold_answer, question_text

DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
DAPO_AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'

Row = Mapping[str, Any]
Role = Literal["train", "evaluation"]


@dataclass(frozen=True)
class MathProblem:
    """A problem without any instruction, and its gold answer."""

    id: str
    question: str
    answer: str
    absolute: float | None = None
    """Absolute tolerance between numbers, where the set states one."""
    paraphrase: str | None = None
    """The question in other words, where a prompt file has a column of them."""
    one_change: str | None = None
    """The question with one condition changed, likewise."""


@dataclass(frozen=True)
class MathSet:
    """Where a set comes from and how its rows are read."""

    name: str
    role: Role
    hub: str
    """Repository on the Hugging Face hub."""
    config: str | None
    split: str
    licence: str
    answer: Callable[[Row], str]
    prefix: str
    """Of the ids of its problems."""


def _text(row: Row, *columns: str) -> str:
    for column in columns:
        if row.get(column) is not None:
            return str(row[column])
    raise KeyError(columns[0])


def _plain(row: Row) -> str:
    return _text(row, "answer", "final_answer")


def _whole(row: Row) -> str:
    """An integer, which files also write as 27.0 or 025."""
    text = _plain(row)
    value = float(text)
    return str(int(value)) if value.is_integer() else text


def _marked(row: Row) -> str:
    return marked_answer(_text(row, "answer")) or ""


MINERVA_REPAIRS = {"np.arcsin(10/13)": r"\arcsin(10/13)", "-1./3": "-1/3", "-3./2": "-3/2"}
"""Golds written in Python."""


def _in_solution(row: Row) -> str:
    gold = row.get("answer") or boxed_answer(_text(row, "solution")) or ""
    # One gold reads "… t)+$ $\dot x …": two formulas in the solution's text, one answer.
    gold = re.sub(r"\$\s*\$", "", str(gold)).strip()
    return MINERVA_REPAIRS.get(gold, gold)


OLYMPIAD_REPAIRS = {"$221,$8$": "221,8", "$t(0,4]$": "(0,4]"}
"""Golds with a slip of the pen."""


def _final(row: Row) -> str:
    answers = row["final_answer"]
    if isinstance(answers, str):
        answers = json.loads(answers) if answers.startswith('["') else [answers.strip("[]'")]
    texts = [OLYMPIAD_REPAIRS.get(text, text) for text in map(str, answers)]
    # Several answers are written "$a$,$b$": the inner dollars only separate formulas.
    return ", ".join(text.replace("$", "").rstrip(". ") for text in texts)


def _rewarded(row: Row) -> str:
    return gold_answer(row, ["reward_model.ground_truth"])


def _set(
    name: str, role: Role, hub: str, split: str, licence: str, answer: Callable[[Row], str],
    config: str | None = None, prefix: str = "",
) -> MathSet:  # fmt: skip
    return MathSet(name, role, hub, config, split, licence, answer, prefix or name)


MATH_SETS: dict[str, MathSet] = {
    found.name: found
    for found in (
        _set("dapo-math-17k", "train", "BytedTsinghua-SIA/DAPO-Math-17k", "train", "Apache-2.0",
             _rewarded),
        _set("gsm8k-train", "train", "openai/gsm8k", "train", "MIT", _marked, "main"),
        _set("math-train", "train", "DigitalLearningGmbH/MATH-lighteval", "train", "MIT",
             _in_solution),
        _set("deepscaler", "train", "agentica-org/DeepScaleR-Preview-Dataset", "train", "MIT",
             _plain),
        _set("deepmath", "train", "zwhe99/DeepMath-103K", "train", "MIT", _plain),
        _set("gsm8k", "evaluation", "openai/gsm8k", "test", "MIT", _marked, "main"),
        _set("math500", "evaluation", "HuggingFaceH4/MATH-500", "test", "MIT", _plain),
        _set("aime24", "evaluation", "HuggingFaceH4/aime_2024", "train", "problems © MAA", _whole),
        _set("aime25", "evaluation", "math-ai/aime25", "test", "problems © MAA", _whole),
        _set("amc23", "evaluation", "math-ai/amc23", "test", "problems © MAA", _whole),
        _set("minerva_math", "evaluation", "math-ai/minervamath", "test", "research use",
             _in_solution, prefix="minerva"),
        _set("olympiadbench", "evaluation", "Hothan/OlympiadBench", "train", "Apache-2.0", _final,
             "OE_TO_maths_en_COMP"),
    )
}  # fmt: skip
TRAINING_NAMES = {"gsm8k": "gsm8k-train", "math": "math-train"}
"""What `--prompts` calls the training half of a set that is also evaluated on."""


def get_math_set(name: str) -> MathSet:
    """The set of this name. Raises ConfigError for an unknown one, with the nearest."""
    if name not in MATH_SETS:
        raise unknown_name("data set", name, MATH_SETS)
    return MATH_SETS[name]


def read_math_set(name: str) -> list[MathProblem]:
    """Every problem of a set, in the file's order.

    Raises ConfigError where the file is missing, saying how to get it, or a row cannot be read.
    """
    found = get_math_set(name)
    path = find_file(name)
    if path is None:
        raise ConfigError(missing(name))
    problems = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            question, answer = question_of(row, QUESTION_COLUMNS), found.answer(row)
            absolute = float(row["error"]) if row.get("error") else None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}: row {number} is not one of {name!r}: {type(error).__name__}: {error}; "
                f"it has {', '.join(row)}"
            ) from None
        if not answer.strip() and found.role == "evaluation":
            raise ConfigError(f"{path}: row {number} of {name!r} has no gold answer")
        problems.append(MathProblem(problem_id(found.prefix, question), question, answer, absolute))
    return problems


def question_of(row: Row, columns: Iterable[str]) -> str:
    """The problem alone: from text or chat messages, without the instruction around it.

    Raises KeyError where no column is there.
    """
    return strip_instruction(question_text(row, columns))


def strip_instruction(text: str) -> str:
    """The problem without the instructions that these sets are published with."""
    text = text.removeprefix(DAPO_BEFORE).removesuffix(DAPO_AFTER)
    return text.strip().removesuffix(INSTRUCTION).strip()


def normalised(question: str) -> str:
    """What decides that two prompts are one: case, spacing and Unicode form aside."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def problem_id(prefix: str, question: str) -> str:
    """Stable under reordering, renaming of columns and other rows: a hash of the problem."""
    return f"{prefix}-{hashlib.sha256(normalised(question).encode()).hexdigest()[:12]}"


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(name: str, config: str | None = None, split: str = "train") -> Path:
    """Download a named set, or any hub data set, into the data folder; returns its file.

    The only place that downloads data. A file that is there stays: a named set is left as it is.
    Raises ConfigError for another data set that has a file (of which split, it does not say), when
    HF_HUB_OFFLINE is set, or when the hub does not give it.
    """
    if name in MATH_SETS:
        found = MATH_SETS[name]
        hub, config, split, stem = found.hub, found.config, found.split, name
    elif HUB_ID.fullmatch(name):
        hub, stem = name, name.replace("/", "--")
    else:
        raise unknown_name("data set", name, MATH_SETS)
    if (there := find_file(stem)) is not None:
        if name in MATH_SETS:
            return there
        raise ConfigError(
            f"data set {name!r} is not fetched: {str(there)!r} is there; move it to fetch another"
        )
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigError(f"data set {name!r} is not fetched: HF_HUB_OFFLINE is set")
    import datasets

    path = data_folder() / f"{stem}.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = datasets.load_dataset(hub, config, split=split)
        with written_whole(path) as temporary:
            rows.to_parquet(str(temporary))
    except Exception as error:  # the hub, the network and the disk each raise their own
        raise ConfigError(
            f"data set {name!r} could not be fetched from {hub!r}: {type(error).__name__}: {error}"
        ) from error
    return path
