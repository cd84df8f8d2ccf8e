"""Rules that weight, abstain, break or set a budget of their own, in the training loop."""

import pytest
from steps import run_steps, trainer

from bench.core.errors import BenchError

RULES = '''
import torch
from bench import selector

@selector("weighted", kind="weight", needs=("student_entropy_BT",))
def weighted(signals, power=1.0):
    """Weigh tokens by entropy."""
    return signals.student_entropy_BT.clamp(min=0) ** power

@selector("early_only", abstains=True)
def early_only(signals):
    """Keep only the first two positions."""
    return torch.where(signals.position_BT < 2, 1.0, -torch.inf)

@selector("greedy_budget")
def greedy_budget(signals):
    """Forget to say that it abstains."""
    return torch.where(signals.position_BT < 1, 1.0, -torch.inf)

@selector("broken")
def broken(signals):
    """Return NaN."""
    return signals.uniform_BT * torch.nan
'''


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "my_rules.py"
    path.write_text(RULES)
    return path


def test_weights_replace_the_budget(tmp_path, rules):
    found = trainer(tmp_path, selector=f"{rules}:weighted")
    assert found.experiment.keep == 1.0
    for line in run_steps(found):
        assert line["realised_keep"] == 1.0
        assert 1 < line["effective_sample_size"] < line["sampled_tokens"]
    flat = trainer(tmp_path, selector=f"{rules}:weighted", selector_params={"power": 0.0}, steps=1)
    plain = trainer(tmp_path, selector="full", steps=1)
    assert run_steps(flat)[0]["loss"] == pytest.approx(run_steps(plain)[0]["loss"])


def test_a_rule_that_abstains_may_spend_less(tmp_path, rules):
    found = trainer(tmp_path, selector=f"{rules}:early_only", keep=0.5)
    for line in run_steps(found):
        assert line["trained_tokens"] <= 12
    with pytest.raises(ValueError, match="only 6 have a score above -inf"):
        trainer(tmp_path, selector=f"{rules}:greedy_budget", keep=0.5).step(0)


def test_a_selector_that_returns_nan_is_named(tmp_path, rules):
    with pytest.raises(BenchError, match=r"broken' returned \d+ NaN"):
        trainer(tmp_path, selector=f"{rules}:broken").step(0)


def test_a_schedule_is_spent_step_by_step(tmp_path):
    found = trainer(tmp_path, selector="entropy", keep="linear(0.5, 0.1)", steps=5)
    for line, keep in zip(run_steps(found), (0.5, 0.4, 0.3, 0.2, 0.1), strict=True):
        assert line["keep"] == keep
        assert line["trained_tokens"] == -(-round(10 * keep) * line["sampled_tokens"] // 10)


def test_a_rule_may_set_its_own_budget(tmp_path):
    settings = {"selector_params": {"decay": 0.0, "move": 0.001, "start": 0.5}, "steps": 4}
    lines = run_steps(trainer(tmp_path, selector="adakd", learning_rate=1e-2, **settings))
    assert lines[0]["keep"] == 0.5 and len({line["keep"] for line in lines}) > 1
    for line in lines:
        assert line["trained_tokens"] == -(-line["keep"] * line["sampled_tokens"] // 1)


def test_one_token_a_response_is_a_budget_too(tmp_path):
    for line in run_steps(trainer(tmp_path, selector="min_gap")):
        assert line["trained_tokens"] == 6 and line["keep"] == 1.0
