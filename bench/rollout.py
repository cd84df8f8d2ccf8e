"""student + prompts -> Rollout: on-policy samples, each random number keyed by its position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.keys import keyed_uniform
from bench.models import Vocabulary
from bench.prompts import Prompt

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Rollout:
    """Responses of the student, and the sequences a model is fed to score them.

    mask_BT is True exactly where the student sampled the token: no prompt, no padding, nothing
    after the first stop token; the stop token itself is True (unless the pair declares that student
    and teacher stop differently).
    """

    token_BT: Tensor
    mask_BT: Tensor
    student_logprob_BT: Tensor
    """log-probability under the sampling distribution (at its temperature), float32, nats."""
    prompt_id_B: tuple[str, ...]
    finish_reason_B: tuple[FinishReason, ...]
    sequence_BL: Tensor
    """int64: prompt, response, then padding on the right, which causal attention never looks at."""
    prompt_length_B: Tensor
    row_key_B: tuple[str, ...]
    """Prompt id and sample: names the response in every keyed random number."""
    length_B: tuple[int, ...]
    """Tokens of each response, the stop token among them even where the mask leaves it out."""

    def rows(self, rows: slice) -> "Rollout":
        """Some of the responses, padded as they are here."""
        return Rollout(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Rollout":
        """The same responses on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {n: v.to(device) for n, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def join_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """The responses of all parts, padded to the longest."""

    def padded(name: str) -> Tensor:
        values = [getattr(part, name) for part in parts]
        width = max(value.shape[1] for value in values)
        pad = torch.nn.functional.pad
        return torch.cat([pad(value, (0, width - value.shape[1])) for value in values])

    return Rollout(
        token_BT=padded("token_BT"),
        mask_BT=padded("mask_BT"),
        student_logprob_BT=padded("student_logprob_BT"),
        prompt_id_B=tuple(name for part in parts for name in part.prompt_id_B),
        finish_reason_B=tuple(reason for part in parts for reason in part.finish_reason_B),
        sequence_BL=padded("sequence_BL"),
        prompt_length_B=torch.cat([part.prompt_length_B for part in parts]),
        row_key_B=tuple(key for part in parts for key in part.row_key_B),
        length_B=tuple(length for part in parts for length in part.length_B),
    )


class KeyedSampler(LogitsProcessor):
    """Samples by inverting the distribution function at one keyed uniform number per token.

    Leaves only the sampled token possible, so that `generate` picks it greedily, and records its
    log-probability. Ids outside the shared vocabulary are never sampled. `top_p` below 1 is for
    evaluation alone: a rollout samples from the whole distribution.
    """

    def __init__(
        self, uniform_BT: Tensor, vocabulary: Vocabulary, temperature: float, top_p: float = 1.0
    ):
        self.uniform_BT = uniform_BT
        self.vocabulary = vocabulary
        self.temperature = temperature
        self.top_p = top_p
        self.logprob_TB: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logit_BV = self.vocabulary.cut(scores).float() / self.temperature
        logprob_BV = torch.log_softmax(logit_BV, -1)
        # Float64: over 150,000 entries a float32 sum would be off by more than rare tokens weigh.
        probability_BV = logprob_BV.double().exp()
        if self.top_p < 1:
            probability_BV = nucleus(probability_BV, self.top_p)
        cumulative_BV = probability_BV.cumsum(-1)
        uniform_B1 = self.uniform_BT[:, len(self.logprob_TB), None]
        target_B1 = uniform_B1 * cumulative_BV[:, -1:]
        token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
        token_B1 = token_B1.clamp(max=self.vocabulary.size - 1)
        self.logprob_TB.append(logprob_BV.gather(-1, token_B1)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_B1, 0.0)


def nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    """Zero outside the fewest likeliest tokens whose mass reaches `top_p`; not renormalised.

    Equal probabilities at the cut: the smaller id stays. Source: arXiv 1904.09751.
    """
    sorted_BV, order_BV = torch.sort(probability_BV, dim=-1, descending=True, stable=True)
    mass_before_BV = sorted_BV.cumsum(-1) - sorted_BV
    outside_BV = torch.zeros_like(order_BV, dtype=torch.bool)
    outside_BV.scatter_(-1, order_BV, mass_before_BV >= top_p)
    return probability_BV.masked_fill(outside_BV, 0.0)


def sample_rollout(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    stop_ids: tuple[int, ...],
    mask_stop: bool,
    seed: int,
    step: int,
    batch: int,
    rows: slice = slice(None),
    batches: int = 0,
) -> Rollout:
    """`samples` responses to each prompt, prompt-major, at most `batch` sampled at once.

    The same seed, step and prompts give the same uniform numbers whatever the batch. Only `rows` of
    the responses are sampled. `batches` is for a model whose parameters lie on several processes:
    all of them sample that many batches, the surplus ones for nothing, and wait for the longest.
    """
    encoded = [tokenizer(p.text, add_special_tokens=False)["input_ids"] for p in prompts]
    prompt_tokens = [ids for ids in encoded for _ in range(samples)][rows]
    prompt_ids = [prompt.id for prompt in prompts for _ in range(samples)][rows]
    keys = [f"{prompt.id}/{sample}" for prompt in prompts for sample in range(samples)][rows]
    device = model.device
    responses: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for number in range(max(batches, batch_count(len(keys), batch))):
            part = slice(number * batch, (number + 1) * batch)
            is_surplus = not keys[part]
            part = slice(1) if is_surplus else part
            uniform_BT = keyed_uniform(
                seed, "rollout", step, keys[part], (len(keys[part]), max_new_tokens), device=device
            )
            sampler = KeyedSampler(uniform_BT, vocabulary, temperature)
            with no_generation_defaults(model):
                token_BT = _generate(
                    model, prompt_tokens[part], sampler, stop_ids, max_new_tokens, batches > 0
                )
            logprob_BT = torch.stack(sampler.logprob_TB, 1)
            if not is_surplus:
                responses += zip(token_BT, logprob_BT, strict=True)
    return _assemble(prompt_tokens, prompt_ids, keys, responses, stop_ids, mask_stop)


def batch_count(rows: int, batch: int) -> int:
    """Batches of at most `batch` rows."""
    return -(-rows // batch)


@contextmanager
def no_generation_defaults(model: PreTrainedModel) -> Iterator[None]:
    """`generate` fills whatever is unset from the model's own generation_config: hide it."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _generate(
    model: PreTrainedModel,
    prompt_tokens: list[list[int]],
    sampler: KeyedSampler,
    stop_ids: tuple[int, ...],
    max_new_tokens: int,
    waits: bool,
) -> Tensor:
    """token_BT, left to the caller to cut at the first stop; `waits` for other processes."""
    pad = stop_ids[0]  # masked wherever it stands
    longest = max(len(ids) for ids in prompt_tokens)
    rows = [[pad] * (longest - len(ids)) + ids for ids in prompt_tokens]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompt_tokens]
    config = GenerationConfig(
        do_sample=False,  # KeyedSampler has sampled, at its temperature, top_p=1 and top_k=0
        repetition_penalty=1.0,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=pad,
        use_cache=True,
    )
    output_BL = model.generate(  # type: ignore[operator]
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([sampler]),
        synced_gpus=waits,
    )
    return output_BL[:, longest:]  # type: ignore[index]


def _assemble(
    prompt_tokens: list[list[int]],
    prompt_ids: list[str],
    keys: list[str],
    responses: list[tuple[Tensor, Tensor]],
    stop_ids: tuple[int, ...],
    mask_stop: bool,
) -> Rollout:
    device = responses[0][0].device
    stops = torch.tensor(stop_ids, device=device)
    lengths, reasons = [], []
    for token_T, _ in responses:
        at_stop = torch.isin(token_T, stops).nonzero()
        lengths.append(int(at_stop[0]) + 1 if len(at_stop) else len(token_T))
        reasons.append("stop" if len(at_stop) else "length")
    rows, longest = len(responses), max(lengths)
    whole = max(len(p) + n for p, n in zip(prompt_tokens, lengths, strict=True))
    token_BT = torch.zeros(rows, longest, dtype=torch.int64, device=device)
    logprob_BT = torch.zeros(rows, longest, device=device)
    mask_BT = torch.zeros(rows, longest, dtype=torch.bool, device=device)
    sequence_BL = torch.zeros(rows, whole, dtype=torch.int64, device=device)
    for row, ((token_T, logprob_T), n) in enumerate(zip(responses, lengths, strict=True)):
        start = len(prompt_tokens[row])
        token_BT[row, :n] = token_T[:n]
        logprob_BT[row, :n] = logprob_T[:n]
        mask_BT[row, : n if mask_stop or reasons[row] == "length" else n - 1] = True
        sequence_BL[row, :start] = torch.tensor(prompt_tokens[row], device=device)
        sequence_BL[row, start : start + n] = token_T[:n]
    return Rollout(
        token_BT=token_BT,
        mask_BT=mask_BT,
        student_logprob_BT=logprob_BT,
        prompt_id_B=tuple(prompt_ids),
        finish_reason_B=tuple(reasons),
        sequence_BL=sequence_BL,
        prompt_length_B=torch.tensor([len(ids) for ids in prompt_tokens], device=device),
        row_key_B=tuple(keys),
        length_B=tuple(lengths),
    )
