"""The token bank: a step's sampled tokens with every signal, score and mask, as one parquet file.

`RUN/token_bank/step-000020.parquet` holds step 20; `pandas.read_parquet("RUN/token_bank")` reads
all steps of a run as one frame. One line per token under the mask, in row-major order. Columns:

    step                int32    optimizer step, from 1
    response            int32    row of the batch
    prompt_id           string
    sample              int32    which of the prompt's responses
    position            int32    in the response, from 0
    response_length     int32    sampled tokens of the response
    finish_reason       string   stop | length
    token_id            int32
    text                string   the token decoded by itself
    token_class         string   one of bench.shadow.token_classes.TOKEN_CLASSES
    selected            bool     the run trained on it
    weight              float32  with this weight
    logit_gradient_norm float32  ‖∂loss/∂logits‖₂, of the objective in the file's metadata
    <signal>            float32  every (B, T) field of TokenSignals, without `_BT`
    <signal>            list     every (B, T, K) field, without `_BTK`: float32, ids int32
    score_<rule>        float32  (or float64) for each rule of the panel; the run's own is the first
    mask_<rule>         bool     what that rule keeps at the panel's budget

The file's metadata (`pyarrow.parquet.read_schema(...).metadata`, key `opd_bench`) is JSON: format
version, run id, pair, seed, step, keep, scope, min_keep_per_response, ties, K, objective
of the gradient, rules and signals, skipped rules; `prompts` (id -> text and right answer),
`correct` (of each response of the batch: true, false, or null where no right answer is known), and
`texts`, the token of each id of a top-K list. Each signal's field carries its definition as
`description`.
"""

import ast
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from bench.core.arrays import column_array, write_table
from bench.core.errors import BenchError
from bench.selection.signals import TokenSignals
from bench.shadow.panel import Choices
from bench.shadow.token_classes import TOKEN_CLASSES
from bench.train.rollout import Rollout

FORMAT_VERSION = 2


@dataclass(frozen=True)
class BankedStep:
    """Everything that a step's file is made of; N tokens under the mask."""

    step: int
    rollout: Rollout
    signals: TokenSignals
    choices: Choices
    selected_BT: Tensor
    weight_BT: Tensor
    gradient_N: Tensor
    class_V: Tensor
    text_V: Sequence[str]
    facts: Mapping[str, Any]
    """Further metadata, of values that JSON can hold."""


def bank_table(banked: BankedStep) -> pa.Table:
    """The step as a table; its schema is in this module's docstring."""
    rollout, signals, choices = banked.rollout, banked.signals, banked.choices
    mask_BT = signals.mask_BT
    row_N = mask_BT.nonzero()[:, 0].tolist()
    token_N = signals.token_BT[mask_BT].tolist()
    class_N = banked.class_V[signals.token_BT[mask_BT].cpu()].tolist()
    length_B = signals.length_B.tolist()
    samples = [int(key.rpartition("/")[2]) for key in rollout.row_key_B]
    columns: dict[str, pa.Array] = {
        "step": pa.array([banked.step] * len(row_N), pa.int32()),
        "response": pa.array(row_N, pa.int32()),
        "prompt_id": pa.array([rollout.prompt_id_B[row] for row in row_N]),
        "sample": pa.array([samples[row] for row in row_N], pa.int32()),
        "position": column_array(signals.position_BT[mask_BT].int()),
        "response_length": pa.array([length_B[row] for row in row_N], pa.int32()),
        "finish_reason": pa.array([rollout.finish_reason_B[row] for row in row_N]),
        "token_id": pa.array(token_N, pa.int32()),
        "text": pa.array([banked.text_V[token] for token in token_N]),
        "token_class": pa.array([TOKEN_CLASSES[place] for place in class_N]),
        "selected": column_array(banked.selected_BT[mask_BT]),
        "weight": column_array(banked.weight_BT[mask_BT]),
        "logit_gradient_norm": column_array(banked.gradient_N.float()),
    }
    of_signals = _signal_columns(signals)
    columns |= of_signals
    for label, score_N, selected_N in zip(
        choices.labels, choices.score_RN, choices.selected_RN, strict=True
    ):
        columns[f"score_{label}"] = column_array(score_N)
        columns[f"mask_{label}"] = column_array(selected_N)
    facts = {
        "format_version": FORMAT_VERSION,
        "step": banked.step,
        "rules": list(choices.labels),
        "signals": list(of_signals),
        "skipped": dict(choices.skipped),
        "texts": {str(token): banked.text_V[token] for token in _listed(signals)},
        **banked.facts,
    }
    fields = [
        pa.field(
            name,
            column.type,
            nullable=False,
            metadata=_described(_definitions().get(name)) if name in of_signals else None,
        )
        for name, column in columns.items()
    ]
    schema = pa.schema(fields, metadata={"opd_bench": json.dumps(facts, ensure_ascii=False)})
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def _signal_columns(signals: TokenSignals) -> dict[str, pa.Array]:
    """Every computed signal, by its name without dimensions; a response's value for each token."""
    row_N = signals.mask_BT.nonzero()[:, 0]
    columns = {}
    for name, value in signals.computed().items():
        value_N = value[row_N] if value.ndim == 1 else value[signals.mask_BT]
        columns[name.rpartition("_")[0]] = column_array(
            value_N.float() if value_N.is_floating_point() else value_N.int()
        )
    return columns


def _listed(signals: TokenSignals) -> list[int]:
    """Every id of a top-K list under the mask."""
    lists = (signals.student_topk_id_BTK, signals.teacher_topk_id_BTK)
    found = {
        token
        for ids in lists
        if ids is not None
        for token in ids[signals.mask_BT].unique().tolist()
    }
    return sorted(found)


def write_step(folder: Path, banked: BankedStep) -> None:
    """The step's file, whole or not at all. Raises BenchError where it cannot be written."""
    path = step_file(folder, banked.step)
    try:
        folder.mkdir(exist_ok=True)
        write_table(path, bank_table(banked), compression="zstd")
    except OSError as error:
        raise BenchError(f"the token bank {path} cannot be written: {error.strerror}") from error


def step_file(folder: Path, step: int) -> Path:
    """Where a step's tokens lie."""
    return folder / f"step-{step:06d}.parquet"


def _described(definition: str | None) -> dict[str, str] | None:
    return {"description": definition} if definition else None


@cache
def _definitions() -> dict[str, str]:
    """The line under each field of TokenSignals, by the field's name without dimensions."""
    (body,) = ast.parse(inspect.getsource(TokenSignals)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(ast.Constant(str(definition))):
                    found[field.target.id.rpartition("_")[0]] = definition
    return found
