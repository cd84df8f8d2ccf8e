"""The training loop: all steps from the last checkpoint on, with logs, checkpoints and stops."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any

from bench.core.errors import BenchError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.train.checkpoints import (
    checkpoint_of,
    clear_leftovers,
    last_checkpoint,
    save_checkpoint,
    settle_checkpoint,
)
from bench.train.metrics import Totals
from bench.train.setup import place_frozen
from bench.train.trackers import Track, open_trackers
from bench.train.trainer import Trainer


def train(
    trainer: Trainer,
    progress: Progress,
    stop: StopRequest,
    evaluate_curve: Callable[[int], dict[str, float]],
) -> Totals:
    """All remaining steps, from the last checkpoint on. `evaluate_curve(step)` -> task -> mean.

    Raises Stopped after saving when asked to stop, BenchError for a loss that is not finite.
    """
    experiment, folder, runtime = trainer.experiment, trainer.folder, trainer.runtime
    processes = trainer.processes
    first = resume(trainer, progress)
    progress.start("train", experiment.steps, first)
    began = perf_counter() - trainer.totals.wall
    tracks: list[Track] = []

    def log(line: dict[str, Any]) -> None:
        folder.append_metrics(line)
        for track in tracks:
            track(line)

    with ExitStack() as held, stop.deferred():
        opened = open_trackers(runtime.log_with, folder.path, experiment.all_values())
        processes.lead(lambda: tracks.append(held.enter_context(opened)))
        for step in range(first, experiment.steps):
            line = _step(trainer, step)
            if experiment.eval_every and (step + 1) % experiment.eval_every == 0:
                line["evaluation"] = evaluate_curve(step + 1)
            processes.lead(partial(log, line))
            progress.update(step + 1, loss=line["loss"], keep=line["realised_keep"])
            trainer.totals.wall = perf_counter() - began
            last, stops = step + 1 == experiment.steps, processes.any(stop.requested)
            if last or stops or (step + 1) % runtime.checkpoint_every == 0:
                save_checkpoint(trainer.setup, folder, step + 1, vars(trainer.totals))
            if stops:
                raise Stopped(
                    f"stopped after step {step + 1} of {experiment.steps}, saved in {folder.path}; "
                    "the same command goes on from there"
                )
    return trainer.totals


def resume(trainer: Trainer, progress: Progress) -> int:
    """Put the last checkpoint that is whole back, if there is one, and cut the logs to it; returns
    its step."""
    folder, processes = trainer.folder, trainer.processes
    first = processes.lead(lambda: settle_checkpoint(folder, progress.note))
    if first:
        checkpoint = checkpoint_of(folder.checkpoints, first)
        trainer.totals = Totals(**checkpoint.load(trainer.setup))
    processes.lead(lambda: clear_leftovers(folder.checkpoints))
    processes.lead(lambda: folder.cut_logs(first))
    place_frozen(trainer.setup, trainer.experiment, trainer.runtime)
    return first


def _step(trainer: Trainer, step: int) -> dict[str, Any]:
    """The trainer's step; an error says which it was, and where the last good checkpoint lies."""
    try:
        return trainer.step(step)
    except BenchError as error:
        good = last_checkpoint(trainer.folder.checkpoints)
        where = f"; the last good checkpoint is {good.path}" if good else ""
        told = type(error)(f"step {step + 1}: {error}{where}")
        told.process = error.process
        raise told from error
