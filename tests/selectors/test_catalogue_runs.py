"""Every selector and every objective takes five steps on both embedded pairs."""

from functools import cache

import pytest
import torch

from bench import get_selector, selector_names
from bench.core.config import Experiment, Runtime
from bench.core.objectives import OBJECTIVES, SELECT_THEMSELVES
from bench.pairs.models import LoadedPair, load_pair
from bench.pairs.pair import embedded_pair_names, get_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer

STEPS = 5
SMALL = {"prompts_per_step": 2, "responses_per_prompt": 2, "max_new_tokens": 8, "steps": STEPS,
         "learning_rate": 1e-5}  # fmt: skip


@cache
def loaded(name: str) -> tuple[LoadedPair, dict[str, torch.Tensor]]:
    pair = load_pair(get_pair(name))
    return pair, {key: value.clone() for key, value in pair.student.state_dict().items()}


def five_steps(pair_name: str, tmp_path, **values) -> list[dict]:
    pair, before = loaded(pair_name)
    pair.student.load_state_dict(before)
    runtime = Runtime(runs_dir=tmp_path, progress="off", device="cpu")
    plan = make_plan(Experiment.parse({"pair": pair_name, **SMALL, **values}), runtime)
    trainer = open_trainer(plan, pair, runtime)
    lines = [trainer.step(step) for step in range(STEPS)]
    assert all(line["sampled_tokens"] > 0 for line in lines)
    moved = any(not torch.equal(v, before[k]) for k, v in pair.student.state_dict().items())
    assert moved == any(line["trained_tokens"] for line in lines)
    return lines


@pytest.mark.parametrize("pair", embedded_pair_names())
@pytest.mark.parametrize("selector", selector_names())
def test_every_selector_takes_five_steps(selector, pair, tmp_path):
    found = get_selector(selector)
    budget = {} if found.kind == "weight" or found.keep or found.sets_keep else {"keep": 0.2}
    for line in five_steps(pair, tmp_path, selector=selector, **budget):
        assert 0 < line["keep"] <= 1
        assert line["realised_keep"] == line["trained_tokens"] / line["sampled_tokens"]
        if found.kind == "score" and not found.abstains:
            assert line["trained_tokens"] == pytest.approx(
                line["keep"] * line["sampled_tokens"], abs=1
            )
        if found.kind == "weight":
            # A rule that compares responses has no weight where all to a prompt are alike.
            least = -1 if found.responses > 1 else 0
            assert least < line["effective_sample_size"] <= line["sampled_tokens"] * (1 + 1e-6)


@pytest.mark.parametrize("pair", embedded_pair_names())
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_takes_five_steps(objective, pair, tmp_path):
    rule = {"selector": "teachability", "keep": 0.2}
    if objective in SELECT_THEMSELVES:
        rule = {"selector": "full"}
    lines = five_steps(pair, tmp_path, **rule, objective=objective)
    assert all(line["grad_norm"] > 0 for line in lines)
