"""Adapters on disk: saved, resumed, loaded by peft and transformers, scored and merged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lora_student import LORA, PAIRS, split
from safetensors.torch import load_file, save_file
from small_pair import pair_folder
from steps import QUIET, experiment, metrics_lines, same, trainer, weights
from transformers import AutoModelForCausalLM

from bench.cli.app import main
from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.pairs.adapters import add_adapter, base_of, is_adapter
from bench.pairs.models import content_sha256, load_model, load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import run_experiment
from bench.run.trained_model import evaluate_checkpoint, merge_checkpoint, scores_of
from bench.train.loop import train


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path):
    settings = {**LORA, "steps": 4, "selector": "teachability", "schedule": "cosine"}
    whole = trainer(tmp_path / "a", **settings)
    train(whole, Progress("off"), StopRequest(), dict)
    stopped = trainer(tmp_path / "b", **settings)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped):
        train(stopped, Progress("off"), request, dict)
    resumed = trainer(tmp_path / "b", **settings)
    assert not same(weights(stopped), weights(resumed))
    train(resumed, Progress("off"), StopRequest(), dict)
    assert same(weights(whole), weights(resumed))
    lines = [[json.loads(line) for line in metrics_lines(t.folder.path)] for t in (whole, resumed)]
    for one, other in zip(*lines, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "trained_tokens"):
            assert one[name] == other[name]


def test_checkpoints_hold_the_adapters_alone(tmp_path):
    found = trainer(tmp_path, **LORA, steps=1)
    train(found, Progress("off"), StopRequest(), dict)
    (folder,) = found.folder.checkpoints.glob("step-*")
    saved = load_file(folder / "trained.safetensors")
    assert same(saved, split(found)[0]) and len(saved) == len(split(found)[0])
    assert not list(folder.glob("model*"))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, dict]:
    """A finished run of adapters: its folder, its record."""
    runtime = Runtime.parse({"runs_dir": tmp_path_factory.mktemp("runs"), **QUIET})
    record = run_experiment(experiment(**LORA, eval_items=16), runtime)
    return Path(record.folder), record.model_dump()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21
def test_a_run_leaves_an_adapter_that_peft_and_transformers_load(done):
    from peft import PeftModel

    folder = done[0] / "model"
    student = str(pair_folder() / "student")
    assert is_adapter(str(folder)) and base_of(str(folder))[0] == student
    assert not list(folder.glob("model*.safetensors"))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours = load_model(str(folder), merge=False)(ids).logits
        theirs = PeftModel.from_pretrained(load_model(student), str(folder))(ids).logits
        automatic = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        base = load_model(student)(ids).logits
    assert torch.equal(ours, theirs) and torch.equal(ours, automatic)
    assert (ours - base).abs().max() > 1e-2


@pytest.mark.parametrize("architecture, tied", PAIRS)
def test_merged_is_unmerged_up_to_rounding(tmp_path, architecture, tied):
    model = load_model(str(pair_folder(architecture, tied) / "student"))
    add_adapter(model, Experiment(lora=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "adapter")
    merged = load_model(str(tmp_path / "adapter"))
    assert type(merged) is type(load_model(str(pair_folder(architecture, tied) / "student")))
    head_is_tied = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert head_is_tied == tied
    assert not any("lora" in name for name, _ in merged.named_parameters())
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_run_is_scored_from_its_adapter_as_in_training(done):
    folder, record = done
    runtime = Runtime.parse({"runs_dir": folder.parent, **QUIET})
    found = scores_of(evaluate_checkpoint(folder.name, runtime))
    assert found == record["scores"]["trained"]


def test_merging_writes_a_model_that_needs_no_peft(done, tmp_path, capsys):
    folder, out = done[0], tmp_path / "merged"
    with pytest.raises(SystemExit, match="0"):
        main(["merge", folder.name, "--out", str(out), "--runs-dir", str(folder.parent), "--json"])
    assert json.loads(capsys.readouterr().out)["model"] == str(out)
    assert not (out / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        unmerged = load_model(str(folder / "model"), merge=False)(ids).logits
        torch.testing.assert_close(plain(ids).logits, unmerged, atol=1e-4, rtol=1e-4)
    runtime = Runtime.parse({"runs_dir": folder.parent, **QUIET})
    evaluate_checkpoint(str(out), runtime, ("tiny_math",), eval_items=4)
    with pytest.raises(ConfigError, match="is there already"):
        merge_checkpoint(folder.name, out, runtime)
    with pytest.raises(ConfigError, match="holds no adapter"):
        merge_checkpoint(str(out), tmp_path / "again", runtime)


def test_an_adapter_may_be_a_student_and_counts_with_its_base(done, tmp_path):
    folder = str(done[0] / "model")
    teacher = str(pair_folder() / "teacher")
    plan = make_plan(experiment(student=folder, teacher=teacher), Runtime(runs_dir=tmp_path))
    loaded = load_pair(plan.pair)
    assert not any("lora" in name for name, _ in loaded.student.named_parameters())
    assert all(p.requires_grad for p in loaded.student.parameters())
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(folder).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert content_sha256(str(moved)) == content_sha256(folder)
    settings = json.loads((moved / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "gone")
    (moved / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"its base model .*gone' is not here"):
        load_model(str(moved))


def _renamed(tensors):
    return {name.replace("self_attn", "attention"): value for name, value in tensors.items()}


def _half(tensors):
    return dict(list(tensors.items())[: len(tensors) // 2])


def _more(tensors):
    return tensors | {
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(2)
    }


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "change, message",
    [
        (_renamed, "its file lacks .* tensors"),
        (_half, "its file lacks .* tensors"),
        (_more, "its file holds, and no layer takes, 1 tensors"),
    ],
)
def test_an_adapter_that_does_not_fit_its_model_is_refused(done, tmp_path, change, message, merge):
    """Not left out, and not filled in at random: the base would be scored in its place."""
    folder = tmp_path / "adapter"
    shutil.copytree(done[0] / "model", folder)
    file = folder / "adapter_model.safetensors"
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["init_lora_weights"] = False
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    load_model(str(folder), merge=merge)
    save_file(change(load_file(file)), file)
    with pytest.raises(ConfigError, match=f"adapter .* does not fit: {message}"):
        load_model(str(folder), merge=merge)


def test_an_adapter_of_another_kind_is_refused(done, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(done[0] / "model", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    for kind in ("LOHA", "IA3", "NOTHING"):
        kept = ("base_model_name_or_path", "target_modules", "task_type")
        changed = {"peft_type": kind, **{name: settings[name] for name in kept}}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match="adapter .*"):
            load_model(str(folder))
