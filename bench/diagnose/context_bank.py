"""The bank: student responses on held-out prompts, every position scored, as parquet on disk.

It is written in parts of a fixed number of responses, so memory does not grow with their number,
and each model is loaded by itself: the student samples and leaves its hidden states on disk, then
the teacher scores the same tokens beside the student's output layer. A part is written at once; a
build that was killed goes on with the parts that are missing.
"""

import ast
import gc
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.config import ConfigError, Diagnosis, Experiment, Runtime
from bench.core.processes import make_accelerator
from bench.core.progress import Progress
from bench.core.records import RunFolder, digest8, write_json
from bench.diagnose.compatibility import PROXIES, TopLists, gradient_norms
from bench.pairs.models import Agreement, Vocabulary, content_sha256, load_model, read_agreement
from bench.pairs.pair import Pair, pair_of
from bench.selection.formulas import (
    SIGNAL_NAMES,
    TokenSignals,
    base_signals,
    chunk_signals,
    log_softmax,
    with_signals,
)
from bench.tasks.prompt_file import Prompt, PromptFile, get_held_out, get_prompts
from bench.train.loss import PassSettings, head_weight, hidden_states, project
from bench.train.rollout import Rollout, sample_rollout

RESPONSE_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "row_key": pa.string(),
        "finish_reason": pa.string(),
        "prompt_ids": pa.list_(pa.int32()),
        "response_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
    }
)
KINDS = ("responses", "contexts", "teacher")
PART = 64
"""Responses in a part; changes memory and what a kill costs, never a value."""
FORMAT = 1
SOURCES = (
    "selection/formulas",
    "diagnose/compatibility",
    "train/rollout",
    "train/loss",
)
"""Code whose edit makes an old bank another bank."""


def depends_on_k(signal: str) -> bool:
    """Signals of a top-K set say so in their name."""
    return "topk" in signal


class Bank:
    """Contexts of one pair, on disk. `build` makes what is missing; readers take one column."""

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
            "code": code_digest(SOURCES),
        }

    # --- building ---------------------------------------------------------------------------------

    @property
    def parts(self) -> int:
        return -(-len(self.prompts) // self._prompts_per_part)

    @property
    def _prompts_per_part(self) -> int:
        return max(1, PART // self.diagnosis.samples_per_prompt)

    def _file(self, kind: str, part: int) -> Path:
        suffix = "parquet" if kind in ("responses", "contexts") else "safetensors"
        return self.path / f"{kind}-{part:05d}.{suffix}"

    def _missing(self, *kinds: str) -> list[int]:
        return [
            part
            for part in range(self.parts)
            if not all(self._file(kind, part).is_file() for kind in kinds)
        ]

    def build(self, progress: Progress) -> None:
        """Make every part that is not there: the student first, then the teacher."""
        if not self._missing(*KINDS):
            return
        with RunFolder(self.path).lock():
            self._build(progress)

    def _build(self, progress: Progress) -> None:
        accelerator = make_accelerator(self.experiment, self.runtime)
        with torch.no_grad():
            student_head_VD = self._respond(accelerator, progress)
            self._score(accelerator, student_head_VD, progress)
        write_json(self.path / "bank.json", {"id": self.id, **self.identity()})

    def _respond(self, accelerator: Accelerator, progress: Progress) -> Tensor:
        """Responses and hidden states of every part without contexts; returns the output layer."""
        model = load_model(self.pair.student).to(accelerator.device)
        self._check_logits("student", model.config.vocab_size)
        waiting = self._missing(*KINDS)
        progress.start("bank: student", self.parts, self.parts - len(waiting))
        for number, part in enumerate(waiting, self.parts - len(waiting) + 1):
            if self._file("responses", part).is_file():
                rollout = self.rollout(part, accelerator.device)
            else:
                with accelerator.autocast():
                    rollout = self._sample(model, part)
                write_table(self._file("responses", part), _response_table(rollout))
            with accelerator.autocast():
                hidden_ND = hidden_states(model, rollout, rollout.mask_BT, self.settings)
            write_tensor(self._file("student", part), hidden_ND)
            progress.update(number)
        head_VD = head_weight(model)[: self.vocabulary.size].clone()
        del model
        free(accelerator)
        return head_VD

    def _sample(self, model: Any, part: int) -> Rollout:
        prompts = self.prompts[part * self._prompts_per_part : (part + 1) * self._prompts_per_part]
        return sample_rollout(
            model,
            self.agreement.tokenizer,
            self.vocabulary,
            prompts,
            samples=self.diagnosis.samples_per_prompt,
            max_new_tokens=self.diagnosis.positions,
            temperature=self.experiment.temperature,
            stop_ids=self.agreement.student_stop_ids,
            mask_stop=self.agreement.stops_agree,
            seed=self.experiment.seed,
            step=0,
            batch=self.runtime.rollout_batch,
        )

    def _score(self, accelerator: Accelerator, student_head_VD: Tensor, progress: Progress) -> None:
        """Signals of every part; the teacher's hidden states stay, the student's go."""
        model = load_model(self.pair.teacher).to(accelerator.device)
        self._check_logits("teacher", model.config.vocab_size)
        write_tensor(
            self.path / "teacher-head.safetensors", head_weight(model)[: self.vocabulary.size]
        )
        waiting = self._missing(*KINDS)
        progress.start("bank: teacher", self.parts, self.parts - len(waiting))
        for number, part in enumerate(waiting, self.parts - len(waiting) + 1):
            rollout = self.rollout(part, accelerator.device)
            with accelerator.autocast():
                teacher_ND = hidden_states(model, rollout, rollout.mask_BT, self.settings)
            student_ND = read_tensor(self._file("student", part), accelerator.device)
            columns = self._columns(rollout, (student_head_VD, head_weight(model)),
                                    (student_ND, teacher_ND))  # fmt: skip
            write_tensor(self._file("teacher", part), teacher_ND)
            first = part * self._prompts_per_part * self.diagnosis.samples_per_prompt
            write_table(self._file("contexts", part), _context_table(rollout, columns, first))
            self._file("student", part).unlink()
            progress.update(number)
        del model
        free(accelerator)

    def _check_logits(self, side: str, logits: int) -> None:
        if logits < self.vocabulary.size:
            raise ConfigError(
                f"pair {self.pair.name!r}: the {side} has {logits} logits for a tokenizer of "
                f"{self.vocabulary.size} ids"
            )

    def _columns(
        self, rollout: Rollout, heads: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Every column of a part's contexts, a chunk of positions at a time.

        Output layers and divergences are float32 whatever the precision of the backbones.
        """
        token_N = rollout.token_BT[rollout.mask_BT]
        size = self.settings.positions(self.vocabulary.size)
        pieces = []
        for start in range(0, token_N.numel(), size):
            piece = slice(start, start + size)
            student_NV, teacher_NV = (
                project(hidden_ND[piece].float(), head_VD, self.vocabulary)
                for hidden_ND, head_VD in zip(hidden, heads, strict=True)
            )
            pieces.append(context_columns(student_NV, teacher_NV, token_N[piece], self.ks))
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    # --- reading ----------------------------------------------------------------------------------

    def rollout(self, part: int, device: torch.device | str = "cpu") -> Rollout:
        """The responses of a part."""
        rows = pq.read_table(self._file("responses", part)).to_pylist()
        return _to_rollout(rows, torch.device(device))

    def teacher_hidden(self, part: int, device: torch.device | str = "cpu") -> Tensor:
        """The teacher's last hidden states at a part's contexts, (N, D)."""
        return read_tensor(self._file("teacher", part), device)

    def teacher_head(self, device: torch.device | str = "cpu") -> Tensor:
        """The teacher's output layer, (V, D)."""
        return read_tensor(self.path / "teacher-head.safetensors", device)

    def column(self, name: str) -> np.ndarray:
        """One column of all contexts, in order: (N,), or (N, K) for a list."""
        return np.concatenate(
            [read_column(self._file("contexts", part), name) for part in range(self.parts)]
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


def context_columns(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, ks: Sequence[int]
) -> dict[str, Tensor]:
    """Every column of N positions: all signals, lists at the largest K, the rest at each K."""
    widest = max(ks)
    values = chunk_signals(student_NV, teacher_NV, token_N, SIGNAL_NAMES, widest)
    per_k = [name for name in SIGNAL_NAMES if depends_on_k(name) and not name.endswith("_BTK")]
    columns = {name: value for name, value in values.items() if name not in per_k}
    lists = TopLists(
        values["student_topk_id_BTK"],
        values["teacher_topk_id_BTK"],
        values["student_topk_logprob_BTK"],
        values["teacher_topk_logprob_BTK"],
        values["teacher_logprob_on_student_topk_BTK"],
        values["student_logprob_on_teacher_topk_BTK"],
    )
    for k in ks:
        at = values if k == widest else chunk_signals(student_NV, teacher_NV, token_N, per_k, k)
        columns |= {at_k(name, k): at[name] for name in per_k}
        columns |= {at_k(name, k): proxy(lists.cut(k)) for name, proxy in PROXIES.items()}
    norms = gradient_norms(log_softmax(student_NV), log_softmax(teacher_NV), token_N)
    return columns | {f"gradient_{name}": norm_N for name, norm_N in norms.items()}


def code_digest(modules: Sequence[str]) -> str:
    """Hash of what modules of this package do: their syntax trees without docstrings."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse((Path(__file__).parents[1] / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def at_k(name: str, k: int) -> str:
    """The column of a value that is kept at several K."""
    return f"{name}@{k}"


# --- files ---------------------------------------------------------------------------------------


def free(accelerator: Accelerator) -> None:
    """Give a dropped model's memory back before the next one is loaded."""
    gc.collect()
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


def write_tensor(path: Path, value: Tensor) -> None:
    """One tensor, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    save_file({"value": value.contiguous().cpu()}, temporary)
    temporary.replace(path)


def read_tensor(path: Path, device: torch.device | str) -> Tensor:
    return load_file(path, device=str(device))["value"]


def write_table(path: Path, table: pa.Table) -> None:
    """One parquet file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_column(path: Path, name: str) -> np.ndarray:
    array = pq.read_table(path, columns=[name]).column(name).combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return array.to_numpy()


def column_array(value: Tensor | np.ndarray) -> pa.Array:
    """(N,) as a plain column, (N, K) as a column of lists; ids as 32-bit integers."""
    array = value.cpu().numpy() if isinstance(value, Tensor) else value
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _context_table(rollout: Rollout, columns: dict[str, Tensor], first_response: int) -> pa.Table:
    row_N, position_N = rollout.mask_BT.nonzero(as_tuple=True)
    named = {
        "response": row_N + first_response,
        "position": position_N,
        "token": rollout.token_BT[rollout.mask_BT],
        **columns,
    }
    return pa.table({name: column_array(value) for name, value in named.items()})


def _response_table(rollout: Rollout) -> pa.Table:
    """A row a response; of its tokens, those in the mask (nothing after them is ever scored)."""
    rows = []
    for row, key in enumerate(rollout.row_key_B):
        length, start = int(rollout.mask_BT[row].sum()), int(rollout.prompt_length_B[row])
        rows.append(
            {
                "prompt_id": rollout.prompt_id_B[row],
                "row_key": key,
                "finish_reason": rollout.finish_reason_B[row],
                "prompt_ids": rollout.sequence_BL[row, :start].tolist(),
                "response_ids": rollout.token_BT[row, :length].tolist(),
                "logprobs": rollout.student_logprob_BT[row, :length].tolist(),
            }
        )
    return pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA)


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
