"""student + prompts -> Rollout: on-policy samples, each random number keyed by its position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bench.core.decode import Sampled, decode, keyed
from bench.core.processes import ALONE, Processes
from bench.core.randomness import keyed_uniform
from bench.core.sampling import Vocabulary
from bench.tasks.prompts import Prompt

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

    def of_all(self, processes: Processes) -> "Rollout":
        """The whole batch, of which these are one process's rows; hidden states stay its own."""
        if processes.size == 1:
            return self
        sent = replace(self, student_hidden_ND=None).to("cpu")
        whole = join_rollouts(processes.join_objects([sent])).to(self.token_BT.device)
        return replace(whole, student_hidden_ND=self.student_hidden_ND)

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


@dataclass(frozen=True)
class Sampling:
    """The responses that are asked for, whatever samples them."""

    prompts: Sequence[Prompt]
    samples: int
    """Responses to each prompt, one after another."""
    max_new_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    mask_stop: bool
    """Is the stop token in the mask? Not where student and teacher stop differently."""
    seed: int
    step: int
    rows: slice = field(default_factory=lambda: slice(None))
    """Those of all responses that are sampled here."""

    def requests(self, tokenizer: PreTrainedTokenizerBase) -> Requests:
        """The rows that are sampled here."""
        return encode_prompts(tokenizer, self.prompts, self.samples).rows(self.rows)


def sample_rollout(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    sampling: Sampling,
    *,
    batch: int,
    keeps_hidden: bool = False,
    together: Processes = ALONE,
) -> Rollout:
    """The responses asked for, at most `batch` sampled at once.

    The same seed, step and prompts give the same uniform numbers whatever the batch. `together` are
    the processes that hold a part of the model each: all run as many batches, the surplus ones for
    nothing, and each as long as the longest.
    """
    requests = sampling.requests(tokenizer)
    responses: list[Sampled] = []
    batches = -(-len(requests.keys) // batch)
    with torch.no_grad(), _evaluating(model):
        for number in range(together.most(batches)):
            part = requests.rows(slice(number * batch, (number + 1) * batch))
            is_surplus = number >= batches
            part = requests.rows(slice(1)) if is_surplus else part
            uniform_BT = keyed_uniform(
                sampling.seed, "rollout", sampling.step, part.keys,
                (len(part.keys), sampling.max_new_tokens), device=model.device,
            )  # fmt: skip
            choose = keyed(uniform_BT, vocabulary, sampling.temperature, top_p=1.0)
            found = decode(
                model, part.prompt_tokens, sampling.max_new_tokens, choose, sampling.stop_ids,
                keeps_hidden=keeps_hidden, together=together,
            )  # fmt: skip
            responses += [] if is_surplus else found
    return assemble(requests, responses, sampling.stop_ids, sampling.mask_stop)


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


def assemble(
    requests: Requests, responses: list[Sampled], stop_ids: tuple[int, ...], mask_stop: bool
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
        assert response.logprob_T is not None
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
