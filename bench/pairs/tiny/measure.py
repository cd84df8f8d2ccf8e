"""Measures an embedded pair: accuracy, off-support mass, the lift of plain `full` distillation.

`distil_full` is a plain on-policy loop that shares no code with the engine, so the lift on the card
is an independent check of the engine's `full`.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bench.core.files import read_json
from bench.pairs.tiny.pretrain import generate, greedy_accuracy
from bench.tasks.arithmetic import (
    GAIN_VERBS,
    LOSE_VERBS,
    Problem,
    Split,
    Style,
    extract_answer,
    make_problem,
    prompt_text,
    solution_text,
)

TUNE_PROBLEMS = 1000
PREFIX_SHARES = (0.25, 0.5, 0.75)
TOP_KS = (4, 16)
ROLLOUTS = 512  # responses behind 1 - C and the prefix table


@dataclass(frozen=True)
class Distillation:
    """Plain `full` distillation: every sampled token, reverse KL, AdamW."""

    steps: int = 60
    prompts_per_step: int = 64
    learning_rate: float = 3e-4
    clip_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class PlainPair:
    """Both models and their tokenizer, in memory."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def pad_id(self) -> int:
        """The padding token's id."""
        return cast(int, self.tokenizer.pad_token_id)


def load_pair(pair_dir: Path) -> PlainPair:
    """Loads `pair_dir`/teacher and /student with transformers alone."""
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(pair_dir / role, trust_remote_code=False).eval()
        for role in ("teacher", "student")
    )
    return PlainPair(
        teacher,
        student,
        AutoTokenizer.from_pretrained(pair_dir / "student", trust_remote_code=False),
    )


def problems_of(split: Split, count: int, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a split."""
    return [make_problem(split, index, seed=seed) for index in range(count)]


def rollout(
    pair: PlainPair, problems: list[Problem], seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Prompt and response ids, sampled from the student at temperature 1."""
    prompts = [pair.tokenizer.encode(prompt_text(problem)) for problem in problems]
    generator = torch.Generator().manual_seed(seed)
    return prompts, generate(pair.student, pair.tokenizer, prompts, generator=generator)


def pad_right(
    prompts: list[list[int]], responses: list[list[int]], pad: int
) -> tuple[Tensor, Tensor]:
    """(token_BT, is_response_BT) over prompt and response, right-padded."""
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    length = max(map(len, rows))
    token_BT = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    is_response_BT = torch.zeros_like(token_BT, dtype=torch.bool)
    for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        is_response_BT[i, len(p) : len(p) + len(r)] = True
    return token_BT, is_response_BT


def response_logprob_NV(
    model: PreTrainedModel, token_BT: Tensor, is_response_BT: Tensor, vocab_size: int
) -> Tensor:
    """Log-probabilities over the shared real vocabulary, at each sampled token, flattened."""
    hidden_BTD = model.model(input_ids=token_BT[:, :-1]).last_hidden_state
    logits_NV = model.lm_head(hidden_BTD[is_response_BT[:, 1:]])
    return logits_NV[:, :vocab_size].log_softmax(-1)


@torch.no_grad()
def mean_off_support(pair: PlainPair, seed: int = 0) -> dict[str, float]:
    """Mean 1 - C on the student's first rollouts, by K: teacher mass off the student's top K."""
    prompts, responses = rollout(pair, problems_of("train", ROLLOUTS, seed), seed)
    tokens = pad_right(prompts, responses, pair.pad_id)
    student_NV = response_logprob_NV(pair.student, *tokens, len(pair.tokenizer))
    teacher_NV = response_logprob_NV(pair.teacher, *tokens, len(pair.tokenizer))
    return {
        str(k): 1 - teacher_NV.exp().gather(1, student_NV.topk(k).indices).sum(1).mean().item()
        for k in TOP_KS
    }


def distil_full(pair: PlainPair, recipe: Distillation, seed: int) -> None:
    """Trains `pair.student` in place: KL(p||q) averaged over all tokens it sampled itself."""
    optimizer = torch.optim.AdamW(
        pair.student.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0
    )
    for step in range(recipe.steps):
        first = step * recipe.prompts_per_step
        indices = range(first, first + recipe.prompts_per_step)
        problems = [make_problem("train", index, seed=seed) for index in indices]
        prompts, responses = rollout(pair, problems, seed * 1_000_003 + step)
        tokens = pad_right(prompts, responses, pair.pad_id)
        with torch.no_grad():
            teacher_NV = response_logprob_NV(pair.teacher, *tokens, len(pair.tokenizer))
        student_NV = response_logprob_NV(pair.student, *tokens, len(pair.tokenizer))
        loss = (student_NV.exp() * (student_NV - teacher_NV)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pair.student.parameters(), recipe.clip_norm)
        optimizer.step()


def wording_accuracy(pair: PlainPair, problems: list[Problem]) -> dict[str, float]:
    """The teacher's greedy accuracy, left free and held to each wording at every step start."""
    digits = torch.tensor(pair.tokenizer.convert_tokens_to_ids(list("0123456789")))
    verbs = torch.tensor(pair.tokenizer.convert_tokens_to_ids([*GAIN_VERBS, *LOSE_VERBS]))
    bans = {"free": None, "equation": verbs, "verb": digits}
    return {
        wording: greedy_accuracy(pair.teacher, pair.tokenizer, problems, line_start_ban=ban)
        for wording, ban in bans.items()
    }


def prefix_accuracy(pair: PlainPair, seed: int = 0) -> dict[str, dict[str, float]]:
    """The teacher's accuracy continuing student responses cut at a share of their tokens.

    Greedy continuation; by whether the student's own response was right or wrong.
    """
    problems = problems_of("tune", ROLLOUTS)
    prompts, responses = rollout(pair, problems, seed)
    texts = pair.tokenizer.batch_decode(responses, skip_special_tokens=True)
    is_right = [extract_answer(t) == p.answer for t, p in zip(texts, problems, strict=True)]
    table: dict[str, dict[str, float]] = {
        "n": {"right": sum(is_right), "wrong": len(is_right) - sum(is_right)}
    }
    for share in PREFIX_SHARES:
        prefixes = [response[: int(share * len(response))] for response in responses]
        starts = [p + prefix for p, prefix in zip(prompts, prefixes, strict=True)]
        endings = generate(pair.teacher, pair.tokenizer, starts)
        whole = [prefix + end for prefix, end in zip(prefixes, endings, strict=True)]
        texts = pair.tokenizer.batch_decode(whole, skip_special_tokens=True)
        solved = [extract_answer(t) == p.answer for t, p in zip(texts, problems, strict=True)]
        table[f"{share:.0%}"] = {
            group: statistics.fmean(s for s, r in zip(solved, is_right, strict=True) if r == wanted)
            for group, wanted in (("right", True), ("wrong", False))
        }
    return table


def measure(pair_dir: Path, recipe: Distillation, seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """All numbers of a pair's card. The only place that looks at split `eval`."""
    pair = load_pair(pair_dir)
    tune, held_out = problems_of("tune", TUNE_PROBLEMS), problems_of("eval", TUNE_PROBLEMS)
    accuracy = {
        role: {
            "tune": greedy_accuracy(model, pair.tokenizer, tune),
            "eval": greedy_accuracy(model, pair.tokenizer, held_out),
        }
        for role, model in (("teacher", pair.teacher), ("student", pair.student))
    }
    distilled = []
    for seed in seeds:
        fresh = load_pair(pair_dir)
        distil_full(fresh, recipe, seed)
        distilled.append(greedy_accuracy(fresh.student, fresh.tokenizer, tune))
    return {
        "build": read_json(pair_dir / "build.json"),
        "models": {r: _model_facts(m) for r, m in vars(pair).items() if r != "tokenizer"},
        "data": _data_facts(pair.tokenizer),
        "problems": TUNE_PROBLEMS,
        "accuracy": accuracy,
        "teacher_by_wording": wording_accuracy(pair, tune),
        "off_support": mean_off_support(pair),
        "rollouts": ROLLOUTS,
        "full": {
            "recipe": asdict(recipe),
            "seeds": list(seeds),
            "tune": distilled,
            "lift": statistics.fmean(distilled) - accuracy["student"]["tune"],
        },
        "prefix_accuracy": prefix_accuracy(pair),
    }


def _model_facts(model: PreTrainedModel) -> dict:
    return {
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "width": model.config.hidden_size,
        "layers": model.config.num_hidden_layers,
        "intermediate": model.config.intermediate_size,
        "heads": model.config.num_attention_heads,
        "kv_heads": model.config.num_key_value_heads,
        "vocab_size": model.config.vocab_size,
    }


def _data_facts(tokenizer: PreTrainedTokenizerFast) -> dict:
    prompts, used = [], set()
    responses: dict[Style, list[list[int]]] = {"equation": [], "verb": []}
    for problem in problems_of("train", TUNE_PROBLEMS):
        prompts.append(tokenizer.encode(prompt_text(problem)))
        used.update(prompts[-1])
        for style, rows in responses.items():
            styles: list[Style] = [style] * len(problem.steps)
            text = solution_text(problem, styles)
            rows.append([*tokenizer.encode(text), cast(int, tokenizer.eos_token_id)])
            used.update(rows[-1])
    return {
        "tokenizer": len(tokenizer),
        "tokens_in_use": len(used),
        "mean_prompt_tokens": statistics.fmean(map(len, prompts)),
        "mean_response_tokens": {s: statistics.fmean(map(len, r)) for s, r in responses.items()},
    }
