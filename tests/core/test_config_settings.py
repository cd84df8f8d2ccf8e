"""Every setting of an experiment is proven: a test shows that the run does what it says."""

import ast
import re
from pathlib import Path

import pytest

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.objectives import ON_SAMPLED_TOKEN

TESTS = Path(__file__).parent.parent
PROOFS = {
    "train/test_loop_settings.py::test_a_setting_of_the_selection_is_that_of_the_reference":
        "selector selector_params k keep scope min_keep_per_response refill population ties",
    "train/test_loop_settings.py::test_a_setting_of_the_loss_is_that_of_the_reference":
        "objective normalize",
    "train/test_loop_settings.py::test_objective_params_are_those_of_the_reference":
        "objective_params",
    "train/test_setup_settings.py::test_a_setting_of_models_and_optimizer_is_that_of_the_reference":
        "learning_rate schedule steps warmup_steps weight_decay adam_beta1 adam_beta2 "
        "gradient_clip lora lora_alpha lora_targets pair teacher student",
    "train/test_setup_settings.py::test_dtype_is_the_precision_of_the_forward_passes":
        "dtype",
    "train/test_controls.py::test_a_control_is_that_of_its_definition":
        "score_model rollout_model stop_class",
    "train/test_setup.py::test_a_model_may_be_the_reference":
        "reference",
    "train/test_setup.py::test_a_trainer_samples_through_vllm":
        "rollout",
    "train/test_rollout_settings.py::test_a_setting_of_the_responses_is_that_of_the_reference":
        "prompts_per_step responses_per_prompt max_new_tokens temperature seed stop_ids",
    "train/test_rollout_settings.py::test_prompts_and_their_settings_are_what_the_student_is_fed":
        "prompts columns instruction max_prompt_tokens decontaminate",
    "train/test_rollout_settings.py::test_chat_and_thinking_are_those_of_the_template":
        "chat thinking",
    "run/test_run_experiment_settings.py::"
    "test_a_setting_of_the_evaluation_changes_what_it_says_alone":
        "eval_tasks eval_items eval_samples eval_temperature eval_top_p eval_max_new_tokens "
        "eval_every curve_tasks curve_items",
}  # fmt: skip
"""test -> the fields of Experiment that it proves."""


def test_every_field_of_an_experiment_has_one_proof():
    proven = [name for fields in PROOFS.values() for name in fields.split()]
    assert sorted(proven) == sorted(Experiment.model_fields)


@pytest.mark.parametrize("test", PROOFS)
def test_a_proof_is_there_and_gives_its_fields(test):
    file, _, name = test.partition("::")
    body = ast.parse((TESTS / file).read_text()).body
    (found,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)
    used = {node.id for node in ast.walk(found) if isinstance(node, ast.Name)}
    tables = [
        node
        for node in body
        if isinstance(node, ast.Assign) and used & {ast.unparse(t) for t in node.targets}
    ]
    text = "\n".join(map(ast.unparse, [found, *tables]))
    missing = [field for field in PROOFS[test].split() if not re.search(rf"\b{field}\b", text)]
    assert missing == []


@pytest.mark.parametrize("objective", sorted(ON_SAMPLED_TOKEN))
def test_another_temperature_than_1_is_refused_where_it_would_bias_the_gradient(objective):
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"objective": objective, "temperature": 0.7})
    assert str(caught.value) == (
        f"temperature: 0.7 is not accepted with objective {objective}, which averages over sampled "
        "tokens: drawn at another temperature than 1, they bias its gradient"
    )
    assert Experiment.parse({"objective": objective}).temperature == 1
    assert Experiment.parse({"temperature": 0.7}).objective == "reverse_kl"
