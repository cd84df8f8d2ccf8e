"""A small random batch, with what the tests recompute from it in float64 NumPy."""

import os

# Before torch is imported, here and in every process that a test starts: models this small are
# slower on several threads, and far slower where the cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fire_share import COUNTS, SEED, SHARE
from hypothesis import settings
from torch import Tensor

# Derandomised: the same examples on every machine; no deadline, since the first call pays torch's.
settings.register_profile("bench", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("bench")

LENGTHS = (9, 4, 7, 1, 0, 6)
HOLE = (0, 7)
"""A position inside a response that the student did not sample (an excluded stop token)."""


@dataclass(frozen=True)
class Batch:
    """Logits of both models over one vocabulary, with padding of garbage off the mask."""

    student_logits_BTV: Tensor
    teacher_logits_BTV: Tensor
    token_BT: Tensor
    mask_BT: Tensor
    row_key_B: list[str]

    @property
    def mask(self) -> np.ndarray:
        return self.mask_BT.numpy()

    @property
    def log_p(self) -> np.ndarray:
        """log p, float64 (N, V), of the tokens under the mask in row-major order."""
        return _log_softmax(self.student_logits_BTV[self.mask_BT])

    @property
    def log_q(self) -> np.ndarray:
        return _log_softmax(self.teacher_logits_BTV[self.mask_BT])

    @property
    def token(self) -> np.ndarray:
        return self.token_BT[self.mask_BT].numpy()

    def rows(self, order: list[int]) -> "Batch":
        """The same responses in another order, row keys along."""
        return Batch(
            self.student_logits_BTV[order],
            self.teacher_logits_BTV[order],
            self.token_BT[order],
            self.mask_BT[order],
            [self.row_key_B[row] for row in order],
        )


def _log_softmax(logits_NV: Tensor) -> np.ndarray:
    x = logits_NV.numpy().astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """make_batch(seed=0, vocabulary=12, scale=2.0) -> Batch of 6 responses of unequal length.

    The logits are normal with the given standard deviation, the teacher's half its own and half
    the student's, so the two agree on some tokens and not on others.
    """

    def make(seed: int = 0, vocabulary: int = 12, scale: float = 2.0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        shape = (len(LENGTHS), max(LENGTHS))
        student = scale * torch.randn(*shape, vocabulary, generator=generator)
        teacher = 0.5 * student + scale * torch.randn(*shape, vocabulary, generator=generator)
        token = torch.randint(vocabulary, shape, generator=generator)
        mask = torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]
        mask[HOLE] = False
        student[~mask] = 1e4 * torch.randn(int((~mask).sum()), vocabulary, generator=generator)
        teacher[~mask] = torch.nan
        return Batch(student, teacher, token, mask, [f"prompt{b}/0" for b in range(shape[0])])

    return make


def pytest_sessionfinish(session):
    """A worker of several hands over what its fire tried."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["fire"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    COUNTS.update(getattr(node, "workeroutput", {}).get("fire", {}))


def pytest_terminal_summary(terminalreporter):
    """What the fire tried, where any of it was run."""
    if COUNTS and not hasattr(terminalreporter.config, "workerinput"):
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(COUNTS.items()))
        share = "the part of make test" if SHARE is None else f"share {SHARE}"
        terminalreporter.write_line(
            f"fire ({share}, seed {SEED}): {told}: nothing lost, nothing wrong"
        )
