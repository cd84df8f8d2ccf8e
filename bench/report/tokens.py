"""Token banks as the explorer reads them: responses token by token, and what each rule keeps.

A rule's mask at any keep is one number a token: the smallest per cent of the batch's budget at
which the rule keeps it, found by spending the budget at 1, 2, … 100 % as the run would have. It is
of the whole batch, also where only some of its responses are shown. A rule with a budget of its own
keeps the same tokens at every per cent: those of its mask in the bank.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bench.core.errors import ConfigError
from bench.selection.budget import select_each
from bench.shadow.token_classes import TOKEN_CLASSES

NEVER = 255
"""First keep of a token that a rule keeps at no budget."""
LISTED = 8
"""Tokens of a top-K list that the page shows."""
RESPONSES = 32
"""Of a batch, in the page, half of them right where there are as many."""
FACTS = (
    "run_id", "pair", "step", "seed", "k", "keep", "scope", "min_keep_per_response", "ties",
    "prompts", "correct", "texts",
)  # fmt: skip
"""What a bank says of itself that the explorer needs."""
LISTS = (
    "student_topk_logprob", "teacher_logprob_on_student_topk", "teacher_topk_logprob",
    "student_logprob_on_teacher_topk",
)  # fmt: skip
FIRST = "first_keep_"


@dataclass(frozen=True)
class Bank:
    """One step's tokens."""

    table: pa.Table
    facts: dict[str, Any]

    @property
    def rules(self) -> list[str]:
        return [n.removeprefix(FIRST) for n in self.table.column_names if n.startswith(FIRST)]

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()


def read_bank(path: Path) -> Bank:
    """A step of a token bank with every rule's first keep. Raises ConfigError for another file."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"opd_bench"])
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} is no token bank: {error}") from error
    if lacking := [name for name in FACTS if name not in facts]:
        raise ConfigError(
            f"{str(path)!r} does not name its {lacking[0]}: it was written before banks did; "
            "run it again with --token-bank"
        )
    bank = Bank(table, facts)
    return bank if bank.rules else _with_first_keeps(bank)


def _with_first_keeps(bank: Bank) -> Bank:
    """The bank with a column for each rule, uint8: 1 to 100 per cent, or NEVER; and the names of
    those whose budget is their own, `own_budget`.
    """
    table, facts = bank.table, bank.facts
    names = [name for name in table.column_names if name.startswith("score_")]
    score_RN = torch.from_numpy(np.stack([bank.column(n).astype(np.float64) for n in names]))
    row_N, position_N = (torch.from_numpy(bank.column(n).copy()) for n in ("response", "position"))
    mask_BT = torch.zeros(int(row_N.max()) + 1, int(position_N.max()) + 1, dtype=torch.bool)
    mask_BT[row_N.long(), position_N.long()] = True
    keys = [""] * mask_BT.shape[0]
    for row, prompt, sample in zip(
        row_N.tolist(), table["prompt_id"].to_pylist(), bank.column("sample"), strict=True
    ):
        keys[row] = f"{prompt}/{sample}"

    def kept_at(keep: float) -> np.ndarray:
        return select_each(
            score_RN, mask_BT, keep=keep, scope=facts["scope"], ties=facts["ties"],
            min_keep_per_response=facts["min_keep_per_response"], seed=facts["seed"],
            step=facts["step"] - 1, row_key_B=keys,
        ).selected_RN.numpy()  # fmt: skip

    first_RN = np.full(score_RN.shape, NEVER, dtype=np.uint8)
    for per_cent in range(100, 0, -1):
        first_RN[kept_at(per_cent / 100)] = per_cent
    own_budget = []
    rules = [name.removeprefix("score_") for name in names]
    for rule, first_N, kept_N in zip(rules, first_RN, kept_at(facts["keep"]), strict=True):
        mask_N = bank.column(f"mask_{rule}")
        if not np.array_equal(mask_N, kept_N):
            own_budget.append(rule)
            first_N = np.where(mask_N, 1, NEVER).astype(np.uint8)
        table = table.append_column(FIRST + rule, pa.array(first_N))
    return Bank(table, {**facts, "own_budget": own_budget})


def sampled(bank: Bank, count: int = RESPONSES) -> Bank:
    """The first responses of the bank, half of them right where there are as many of both."""
    correct = bank.facts["correct"]
    rows = sorted(set(bank.column("response").tolist()))
    right = [row for row in rows if correct[row]]
    wrong = [row for row in rows if not correct[row]]
    half = min(count // 2, len(right))
    chosen = sorted([*right[: max(half, count - len(wrong))], *wrong[: count - half]])
    keep_N = np.isin(bank.column("response"), chosen)
    return Bank(bank.table.filter(pa.array(keep_N)), bank.facts)


def token_data(banks: Sequence[Bank]) -> list[dict[str, Any]]:
    """Each bank's responses and tokens; numbers as base64 of little-endian arrays."""
    return [_bank_data(sampled(bank)) for bank in banks if bank.table.num_rows]


def _bank_data(bank: Bank) -> dict[str, Any]:
    table, facts = bank.table, bank.facts
    texts: dict[str, int] = {}

    def place(text: str) -> int:
        return texts.setdefault(text, len(texts))

    row_N = bank.column("response")
    starts = [0, *(np.flatnonzero(np.diff(row_N)) + 1).tolist()]
    ends = [*starts[1:], len(row_N)]
    prompt_ids, finish = (table[n].to_pylist() for n in ("prompt_id", "finish_reason"))
    responses = [
        {
            "id": prompt_ids[start],
            "sample": int(bank.column("sample")[start]),
            **facts["prompts"][prompt_ids[start]],
            "correct": facts["correct"][int(row_N[start])],
            "finish": finish[start],
            "start": start,
            "end": end,
        }
        for start, end in zip(starts, ends, strict=True)
    ]
    signals = [
        {"name": field.name, "words": (field.metadata or {}).get(b"description", b"").decode()}
        for field in table.schema
        if pa.types.is_float32(field.type) and field.name not in ("weight",)
    ]
    for signal in signals:
        signal["values"] = _packed(bank.column(signal["name"]), "<f4")
    listed = min(LISTED, facts["k"])
    lists = {name: _packed(_listed(table, name, listed), "<f4") for name in LISTS}
    for name in ("student_topk_id", "teacher_topk_id"):
        ids = _listed(table, name, listed).astype(int)
        words = np.array([place(facts["texts"][str(token)]) for token in ids])
        lists[name.removesuffix("_id") + "_text"] = _packed(words, "<u4")
    token_text = _packed(np.array([place(text) for text in table["text"].to_pylist()]), "<u4")
    classes = [TOKEN_CLASSES.index(name) for name in table["token_class"].to_pylist()]
    return {
        **{name: facts[name] for name in ("run_id", "pair", "step", "k", "scope", "ties")},
        "of_responses": len(facts["correct"]),
        "responses": responses,
        "texts": list(texts),
        "token_text": token_text,
        "token_class": _packed(np.array(classes), "<u1"),
        "classes": list(TOKEN_CLASSES),
        "trained": _packed(bank.column("selected").astype(int), "<u1"),
        "signals": signals,
        "listed": listed,
        "lists": lists,
        "rules": [
            {
                "name": rule,
                "first": _packed(bank.column(FIRST + rule), "<u1"),
                "own": rule in facts["own_budget"],
            }
            for rule in bank.rules
        ],
    }  # fmt: skip


def _listed(table: pa.Table, name: str, count: int) -> np.ndarray:
    """The first entries of a list column, one token after another."""
    return np.array([entry[:count] for entry in table[name].to_pylist()]).reshape(-1)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()
