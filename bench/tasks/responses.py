"""Prompts -> responses for evaluation: greedy or sampled, every decoding setting explicit.

torch is imported where it is used: the command line names tasks without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.core.errors import ConfigError

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Decoding:
    """Everything generation depends on, besides model and prompts."""

    stop_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.stop_ids:
            raise ConfigError(
                "stop_ids: none given; without one every response counts as truncated"
            )
        for name in ("batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name}: {value} is not accepted: 1 or more")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature: {self.temperature} is not accepted: 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p} is not accepted: above 0, at most 1")


@dataclass(frozen=True)
class Response:
    """What a model answered."""

    text: str
    """Before the stop token."""
    tokens: int
    """The stop token counts, as it does in a rollout's mask."""
    is_truncated: bool
    """Reached max_new_tokens without a stop token."""


def respond(
    model: Any,
    tokenizer: Any,
    decoding: Decoding,
    report: Report,
    prompts: Sequence[str],
    keys: Sequence[str],
    processes: Any = None,
) -> list[Response]:
    """One response per prompt, in order; the longest prompts are answered first.

    A sampled response is a function of the seed and its key, whatever the batch. With several
    `processes` (bench.core.processes.Processes) each answers its share, and gets all answers.
    """
    import torch

    from bench.core.processes import ALONE, is_sharded, run

    processes = processes or ALONE
    prompt_ids = tokenizer(
        list(prompts), add_special_tokens=False, padding=False, truncation=False
    )["input_ids"]
    longest_first = sorted(range(len(prompts)), key=lambda row: -len(prompt_ids[row]))
    rows = longest_first[processes.index :: processes.size]
    waits = is_sharded(model)
    batches = -(-len(rows) // decoding.batch_size)
    own: dict[int, list[int]] = {}
    report(0, len(rows))
    for number in range(processes.most(batches) if waits else batches):
        batch = rows[number * decoding.batch_size :][: decoding.batch_size]
        asked = batch or longest_first[:1]  # a surplus batch of sharded models: all run as many
        generate = partial(
            _generate, tokenizer=tokenizer, decoding=decoding,
            prompt_ids=[prompt_ids[row] for row in asked], keys=[keys[row] for row in asked],
            waits=waits,
        )  # fmt: skip
        with torch.no_grad():  # else DDP would prepare a backward pass, together with all others
            own.update(zip(batch, run(model, generate), strict=False))
        report(len(own), len(rows))
    found = dict(processes.join_objects(list(own.items())))
    return [_read(tokenizer, found[row], decoding) for row in range(len(prompts))]


def _generate(
    model: Any,
    tokenizer: Any,
    decoding: Decoding,
    prompt_ids: list[list[int]],
    keys: list[str],
    waits: bool,
) -> list[list[int]]:
    """Token ids after each prompt; a row's first stop token ends it, the rest is padding.
    `waits` for the other processes that hold a part of the model.

    Padded rows of the head, beyond the tokenizer's vocabulary, are no tokens: never generated.
    """
    import torch

    pad_id = decoding.stop_ids[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    width = max(len(ids) for ids in prompt_ids)
    padded = [[pad_id] * (width - len(ids)) + ids for ids in prompt_ids]
    is_prompt = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    if decoding.temperature == 0:
        beyond = list(range(len(tokenizer), model.config.vocab_size))
        choice: dict[str, Any] = {"suppress_tokens": beyond or None}
    else:
        choice = {"logits_processor": _sampler(model, len(tokenizer), decoding, keys)}
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(is_prompt, device=model.device),
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stop_ids),
        pad_token_id=pad_id,
        do_sample=False,  # where it samples, KeyedSampler has left one token possible
        num_beams=1,
        repetition_penalty=1.0,
        use_cache=True,
        synced_gpus=waits,
        **choice,
    )
    return output[:, width:].tolist()


def _sampler(model: Any, vocabulary: int, decoding: Decoding, keys: list[str]) -> list[Any]:
    from bench.core.randomness import keyed_uniform
    from bench.core.sampling import KeyedSampler, Vocabulary

    shape = (len(keys), decoding.max_new_tokens)
    uniform_BT = keyed_uniform(decoding.seed, "evaluate", 0, keys, shape, device=model.device)
    shared = Vocabulary(min(vocabulary, model.config.vocab_size))
    return [KeyedSampler(uniform_BT, shared, decoding.temperature, decoding.top_p)]


def _read(tokenizer: Any, token_ids: list[int], decoding: Decoding) -> Response:
    stops = (place for place, token in enumerate(token_ids) if token in decoding.stop_ids)
    stop = next(stops, None)
    # Special tokens stay visible: dropping one could glue two numbers together.
    text = tokenizer.decode(
        token_ids[:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    tokens = len(token_ids) if stop is None else stop + 1
    return Response(text=text, tokens=tokens, is_truncated=stop is None)


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Evaluation mode and an empty generation_config; those and all random generators are put back.

    `generate` fills whatever a caller leaves unset from the model's own generation_config.
    """
    import numpy as np
    import torch

    from bench.core.processes import inner

    model = inner(model)
    was_training = [(module, module.training) for module in model.modules()]
    generation_config = model.generation_config
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            model.eval()
            model.generation_config = type(generation_config)()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        model.generation_config = generation_config
        for module, is_training in was_training:
            module.training = is_training
