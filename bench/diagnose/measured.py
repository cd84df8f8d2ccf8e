"""The gain G of a context: the KL from the teacher that an update removes at the same prefix."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from bench.core.config import Runtime
from bench.core.processes import make_accelerator
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.diagnose.context_bank import Bank, code_digest, column_array, read_column, write_table
from bench.diagnose.updates import Update
from bench.selection.formulas import chunk_signals
from bench.train.loss import head_weight, hidden_states, project

DIVERGENCES = ("forward_kl", "reverse_kl")
KINDS = ("forward_absolute", "forward_relative", "reverse_absolute", "reverse_relative")
RESOLUTION = {"float32": 1e-5, "bfloat16": 1e-2}
"""Nats, by the precision of the passes: KLs closer than this are equal up to rounding, and a gain
under half of it is none. In bfloat16, nine tenths of the embedded pairs' KLs move by less."""
WINSOR = (1.0, 99.0)
"""Percentiles at which relative gains are cut off (arXiv 2605.26844, release)."""
SOURCES = (
    "train/loop",
    "train/objectives",
    "train/loss",
    "selection/formulas",
    "diagnose/updates",
)
"""Code whose edit makes an old measurement another one."""


def measure(
    bank: Bank, update: Update, runtime: Runtime, progress: Progress, stop: StopRequest
) -> dict[str, np.ndarray]:
    """divergence -> its value on every context under the updated student; kept beside the bank."""
    path = bank.path / "after" / f"{update.key}-{code_digest(SOURCES)[:8]}.parquet"
    if not path.is_file():
        student = update.student(progress, stop)
        after = score_after(bank, student, runtime, progress, update.seed)
        path.parent.mkdir(exist_ok=True)
        write_table(path, pa.table({d: column_array(value) for d, value in after.items()}))
        update.discard()
    return {divergence: read_column(path, divergence) for divergence in DIVERGENCES}


def score_after(
    bank: Bank, student, runtime: Runtime, progress: Progress, seed: int
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


def gains(
    before: Mapping[str, np.ndarray], after: Sequence[Mapping[str, np.ndarray]], resolution: float
) -> dict[str, np.ndarray]:
    """kind -> gain_SN, float64, a row an update seed.

    absolute   G = KL_before - KL_after, nats; a multiple of `resolution`.
    relative   G / (KL_before + 1e-12), winsorised at 1 % and 99 % in each seed.
    forward is KL(q‖p), reverse KL(p‖q). Source: arXiv 2605.26844 and its release.
    """
    found = {}
    for divergence in DIVERGENCES:
        name = divergence.removesuffix("_kl")
        before_N = before[divergence].astype(float)
        after_SN = np.array([values[divergence] for values in after], dtype=float)
        gain_SN = on_grid(before_N - after_SN, resolution)
        ratio_SN = gain_SN / (before_N + 1e-12)
        low_S1, high_S1 = np.percentile(ratio_SN, WINSOR, axis=1)[..., None]
        found[f"{name}_absolute"] = gain_SN
        found[f"{name}_relative"] = np.clip(ratio_SN, low_S1, high_S1)
    return {kind: found[kind] for kind in KINDS}


def on_grid(value: np.ndarray, step: float) -> np.ndarray:
    """Values to the nearest multiple of `step`: what rounding alone tells apart becomes equal."""
    return np.round(value / step) * step + 0.0
