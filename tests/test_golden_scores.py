"""The scores of every selector on one fixed batch of logits, as they were when it was added.

A changed score changes what every run of the rule trains on. `python tests/test_golden_scores.py`
writes the file again, for a change that is meant; it leaves the scores of unchanged rules alone.
"""

import json
from pathlib import Path

import pytest
import torch

from bench import get_selector, selector_names
from bench.selection.contract_batch import make_batch

FILE = Path(__file__).parent / "golden" / "selector_scores.json"
STEPS = 2
"""Batches in a row: rules with a memory score the second one otherwise than the first."""
LARGEST, MEAN = 2e-5, 2e-6
"""Differences allowed, relative to the largest finite score: other machines round otherwise."""


def scores(name: str) -> list[list[float]]:
    """Scores under the mask of each batch; -inf is None in the file."""
    selector = get_selector(name)
    batches = [make_batch(seed) for seed in range(STEPS if selector.has_memory else 1)]
    return [selector(batch.signals())[batch.mask_BT].tolist() for batch in batches]


def test_every_selector_is_in_the_file_and_no_other():
    assert sorted(json.loads(FILE.read_text())) == selector_names()


@pytest.mark.parametrize("name", selector_names())
def test_the_scores_are_the_golden_ones(name):
    golden = json.loads(FILE.read_text())[name]
    actual = scores(name)
    assert len(actual) == len(golden)
    for now, then in zip(actual, golden, strict=True):
        now_N = torch.tensor(now, dtype=torch.float64)
        then_N = torch.tensor([-torch.inf if x is None else x for x in then], dtype=torch.float64)
        finite_N = then_N > -torch.inf
        assert torch.equal(now_N > -torch.inf, finite_N)
        size = max(1.0, float(then_N[finite_N].abs().max()))
        residual_N = (now_N - then_N)[finite_N].abs() / size
        assert float(residual_N.max()) < LARGEST and float(residual_N.mean()) < MEAN


def write() -> None:
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in selector_names():
        found = [[None if x == -torch.inf else float(f"{x:.9g}") for x in line]
                 for line in scores(name)]  # fmt: skip
        try:
            test_the_scores_are_the_golden_ones(name)
        except (AssertionError, KeyError, FileNotFoundError):
            golden[name] = found
            print(f"new scores of {name}")
    lines = [f"{json.dumps(name)}: {json.dumps(golden[name])}" for name in selector_names()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
