"""student + prompts -> Rollout: on-policy samples, each random number keyed by its position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.core.processes import ALONE, Processes
from bench.core.randomness import keyed_uniform
from bench.pairs.models import Vocabulary
from bench.tasks.prompt_file import Prompt

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
    student_hidden_ND: Tensor | None = None
    """The student's last hidden states that predicted the masked tokens of the rows sampled by this
    process, in row-major order; true until its next update. None unless asked for."""

    def rows(self, rows: slice) -> "Rollout":
        """Some of the responses, padded as they are here, without hidden states."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cut = {name: value[rows] for name, value in values.items() if name != "student_hidden_ND"}
        return replace(self, **cut, student_hidden_ND=None)

    def to(self, device: torch.device | str) -> "Rollout":
        """The same responses on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {n: v.to(device) for n, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def join_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """The responses of all parts, padded to the longest, without hidden states."""

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


def sample_tokens(
    logit_BV: Tensor,
    uniform_B: Tensor,
    vocabulary: Vocabulary,
    temperature: float,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(token_B, logprob_B): the distribution function inverted at one uniform number per row.

    Ids outside the shared vocabulary are never sampled. `top_p` below 1 is for evaluation alone: a
    rollout samples from the whole distribution.
    """
    logprob_BV = torch.log_softmax(vocabulary.cut(logit_BV).float() / temperature, -1)
    # Float64: over 150,000 entries a float32 sum would be off by more than rare tokens weigh.
    probability_BV = logprob_BV.double().exp()
    if top_p < 1:
        probability_BV = nucleus(probability_BV, top_p)
    cumulative_BV = probability_BV.cumsum(-1)
    target_B1 = uniform_B[:, None] * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    token_B1 = token_B1.clamp(max=vocabulary.size - 1)
    return token_B1[:, 0], logprob_BV.gather(-1, token_B1)[:, 0]


class KeyedSampler(LogitsProcessor):
    """`sample_tokens` inside `generate`, for evaluation: leaves only the sampled token possible, so
    that `generate` picks it greedily, and records its log-probability.
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
        token_B, logprob_B = sample_tokens(
            scores, self.uniform_BT[:, len(self.logprob_TB)], self.vocabulary, self.temperature,
            self.top_p,
        )  # fmt: skip
        self.logprob_TB.append(logprob_B)
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_B[:, None], 0.0)


def nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    """Zero outside the fewest likeliest tokens whose mass reaches `top_p`; not renormalised.

    Equal probabilities at the cut: the smaller id stays. Source: arXiv 1904.09751.
    """
    sorted_BV, order_BV = torch.sort(probability_BV, dim=-1, descending=True, stable=True)
    mass_before_BV = sorted_BV.cumsum(-1) - sorted_BV
    outside_BV = torch.zeros_like(order_BV, dtype=torch.bool)
    outside_BV.scatter_(-1, order_BV, mass_before_BV >= top_p)
    return probability_BV.masked_fill(outside_BV, 0.0)


@dataclass(frozen=True)
class Response:
    """What was sampled after one prompt; nothing counts after the first stop token."""

    token_T: Tensor
    logprob_T: Tensor
    hidden_TD: Tensor | None = None
    """The last hidden state that predicted each token, where it was asked for."""


@dataclass(frozen=True)
class Requests:
    """Prompts and samples, prompt-major: the rows of a Rollout before they are sampled."""

    prompt_tokens: list[list[int]]
    prompt_ids: list[str]
    keys: list[str]

    def rows(self, rows: slice) -> "Requests":
        return Requests(self.prompt_tokens[rows], self.prompt_ids[rows], self.keys[rows])


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], samples: int
) -> Requests:
    """`samples` rows for each prompt, each with a key of its own."""
    encoded = [tokenizer(p.text, add_special_tokens=False)["input_ids"] for p in prompts]
    return Requests(
        prompt_tokens=[ids for ids in encoded for _ in range(samples)],
        prompt_ids=[prompt.id for prompt in prompts for _ in range(samples)],
        keys=[f"{prompt.id}/{sample}" for prompt in prompts for sample in range(samples)],
    )


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
    keeps_hidden: bool = False,
    rows: slice = slice(None),
    together: Processes = ALONE,
) -> Rollout:
    """`samples` responses to each prompt, prompt-major, at most `batch` sampled at once.

    The same seed, step and prompts give the same uniform numbers whatever the batch. Only `rows` of
    the responses are sampled. `together` are the processes that hold a part of the model each: all
    run as many batches, the surplus ones for nothing, and each as long as the longest.
    """
    requests = encode_prompts(tokenizer, prompts, samples).rows(rows)
    responses: list[Response] = []
    batches = -(-len(requests.keys) // batch)
    with torch.no_grad(), _evaluating(model):
        for number in range(together.most(batches)):
            part = requests.rows(slice(number * batch, (number + 1) * batch))
            is_surplus = number >= batches
            part = requests.rows(slice(1)) if is_surplus else part
            uniform_BT = keyed_uniform(
                seed, "rollout", step, part.keys, (len(part.keys), max_new_tokens),
                device=model.device,
            )  # fmt: skip
            found = _decode(
                model, part.prompt_tokens, uniform_BT, vocabulary, temperature, stop_ids,
                keeps_hidden, together,
            )  # fmt: skip
            responses += [] if is_surplus else found
    return assemble(requests, responses, stop_ids, mask_stop)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode: no dropout, and no gradient checkpointing, which would drop the cache."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


DROP_EVERY = 64
"""Positions from one removal of the finished rows to the next. Fewer rows may round the logits of
the others differently in the last bits, so responses of up to 64 tokens are never touched."""


def _decode(
    model: PreTrainedModel,
    prompt_tokens: list[list[int]],
    uniform_BT: Tensor,
    vocabulary: Vocabulary,
    temperature: float,
    stop_ids: tuple[int, ...],
    keeps_hidden: bool,
    together: Processes,
) -> list[Response]:
    """One response to each prompt, left to the caller to cut at the first stop.

    Feeds the model what `generate` would, to the last bit; but finished rows leave the batch, and
    nothing of a generation_config can leak in.
    """
    pad = stop_ids[0]  # masked wherever it stands
    rows = _Rows.start(prompt_tokens, pad, model)
    stops = torch.tensor(stop_ids, device=model.device)
    token_BT = torch.full(uniform_BT.shape, pad, device=model.device)
    logprob_BT = torch.zeros(uniform_BT.shape, device=model.device)
    hidden = _HiddenStates(len(prompt_tokens))
    for t in range(uniform_BT.shape[1]):
        hidden_R1D = rows.forward(model)
        logit_RV = model.get_output_embeddings()(hidden_R1D)[:, 0]  # type: ignore[misc]
        token_R, logprob_R = sample_tokens(
            logit_RV, uniform_BT[rows.row_R, t], vocabulary, temperature
        )
        token_R = token_R.masked_fill(rows.is_done_R, pad)
        token_BT[rows.row_R, t], logprob_BT[rows.row_R, t] = token_R, logprob_R
        if keeps_hidden:
            hidden.add(rows.row_R, hidden_R1D)
        rows.append(token_R, torch.isin(token_R, stops))
        if not together.any(not bool(rows.is_done_R.all())):
            break
        if (t + 1) % DROP_EVERY == 0:
            rows.drop_finished()
    if not keeps_hidden:
        return [Response(*row) for row in zip(token_BT, logprob_BT, strict=True)]
    return [Response(*row) for row in zip(token_BT, logprob_BT, hidden.of_rows(), strict=True)]


@dataclass
class _Rows:
    """The R rows that are still in the batch, and what the model is fed for them next."""

    row_R: Tensor
    is_done_R: Tensor
    input_RL: Tensor
    position_RL: Tensor
    real_RL: Tensor
    """1 for each token of the sequence so far, 0 for padding on its left."""
    is_padded: bool
    cache: DynamicCache

    @classmethod
    def start(cls, prompt_tokens: list[list[int]], pad: int, model: PreTrainedModel) -> "_Rows":
        count, longest = len(prompt_tokens), max(len(ids) for ids in prompt_tokens)
        rows = [[pad] * (longest - len(ids)) + ids for ids in prompt_tokens]
        real = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompt_tokens]
        real_RL = torch.tensor(real, device=model.device)
        return cls(
            row_R=torch.arange(count, device=model.device),
            is_done_R=torch.zeros(count, dtype=torch.bool, device=model.device),
            input_RL=torch.tensor(rows, device=model.device),
            position_RL=(real_RL.cumsum(-1) - 1).clamp(min=0),
            real_RL=real_RL,
            is_padded=any(len(ids) < longest for ids in prompt_tokens),
            cache=DynamicCache(config=model.config),
        )

    def forward(self, model: PreTrainedModel) -> Tensor:
        """The last hidden state of each row, (R, 1, D)."""
        output = model.base_model(
            input_ids=self.input_RL,
            attention_mask=self.real_RL if self.is_padded else None,
            position_ids=self.position_RL,
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1:]

    def append(self, token_R: Tensor, is_stop_R: Tensor) -> None:
        self.is_done_R = self.is_done_R | is_stop_R
        self.input_RL, self.position_RL = token_R[:, None], self.position_RL[:, -1:] + 1
        self.real_RL = torch.cat([self.real_RL, torch.ones_like(self.input_RL)], 1)

    def drop_finished(self) -> None:
        if not self.is_done_R.any() or self.is_done_R.all():
            return
        kept = (~self.is_done_R).nonzero()[:, 0]
        self.cache.batch_select_indices(kept)
        self.row_R, self.is_done_R = self.row_R[kept], self.is_done_R[kept]
        self.input_RL, self.position_RL = self.input_RL[kept], self.position_RL[kept]
        self.real_RL = self.real_RL[kept]


class _HiddenStates:
    """Hidden states of sampled tokens, step by step; no memory for rows that have left."""

    def __init__(self, count: int):
        self.count = count
        self.blocks: list[tuple[Tensor, list[Tensor]]] = []

    def add(self, row_R: Tensor, hidden_R1D: Tensor) -> None:
        if not self.blocks or len(self.blocks[-1][0]) != len(row_R):
            self.blocks.append((row_R, []))
        # A copy: the slice would keep the hidden states of the whole prompts.
        self.blocks[-1][1].append(hidden_R1D.clone())

    def of_rows(self) -> list[Tensor]:
        """hidden_TD of each row, as far as it was in the batch."""
        parts: list[list[Tensor]] = [[] for _ in range(self.count)]
        for row_R, steps in self.blocks:
            for row, hidden_TD in zip(row_R.tolist(), torch.cat(steps, 1), strict=True):
                parts[row].append(hidden_TD)
        return [torch.cat(part) for part in parts]


def assemble(
    requests: Requests, responses: list[Response], stop_ids: tuple[int, ...], mask_stop: bool
) -> Rollout:
    """The Rollout of responses in the order of their requests, each cut after its first stop."""
    prompt_tokens = requests.prompt_tokens
    device = responses[0].token_T.device
    stops = torch.tensor(stop_ids, device=device)
    lengths, reasons = [], []
    for response in responses:
        at_stop = torch.isin(response.token_T, stops).nonzero()
        lengths.append(int(at_stop[0]) + 1 if len(at_stop) else len(response.token_T))
        reasons.append("stop" if len(at_stop) else "length")
    rows, longest = len(responses), max(lengths)
    whole = max(len(p) + n for p, n in zip(prompt_tokens, lengths, strict=True))
    token_BT = torch.zeros(rows, longest, dtype=torch.int64, device=device)
    logprob_BT = torch.zeros(rows, longest, device=device)
    mask_BT = torch.zeros(rows, longest, dtype=torch.bool, device=device)
    sequence_BL = torch.zeros(rows, whole, dtype=torch.int64, device=device)
    hidden = []
    for row, (response, n) in enumerate(zip(responses, lengths, strict=True)):
        start = len(prompt_tokens[row])
        masked = n if mask_stop or reasons[row] == "length" else n - 1
        token_BT[row, :n] = response.token_T[:n]
        logprob_BT[row, :n] = response.logprob_T[:n]
        mask_BT[row, :masked] = True
        sequence_BL[row, :start] = torch.tensor(prompt_tokens[row], device=device)
        sequence_BL[row, start : start + n] = response.token_T[:n]
        if response.hidden_TD is not None:
            hidden.append(response.hidden_TD[:masked])
    return Rollout(
        token_BT=token_BT,
        mask_BT=mask_BT,
        student_logprob_BT=logprob_BT,
        prompt_id_B=tuple(requests.prompt_ids),
        finish_reason_B=tuple(reasons),
        sequence_BL=sequence_BL,
        prompt_length_B=torch.tensor([len(ids) for ids in prompt_tokens], device=device),
        row_key_B=tuple(requests.keys),
        length_B=tuple(lengths),
        student_hidden_ND=torch.cat(hidden) if hidden else None,
    )
