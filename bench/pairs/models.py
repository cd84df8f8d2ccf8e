"""Loading models, and what a teacher and a student must agree on: tokenizer, vocabulary, stops."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from bench.core.errors import ConfigError
from bench.core.sampling import Vocabulary
from bench.pairs.adapters import attach, base_of, is_adapter, weight_sharing_copy
from bench.pairs.pair import Pair
from bench.tasks.chat import Chat


@dataclass(frozen=True)
class LoadedPair:
    """A pair in memory."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    student_stop_ids: tuple[int, ...]
    teacher_stop_ids: tuple[int, ...]
    chat: Chat
    teacher_tokenizer: PreTrainedTokenizerBase
    student_revision: str | None = None
    """Of the student's files, where they are a hub model's."""

    @property
    def stops_agree(self) -> bool:
        """Where they do not, the stop position leaves the mask."""
        return set(self.student_stop_ids) == set(self.teacher_stop_ids)


@dataclass(frozen=True)
class Tokenizers:
    """Those of a pair, and the ids that they share."""

    student: PreTrainedTokenizerBase
    teacher: PreTrainedTokenizerBase
    vocabulary: Vocabulary


def load_tokenizers(pair: Pair) -> Tokenizers:
    """Raises ConfigError for files that are missing or broken, and for tokenizers that differ."""
    student = load_tokenizer(pair.student, pair.student_revision)
    teacher = load_tokenizer(pair.teacher, pair.teacher_revision)
    return Tokenizers(student, teacher, pair_vocabulary(pair, student, teacher))


def load_pair(
    pair: Pair, tokenizers: Tokenizers | None = None, *, one_model: bool = False
) -> LoadedPair:
    """Both models in float32, checked against each other.

    `one_model`: the teacher is the student as it is now, on the same parameters, for a student that
    gets adapters and whose teacher has the same files.
    Raises ConfigError for files that are missing or broken, tokenizers that differ, or stop tokens
    that differ without the pair declaring them.
    """
    student = load_model(pair.student, pair.student_revision)
    if one_model:
        teacher = weight_sharing_copy(student)
    else:
        teacher = load_model(pair.teacher, pair.teacher_revision)
    tokenizers = tokenizers or load_tokenizers(pair)
    student_tokenizer, vocabulary = tokenizers.student, tokenizers.vocabulary
    for side, model in (("student", student), ("teacher", teacher)):
        if model.config.vocab_size < vocabulary.size:
            raise ConfigError(
                f"pair {pair.name!r}: the {side} has {model.config.vocab_size} logits for a "
                f"tokenizer of {vocabulary.size} ids"
            )
    student_stops, teacher_stops = _settle_stops(
        pair, stop_ids(student, student_tokenizer), stop_ids(teacher, tokenizers.teacher)
    )
    teacher.requires_grad_(False)
    return LoadedPair(
        student,
        teacher,
        student_tokenizer,
        vocabulary,
        student_stops,
        teacher_stops,
        pair_chat(pair, student_tokenizer),
        tokenizers.teacher,
        pair.student_revision,
    )


@dataclass(frozen=True)
class Agreement:
    """What the two sides of a pair share, read from their files without loading any weights."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    student_stop_ids: tuple[int, ...]
    teacher_stop_ids: tuple[int, ...]
    chat: Chat

    @property
    def stops_agree(self) -> bool:
        return set(self.student_stop_ids) == set(self.teacher_stop_ids)


def read_agreement(pair: Pair) -> Agreement:
    """The checks of `load_pair` on tokenizers and stop tokens, for models loaded one at a time."""
    tokenizers = load_tokenizers(pair)
    stops = _settle_stops(
        pair,
        declared_stop_ids(pair.student, pair.student_revision, tokenizers.student),
        declared_stop_ids(pair.teacher, pair.teacher_revision, tokenizers.teacher),
    )
    chat = pair_chat(pair, tokenizers.student)
    return Agreement(tokenizers.student, tokenizers.vocabulary, *stops, chat)


def _settle_stops(
    pair: Pair, student: tuple[int, ...], teacher: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stop ids of both sides: what the pair declares, else what their files say."""
    if pair.stop_ids:
        return tuple(pair.stop_ids["student"]), tuple(pair.stop_ids["teacher"])
    if set(student) != set(teacher):
        raise ConfigError(
            f"pair {pair.name!r}: the student stops on {student}, the teacher on "
            f"{teacher}; make them equal or declare stop_ids for both in the pair"
        )
    return student, teacher


def pair_chat(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> Chat:
    """How the pair's problems are put to both models: through the student's tokenizer."""
    has_template = bool(tokenizer.chat_template)
    return Chat(pair.chat == "template" or (pair.chat == "auto" and has_template), pair.thinking)


def pair_vocabulary(
    pair: Pair, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> Vocabulary:
    """The shared vocabulary, in which the pair's declared common stop tokens stay.

    R1-distilled Qwen calls id 151643 otherwise than Qwen does; both mean the end by it.
    """
    found = shared_vocabulary(pair.name, student, teacher)
    common = set(pair.stop_ids.get("student", ())) & set(pair.stop_ids.get("teacher", ()))
    size = max([found.size, *(stop + 1 for stop in common if stop < len(student))])
    dropped = set(range(found.size, size)) | set(found.excluded_ids)
    return Vocabulary(size, tuple(sorted(dropped - common)))


def load_model(path: str, revision: str | None = None, *, merge: bool = True) -> PreTrainedModel:
    """A causal language model, float32, evaluation mode.

    A folder with an adapter gives its base model with the adapter merged into the weights, or, with
    `merge` False, beside them: the same up to rounding, and the same bits as in training.
    Raises ConfigError naming the path; also for files without some weight, which transformers would
    fill with random numbers.
    """
    transformers_logging.disable_progress_bar()
    if is_adapter(path):
        return attach(load_model(*base_of(path)), path, merge=merge)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path, dtype=torch.float32, revision=revision or "main", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise _does_not_load("model", path, error) from error
    if absent := sorted(found["missing_keys"]):
        shown = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise ConfigError(
            f"model {path!r} does not load: its files lack {len(absent)} weights ({shown})"
        )
    return model.eval()


def _does_not_load(what: str, path: str, error: Exception) -> ConfigError:
    if Path(path).is_absolute() and not Path(path).exists():
        return ConfigError(f"{what} {path!r} does not exist")
    reason = str(error).splitlines()[0] if str(error) else ""
    return ConfigError(f"{what} {path!r} does not load: {type(error).__name__}: {reason}")


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises ConfigError naming the path."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main")
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise _does_not_load("tokenizer", path, error) from error
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:
        # Without files, transformers makes an empty tokenizer of the model's class.
        raise ConfigError(f"tokenizer {path!r} has no vocabulary; is tokenizer.json missing?")
    return tokenizer


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens a model stops on: its generation config, else its config, else its tokenizer."""
    for found in own_stop_ids(model, tokenizer).values():
        return tuple(sorted(found))
    raise ConfigError(f"model {model.name_or_path!r} names no stop token (eos_token_id)")


def declared_stop_ids(
    path: str, revision: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """`stop_ids` from the configuration files alone."""
    if is_adapter(path):
        return declared_stop_ids(*base_of(path), tokenizer)
    try:
        generation = GenerationConfig.from_pretrained(path, revision=revision or "main")
        named = generation.eos_token_id
    except OSError:
        named = None  # a model without a generation config takes its model config's
    try:
        config = AutoConfig.from_pretrained(path, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise _does_not_load("model", path, error) from error
    for found in (named, config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return tuple(sorted({found} if isinstance(found, int) else set(map(int, found))))
    raise ConfigError(f"model {path!r} names no stop token (eos_token_id)")


def own_stop_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, frozenset[int]]:
    """Where a model's files name stop tokens, and which; the first counts."""
    generation = model.generation_config
    named = {
        "generation config": generation.eos_token_id if generation is not None else None,
        "config": model.config.eos_token_id,
        "tokenizer": tokenizer.eos_token_id,
    }
    return {
        where: frozenset({found} if isinstance(found, int) else map(int, found))
        for where, found in named.items()
        if found is not None
    }


def shared_vocabulary(
    pair: str, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> Vocabulary:
    """The ids both tokenizers share. Raises ConfigError where base vocabulary or merges differ."""
    student_base, student_added = _vocabulary(student)
    teacher_base, teacher_added = _vocabulary(teacher)
    for part in ("vocab", "merges"):
        if student_base.get(part) != teacher_base.get(part):
            raise ConfigError(
                f"pair {pair!r}: teacher and student tokenizers differ in their {part} "
                f"({len(teacher_base.get(part) or ())} and {len(student_base.get(part) or ())} "
                "entries); distillation compares token by token and needs one tokenizer"
            )
    added = {**student_added, **teacher_added}
    differ = {i for i in added if student_added.get(i) != teacher_added.get(i)}
    size = max({*_ids(student_base["vocab"]), *added} - differ) + 1
    return Vocabulary(size, tuple(sorted(i for i in differ if i < size)))


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], dict[int, str]]:
    """(the model section of tokenizer.json, added tokens by id)."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    return whole["model"], {token["id"]: token["content"] for token in whole["added_tokens"]}


def _ids(vocab: Any) -> list[int]:
    return list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))


def content_sha256(path: str, revision: str | None = None) -> str:
    """Hash of a local model folder's files; of the name and revision for a hub id.

    Nothing is downloaded. `main` moves: what it was is in the run's record (`commit_of`).
    """
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256(f"{path}@{revision or 'main'}".encode()).hexdigest()
    stamps = tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in folder.iterdir())
    found = _content_sha256(path, tuple(sorted(stamps)))
    if is_adapter(path):
        found = hashlib.sha256(f"{found}{content_sha256(*base_of(path))}".encode()).hexdigest()
    return found


def commit_of(model: PreTrainedModel) -> str | None:
    """The hub commit that a model was loaded from; None for a folder."""
    return getattr(model.config, "_commit_hash", None)


@cache
def _content_sha256(path: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """`stamps` make a changed folder a new question; a sweep asks the old one 600 times."""
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".txt", ".model"}:
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
