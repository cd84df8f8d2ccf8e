"""What a trainer is made of: the third model, reused hidden states, vLLM, precision under FSDP."""

from types import SimpleNamespace

import pytest
import vllm_stand_in
from small_pair import pair_folder
from steps import run_steps, trainer

from bench.core.errors import ConfigError


def test_the_reference_is_the_student_before_training(tmp_path):
    found = trainer(tmp_path, {"log_signals": ("student_logprob_BT",)}, selector="cc", keep=1.0)
    first, *_, last = run_steps(found)
    assert first["signals"]["reference_logprob_BT"]["all"] == pytest.approx(
        first["signals"]["student_logprob_BT"]["all"], abs=1e-6
    )
    both = [last["signals"][f"{who}_logprob_BT"]["all"] for who in ("reference", "student")]
    assert abs(both[0] - both[1]) > 1e-5


def test_a_model_may_be_the_reference(tmp_path):
    folder = pair_folder() / "teacher"
    found = trainer(tmp_path, selector="cc", keep=1.0, reference=str(folder), steps=1)
    (line,) = run_steps(found)
    assert line["signals"]["reference_logprob_BT"]["all"] == pytest.approx(
        line["signals"]["teacher_logprob_BT"]["all"], abs=1e-6
    )


def test_models_that_only_a_rule_asks_for_are_not_loaded_without_it(tmp_path):
    assert trainer(tmp_path, selector="teachability").setup.reference is None
    assert trainer(tmp_path, selector="shuffled(cc)").setup.reference is not None


@pytest.mark.parametrize(
    "values, reused",
    [({"selector": "entropy"}, True), ({"selector": "entropy", "dtype": "bfloat16"}, False),
     ({"selector": "random"}, False)],
)  # fmt: skip
def test_hidden_states_are_reused_where_that_moves_the_last_bits_only(tmp_path, values, reused):
    assert trainer(tmp_path, **values).step(0)["reused_hidden"] is reused


def test_a_trainer_samples_through_vllm(tmp_path, monkeypatch):
    vllm_stand_in.install(monkeypatch)
    found = trainer(tmp_path, {"vllm_check_every": 1}, rollout="vllm", steps=2, keep=1.0)
    first, second = run_steps(found)
    assert found.setup.vllm.engine.calls.count("reload") == 2
    assert 0 <= second["vllm_difference"] < 1e-5
    assert first["sampled_tokens"] > 0
    again = trainer(tmp_path / "b", rollout="vllm", steps=2, keep=1.0)
    assert [line["loss"] for line in run_steps(again)] == [first["loss"], second["loss"]]


def test_vllm_gives_no_hidden_states_to_reuse(tmp_path):
    with pytest.raises(ConfigError, match="reuse_hidden: vllm gives no hidden states"):
        trainer(tmp_path, {"reuse_hidden": True}, rollout="vllm")


def test_under_fsdp_autocast_alone_sets_the_precision(tmp_path, monkeypatch):
    """FSDP's own policy would round what a forward pass returns, the loss included."""
    from bench.core.processes import make_accelerator

    plugin = SimpleNamespace(mixed_precision_policy="half")

    def with_plugin(*given):
        made = make_accelerator(*given)
        made.state.fsdp_plugin = plugin
        return made

    monkeypatch.setattr("bench.train.setup.make_accelerator", with_plugin)
    found = trainer(tmp_path, dtype="bfloat16")
    assert plugin.mixed_precision_policy is None
    assert found.accelerator.mixed_precision == "bf16"
