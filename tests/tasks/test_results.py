"""Results: what a file of them says reads back."""

import json

from byte_model import END

from bench.tasks.evaluate import evaluate
from bench.tasks.results import TaskResult


def test_a_result_survives_json(model, tokenizer, script):
    script(lambda prompt: "#### 3<end>")
    result = evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=3)["tiny_math"]
    assert TaskResult.from_json(json.loads(json.dumps(result.to_json()))) == result
