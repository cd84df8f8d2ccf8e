"""The bank: student responses on held-out prompts, every position scored, as parquet on disk.

It is written in parts of a fixed number of responses, so memory does not grow with their number,
and each model is loaded by itself: the student samples and leaves its hidden states on disk, then
the teacher scores the same tokens beside the student's output layer. A part is written at once; a
build that was killed goes on with the parts that are missing.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.arrays import read_column, read_table, read_tensor
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.files import digest8
from bench.core.provenance import code_digest
from bench.core.sampling import Vocabulary
from bench.diagnose.diagnosis import Diagnosis
from bench.pairs.agreement import Agreement
from bench.pairs.models import content_sha256, read_agreement
from bench.pairs.pair import Pair, pair_of
from bench.selection.signals import TokenSignals, base_signals, with_signals
from bench.tasks.prompt_file import PromptFile
from bench.tasks.prompt_sets import get_held_out, get_prompts
from bench.tasks.prompts import Prompt
from bench.train.hidden_states import PassSettings
from bench.train.rollout import Rollout

KINDS = ("responses", "contexts", "teacher")
PART = 64
"""Responses in a part; changes memory and what a kill costs, never a value."""
FORMAT = 1
GRADIENTS = ("reverse_kl", "forward_kl", "sampled_reverse_kl")
"""Objectives whose logit-gradient norm the bank holds."""

BANK_CODE = (
    "core/decode", "core/logits", "core/objectives", "core/randomness", "core/sampling",
    "diagnose/build_bank", "diagnose/compatibility", "pairs/adapters", "pairs/agreement",
    "pairs/models", "selection/formulas", "tasks/arithmetic", "train/hidden_states",
    "train/logit_gradients", "train/rollout",
)  # fmt: skip
"""What a bank depends on besides models, prompts and settings."""


def depends_on_k(signal: str) -> bool:
    """Signals of a top-K set say so in their name."""
    return "topk" in signal


class ContextBank:
    """Contexts of one pair, on disk. `build_bank` makes what is missing; readers take a column."""

    def __init__(self, experiment: Experiment, diagnosis: Diagnosis, runtime: Runtime):
        self.experiment, self.diagnosis, self.runtime = experiment, diagnosis, runtime
        self.pair: Pair = pair_of(experiment)
        self.agreement: Agreement = read_agreement(self.pair)
        self.vocabulary: Vocabulary = self.agreement.vocabulary
        self.ks = tuple(sorted({experiment.k, *diagnosis.k_sweep}))
        if self.ks[-1] > self.vocabulary.size:
            raise ConfigError(
                f"k: {self.ks[-1]} is not accepted: 1 to {self.vocabulary.size}, the vocabulary"
            )
        self.prompts = held_out_prompts(
            experiment,
            self.agreement,
            diagnosis.update_seeds,
            diagnosis.responses // diagnosis.samples_per_prompt,
        )
        self.points_to = {
            "teacher": content_sha256(self.pair.teacher, self.pair.teacher_revision),
            "student": content_sha256(self.pair.student, self.pair.student_revision),
        }
        name = "".join(c if c.isalnum() or c in "_.-" else "-" for c in Path(self.pair.name).name)
        self.id = f"{name}-{digest8(self.identity())}"
        self.path = runtime.runs_dir / "banks" / self.id
        self.settings = PassSettings(
            runtime.micro_batch, runtime.logit_chunk, runtime.micro_batch_tokens
        )

    def identity(self) -> dict[str, Any]:
        """Everything that a value of the bank depends on."""
        return {
            "format": FORMAT,
            **self.points_to,
            "prompts": [[prompt.id, prompt.text] for prompt in self.prompts],
            "samples_per_prompt": self.diagnosis.samples_per_prompt,
            "positions": self.diagnosis.positions,
            "ks": self.ks,
            "temperature": self.experiment.temperature,
            "dtype": self.experiment.dtype,
            "seed": self.experiment.seed,
            "code": code_digest(BANK_CODE),
        }

    @property
    def parts(self) -> int:
        return -(-len(self.prompts) // self.prompts_per_part)

    @property
    def prompts_per_part(self) -> int:
        return max(1, PART // self.diagnosis.samples_per_prompt)

    def file(self, kind: str, part: int) -> Path:
        """Where a part's responses, contexts or hidden states (student, teacher) lie."""
        suffix = "parquet" if kind in ("responses", "contexts") else "safetensors"
        return self.path / f"{kind}-{part:05d}.{suffix}"

    def missing(self, *kinds: str) -> list[int]:
        """The parts that lack a file of one of these kinds."""
        return [
            part
            for part in range(self.parts)
            if not all(self.file(kind, part).is_file() for kind in kinds)
        ]

    def rollout(self, part: int, device: torch.device | str = "cpu") -> Rollout:
        """The responses of a part."""
        rows = read_table(self.file("responses", part)).to_pylist()
        return _to_rollout(rows, torch.device(device))

    def teacher_hidden(self, part: int, device: torch.device | str = "cpu") -> Tensor:
        """The teacher's last hidden states at a part's contexts, (N, D)."""
        return read_tensor(self.file("teacher", part), device)

    def teacher_head(self, device: torch.device | str = "cpu") -> Tensor:
        """The teacher's output layer, (V, D)."""
        return read_tensor(self.path / "teacher-head.safetensors", device)

    def column(self, name: str) -> np.ndarray:
        """One column of all contexts, in order: (N,), or (N, K) for a list."""
        return np.concatenate(
            [read_column(self.file("contexts", part), name) for part in range(self.parts)]
        )

    @cached_property
    def response_N(self) -> np.ndarray:
        return self.column("response")

    @cached_property
    def prompt_N(self) -> np.ndarray:
        """Which prompt each context belongs to: the clusters of every interval."""
        return self.response_N // self.diagnosis.samples_per_prompt

    @cached_property
    def base(self) -> TokenSignals:
        """The fields that every selector may read, over the whole bank as one batch."""
        token_N, position_N = self.column("token"), torch.from_numpy(self.column("position")).long()
        shape = (self.diagnosis.responses, int(position_N.max()) + 1)
        mask_BT = torch.zeros(shape, dtype=torch.bool)
        mask_BT[torch.from_numpy(self.response_N).long(), position_N] = True
        token_BT = torch.zeros(shape, dtype=torch.int64)
        token_BT[mask_BT] = torch.from_numpy(token_N).long()
        return base_signals(
            token_BT, mask_BT, seed=self.experiment.seed, step=0, row_key_B=self.row_keys
        )

    @property
    def row_keys(self) -> list[str]:
        samples = range(self.diagnosis.samples_per_prompt)
        return [f"{prompt.id}/{sample}" for prompt in self.prompts for sample in samples]

    def signals(self, names: Sequence[str], k: int) -> TokenSignals:
        """The named signals over the whole bank, top-K sets at size k."""
        return with_signals(self.base, {name: self._signal(name, k) for name in names})

    def _signal(self, name: str, k: int) -> Tensor:
        if name.endswith("_BTK"):
            value_NK = torch.from_numpy(self.column(name)[:, :k].copy())
            return value_NK.long() if value_NK.dtype == torch.int32 else value_NK
        return torch.from_numpy(self.column(at_k(name, k) if depends_on_k(name) else name))

    def rollouts(self, device: torch.device | str = "cpu") -> Iterator[tuple[int, Rollout]]:
        for part in range(self.parts):
            yield part, self.rollout(part, device)


def held_out_prompts(
    experiment: Experiment, agreement: Agreement, update_seeds: Sequence[int], count: int
) -> list[Prompt]:
    """`count` prompts that differ in text and that the updates do not train on.

    Of a generated set its held-out ones; of a file those that no update seed's steps draw. Raises
    ConfigError where there are too few.
    """
    known = get_prompts(experiment)
    if isinstance(known, PromptFile):
        prompts = known.prepare(agreement.tokenizer, agreement.chat)
        left = prompts.undrawn(experiment.steps, experiment.prompts_per_step, update_seeds)
        if len(left) < count:
            raise ConfigError(
                f"responses: {experiment.prompts!r} has {len(left)} prompts that no update draws, "
                f"not {count}; fewer steps, prompts_per_step or update_seeds leave more"
            )
        return left[:count]
    source, found = get_held_out(experiment), {}
    for step in range(20):
        for prompt in source.draw(step, count, experiment.seed):
            found.setdefault(prompt.text, prompt)
        if len(found) >= count:
            return list(found.values())[:count]
    raise ConfigError(
        f"responses: {experiment.prompts!r} has {len(found)} held-out prompts, not {count}"
    )


def at_k(name: str, k: int) -> str:
    """The column of a value that is kept at several K."""
    return f"{name}@{k}"


def _to_rollout(rows: list[dict[str, Any]], device: torch.device) -> Rollout:
    shape = (len(rows), max(len(row["response_ids"]) for row in rows))
    whole = max(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
    token_BT = torch.zeros(shape, dtype=torch.int64)
    logprob_BT = torch.zeros(shape)
    sequence_BL = torch.zeros(len(rows), whole, dtype=torch.int64)
    for number, row in enumerate(rows):
        start, length = len(row["prompt_ids"]), len(row["response_ids"])
        token_BT[number, :length] = torch.tensor(row["response_ids"])
        logprob_BT[number, :length] = torch.tensor(row["logprobs"])
        sequence_BL[number, : start + length] = torch.tensor(
            [*row["prompt_ids"], *row["response_ids"]]
        )
    length_B1 = torch.tensor([len(row["response_ids"]) for row in rows])[:, None]
    return Rollout(
        token_BT=token_BT.to(device),
        mask_BT=(torch.arange(shape[1])[None] < length_B1).to(device),
        student_logprob_BT=logprob_BT.to(device),
        prompt_id_B=tuple(row["prompt_id"] for row in rows),
        finish_reason_B=tuple(row["finish_reason"] for row in rows),
        sequence_BL=sequence_BL.to(device),
        prompt_length_B=torch.tensor([len(row["prompt_ids"]) for row in rows], device=device),
        row_key_B=tuple(row["row_key"] for row in rows),
        length_B=tuple(len(row["response_ids"]) for row in rows),
    )
