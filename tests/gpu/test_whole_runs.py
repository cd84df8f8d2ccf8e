"""Runs on a GPU: stopped and gone on with, offloaded, sharded, and the default one to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from on_gpu import apart, minus, trained
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


SHARDED = (
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
)  # fmt: skip
ONE_DDP = ("--multi_gpu",)


@pytest.mark.parametrize("how", ["fsdp2", "ddp"])
def test_one_process_of_a_launcher_does_what_no_launcher_does(tmp_path, measured, how):
    """FSDP2 and DDP with NCCL, started by accelerate, on the one device that is here."""
    flags = [
        "run", "--selector", "teachability", "--keep", "0.2", "--prompts-per-step", "16",
        "--max-new-tokens", "48", "--steps", "4", "--eval-items", "16", "--device", "cuda",
        "--progress", "lines",
    ]  # fmt: skip
    launch = ["accelerate.commands.launch", *(SHARDED if how == "fsdp2" else ONE_DDP)]
    launch += ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
               "--dynamo_backend", "no", "--main_process_port", "29555", "-m"]  # fmt: skip
    found = []
    for name, before in (("alone", []), (how, launch)):
        command = [sys.executable, "-m", *before, "bench", *flags, "--runs-dir", tmp_path / name]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        (run,) = [path.parent for path in Path(tmp_path / name).glob("*/record.json")]
        record = json.loads((run / "record.json").read_text())
        losses = [json.loads(line)["loss"] for line in metrics_lines(run)]
        found.append((losses, load_file(run / "model" / "model.safetensors"), record))
    (alone, here, _), (launched, there, record) = found
    assert record["provenance"]["device"] == "cuda"
    measured |= {
        "loss": max(abs(a / b - 1) for a, b in zip(launched, alone, strict=True)),
        "weights": apart(
            {name: value.double() for name, value in there.items()},
            {name: value.double() for name, value in here.items()},
        ),
    }
    assert measured["loss"] <= 1e-4
    assert measured["weights"] <= 1e-3
