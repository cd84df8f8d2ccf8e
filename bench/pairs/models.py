"""Models, tokenizers and pairs of them, read from files, and hashes of what those hold."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from bench.core.errors import ConfigError, is_out_of_memory
from bench.core.files import read_json
from bench.core.sampling import Vocabulary
from bench.core.sums import SUMS_FILE, refuse_changed
from bench.pairs.adapters import attach, base_of, is_adapter, weight_sharing_copy
from bench.pairs.agreement import (
    Agreement,
    id_set,
    pair_chat,
    pair_vocabulary,
    settle_stops,
    stop_ids,
)
from bench.pairs.pair import Pair


@dataclass(frozen=True)
class LoadedPair(Agreement):
    """A pair in memory."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    teacher_tokenizer: PreTrainedTokenizerBase
    student_revision: str | None = None
    """Of the student's files, where they are a hub model's."""


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
    stops = settle_stops(
        pair, stop_ids(student, student_tokenizer), stop_ids(teacher, tokenizers.teacher)
    )
    teacher.requires_grad_(False)
    chat = pair_chat(pair, student_tokenizer)
    return LoadedPair(
        student_tokenizer, vocabulary, *stops, chat, student, teacher, tokenizers.teacher,
        pair.student_revision,
    )  # fmt: skip


def read_agreement(pair: Pair) -> Agreement:
    """The checks of `load_pair` on tokenizers and stop tokens, without loading any weights."""
    tokenizers = load_tokenizers(pair)
    stops = settle_stops(
        pair,
        declared_stop_ids(pair.student, pair.student_revision, tokenizers.student),
        declared_stop_ids(pair.teacher, pair.teacher_revision, tokenizers.teacher),
    )
    chat = pair_chat(pair, tokenizers.student)
    return Agreement(tokenizers.student, tokenizers.vocabulary, *stops, chat)


def load_model(path: str, revision: str | None = None, *, merge: bool = True) -> PreTrainedModel:
    """A causal language model, float32, evaluation mode.

    A folder with an adapter gives its base model with the adapter merged into the weights, or, with
    `merge` False, beside them: the same up to rounding, and the same bits as in training.
    Raises ConfigError naming the path; also for files without some weight, which transformers would
    fill with random numbers, and for weights that are not finite.
    """
    transformers_logging.disable_progress_bar()
    _check_files(path)
    refuse_changed(
        Path(path).absolute().parent, f"{Path(path).absolute().name}/", f"model {path!r}",
        f"get it again, or delete {SUMS_FILE} above it if the change is meant",
    )  # fmt: skip
    if is_adapter(path):
        return _finite(attach(load_model(*base_of(path)), path, merge=merge), path)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path, dtype=torch.float32, revision=revision or "main", output_loading_info=True,
            trust_remote_code=False,
        )  # fmt: skip
    except Exception as error:  # each file of a stranger's model can be wrong in its own way
        raise _does_not_load("model", path, error) from error
    strange = [key for key in found["unexpected_keys"] if not key.endswith("rotary_emb.inv_freq")]
    if strange:
        shown = ", ".join(sorted(strange)[:3]) + (", …" if len(strange) > 3 else "")
        raise ConfigError(
            f"model {path!r} does not load: {type(model).__name__}, which config.json asks for, "
            f"has no place for {len(strange)} weights of its files ({shown})"
        )
    if absent := sorted(found["missing_keys"]):
        shown = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise ConfigError(
            f"model {path!r} does not load: its files lack {len(absent)} weights ({shown})"
        )
    return _finite(model.eval(), path)


def _finite(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The model. Raises ConfigError where a weight is NaN or infinite: it would answer nothing, and
    its accuracy of 0 would be a number like any other.
    """
    broken = [name for name, w in model.named_parameters() if not bool(w.isfinite().all())]
    if broken:
        shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        raise ConfigError(
            f"model {path!r} is broken: {len(broken)} weights hold NaN or infinity ({shown})"
        )
    return model


CONFIG_FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "adapter_config.json",
)  # fmt: skip
"""transformers takes a broken one of some of these for one that is not there."""
LFS = b"version https://git-lfs"


def _check_files(path: str) -> None:
    """Raise ConfigError where a folder's files say themselves why they will not load here."""
    folder = Path(path)
    if not folder.is_dir():
        return
    for file in _read_by_loaders(folder):
        try:
            with file.open("rb") as content:
                begins = content.read(len(LFS))
        except OSError as error:
            raise ConfigError(
                f"model {path!r} does not load: {file.name}: {error.strerror}"
            ) from error
        if begins == LFS:
            raise ConfigError(
                f"model {path!r} does not load: {file.name} is a Git LFS pointer and not the "
                "file; run `git lfs pull` in it"
            )
    for name in CONFIG_FILES:
        if (folder / name).is_file() and not isinstance(read_json(folder / name), dict):
            raise ConfigError(f"model {path!r} does not load: {name} holds no object")
    said = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if quantised := said.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ConfigError(
            f"model {path!r} is quantised ({method}): weights are trained and scored as float32 "
            "here; name the model it was made from"
        )


def _does_not_load(what: str, path: str, error: Exception) -> ConfigError:
    """The error of a file that does not load; raises MemoryError where that is not its fault."""
    if is_out_of_memory(error):
        raise MemoryError from error
    if Path(path).is_absolute() and not Path(path).exists():
        return ConfigError(f"{what} {path!r} does not exist")
    if "ignore_mismatched_sizes" in str(error):
        return ConfigError(
            f"{what} {path!r} does not load: its weights have other shapes than config.json says"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" :-=|")]
    reason = " ".join(lines[:2])[:300]
    return ConfigError(f"{what} {path!r} does not load: {type(error).__name__}: {reason}")


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises ConfigError naming the path."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision or "main", trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise _does_not_load("tokenizer", path, error) from error
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:
        # Without files, transformers makes an empty tokenizer of the model's class.
        raise ConfigError(f"tokenizer {path!r} has no vocabulary; is tokenizer.json missing?")
    return tokenizer


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
    except Exception as error:
        raise _does_not_load("model", path, error) from error
    try:
        config = AutoConfig.from_pretrained(
            path, revision=revision or "main", trust_remote_code=False
        )
    except Exception as error:
        raise _does_not_load("model", path, error) from error
    for found in (named, config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            return tuple(sorted(id_set(found)))
    raise ConfigError(f"model {path!r} names no stop token (eos_token_id)")


def content_sha256(path: str, revision: str | None = None) -> str:
    """Hash of all files of a local model folder but prose; of the name and revision for a hub id.

    Nothing is downloaded. `main` moves: what it was is in the run's record (`commit_of`).
    """
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256(f"{path}@{revision or 'main'}".encode()).hexdigest()
    files = _read_by_loaders(folder)
    stamps = tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)
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
    for file in _read_by_loaders(Path(path)):
        digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


TEMPLATES = "additional_chat_templates"
"""The one folder inside a model's that transformers reads."""


def _read_by_loaders(folder: Path) -> list[Path]:
    """The files of a model folder that some loader may read."""
    files = [*sorted(folder.iterdir()), *sorted((folder / TEMPLATES).glob("*"))]
    return [file for file in files if file.is_file() and not _is_prose(file)]


PROSE = (".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg")


def _is_prose(file: Path) -> bool:
    """A file of a model folder that no loader reads: hidden, a card, a licence, a picture."""
    name = file.name
    return name.startswith((".", "LICENSE", "NOTICE")) or file.suffix.lower() in PROSE
