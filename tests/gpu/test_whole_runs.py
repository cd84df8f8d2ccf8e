"""Runs on a GPU: stopped and gone on with, offloaded, sharded, and the default one to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from on_gpu import apart, minus, most_apart, trained
from safetensors.torch import load_file
from steps import metrics_lines, trainer
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.core.errors import Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.pairs.models import load_model
from bench.pairs.pair import get_pair
from bench.train.loop import train
from bench.train.placement import Offloaded

SETTINGS = {
    "pair": "tiny-qwen3", "selector": "teachability", "keep": 0.2, "prompts_per_step": 16,
    "max_new_tokens": 48, "steps": 4,
}  # fmt: skip


def finished(folder, runtime=None, **values):
    """A whole run's trainer and losses."""
    found = trainer(folder, {"device": "cuda", **(runtime or {})}, **{**SETTINGS, **values})
    start = trained(found)
    train(found, Progress("off"), StopRequest(), dict)
    losses = [json.loads(line)["loss"] for line in metrics_lines(found.folder.path)]
    return minus(trained(found), start), losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(tmp_path, measured, dtype):
    """As close as the same run is to itself, made twice: some CUDA kernels add in any order."""
    whole, losses = finished(tmp_path / "whole", dtype=dtype)
    again, _ = finished(tmp_path / "again", dtype=dtype)
    stopped = trainer(tmp_path / "stopped", {"device": "cuda"}, **SETTINGS, dtype=dtype)
    start = trained(stopped)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped):
        train(stopped, Progress("off"), request, dict)
    resumed = trainer(tmp_path / "stopped", {"device": "cuda"}, **SETTINGS, dtype=dtype)
    train(resumed, Progress("off"), StopRequest(), dict)
    measured |= {
        "made_twice": apart(again, whole),
        "resumed": apart(minus(trained(resumed), start), whole),
    }
    lines = [json.loads(line)["loss"] for line in metrics_lines(resumed.folder.path)]
    assert len(lines) == len(losses) == 4
    if measured["made_twice"] == 0:
        assert measured["resumed"] == 0
        assert lines == losses
    assert measured["resumed"] <= 10 * measured["made_twice"] + 1e-9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_its_teacher_offloaded_ends_in_the_same_place(tmp_path, measured, dtype):
    whole, losses = finished(tmp_path / "whole", dtype=dtype)
    again, _ = finished(tmp_path / "again", dtype=dtype)
    away, other = finished(tmp_path / "away", {"offload_teacher": True}, dtype=dtype)
    measured |= {"made_twice": apart(again, whole), "offloaded": apart(away, whole)}
    assert measured["offloaded"] <= 10 * measured["made_twice"] + 1e-9
    assert other == pytest.approx(losses, rel=1e-5)


def test_the_teachers_memory_is_free_while_it_waits():
    device = torch.device("cuda")
    config = Qwen3Config(
        vocab_size=1000, hidden_size=512, intermediate_size=2048, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, tie_word_embeddings=False,
    )  # fmt: skip
    teacher = Qwen3ForCausalLM(config).requires_grad_(False).eval().to(device)
    student = load_model(get_pair("tiny-qwen3").student).to(device)
    ids = torch.arange(40, device=device)[None]
    with torch.no_grad():
        before = teacher(ids).logits
        held = torch.cuda.memory_allocated()
        offloaded = Offloaded(teacher, student, device)
        assert held - torch.cuda.memory_allocated() >= 0.99 * offloaded.bytes
        assert torch.equal(teacher(ids).logits, before)
        assert torch.cuda.memory_allocated() >= held - 2**20
        student(ids)
        assert held - torch.cuda.memory_allocated() >= 0.99 * offloaded.bytes - 2**20
        assert offloaded._home[0].is_pinned()


LAUNCHED = {
    "fsdp2": [
        "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2",
        "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--num_processes", "1",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "29555", "-m",
    ],
    "ddp": ["torch.distributed.run", "--nproc_per_node", "1", "--master_port", "29556", "-m"],
}  # fmt: skip
"""Launchers that start one process on the one device that is here, with NCCL."""


def launched(folder: Path, launcher: list[str]):
    """A run's losses and trained weights, float64."""
    flags = [
        "run", "--selector", "teachability", "--keep", "0.2", "--prompts-per-step", "16",
        "--max-new-tokens", "48", "--steps", "4", "--eval-items", "16", "--device", "cuda",
        "--progress", "lines", "--runs-dir", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "bench", *flags], capture_output=True, text=True,
        timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (run,) = [path.parent for path in folder.glob("*/record.json")]
    assert json.loads((run / "record.json").read_text())["provenance"]["device"] == "cuda"
    losses = [json.loads(line)["loss"] for line in metrics_lines(run)]
    found = load_file(run / "model" / "model.safetensors")
    return losses, {name: value.double() for name, value in found.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("alone"), [])


@pytest.mark.parametrize("how", LAUNCHED)
def test_one_process_of_a_launcher_does_what_no_launcher_does(tmp_path, measured, alone, how):
    losses, weights = launched(tmp_path, LAUNCHED[how])
    measured |= {"loss": most_apart(losses, alone[0]), "weights": apart(weights, alone[1])}
    assert measured["loss"] <= 1e-4
    assert measured["weights"] <= 1e-3
