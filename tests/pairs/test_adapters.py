"""Adapters: what is trained, where it starts, and what is refused."""

import pytest
import torch
from dense import WHOLE
from lora_student import LORA, PAIRS, split
from small_pair import pair_folder, rollout
from steps import experiment, run_steps, same, trainer, weights
from transformers import GPT2Config, GPT2LMHeadModel

from bench.core.config import LORA_TARGETS, Experiment, Runtime
from bench.core.errors import ConfigError
from bench.pairs.adapters import add_adapter
from bench.run.run_experiment import run_experiment
from bench.train.hidden_states import hidden_states


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

    return Timer(found.totals.seconds, found.accelerator.device)


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
    monkeypatch.setattr("bench.run.plan.load_pair", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=r'pip install "opd-bench\[lora\]"'):
        run_experiment(experiment(**LORA), Runtime(runs_dir=tmp_path, progress="off"))


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
