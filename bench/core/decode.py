"""The decoding loop over a model with a cache: one response to each prompt, of a rollout and of an
evaluation alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from bench.core.processes import ALONE, Processes
from bench.core.sampling import Vocabulary, sample_tokens

Choose = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor | None]]
"""(logit_RV, row_R, position) -> the tokens that come next in those rows, and their
log-probabilities where the caller wants them."""


@dataclass(frozen=True)
class Sampled:
    """What came after one prompt; nothing counts after the first stop token."""

    token_T: Tensor
    logprob_T: Tensor | None = None
    """float32, where the tokens were chosen with it."""
    hidden_TD: Tensor | None = None
    """The last hidden state that predicted each token, where it was asked for."""


DROP_EVERY = 8
"""Positions from one removal of the finished rows to the next: each copies the cache once more."""

LEAST_ROWS = 8
"""Finished rows stay to keep that many: products of less than four rows round otherwise here."""


def keyed(uniform_BT: Tensor, vocabulary: Vocabulary, temperature: float, top_p: float) -> Choose:
    """Sampling at a keyed uniform number of each row and position."""

    def choose(logit_RV: Tensor, row_R: Tensor, position: int) -> tuple[Tensor, Tensor]:
        uniform_R = uniform_BT[row_R, position]
        return sample_tokens(logit_RV, uniform_R, vocabulary, temperature, top_p)

    return choose


def greedy(vocabulary: Vocabulary) -> Choose:
    """The likeliest token of the vocabulary; of equal ones the smallest id."""

    def choose(logit_RV: Tensor, row_R: Tensor, position: int) -> tuple[Tensor, None]:
        return vocabulary.cut(logit_RV).argmax(-1), None

    return choose


def decode(
    model: PreTrainedModel,
    prompt_tokens: list[list[int]],
    max_new_tokens: int,
    choose: Choose,
    stop_ids: tuple[int, ...],
    *,
    keeps_hidden: bool = False,
    together: Processes = ALONE,
) -> list[Sampled]:
    """One response to each prompt, at most `max_new_tokens` long, left to the caller to cut at the
    first stop. `together` are the processes that hold a part of the model each.

    Feeds the model what `generate` would, so that all rows together give the same tokens to the
    last bit; but finished rows leave the batch, and nothing of a generation_config can leak in.
    """
    pad = stop_ids[0]  # masked wherever it stands
    rows = _Rows.start(prompt_tokens, max_new_tokens, pad, model)
    stops = torch.tensor(stop_ids, device=model.device)
    token_BT = torch.full((len(prompt_tokens), max_new_tokens), pad, device=model.device)
    logprob_BT = torch.zeros(token_BT.shape, device=model.device)
    hidden = _HiddenStates(len(prompt_tokens))
    logprob_R = None
    # A sharded model gathers its parts in hooks, which know no inference mode.
    with torch.inference_mode() if together is ALONE else torch.no_grad():
        for t in range(max_new_tokens):
            hidden_R1D = rows.forward(model)
            logit_RV = model.get_output_embeddings()(hidden_R1D)[:, 0]  # type: ignore[misc]
            token_R, logprob_R = choose(logit_RV, rows.row_R, t)
            token_R = token_R.masked_fill(rows.is_done_R, pad)
            token_BT[rows.row_R, t] = token_R
            if logprob_R is not None:
                logprob_BT[rows.row_R, t] = logprob_R
            if keeps_hidden:
                hidden.add(rows.row_R, hidden_R1D)
            rows.append(token_R, torch.isin(token_R, stops))
            if not together.any(not bool(rows.is_done_R.all())):
                break
            if (t + 1) % DROP_EVERY == 0:
                rows.drop_finished()
    count = len(prompt_tokens)
    logprobs = [None] * count if logprob_R is None else list(logprob_BT)
    hiddens = hidden.of_rows() if keeps_hidden else [None] * count
    return [Sampled(*row) for row in zip(token_BT, logprobs, hiddens, strict=True)]


@dataclass
class _Rows:
    """The R rows that are still in the batch, and what the model is fed for them next."""

    row_R: Tensor
    is_done_R: Tensor
    input_RL: Tensor
    position_RL: Tensor
    real_RL: Tensor
    """False for padding on the left, True for every token, also for those still to come."""
    length: int
    """Tokens and padding so far."""
    is_padded: bool
    takes_masks: bool
    cache: DynamicCache

    @classmethod
    def start(
        cls, prompt_tokens: list[list[int]], room: int, pad: int, model: PreTrainedModel
    ) -> "_Rows":
        """Before the first of at most `room` tokens after each prompt."""
        count, longest = len(prompt_tokens), max(len(ids) for ids in prompt_tokens)
        rows = [[pad] * (longest - len(ids)) + ids for ids in prompt_tokens]
        real = [
            [False] * (longest - len(ids)) + [True] * (len(ids) + room) for ids in prompt_tokens
        ]
        real_RL = torch.tensor(real, device=model.device)
        return cls(
            row_R=torch.arange(count, device=model.device),
            is_done_R=torch.zeros(count, dtype=torch.bool, device=model.device),
            input_RL=torch.tensor(rows, device=model.device),
            position_RL=(real_RL[:, :longest].cumsum(-1) - 1).clamp(min=0),
            real_RL=real_RL,
            length=longest,
            is_padded=any(len(ids) < longest for ids in prompt_tokens),
            takes_masks=_takes_masks(model),
            cache=DynamicCache(config=model.config),
        )

    def forward(self, model: PreTrainedModel) -> Tensor:
        """The last hidden state of each row, (R, 1, D)."""
        output = model.base_model(
            input_ids=self.input_RL,
            attention_mask=self._mask(),
            position_ids=self.position_RL,
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1:]

    def _mask(self) -> Tensor | None:
        """As the model asks for it; of one new token whole, which spares the model making it."""
        if not self.is_padded:
            return None
        real_RL = self.real_RL[:, : self.length]
        is_whole = self.takes_masks and self.input_RL.shape[1] == 1
        return real_RL[:, None, None] if is_whole else real_RL

    def append(self, token_R: Tensor, is_stop_R: Tensor) -> None:
        self.is_done_R = self.is_done_R | is_stop_R
        self.input_RL, self.position_RL = token_R[:, None], self.position_RL[:, -1:] + 1
        self.length += 1

    def drop_finished(self) -> None:
        count = max(LEAST_ROWS, int((~self.is_done_R).sum()))
        if count >= len(self.row_R) or self.is_done_R.all():
            return
        kept = self.is_done_R.int().argsort(stable=True)[:count].sort().values
        self.cache.batch_select_indices(kept)
        self.row_R, self.is_done_R = self.row_R[kept], self.is_done_R[kept]
        self.input_RL, self.position_RL = self.input_RL[kept], self.position_RL[kept]
        self.real_RL = self.real_RL[kept]


def _takes_masks(model: PreTrainedModel) -> bool:
    """Whether all layers look at every token before, through torch's attention: then a mask over
    (rows, heads, new tokens, all tokens) is what the model itself makes of one over tokens."""
    config = model.config
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None)
    return (
        config._attn_implementation == "sdpa" and set(layers) == {"full_attention"} and not window
    )


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
