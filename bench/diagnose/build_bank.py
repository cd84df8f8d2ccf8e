"""The bank, built: the student samples and leaves hidden states, then the teacher scores them.

Each model is loaded by itself. A part is written at once; a build that was killed goes on with the
parts that are missing.
"""

import gc
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor

from bench.core.arrays import column_array, read_tensor, write_table, write_tensor
from bench.core.errors import ConfigError
from bench.core.files import write_json
from bench.core.logits import head_weight, project
from bench.core.processes import make_accelerator
from bench.core.progress import Progress
from bench.core.records import RunFolder
from bench.diagnose.compatibility import PROXIES, TopLists
from bench.diagnose.context_bank import GRADIENTS, KINDS, ContextBank, at_k, depends_on_k
from bench.pairs.models import load_model
from bench.selection.formulas import Chunk, chunk_signals
from bench.selection.signals import SIGNAL_NAMES
from bench.train.hidden_states import hidden_states
from bench.train.logit_gradients import logit_gradient_norm
from bench.train.rollout import Rollout, Sampling, sample_rollout

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
"""A row a response: its ids and the log-probabilities it was sampled at."""


def build_bank(bank: ContextBank, progress: Progress) -> None:
    """Make every part that is not there: the student first, then the teacher."""
    if not bank.missing(*KINDS):
        return
    with RunFolder(bank.path).lock():
        _build(bank, progress)


def _build(bank: ContextBank, progress: Progress) -> None:
    accelerator = make_accelerator(bank.experiment, bank.runtime)
    with torch.no_grad():
        student_head_VD = _respond(bank, accelerator, progress)
        _score(bank, accelerator, student_head_VD, progress)
    write_json(bank.path / "bank.json", {"id": bank.id, **bank.identity()})


def _respond(bank: ContextBank, accelerator: Accelerator, progress: Progress) -> Tensor:
    """Responses and hidden states of every part without contexts; returns the output layer."""
    model = load_model(bank.pair.student).to(accelerator.device)
    _check_logits(bank, "student", model.config.vocab_size)
    waiting = bank.missing(*KINDS)
    progress.start("bank: student", bank.parts, bank.parts - len(waiting))
    for number, part in enumerate(waiting, bank.parts - len(waiting) + 1):
        if bank.file("responses", part).is_file():
            rollout = bank.rollout(part, accelerator.device)
        else:
            with accelerator.autocast():
                rollout = _sample(bank, model, part)
            write_table(bank.file("responses", part), _response_table(rollout))
        with accelerator.autocast():
            hidden_ND = hidden_states(model, rollout, rollout.mask_BT, bank.settings)
        write_tensor(bank.file("student", part), hidden_ND)
        progress.update(number)
    head_VD = head_weight(model)[: bank.vocabulary.size].clone()
    del model
    free(accelerator)
    return head_VD


def _sample(bank: ContextBank, model: Any, part: int) -> Rollout:
    prompts = bank.prompts[part * bank.prompts_per_part : (part + 1) * bank.prompts_per_part]
    return sample_rollout(
        model,
        bank.agreement.tokenizer,
        bank.vocabulary,
        Sampling(
            prompts,
            samples=bank.diagnosis.samples_per_prompt,
            max_new_tokens=bank.diagnosis.positions,
            temperature=bank.experiment.temperature,
            stop_ids=bank.agreement.student_stop_ids,
            mask_stop=bank.agreement.stops_agree,
            seed=bank.experiment.seed,
            step=0,
        ),
        batch=bank.runtime.rollout_batch,
    )


def _score(
    bank: ContextBank, accelerator: Accelerator, student_head_VD: Tensor, progress: Progress
) -> None:
    """Signals of every part; the teacher's hidden states stay, the student's go."""
    model = load_model(bank.pair.teacher).to(accelerator.device)
    _check_logits(bank, "teacher", model.config.vocab_size)
    write_tensor(bank.path / "teacher-head.safetensors", head_weight(model)[: bank.vocabulary.size])
    waiting = bank.missing(*KINDS)
    progress.start("bank: teacher", bank.parts, bank.parts - len(waiting))
    for number, part in enumerate(waiting, bank.parts - len(waiting) + 1):
        rollout = bank.rollout(part, accelerator.device)
        with accelerator.autocast():
            teacher_ND = hidden_states(model, rollout, rollout.mask_BT, bank.settings)
        student_ND = read_tensor(bank.file("student", part), accelerator.device)
        columns = _columns(bank, rollout, (student_head_VD, head_weight(model)),
                                (student_ND, teacher_ND))  # fmt: skip
        write_tensor(bank.file("teacher", part), teacher_ND)
        first = part * bank.prompts_per_part * bank.diagnosis.samples_per_prompt
        write_table(bank.file("contexts", part), _context_table(rollout, columns, first))
        bank.file("student", part).unlink()
        progress.update(number)
    del model
    free(accelerator)


def _check_logits(bank: ContextBank, side: str, logits: int) -> None:
    if logits < bank.vocabulary.size:
        raise ConfigError(
            f"pair {bank.pair.name!r}: the {side} has {logits} logits for a tokenizer of "
            f"{bank.vocabulary.size} ids"
        )


def _columns(
    bank: ContextBank, rollout: Rollout, heads: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Every column of a part's contexts, a chunk of positions at a time.

    Output layers and divergences are float32 whatever the precision of the backbones.
    """
    token_N = rollout.token_BT[rollout.mask_BT]
    size = bank.settings.positions(bank.vocabulary.size)
    pieces = []
    for start in range(0, token_N.numel(), size):
        piece = slice(start, start + size)
        student_NV, teacher_NV = (
            project(hidden_ND[piece].float(), head_VD, bank.vocabulary)
            for hidden_ND, head_VD in zip(hidden, heads, strict=True)
        )
        pieces.append(context_columns(student_NV, teacher_NV, token_N[piece], bank.ks))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def context_columns(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, ks: Sequence[int]
) -> dict[str, Tensor]:
    """Every column of N positions: all signals, lists at the largest K, the rest at each K."""
    widest = max(ks)
    chunk = Chunk(student_NV, teacher_NV, token_N, widest)
    values = chunk.signals(SIGNAL_NAMES)
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
    norms = {name: logit_gradient_norm(chunk, name, {}) for name in GRADIENTS}
    return columns | {f"gradient_{name}": norm_N for name, norm_N in norms.items()}


# --- files ---------------------------------------------------------------------------------------


def free(accelerator: Accelerator) -> None:
    """Give a dropped model's memory back before the next one is loaded."""
    gc.collect()
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


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
