"""Settings of the evaluation: each changes what it says of a run's scores, and nothing else."""

import json

import pytest
from steps import QUIET, experiment

from bench.core.config import Runtime
from bench.run import evaluations
from bench.run.run_experiment import run_experiment

GIVEN = {
    "steps": 2, "prompts_per_step": 2, "max_new_tokens": 6, "eval_items": 3,
    "eval_temperature": 0.7, "eval_every": 1, "curve_items": 2,
}  # fmt: skip
PLAIN = {
    "tasks": {"tiny_math"}, "items": {3}, "samples": {1}, "temperatures": {0.7}, "top_ps": {1.0},
    "longest": 6, "curve steps": [1, 2], "curve tasks": {"tiny_math_tune"}, "curve items": [2, 2],
}  # fmt: skip
"""What is told of a run with these settings."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(**settings) -> what is told of its evaluation, the texts by model, and its training."""
    folder = tmp_path_factory.mktemp("runs")

    def of(**settings):
        own, inner, curve = experiment(**GIVEN | settings), evaluations.evaluate, []

        def evaluate(*given, **asked):
            found = inner(*given, **asked)
            curve.extend(result.n for task, result in found.items() if task in own.curve_tasks)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluations, "evaluate", evaluate)
            record = run_experiment(own, Runtime(runs_dir=folder, **QUIET))
        path = folder / record.run_id
        models = json.loads((path / "evaluations.json").read_text())
        results = [result for found in models.values() for result in found.values()]
        samples = [s for result in results for of_item in result["sample_IK"] for s in of_item]
        told = {
            "tasks": {task for found in models.values() for task in found},
            "items": {result["n"] for result in results},
            "samples": {result["k"] for result in results},
            "temperatures": {result["temperature"] for result in results},
            "top_ps": {result["top_p"] for result in results},
            "longest": max(sample["tokens"] for sample in samples),
            "curve steps": [point["step"] for point in record.curve],
            "curve tasks": {task for point in record.curve for task in point if task != "step"},
            "curve items": curve,
        }
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return told, [s["text"] for s in samples], [(m["loss"], m["grad_norm"]) for m in lines]

    return of


@pytest.mark.parametrize(
    "settings, changes",
    [
        ({}, {}),
        (
            {"eval_tasks": ["tiny_math_tune"], "curve_tasks": ["tiny_math"]},
            {"tasks": {"tiny_math_tune"}, "curve tasks": {"tiny_math"}},
        ),
        ({"eval_items": 2}, {"items": {2}}),
        ({"eval_samples": 2}, {"samples": {2}}),
        ({"eval_temperature": 0.3}, {"temperatures": {0.3}}),
        ({"eval_top_p": 0.5}, {"top_ps": {0.5}}),
        ({"eval_max_new_tokens": 4}, {"longest": 4}),
        ({"eval_every": 2}, {"curve steps": [2], "curve items": [2]}),
        ({"eval_every": 0}, {"curve steps": [], "curve tasks": set(), "curve items": []}),
        ({"curve_items": 3}, {"curve items": [3, 3]}),
    ],
)
def test_a_setting_of_the_evaluation_changes_what_it_says_alone(run, settings, changes):
    told, _, training = run(**settings)
    assert told == PLAIN | changes
    assert training == run()[2]


def test_temperature_and_nucleus_of_the_evaluation_change_the_responses(run):
    greedy = run(eval_temperature=0.0)[1]
    assert run(eval_top_p=1e-6)[1] == greedy  # the likeliest token alone
    texts = [run()[1], run(eval_temperature=3.0)[1], run(eval_top_p=0.5)[1], greedy]
    assert len(set(map(tuple, texts))) == 4
