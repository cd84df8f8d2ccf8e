"""A model that could not answer is refused, not scored."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_pair import loaded_pair, pair_folder
from steps import QUIET

from bench.core.config import Runtime
from bench.core.errors import ConfigError
from bench.run.trained_model import evaluate_checkpoint, save_model


def test_a_model_whose_stop_tokens_lie_outside_its_ids_is_refused(tmp_path):
    student = tmp_path / "student"
    shutil.copytree(pair_folder() / "student", student)
    runtime = Runtime.parse({"runs_dir": tmp_path, **QUIET})
    evaluate_checkpoint(str(student), runtime, ("tiny_math",), eval_items=2)
    for name in ("config.json", "generation_config.json"):
        file = student / name
        if file.is_file():
            file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 151_643}))
    with pytest.raises(ConfigError, match=r"can end no response: its stop tokens .*151643"):
        evaluate_checkpoint(str(student), runtime, ("tiny_math",), eval_items=2)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_were_gathered_are_saved_once_under_the_models_own_names(tmp_path, tied):
    """Gathered from devices, a tied head has memory of its own: transformers would write it too."""
    model, tokenizer = loaded_pair(tied=tied).student, loaded_pair().tokenizer
    gathered = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(model, tokenizer, tmp_path / "alone")
    save_model(model, tokenizer, tmp_path / "gathered", gathered)
    alone, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("alone", "gathered")
    )
    assert alone.keys() == other.keys()
    assert ("lm_head.weight" in alone) is not tied
    assert all(torch.equal(alone[name], other[name]) for name in alone)
