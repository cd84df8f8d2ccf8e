"""A run of a pair with the real vocabulary: refused where the doctor fails it, else scored."""

import json
from datetime import UTC, datetime

import pytest
from diagnosed_pair import QUICK
from qwen_pair import ENDOFTEXT, LARGE, SMALL, qwen_folder
from real_data import needs_data
from small_pair import pair_folder

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.provenance import ENGINE_VERSION
from bench.core.run_list import list_runs
from bench.run.plan import make_plan
from bench.run.run_experiment import run_experiment


@needs_data
def test_a_run_refuses_what_the_doctor_fails(pair, tmp_path):
    runtime = Runtime(device="cpu", runs_dir=tmp_path / "runs", progress="off")
    wrong = Experiment.parse({**QUICK, "pair": str(pair), "stop_ids": [ENDOFTEXT]})
    with pytest.raises(
        ConfigError, match=r"refused by bench doctor: stop tokens.*--stop-ids 151643"
    ):
        run_experiment(wrong, runtime)
    assert not list(tmp_path.glob("runs/*/experiment.json"))


@needs_data
def test_local_prompts_train_a_pair_of_the_real_vocabulary(tmp_path):
    """From a JSONL file through the real template to a scored checkpoint."""
    folder = qwen_folder("qwen2", True)
    file = tmp_path / "own.jsonl"
    rows = [{"text": f"What is {n} + {n}?", "gold": str(2 * n)} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = run_experiment(
        Experiment.parse({
            **QUICK, "steps": 2, "selector": "entropy", "keep": 0.25,
            "teacher": str(folder / "teacher"), "student": str(folder / "student"),
            "prompts": str(file), "columns": {"question": "text", "answer": "gold"},
            "eval_tasks": ["aime25", "gsm8k"], "eval_samples": 2, "eval_max_new_tokens": 4,
        }),
        Runtime(device="cpu", runs_dir=tmp_path / "runs", progress="off"),
    )  # fmt: skip
    assert record.tokens["sampled"] == 64 and record.tokens["trained"] == 16
    scores = record.scores["trained"]["aime25"]
    assert (scores["n"], scores["samples"], scores["temperature"]) == (2, 2, 0.6)
    assert (SMALL, LARGE) == (151_936, 152_064)
    report = json.loads((tmp_path / "runs" / record.run_id / "prompts.json").read_text())
    assert report["kept"] == 8 and report["tokens"]["longest"] < 60
    samples = json.loads((tmp_path / "runs" / record.run_id / "evaluations.json").read_text())
    assert len(samples["teacher"]["gsm8k"]["sample_IK"][0]) == 2


def test_a_row_says_what_made_it_and_when(tmp_path):
    """Hashes of what the run id points to, the end in UTC, versions of the engine and the task."""
    before = datetime.now(UTC).replace(microsecond=0)
    experiment = Experiment.parse({**QUICK, "steps": 1, "pair": str(pair_folder())})
    here = Runtime(device="cpu", progress="off", runs_dir=tmp_path / "runs")
    record = run_experiment(experiment, here)
    (line,) = (tmp_path / "runs" / "rows.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["points_to"] == make_plan(experiment, here).points_to == record.points_to
    assert set(row["points_to"]) >= {"selector", "teacher", "student"}
    assert before <= datetime.fromisoformat(row["ended"]) <= datetime.now(UTC)
    assert row["engine_version"] == ENGINE_VERSION
    assert row["task_versions"] == dict.fromkeys(row["scores"]["trained"], 1)


@pytest.mark.parametrize("step, state", [(1, "stopped"), (2, "failed")])
def test_a_listener_that_ends_a_run_is_no_failure_and_a_fault_is(
    tmp_path, monkeypatch, step, state
):
    """As a pruner does at step 1; at step 2 the evaluation itself breaks."""
    experiment = Experiment.parse({
        "pair": str(pair_folder()), "prompts_per_step": 6, "max_new_tokens": 10, "steps": 3,
        "eval_items": 4, "eval_every": 1, "curve_items": 4, "k": 8,
    })  # fmt: skip

    class Enough(Exception):
        pass

    def hear(now, means):
        if now == step == 1:
            raise Enough
        if now == 1:
            monkeypatch.setattr("bench.run.evaluations.Evaluations.examine", None)

    runtime = Runtime(device="cpu", runs_dir=tmp_path, progress="off")
    with pytest.raises(Enough if state == "stopped" else TypeError):
        run_experiment(experiment, runtime, hear)
    (entry,) = list_runs(tmp_path)
    assert entry.state == state and bool(entry.error) == (state == "failed")
