"""Adapters: what is trained, saved, resumed and merged, and a teacher that is the base itself."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pair import pair_folder, rollout
from steps import QUIET, experiment, metrics_lines, run_steps, same, trainer, weights
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from bench.cli.app import main
from bench.core.config import LORA_TARGETS, Experiment, Runtime
from bench.core.errors import ConfigError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.pairs.adapters import add_adapter, base_of, is_adapter, weight_sharing_copy
from bench.pairs.models import content_sha256, load_model, load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer, run_experiment
from bench.run.trained_model import evaluate_checkpoint, merge_checkpoint, scores_of
from bench.train.hidden_states import PassSettings, hidden_states
from bench.train.loop import Trainer, train
from bench.train.setup import place_frozen

LORA = {"lora": 4, "learning_rate": 1e-2}
WHOLE = PassSettings(micro_batch=64, logit_chunk=1 << 24)
PAIRS = [("qwen3", True), ("qwen3", False), ("qwen2", True), ("qwen2", False)]


def split(found: Trainer) -> tuple[dict, dict]:
    """(adapters, base) of a trainer's student, copied."""
    own = weights(found)
    adapters = {name: value for name, value in own.items() if "lora_" in name}
    return adapters, {name: own[name] for name in own.keys() - adapters.keys()}


@pytest.mark.parametrize("architecture, tied", PAIRS)
def test_only_adapters_are_trained_and_the_loss_falls(tmp_path, architecture, tied):
    pair = str(pair_folder(architecture, tied))
    found = trainer(tmp_path, **LORA, pair=pair, selector="full", steps=8, prompts_per_step=12)
    before, base = split(found)
    assert len(before) == 2 * len(LORA_TARGETS) * found.pair.student.config.num_hidden_layers
    held = {id(p) for group in found.setup.optimizer.param_groups for p in group["params"]}
    trained = {name for name, p in found.pair.student.named_parameters() if id(p) in held}
    assert trained == set(before)
    sample = found.rollout(0)
    first = found.forward_kl(sample).mean()
    for step in range(8):
        found.step(step)
    assert found.forward_kl(sample).mean() < 0.97 * first
    after, base_after = split(found)
    assert same(base, base_after)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_no_gradient_reaches_the_base(tmp_path):
    found = trainer(tmp_path, **LORA, selector="full")
    sample = found.rollout(0)
    signals, scored = found.signals(sample, 0, _timer(found))
    found.gradient(sample, found.select(signals, sample, 0), scored.teacher_hidden_ND)
    for name, parameter in found.pair.student.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert parameter.requires_grad == ("lora_" in name)


def _timer(found):
    from bench.train.metrics import Timer

    return Timer(found.totals.seconds)


def test_an_untrained_adapter_changes_no_bit(tmp_path):
    plain, adapted = trainer(tmp_path / "a", steps=1), trainer(tmp_path / "b", **LORA, steps=1)
    one, other = plain.rollout(0), adapted.rollout(0)
    assert torch.equal(one.token_BT, other.token_BT)
    states = [hidden_states(t.pair.student, one, one.mask_BT, WHOLE) for t in (plain, adapted)]
    assert torch.equal(*states)


def test_adapters_start_from_the_seed_alone(tmp_path):
    torch.manual_seed(1)
    one = split(trainer(tmp_path / "a", **LORA))[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = split(trainer(tmp_path / "b", **LORA))[0]
    assert torch.equal(torch.get_rng_state(), state)
    other = split(trainer(tmp_path / "c", **LORA, seed=1))[0]
    assert same(one, again)
    for name, value in one.items():
        assert torch.equal(value, other[name]) == ("lora_B" in name)


def test_rank_scale_and_targets_are_the_experiment_s(tmp_path):
    found = trainer(tmp_path, lora=3, lora_alpha=6.0, lora_targets=("q_proj", "down_proj"))
    layer = found.pair.student.base_model.layers[0]
    assert layer.self_attn.q_proj.scaling == {"default": 2.0}
    assert layer.mlp.down_proj.lora_A["default"].weight.shape[0] == 3
    assert len(split(found)[0]) == 2 * 2 * found.pair.student.config.num_hidden_layers
    assert set(Experiment(lora=4).model_dump()) - set(Experiment().model_dump()) == {"lora"}
    with pytest.raises(ConfigError, match="lora_alpha: is for adapters; give their rank"):
        Experiment.parse({"lora_alpha": 8})
    with pytest.raises(ConfigError, match="did you mean 'q_proj'"):
        Experiment.parse({"lora": 2, "lora_targets": ["q_prj"]})


def test_a_model_without_the_named_layers_is_refused():
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match="lora_targets: GPT2LMHeadModel does not take them"):
        add_adapter(GPT2LMHeadModel(config), Experiment(lora=2))


def test_a_missing_peft_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.pairs.adapters.find_spec", lambda name: None)
    monkeypatch.setattr(
        "bench.run.run_experiment.load_pair", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(ConfigError, match=r'pip install "opd-bench\[lora\]"'):
        run_experiment(experiment(**LORA), Runtime(runs_dir=tmp_path, progress="off"))


# --- checkpoints ---------------------------------------------------------------------------------


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


# --- the run's model -----------------------------------------------------------------------------


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


# --- a teacher that is the base with its adapters off --------------------------------------------


def self_distilled(tmp_path, side="student", **values) -> tuple[Trainer, Trainer]:
    """(one model in memory, two of them): the teacher has the student's files."""
    folder = str(pair_folder() / side)
    settings = {**LORA, "teacher": folder, "student": folder, **values}
    runtime = Runtime.parse({"runs_dir": tmp_path, **QUIET})
    found = []
    for is_one in (True, False):
        plan = make_plan(experiment(**settings), runtime)
        assert plan.is_one_model
        found.append(open_trainer(plan, load_pair(plan.pair, one_model=is_one), runtime))
    return found[0], found[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_model_in_memory_equals_two(tmp_path, dtype):
    one, two = self_distilled(tmp_path, selector="reverse_kl", keep=0.5, dtype=dtype)
    for found in (one, two):  # an untrained adapter leaves nothing to distil
        with torch.no_grad():
            for name, parameter in found.pair.student.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
        place_frozen(found.setup, found.experiment, found.runtime)
    lines, others = run_steps(one), run_steps(two)
    assert lines[0]["signals"]["reverse_kl_BT"]["all"] > 0.1
    for line, other in zip(lines, others, strict=True):
        for name in ("loss", "grad_norm", "trained_tokens"):
            assert line[name] == other[name]
    assert same(weights(one), weights(two))


def test_the_one_model_s_weights_are_held_once(tmp_path):
    one, two = self_distilled(tmp_path)

    def held(found: Trainer) -> int:
        parameters = [*found.pair.student.parameters(), *found.teacher.parameters()]
        sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
        return sum(sizes.values())

    base = sum(p.numel() * 4 for p in one.teacher.parameters())
    assert held(two) - held(one) == base
    assert not any("lora" in name for name, _ in one.teacher.named_modules())


def test_teacher_and_student_are_one_model_only_where_files_and_adapters_say_so():
    folder = str(pair_folder() / "student")
    same_files = {"teacher": folder, "student": folder}
    assert make_plan(experiment(**LORA, **same_files), Runtime()).is_one_model
    assert not make_plan(experiment(**same_files), Runtime()).is_one_model
    assert not make_plan(experiment(**LORA), Runtime()).is_one_model


def test_a_reference_shares_the_frozen_weights(tmp_path):
    plain = trainer(tmp_path / "a", selector="cc", keep=0.5, lora=4)
    own = {id(p) for p in plain.pair.student.parameters()}
    assert all(id(p) in own for p in plain.setup.reference.parameters())
    full = trainer(tmp_path / "b", selector="cc", keep=0.5)
    own = {id(p) for p in full.pair.student.parameters()}
    assert not any(id(p) in own for p in full.setup.reference.parameters())


def test_a_weight_sharing_copy_is_the_same_function_on_the_same_parameters():
    model = load_model(str(pair_folder("qwen2") / "student"))
    shared, copied = weight_sharing_copy(model), deepcopy(model)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = shared(ids).logits
        add_adapter(model, Experiment(lora=2))
        model.base_model.layers[0].mlp.up_proj.lora_B["default"].weight.fill_(0.5)
        assert torch.equal(shared(ids).logits, before) and torch.equal(copied(ids).logits, before)
        assert not torch.equal(model(ids).logits, before)


def test_adapters_and_recomputation_go_together(tmp_path):
    plain = trainer(tmp_path / "a", **LORA, selector="full")
    less = trainer(tmp_path / "b", {"gradient_checkpointing": True}, **LORA, selector="full")
    one, other = run_steps(plain), run_steps(less)
    assert [line["grad_norm"] for line in one] == [line["grad_norm"] for line in other]
    assert same(weights(plain), weights(less))


def test_a_batch_sampled_by_an_adapted_student_is_on_policy(tmp_path):
    found = trainer(tmp_path, **LORA, selector="full")
    run_steps(found)
    sample = rollout(found.pair)
    from bench.train.scoring import sampled_logprob

    logprob_N = sampled_logprob(found.pair.student, sample, found.pair.vocabulary, WHOLE)
    torch.testing.assert_close(
        logprob_N, sample.student_logprob_BT[sample.mask_BT], atol=1e-4, rtol=1e-4
    )
