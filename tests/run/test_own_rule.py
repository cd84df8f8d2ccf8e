"""A rule of one's own is tried before anything dear, and the trial changes nothing."""

import pytest
from steps import QUIET, experiment, without_costs

from bench.core.config import Runtime
from bench.pairs.models import load_pair
from bench.run.evaluations import Evaluations
from bench.run.run_experiment import run_experiment
from bench.selection.registry import SelectorError

RULE = '''
from bench import selector

@selector("own_rule", needs=["student_entropy_BT"])
def own_rule(signals):
    """One of a user's own."""
    x = signals.student_entropy_BT
    if {condition}:
        raise ValueError("never mind")
    return x
'''


@pytest.mark.parametrize(
    "condition, when", [("True", "before a model is loaded"), ("len(x) == 6", "on real tokens")]
)
def test_a_rule_that_fails_does_so_before_anything_dear_and_names_its_line(
    tmp_path, monkeypatch, condition, when
):
    """On a synthetic batch of 8 responses first, then on the 6 of the first step."""
    file = tmp_path / "own.py"
    file.write_text(RULE.format(condition=condition))
    dear = []
    monkeypatch.setattr(Evaluations, "baselines", lambda *_: dear.append("baselines"))
    monkeypatch.setattr(
        "bench.run.plan.load_pair",
        lambda *a, **k: dear.append("pair") or load_pair(*a, **k),
    )
    runtime = Runtime.parse({"runs_dir": tmp_path / "runs", **QUIET})
    with pytest.raises(SelectorError, match=r"'own_rule' failed at own\.py:9: ValueError: never"):
        run_experiment(experiment(selector=f"{file}:own_rule"), runtime)
    assert dear == ([] if when == "before a model is loaded" else ["pair"])


def test_trying_a_rule_changes_nothing_of_its_run(tmp_path):
    """Not its memory, which would take a step, and not what is counted."""
    file = tmp_path / "own.py"
    file.write_text(
        '''
from bench import selector

@selector("drift", needs=["student_entropy_BT"], state={"steps": 0})
def drift(signals, state):
    """Alternates."""
    x = signals.student_entropy_BT
    return (x if state["steps"] % 2 else -x), {"steps": state["steps"] + 1}
'''
    )
    found = []
    for tries in (True, False):
        with pytest.MonkeyPatch.context() as patched:
            if not tries:
                patched.setattr("bench.run.run_experiment._try_rule", lambda trainer: None)
            runtime = Runtime.parse({"runs_dir": tmp_path / str(tries), **QUIET})
            record = run_experiment(experiment(selector=f"{file}:drift", keep=0.3), runtime)
        found.append(without_costs(record))
    assert found[0] == found[1]
