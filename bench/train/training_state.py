"""What a checkpoint holds of training: trained weights, optimizer, schedule and generators.

Every process calls `save_training` and `load_training`; the main one writes what is whole, and each
the generators of its own.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from bench.core.errors import BenchError
from bench.core.plain_state import load_plain, save_plain
from bench.core.processes import inner
from bench.train.setup import Setup

TRAINED_FILE = "trained.safetensors"
"""What is trained: the model, or its adapters. All else stays as it was loaded."""
OPTIMIZER = "optimizer"
SCHEDULE = "schedule"
GENERATORS = "generators"


def trained_weights(setup: Setup) -> dict[str, Tensor]:
    """Name -> parameter, tied ones once."""
    return {name: p for name, p in inner(setup.student).named_parameters() if p.requires_grad}


def save_training(setup: Setup, folder: Path) -> None:
    """Write the state of training into a new folder."""
    weights = {name: _whole(p.data) for name, p in trained_weights(setup).items()}
    optimizer = _each(setup.optimizer.state_dict(), _whole)
    if setup.processes.is_main:
        save_file(weights, folder / TRAINED_FILE)
        save_plain(folder / OPTIMIZER, optimizer)
        save_plain(folder / SCHEDULE, setup.schedule.state_dict())
    save_plain(folder / f"{GENERATORS}-{setup.processes.index}", _generators())


def load_training(setup: Setup, folder: Path) -> None:
    """Put the state of training back. Raises BenchError for another model's."""
    saved, own = load_file(folder / TRAINED_FILE), trained_weights(setup)
    if {name: value.shape for name, value in saved.items()} != {
        name: value.shape for name, value in own.items()
    }:
        raise BenchError(f"{folder} holds other parameters than those that are trained")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_placed(saved[name], value))
    optimizer = load_plain(folder / OPTIMIZER)
    trained = [p for group in setup.optimizer.param_groups for p in group["params"]]
    for number, of_parameter in optimizer["state"].items():
        for name, value in of_parameter.items():
            if isinstance(value, Tensor) and value.ndim:
                of_parameter[name] = _placed(value, trained[number])
    setup.optimizer.load_state_dict(optimizer)
    setup.schedule.load_state_dict(load_plain(folder / SCHEDULE))
    mine = folder / f"{GENERATORS}-{setup.processes.index}"
    if mine.with_suffix(".json").is_file():  # more processes than saved it have none
        _set_generators(load_plain(mine))


def _whole(value: Tensor) -> Tensor:
    """A tensor that may lie on several processes, on the CPU."""
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu().contiguous()


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor spread over processes as another one is."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value


def _each(state: Any, change: Any) -> Any:
    """The same nested state with its tensors changed."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _each(value, change) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_each(value, change) for value in state)
    return state


def _generators() -> dict[str, Any]:
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])}
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _set_generators(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy | {"state": {"key": key, "pos": numpy["state"]["pos"]}})
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
