"""Pre-trains one embedded model: its batches, its loop, its checkpoints, its greedy accuracy.

Problems are drawn from split `train` with seeds from PRETRAIN_SEED on; prompts for distillation use
the run's own small seed, so the two streams are different.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench.core.files import folder_written_whole
from bench.core.plain_state import load_plain, save_plain
from bench.tasks.arithmetic import (
    Problem,
    Style,
    extract_answer,
    make_problem,
    prompt_text,
    solution_text,
)

PRETRAIN_SEED = 10_000  # OPD prompts use seeds below this
MAX_NEW_TOKENS = 48  # the longest solution has 45 tokens, eos included
POOL_BATCHES = 4  # batches are cut from length-sorted pools of this many
LABEL_IGNORE = -100

ProgressFn = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class ModelRecipe:
    """One model: its shape, its wording, and how it is pre-trained.

    `stop_at` (accuracy on `eval_problems` problems of `tune`) ends training at the first evaluation
    that reaches it; None trains all `steps` and lowers the learning rate towards the end.
    """

    width: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab_padding: int  # multiples of VOCAB_MULTIPLE beyond the rounded-up tokenizer
    equation_share: float  # share of steps worded as equations
    steps: int
    learning_rate: float = 3e-3
    final_lr_share: float = 0.05
    decay_share: float = 0.4
    warmup_steps: int = 50
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    batch_size: int = 64
    clip_norm: float = 1.0
    stop_at: float | None = None
    eval_every: int = 20
    eval_problems: int = 500
    save_every: int = 50


def pretraining_text(index: int, seed: int, equation_share: float) -> tuple[str, str]:
    """Prompt and response number `index`; each step is worded "equation" with that probability."""
    problem = make_problem("train", index, seed=PRETRAIN_SEED + seed)
    rng = random.Random(f"wording/{seed}/{index}")
    styles: list[Style] = [
        "equation" if rng.random() < equation_share else "verb" for _ in problem.steps
    ]
    return prompt_text(problem), solution_text(problem, styles)


def training_batch(
    step: int, recipe: ModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[Tensor, Tensor]:
    """Right-padded (token_BT, label_BT) of step `step`; labels are set on the response and its eos.

    A pure function of its arguments, so a resumed build sees the same batches.
    """
    pool, place = divmod(step, POOL_BATCHES)
    size = POOL_BATCHES * recipe.batch_size
    rows = []
    for index in range(pool * size, (pool + 1) * size):
        prompt, response = pretraining_text(index, seed, recipe.equation_share)
        prompt_ids = tokenizer.encode(prompt)
        response_ids = [*tokenizer.encode(response), tokenizer.eos_token_id]
        rows.append((prompt_ids + response_ids, [LABEL_IGNORE] * len(prompt_ids) + response_ids))
    rows.sort(key=lambda row: len(row[0]))
    order = random.Random(f"pool/{seed}/{pool}").sample(range(POOL_BATCHES), POOL_BATCHES)
    rows = rows[order[place] * recipe.batch_size :][: recipe.batch_size]
    length = max(len(tokens) for tokens, _ in rows)
    pad = tokenizer.pad_token_id
    token_BT = torch.tensor([tokens + [pad] * (length - len(tokens)) for tokens, _ in rows])
    label_BT = torch.tensor([lab + [LABEL_IGNORE] * (length - len(lab)) for _, lab in rows])
    return token_BT, label_BT


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    generator: torch.Generator | None = None,
    line_start_ban: Tensor | None = None,
) -> list[list[int]]:
    """Responses (token ids up to and with eos); greedy, or at temperature 1 given a `generator`.

    Logits beyond the tokenizer are cut before the softmax. The ids of `line_start_ban` are never
    chosen after a newline, which is where a step's wording is decided.
    """
    length = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    token_BT = torch.tensor([[pad] * (length - len(ids)) + ids for ids in prompts])
    attention_BT = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts])
    position_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)
    cache, sampled, is_done_B = None, [], torch.zeros(len(prompts), dtype=torch.bool)
    newline_ids = torch.tensor([tokenizer.encode(text)[-1] for text in ("\n", "?\n")])
    for _ in range(max_new_tokens):
        out = model(
            input_ids=token_BT, attention_mask=attention_BT, position_ids=position_BT,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache, logits_BV = out.past_key_values, out.logits[:, -1, : len(tokenizer)]
        if line_start_ban is not None:
            is_line_start_B = torch.isin(token_BT[:, -1], newline_ids)
            ban_BV = is_line_start_B[:, None] & torch.isin(
                torch.arange(len(tokenizer)), line_start_ban
            )
            logits_BV = logits_BV.masked_fill(ban_BV, -torch.inf)
        if generator is None:
            next_B = logits_BV.argmax(-1)
        else:
            next_B = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]
        sampled.append(next_B)
        is_done_B = is_done_B | (next_B == eos)
        if is_done_B.all():
            break
        token_BT = next_B[:, None]
        attention_BT = torch.cat([attention_BT, torch.ones_like(token_BT)], dim=1)
        position_BT = position_BT[:, -1:] + 1
    rows = torch.stack(sampled, dim=1).tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def greedy_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    line_start_ban: Tensor | None = None,
    batch_size: int = 250,
) -> float:
    """Share of problems whose greedy response ends in the right answer."""
    model.eval()
    right = 0
    for first in range(0, len(problems), batch_size):
        batch = problems[first : first + batch_size]
        prompts = [tokenizer.encode(prompt_text(p)) for p in batch]
        responses = generate(model, tokenizer, prompts, line_start_ban=line_start_ban)
        texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
        right += sum(extract_answer(t) == p.answer for t, p in zip(texts, batch, strict=True))
    return right / len(problems)


def learning_rate_at(step: int, recipe: ModelRecipe) -> float:
    """Linear warm-up, then constant, then linear down to `final_lr_share` over `decay_share`.

    A model with a stop rule (`stop_at`) never decays: it does not know where it will stop.
    """
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    if recipe.stop_at is not None:
        return recipe.learning_rate * warm
    decay_steps = recipe.decay_share * recipe.steps
    left = min(1.0, (recipe.steps - step) / decay_steps)
    return recipe.learning_rate * warm * max(recipe.final_lr_share, left)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: ModelRecipe,
    *,
    seed: int,
    checkpoint: Path,
    label: str,
    progress: ProgressFn,
) -> int:
    """Pre-trains `model` in place on response tokens; returns the number of steps taken.

    Continues from `checkpoint` where it exists: killed and started again, it ends with the weights
    of an uninterrupted training on the same number of threads.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    tune = [make_problem("tune", index) for index in range(recipe.eval_problems)]
    step = 0
    if checkpoint.is_dir():
        state = load_plain(checkpoint / "state")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    accuracy = float("nan")
    while step < recipe.steps:
        batch = training_batch(step, recipe, tokenizer, seed)
        loss = _take_step(model, optimizer, batch, step, recipe)
        step += 1
        is_last = step == recipe.steps
        if recipe.stop_at is not None and step % recipe.eval_every == 0:
            accuracy = greedy_accuracy(model, tokenizer, tune)
            is_last = is_last or accuracy >= recipe.stop_at
        progress(label, step, recipe.steps, {"loss": loss, "tune": accuracy})
        if is_last:
            break
        if step % recipe.save_every == 0:
            weights = dict(model.state_dict())
            state = {"model": weights, "optimizer": optimizer.state_dict(), "step": step}
            with folder_written_whole(checkpoint) as temporary:
                temporary.mkdir()
                save_plain(temporary / "state", state)
    model.eval()
    return step


def _take_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    step: int,
    recipe: ModelRecipe,
) -> float:
    """One optimizer step on a batch of tokens and labels; the loss before it."""
    token_BT, label_BT = batch
    model.train()
    is_target_BT = label_BT[:, 1:] != LABEL_IGNORE
    hidden_BTD = model.model(input_ids=token_BT[:, :-1]).last_hidden_state
    logits_NV = model.lm_head(hidden_BTD[is_target_BT])
    loss_mean = torch.nn.functional.cross_entropy(logits_NV, label_BT[:, 1:][is_target_BT])
    optimizer.zero_grad(set_to_none=True)
    loss_mean.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, recipe)
    optimizer.step()
    return loss_mean.item()
