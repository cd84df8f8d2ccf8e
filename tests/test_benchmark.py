"""The comparison with TRL: what is committed is whole, and the sides compute the same thing."""

import importlib.util
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

from arms import Clock, Ours, Plain, responses, sample  # noqa: E402
from gpu_page import PHASES, page  # noqa: E402
from gpu_phases import Load, measure  # noqa: E402
from settings import Setting  # noqa: E402

from bench.train.displacement import Moved  # noqa: E402

NUMBERS = ("ours", "trl", "ratio", "ratio_min", "ratio_max")
MEASURES = ("step_without_rollout_s", "peak_memory_bytes", "rollout_tokens_per_s")


def test_the_committed_benchmark_has_every_setting_keep_and_measure_once():
    rows = json.loads((ROOT / "results" / "benchmark.json").read_text())
    asked = list(product(("embedded", "qwen_vocabulary"), (1.0, 0.05), MEASURES))
    assert [(row["setting"], row["keep"], row["measure"]) for row in rows] == asked
    for row in rows:
        assert set(row) == {"setting", "keep", "measure", *NUMBERS, "runs"}
        assert all(isinstance(row[name], float | int) and row[name] > 0 for name in NUMBERS)
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert isinstance(row["runs"], int) and row["runs"] >= 2


def test_the_committed_page_holds_the_numbers_of_the_committed_rows():
    page = (ROOT / "results" / "benchmark.md").read_text()
    for row in json.loads((ROOT / "results" / "benchmark.json").read_text()):
        ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        assert ratio in page, row


def test_the_page_of_the_gpu_is_made_of_its_numbers_and_of_the_present_estimate():
    found = json.loads((ROOT / "results" / "gpu.json").read_text())
    assert (ROOT / "results" / "gpu.md").read_text() == page(found)
    measured = found["phases"]
    load = Load(**{**measured["load"], "sizes": tuple(measured["load"]["sizes"])})
    assert load.estimate(measured["prompt_tokens"]) == measured["estimated_bytes"]
    for phase, estimate in measured["estimated_bytes"].items():
        assert 0.8 < measured["peak_bytes"][phase] / estimate < 1.05, phase


def test_the_phases_of_a_gpu_are_measured_by_the_engines_own_functions():
    """On the CPU, at small size."""
    load = Load(("small", "double"), 700, 4, 12, 2, 4, 8, 4, "cpu", "float32")
    found = measure(load)
    assert found["sampled_tokens"] <= 4 * 12 and found["same_gradient_twice"]
    assert set(found["peak_bytes"]) == set(found["seconds"]) == {*PHASES}
    assert set(found["estimated_bytes"]) == {*PHASES} - {"loss_of_all"}


def test_where_no_gpu_is_the_page_says_so():
    assert "no CUDA device was reached" in page({})


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A setting with its prompts, and the responses to them."""
    folder = tmp_path_factory.mktemp("benchmark")
    setting = Setting("small", "tiny-qwen3", prompts=6, tokens=12, rounds=-1)
    sample(setting.write(folder), folder)
    return Setting.read(folder), torch.load(folder / "rollouts.pt", weights_only=False)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def plain(sampled):
    """Loss and gradients of the dense loop."""
    setting, rollouts = sampled
    arm = Plain(setting, rollouts)
    loss = arm.loss(rollouts[0])
    loss.backward()
    return float(loss.detach()), gradients(arm.student)


def assert_same(one, other):
    """Loss to 1e-5; gradients relative to the model's largest: maximum and mean residual."""
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    size = max(float(gradient.abs().max()) for gradient in other[1].values())
    assert size > 0 and set(one[1]) == set(other[1])
    for name in other[1]:
        residual = (one[1][name] - other[1][name]).abs() / size
        assert float(residual.max()) < 2e-5 and float(residual.mean()) < 2e-6, name


def test_the_plain_loop_and_ours_have_the_same_loss_and_gradient(sampled, plain):
    arm = Ours(*sampled, "full", 1.0)
    found = []
    trainer = arm.trainer
    trainer.update = lambda loss: (
        found.append((loss, gradients(trainer.pair.student))) or Moved(0.0, 0.0)
    )
    arm.prepare(0)
    arm.step(0, Clock("cpu"))
    assert_same(found[0], plain)


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None,
    reason="trl is not installed: pip install -e '.[benchmark]' compares with its loss too",
)
@pytest.mark.filterwarnings("ignore")
def test_trl_has_the_same_loss_and_gradient(sampled, plain):
    from trl_arm import make_trainer

    setting, rollouts = sampled
    trainer = make_trainer(setting)
    trainer.clock, trainer.given = Clock("cpu"), responses(rollouts[0])
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": text} for text in setting.texts[0]])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert_same((float(loss.detach()), gradients(trainer.model)), plain)
