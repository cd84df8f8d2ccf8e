"""What a teacher and a student must agree on: vocabulary, stop tokens, form of the problems."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.core.errors import ConfigError
from bench.core.sampling import Vocabulary
from bench.pairs.pair import Pair
from bench.tasks.chat import Chat


@dataclass(frozen=True)
class Agreement:
    """What the two sides of a pair share."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    student_stop_ids: tuple[int, ...]
    teacher_stop_ids: tuple[int, ...]
    chat: Chat

    @property
    def stops_agree(self) -> bool:
        """Where they do not, the stop position leaves the mask."""
        return set(self.student_stop_ids) == set(self.teacher_stop_ids)

    def with_one_stop(self) -> Self:
        """The same, where every stop token of either side ends a response and all count as one.

        Raises ConfigError where there is only one.
        """
        stops = tuple(sorted({*self.student_stop_ids, *self.teacher_stop_ids}))
        excluded = set(self.vocabulary.excluded_ids)
        shared = tuple(s for s in stops if s < self.vocabulary.size and s not in excluded)
        if len(shared) < 2:
            raise ConfigError(
                f"stop_class: 'one' is not accepted: of the stop tokens {list(stops)}, both models "
                f"have {list(shared)} alone; name more with --stop-ids, or leave it out"
            )
        vocabulary = replace(self.vocabulary, stop_class=shared)
        return replace(self, vocabulary=vocabulary, student_stop_ids=stops, teacher_stop_ids=stops)


def settle_stops(
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


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens a model stops on: its generation config, else its config, else its tokenizer."""
    for found in own_stop_ids(model, tokenizer).values():
        return tuple(sorted(found))
    raise ConfigError(f"model {model.name_or_path!r} names no stop token (eos_token_id)")


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
    return {where: id_set(found) for where, found in named.items() if found is not None}


def id_set(named: int | Iterable[Any]) -> frozenset[int]:
    """The ids that a field of a configuration names: one, or several. Raises ConfigError."""
    try:
        return frozenset([named] if isinstance(named, int) else map(int, named))
    except (TypeError, ValueError):
        raise ConfigError(f"eos_token_id: {named!r} names no token: a number or a list") from None


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
