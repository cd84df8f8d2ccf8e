"""Tokens per second of sampling ragged responses, three ways that sample the same tokens.

    python tests/benchmarks/rollout.py [--rounds 5]

`ours` is bench.train.rollout (finished rows leave the batch every 8 positions), `generate` is
transformers' own loop, `continuous` its continuous batching, both with our keyed sampling; `kept`
is ours with the hidden states kept. They alternate round by round, so that a noisy machine
disturbs all of them alike; medians, and the ratio of each to `generate` with its spread. The stop
tokens are made likely by declaring every nth id one, which gives lengths with a long tail.

Continuous batching takes no logits processor from a caller, so this one replaces the method that
builds them and adds to the table that turns them into per-request ones; such a processor is told
the request and the position of each logit, which is all that keyed sampling needs.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from keyed_sampler import KeyedSampler
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.generation.continuous_batching.cb_logits_processors import (
    CLASSIC_TO_CB_PROCESSORS_MAP,
    ContinuousBatchingLogitsProcessor,
)
from transformers.utils import logging

from bench.core.decode import decode, keyed
from bench.core.randomness import keyed_uniform
from bench.core.sampling import Vocabulary, sample_tokens
from bench.pairs.models import load_pair
from bench.pairs.pair import get_pair

PAGE = 64


@dataclass(frozen=True)
class Work:
    name: str
    model: PreTrainedModel
    vocabulary: Vocabulary
    prompts: list[list[int]]
    uniform_BT: Tensor
    stop_ids: tuple[int, ...]

    def decoding(self, **extra) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=self.uniform_BT.shape[1], use_cache=True,
            eos_token_id=list(self.stop_ids), pad_token_id=self.stop_ids[0], **extra,
        )  # fmt: skip


def work(name, model, vocabulary, *, responses, length, every) -> Work:
    """Random prompts of 10 to 29 tokens; every nth id stops a response."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(10, 30, (responses,), generator=generator).tolist()
    prompts = [torch.randint(5, 600, (n,), generator=generator).tolist() for n in sizes]
    uniform_BT = keyed_uniform(0, "rollout", 0, None, (responses, length))
    stops = tuple(range(0, vocabulary.size, every))
    return Work(name, model, vocabulary, prompts, uniform_BT, stops)


def embedded(responses: int, length: int, every: int) -> Work:
    pair = load_pair(get_pair("tiny-qwen3"))
    return work(
        f"tiny-qwen3, {responses} x {length}", pair.student, pair.vocabulary,
        responses=responses, length=length, every=every,
    )  # fmt: skip


def qwen_vocabulary(responses: int, length: int, every: int) -> Work:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        initializer_range=0.2,
    )  # fmt: skip
    return work(
        f"151,936 ids, {responses} x {length}", Qwen3ForCausalLM(config).eval(),
        Vocabulary(151_669), responses=responses, length=length, every=every,
    )  # fmt: skip


def ours(w: Work, keeps_hidden: bool = False) -> list[list[int]]:
    choose = keyed(w.uniform_BT, w.vocabulary, 1.0, 1.0)
    length = w.uniform_BT.shape[1]
    responses = decode(w.model, w.prompts, length, choose, w.stop_ids, keeps_hidden=keeps_hidden)
    return [response.token_T.tolist() for response in responses]


def generate(w: Work) -> list[list[int]]:
    longest = max(map(len, w.prompts))
    rows = [[w.stop_ids[0]] * (longest - len(ids)) + ids for ids in w.prompts]
    real = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in w.prompts]
    output_BL = w.model.generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(real),
        generation_config=w.decoding(),
        logits_processor=LogitsProcessorList([KeyedSampler(w.uniform_BT, w.vocabulary, 1.0)]),
    )
    return output_BL[:, longest:].tolist()


class ContinuousSampler(ContinuousBatchingLogitsProcessor):
    """KeyedSampler for rows that come and go: told the uniform number of each row's next token."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012  (as its base class declares it)
    ignored_kwargs = ()

    def __init__(self, processor: "Marker"):
        self.w = processor.w
        self.row: dict[str, int] = {}

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token) -> Tensor:
        states = [request.state for request in requests_with_new_token]
        rows = [self.row.setdefault(state.request_id, len(self.row)) for state in states]
        uniform = [
            self.w.uniform_BT[row, len(state.generated_tokens)]
            for row, state in zip(rows, states, strict=True)
        ]
        return torch.tensor(uniform, dtype=torch.float32).view(torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        uniform_B = tensor_arg[: len(scores)].view(torch.float32)
        token_B, _ = sample_tokens(scores, uniform_B, self.w.vocabulary, 1.0)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_B[:, None], 0.0)


class Marker(LogitsProcessor):
    """What continuous batching replaces by a ContinuousSampler."""

    def __init__(self, w: Work):
        self.w = w


CLASSIC_TO_CB_PROCESSORS_MAP[Marker] = ContinuousSampler


def continuous(w: Work) -> list[list[int]]:
    whole = max(map(len, w.prompts)) + w.uniform_BT.shape[1]
    settings = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=len(w.prompts) * (whole // PAGE + 2), max_batch_tokens=2048,
        max_requests_per_batch=len(w.prompts), per_request_processors=True,
        allow_block_sharing=False,
    )  # fmt: skip
    w.model._get_logits_processor = lambda *_, **__: LogitsProcessorList([Marker(w)])
    attention = w.model.config._attn_implementation
    try:
        found = w.model.generate_batch(
            w.prompts, generation_config=w.decoding(), continuous_batching_config=settings
        )
    finally:
        del w.model._get_logits_processor
        w.model.set_attn_implementation(attention)
    return [output.generated_tokens for output in found.values()]


WAYS: dict[str, Callable[[Work], list[list[int]]]] = {
    "generate": generate,
    "ours": ours,
    "kept": lambda w: ours(w, keeps_hidden=True),
    "continuous": continuous,
}


def cut(w: Work, responses: list[list[int]]) -> list[list[int]]:
    """Responses up to their first stop token."""
    stops = set(w.stop_ids)
    ends = [next((t + 1 for t, i in enumerate(r) if i in stops), len(r)) for r in responses]
    return [r[:end] for r, end in zip(responses, ends, strict=True)]


def measure(w: Work, rounds: int) -> None:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, list[list[int]]] = {}
    for number in range(rounds + 1):  # the first round warms up
        for way, sample in WAYS.items():
            start = perf_counter()
            with torch.no_grad():
                responses = sample(w)
            if number:
                seconds[way].append(perf_counter() - start)
            found[way] = cut(w, responses)
    lengths = [len(response) for response in found["generate"]]
    print(
        f"{w.name}: {sum(lengths)} tokens, lengths {min(lengths)} to {max(lengths)}, "
        f"median {statistics.median(lengths):g}"
    )
    for way, times in seconds.items():
        same = sum(a == b for a, b in zip(found[way], found["generate"], strict=True))
        ratios = [base / one for base, one in zip(seconds["generate"], times, strict=True)]
        print(
            f"  {way:11} {sum(lengths) / statistics.median(times):8.0f} tokens/s  "
            f"{statistics.median(ratios):5.2f} x generate ({min(ratios):.2f} to "
            f"{max(ratios):.2f}), {same} of {len(lengths)} responses equal"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.set_verbosity_error()
    with contextlib.suppress(KeyboardInterrupt):
        measure(embedded(64, 64, every=40), options.rounds)
        measure(embedded(64, 192, every=15), options.rounds)
        measure(qwen_vocabulary(8, 128, every=100), options.rounds)
        measure(qwen_vocabulary(16, 512, every=100), max(1, options.rounds // 2))


if __name__ == "__main__":
    main()
