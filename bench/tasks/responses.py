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
from typing import TYPE_CHECKING, Any

from bench.core.errors import ConfigError

if TYPE_CHECKING:
    from bench.core.processes import Processes

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
            together=processes if waits else ALONE,
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
    together: Processes,
) -> list[list[int]]:
    """Token ids after each prompt; a row's first stop token ends it, the rest is padding.

    Padded rows of the head, beyond the tokenizer's vocabulary, are no tokens: never generated.
    """
    from bench.core.decode import decode, greedy, keyed
    from bench.core.randomness import keyed_uniform
    from bench.core.sampling import Vocabulary

    vocabulary = Vocabulary(min(len(tokenizer), model.config.vocab_size))
    choose = greedy(vocabulary)
    if decoding.temperature > 0:
        shape = (len(keys), decoding.max_new_tokens)
        uniform_BT = keyed_uniform(decoding.seed, "evaluate", 0, keys, shape, device=model.device)
        choose = keyed(uniform_BT, vocabulary, decoding.temperature, decoding.top_p)
    found = decode(
        model, prompt_ids, decoding.max_new_tokens, choose, decoding.stop_ids, together=together
    )
    return [row.token_T.tolist() for row in found]


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
    """Evaluation mode; that and all random generators are put back as they were."""
    import numpy as np
    import torch

    from bench.core.processes import inner

    model = inner(model)
    was_training = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            model.eval()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, is_training in was_training:
            module.training = is_training
