"""Settings of models, optimizer and schedule: real steps equal the dense reference's."""

from itertools import combinations

import pytest
from proven_steps import proven
from small_pair import pair_folder
from steps import run_steps, trainer

from bench.core.presets import PRESETS

FULL = {"selector": "full"}
OPTIMIZER = {
    "learning_rate": (FULL, [1e-3, 3e-4]),
    "schedule": ({**FULL, "steps": 5}, ["constant", "linear", "cosine"]),
    "steps": ({**FULL, "schedule": "linear"}, [4, 8]),
    "warmup_steps": (FULL, [0, 1, 2]),
    "weight_decay": (FULL, [0.0, 0.5, 2.0]),
    "adam_beta1": (FULL, [0.5, 0.9]),
    "adam_beta2": (FULL, [0.5, 0.999]),
    "gradient_clip": ({"selector": "entropy"}, [0.1, 1e-8, 0.0]),
}
ADAPTERS = {
    "lora": (FULL, [0, 2, 4]),
    "lora_alpha": ({**FULL, "lora": 2}, [8.0, 32.0]),
    "lora_targets": ({**FULL, "lora": 2}, [("q_proj",), ("v_proj", "down_proj")]),
}
MODELS = {
    "pair": (FULL, [str(pair_folder()), str(pair_folder("qwen2"))]),
    "teacher": (FULL, [None, str(pair_folder("qwen3", False) / "teacher")]),
    "student": (FULL, [None, str(pair_folder("qwen3", False) / "student")]),
}


@pytest.mark.parametrize("name", [*OPTIMIZER, *ADAPTERS, *MODELS])
def test_a_setting_of_models_and_optimizer_is_that_of_the_reference(tmp_path, name):
    given, values = {**OPTIMIZER, **ADAPTERS, **MODELS}[name]
    found = [
        proven(tmp_path / str(number), 3, **{**given, name: value})
        for number, value in enumerate(values)
    ]
    for one, other in combinations(found, 2):
        assert one.differs(other)


def test_no_step_is_clipped_where_nothing_is(tmp_path):
    clipped, free = (trainer(tmp_path / str(x), gradient_clip=x) for x in (1e-3, 0.0))
    norms = [[line["grad_norm"] for line in run_steps(found)] for found in (clipped, free)]
    assert norms[0][0] == norms[1][0] > 1e-3
    assert (clipped.totals.clipped_steps, free.totals.clipped_steps) == (3, 0)


def test_the_paper_preset_steps_as_the_reference(tmp_path):
    given = {"selector": "teachability_raw", "gradient_clip": 0.1}
    assert proven(tmp_path / "a", 3, **given, **PRESETS["paper"]).differs(
        proven(tmp_path / "b", 3, **given)
    )


def test_dtype_is_the_precision_of_the_forward_passes(tmp_path):
    whole, half = (proven(tmp_path / d, **FULL, dtype=d) for d in ("float32", "bfloat16"))
    assert abs(half.losses[0] / whole.losses[0] - 1) > 5e-4
