"""Updates of the student: what changes between the two KL measurements on a context.

`train` distils on all tokens of other prompts for the experiment's steps; `one_step` takes one step
on the bank's own responses, its prompts drawn with replacement by the seed; `run:RUN` takes the
checkpoint of a run.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.core.arrays import column_array, read_column, write_table
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.files import digest8
from bench.core.logits import head_weight, project
from bench.core.processes import make_accelerator
from bench.core.progress import Progress
from bench.core.provenance import code_digest
from bench.core.records import RunFolder, find_run
from bench.core.stopping import StopRequest
from bench.diagnose.context_bank import ContextBank
from bench.diagnose.measured import DIVERGENCES
from bench.pairs.models import content_sha256, load_model
from bench.run.plan import Plan, identity_of, make_plan
from bench.run.run_experiment import open_trainer
from bench.selection.budget import Selection
from bench.selection.formulas import chunk_signals
from bench.tasks.prompt_sets import get_prompts
from bench.train.hidden_states import hidden_states
from bench.train.loop import train
from bench.train.rollout import Rollout, join_rollouts
from bench.train.trainer import Trainer

UPDATE_CODE = (
    "core/decode", "core/logits", "core/objectives", "core/randomness", "core/sampling",
    "diagnose/updates", "pairs/adapters", "pairs/agreement", "pairs/models", "selection/budget",
    "selection/formulas", "tasks/arithmetic", "train/batch_objectives", "train/displacement",
    "train/hidden_states", "train/loop", "train/loss", "train/objectives", "train/placement",
    "train/rollout", "train/scoring", "train/setup", "train/trainer",
)  # fmt: skip
"""What a measured gain depends on besides the bank, the update's settings and the models."""


@dataclass(frozen=True)
class Update:
    """One update of the student, made when it is asked for."""

    seed: int
    key: str
    """Names what the update depends on, besides the bank's models."""
    experiment: Experiment
    """Its settings: what a table of results calls the regime."""
    student: Callable[[Progress, StopRequest], Any]
    """The updated student on its device."""
    discard: Callable[[], None] = lambda: None
    """Drop what a killed update would need to go on."""


def make_updates(bank: ContextBank, runtime: Runtime) -> list[Update]:
    """The updates asked for, checked: no prompt that an update trains on is in the bank."""
    kind = bank.diagnosis.update
    if kind.startswith("run:"):
        names = [name.strip() for name in kind.removeprefix("run:").split(",")]
        found = [_of_run(name, bank, runtime) for name in names]
        _check_alike(found)
    else:
        make = {"train": _trained, "one_step": _one_step}[kind]
        found = [make(seed, bank, runtime) for seed in bank.diagnosis.update_seeds]
    if kind != "one_step":
        for update in found:
            check_disjoint(bank, update.experiment)
    return found


def check_disjoint(bank: ContextBank, experiment: Experiment) -> None:
    """Raises ConfigError where the update trains on a prompt of the bank."""
    held_out = {prompt.text for prompt in bank.prompts}
    prompts = get_prompts(experiment).prepare(bank.agreement.tokenizer, bank.agreement.chat)
    for step in range(experiment.steps):
        for prompt in prompts.draw(step, experiment.prompts_per_step, experiment.seed):
            if prompt.text in held_out:
                raise ConfigError(
                    f"prompts: {experiment.prompts!r} gives prompt {prompt.id!r} to step "
                    f"{step + 1} of the update, and the bank holds it too"
                )


# --- train ---------------------------------------------------------------------------------------


def _trained(seed: int, bank: ContextBank, runtime: Runtime) -> Update:
    experiment = bank.experiment.model_copy(update={"seed": seed})
    inside = runtime.model_copy(update={"runs_dir": runtime.runs_dir / "updates"})
    plan = make_plan(experiment, inside)

    def student(progress: Progress, stop: StopRequest) -> Any:
        trainer = _open_trainer(plan, inside)
        train(trainer, progress, stop, lambda step: {})
        return trainer.pair.student

    def discard() -> None:
        shutil.rmtree(plan.folder.path, ignore_errors=True)

    return Update(seed, plan.run_id, plan.experiment, student, discard)


def _open_trainer(plan: Plan, runtime: Runtime) -> Trainer:
    plan.folder.create(plan.experiment.model_dump(mode="json"), plan.points_to)
    return open_trainer(plan, plan.load_pair(), runtime)


# --- one step on the bank ------------------------------------------------------------------------


def _one_step(seed: int, bank: ContextBank, runtime: Runtime) -> Update:
    changed = {"seed": seed, "steps": 1, "warmup_steps": 0, "schedule": "constant"}
    experiment = bank.experiment.model_copy(update=changed)
    inside = runtime.model_copy(update={"runs_dir": runtime.runs_dir / "updates"})
    plan = make_plan(experiment, inside)

    def student(progress: Progress, stop: StopRequest) -> Any:
        progress.start(f"one step, seed {seed}", 1)
        trainer = open_trainer(plan, plan.load_pair(), inside)
        rollout = whole(bank, trainer.accelerator.device)
        count_P = drawn_counts(seed, len(bank.prompts))
        count_B = np.repeat(count_P, bank.diagnosis.samples_per_prompt)
        weight_BT = rollout.mask_BT * torch.tensor(count_B, device=rollout.mask_BT.device)[:, None]
        selection = Selection.of_weights(weight_BT.float())
        with trainer.accelerator.autocast():
            context = trainer.context(rollout, 0)
            loss = trainer.gradient(rollout, selection, None, context).loss
            trainer.update(loss)
        progress.update(1, loss=loss)
        return trainer.pair.student

    key = f"one_step-s{seed}-{digest8([bank.id, identity_of(experiment)])}"
    return Update(seed, key, plan.experiment, student)


def drawn_counts(seed: int, prompts: int) -> np.ndarray:
    """How often each prompt is in the step's batch: as many as there are, with replacement."""
    generator = np.random.default_rng([seed, 0x0E57E9])
    return np.bincount(generator.integers(prompts, size=prompts), minlength=prompts)


def whole(bank: ContextBank, device: torch.device) -> Rollout:
    """The bank as one rollout."""
    return join_rollouts([rollout for _, rollout in bank.rollouts(device)])


# --- the checkpoint of a run ---------------------------------------------------------------------


def _of_run(name: str, bank: ContextBank, runtime: Runtime) -> Update:
    folder = find_run(name, runtime.runs_dir)
    if folder is None or not (folder / "experiment.json").is_file():
        raise ConfigError(f"update: run {name!r} is neither in {runtime.runs_dir} nor a run folder")
    if not (folder / "model").is_dir():
        raise ConfigError(f"update: run {name!r} has no trained model yet; finish it first")
    saved = RunFolder(folder).read_points()
    experiment = Experiment.parse(RunFolder(folder).read_settings())
    for side, digest in bank.points_to.items():
        if saved.get(side) != digest:
            raise ConfigError(
                f"update: run {name!r} has another {side} than pair {bank.pair.name!r}"
            )
    path = str(folder / "model")

    def student(progress: Progress, stop: StopRequest) -> Any:
        return load_model(path).to(make_accelerator(experiment, runtime).device)

    return Update(experiment.seed, f"run-{content_sha256(path)[:16]}", experiment, student)


def _check_alike(updates: Sequence[Update]) -> None:
    """Several runs are one update with several seeds, or an error."""
    settings = [u.experiment.model_copy(update={"seed": 0}) for u in updates]
    seeds = [update.seed for update in updates]
    if any(one != settings[0] for one in settings) or len(set(seeds)) != len(seeds):
        raise ConfigError("update: several runs must be one experiment with different seeds")


def measure(
    bank: ContextBank, update: Update, runtime: Runtime, progress: Progress, stop: StopRequest
) -> dict[str, np.ndarray]:
    """divergence -> its value on every context under the updated student; kept beside the bank."""
    path = bank.path / "after" / f"{update.key}-{code_digest(UPDATE_CODE)[:8]}.parquet"
    if not path.is_file():
        student = update.student(progress, stop)
        after = score_after(bank, student, runtime, progress, update.seed)
        path.parent.mkdir(exist_ok=True)
        write_table(path, pa.table({d: column_array(value) for d, value in after.items()}))
        update.discard()
    return {divergence: read_column(path, divergence) for divergence in DIVERGENCES}


def score_after(
    bank: ContextBank, student, runtime: Runtime, progress: Progress, seed: int
) -> dict[str, np.ndarray]:
    """Both divergences of a student from the teacher on every context, part by part.

    The teacher is its stored hidden states and its output layer; only the student runs.
    """
    accelerator = make_accelerator(bank.experiment, runtime)
    device = accelerator.device
    names = [f"{divergence}_BT" for divergence in DIVERGENCES]
    teacher_head_VD = bank.teacher_head(device)
    found: dict[str, list[np.ndarray]] = {divergence: [] for divergence in DIVERGENCES}
    size = bank.settings.positions(bank.vocabulary.size)
    progress.start(f"gain, update seed {seed}", bank.parts)
    with torch.no_grad():
        for part, rollout in bank.rollouts(device):
            with accelerator.autocast():
                hidden_ND = hidden_states(student, rollout, rollout.mask_BT, bank.settings)
            teacher_ND = bank.teacher_hidden(part, device)
            token_N = rollout.token_BT[rollout.mask_BT]
            for start in range(0, token_N.numel(), size):
                piece = slice(start, start + size)
                values = chunk_signals(
                    project(hidden_ND[piece].float(), head_weight(student), bank.vocabulary),
                    project(teacher_ND[piece].float(), teacher_head_VD, bank.vocabulary),
                    token_N[piece],
                    names,
                    1,
                )
                for divergence in DIVERGENCES:
                    found[divergence].append(values[f"{divergence}_BT"].cpu().numpy())
            progress.update(part + 1)
    return {divergence: np.concatenate(pieces) for divergence, pieces in found.items()}
