"""Checkpoints of a run: written to a temporary name, synced, renamed; the last two are kept."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from bench.core.errors import BenchError, ConfigError
from bench.core.files import read_json, sync, write_json
from bench.core.plain_state import load_plain, save_plain
from bench.core.processes import is_sharded
from bench.core.records import RunFolder
from bench.core.sums import SUMS_FILE, read_sums, sums_of, write_sums
from bench.train.setup import Setup
from bench.train.training_state import load_training, save_training

KEPT = 2
LOGS_FILE = "logs.json"
"""What the run's logs hold up to this step, by checksum: the record is made from them, too."""
SELECTOR = "selector"
"""The memory of the run's rule, where it has one."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    step: int
    path: Path

    def damage(self) -> str | None:
        """What its files show to be wrong with it; None where they are as they were written."""
        try:
            sums, found = read_sums(self.path), _sums(self.path)
        except (OSError, ConfigError) as error:
            return f"{SUMS_FILE} cannot be read: {error}"
        if sums is None or sums.keys() != found.keys():
            return "files are missing or were added"
        changed = sorted(name for name, digest in sums.items() if found[name] != digest)
        return f"{', '.join(changed)} changed" if changed else None

    def contradiction(self, folder: RunFolder) -> str | None:
        """What the run's logs show to be wrong with it; None where they are as they were then."""
        if not folder.metrics_hold(self.step):
            return f"metrics.jsonl has not each step from 1 to {self.step} once"
        then, now = read_json(self.path / LOGS_FILE), folder.log_sums(self.step)
        changed = [name for name, digest in now.items() if then.get(name) != digest]
        return f"{', '.join(changed)} changed since" if changed else None

    def load(self, setup: Setup) -> dict[str, Any]:
        """Put the state of training and the rule's memory back; returns the saved totals."""
        load_training(setup, self.path)
        if setup.selector.has_memory:
            setup.selector.load_state_dict(load_plain(self.path / SELECTOR))
        return json.loads((self.path / "totals.json").read_text(encoding="utf-8"))


def full_state(accelerator: Accelerator, student: torch.nn.Module) -> dict[str, Any] | None:
    """The student's weights on the main process, where each process holds a part of them."""
    if not is_sharded(student):
        return None
    state = accelerator.get_state_dict(student)
    return {name.removeprefix("model."): value for name, value in state.items()}


def settle_checkpoint(folder: RunFolder, say: Callable[[str], None]) -> int:
    """Step of the newest checkpoint that is as it was written and whose log holds; 0 for none.

    Newer ones are set aside, and said: what they are for is done again.
    """
    for checkpoint in reversed(_complete(folder.checkpoints)):
        why = checkpoint.damage() or checkpoint.contradiction(folder)
        if why is None:
            return checkpoint.step
        aside = folder.checkpoints / f".damaged-{checkpoint.path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.path.rename(aside)
        say(f"the checkpoint of step {checkpoint.step} is damaged and set aside as {aside}: {why}")
    return 0


def _sums(folder: Path) -> dict[str, str]:
    """Of all files but the one that holds these."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != SUMS_FILE)
    return sums_of(folder, files)


def checkpoint_of(folder: Path, step: int) -> Checkpoint:
    """The checkpoint after so many steps."""
    return Checkpoint(step, folder / f"step-{step:06d}")


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint, if any."""
    found = _complete(folder)
    return found[-1] if found else None


def save_checkpoint(setup: Setup, run: RunFolder, step: int, totals: Mapping[str, Any]) -> None:
    """Save after `step` steps. Raises BenchError for a full disk; the previous one survives."""
    folder = run.checkpoints
    final, temporary = folder / f"step-{step:06d}", folder / f".step-{step:06d}.tmp"
    processes, selector = setup.processes, setup.selector
    if processes.lead(final.exists):
        return

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def finish() -> None:
        if selector.has_memory:
            save_plain(temporary / SELECTOR, selector.state_dict())
        write_json(temporary / "totals.json", totals)
        write_json(temporary / LOGS_FILE, run.log_sums(step))
        write_sums(temporary, _sums(temporary))
        # What a checkpoint says of the logs must not be lost by a power cut that spares it.
        for file in (*temporary.rglob("*"), *run.logs()):
            sync(file)
        sync(temporary)
        temporary.rename(final)
        sync(folder)

    try:
        processes.lead(begin)
        processes.together(lambda: save_training(setup, temporary))
        processes.lead(finish)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = last_checkpoint(folder)
        kept = f"the checkpoint of step {last.step} is kept" if last else "there is no earlier one"
        raise BenchError(
            f"the checkpoint of step {step} could not be saved: {error}; {kept}"
        ) from error
    if processes.is_main:
        for old in _complete(folder)[:-KEPT]:
            _drop(old.path)


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint; one that is cut off while it goes no longer counts as one."""
    going = checkpoint.with_name(f".{checkpoint.name}.old")
    shutil.rmtree(going, ignore_errors=True)
    checkpoint.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes left of checkpoints half written and half removed."""
    for left in (*folder.glob(".step-*.tmp"), *folder.glob(".step-*.old")):
        shutil.rmtree(left, ignore_errors=True)


def _complete(folder: Path) -> list[Checkpoint]:
    found = []
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match:
            found.append(Checkpoint(int(match.group(1)), path))
    return sorted(found, key=lambda checkpoint: checkpoint.step)
