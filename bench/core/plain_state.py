"""Nested tensors, numbers and text as two files: safetensors and JSON. Nothing in them can run.

What a checkpoint holds comes back from a disk that others can write to; pickle would run it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.core.files import write_text

TENSOR, ITEMS, TUPLE = "tensor", "items", "tuple"
"""Keys of the objects that stand for what JSON has no form of."""


def save_plain(stem: Path, state: Any) -> None:
    """Write `stem`.json and, for its tensors, `stem`.safetensors.

    state   None, booleans, numbers, text, tensors, and lists, tuples and dictionaries of these

    Raises TypeError for anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_told(state, tensors))
    save_file(tensors, stem.with_suffix(".safetensors"))
    write_text(stem.with_suffix(".json"), text + "\n")


def load_plain(stem: Path) -> Any:
    """What `save_plain` wrote, its tensors on the CPU. Raises ValueError for another file."""
    tensors = load_file(stem.with_suffix(".safetensors"))
    return _heard(json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")), tensors)


def _told(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        # Two names of one storage are two tensors afterwards, as they are after torch.load.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if type(value) in (list, tuple):
        told = [_told(item, tensors) for item in value]
        return told if isinstance(value, list) else {TUPLE: told}
    if type(value) is dict:
        return {ITEMS: [[_told(k, tensors), _told(v, tensors)] for k, v in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not kept: plain values and tensors are")


def _heard(told: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(told, list):
        return [_heard(item, tensors) for item in told]
    if not isinstance(told, dict):
        return told
    if len(told) != 1:
        raise ValueError(f"no state: {sorted(told)}")
    ((kind, inside),) = told.items()
    if kind == TENSOR:
        return tensors[inside]
    if kind == TUPLE:
        return tuple(_heard(item, tensors) for item in inside)
    if kind == ITEMS:
        return {_heard(key, tensors): _heard(value, tensors) for key, value in inside}
    raise ValueError(f"no state: {kind!r}")
