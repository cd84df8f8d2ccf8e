"""A model that could not answer is refused, not scored."""

import json
import shutil

import pytest
from small_pair import pair_folder
from steps import QUIET

from bench.core.config import Runtime
from bench.core.errors import ConfigError
from bench.run.trained_model import evaluate_checkpoint


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
