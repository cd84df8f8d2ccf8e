"""Settings of selection and loss: the real step equals the dense reference at every value of each.

A setting that the engine ignored would fail at one value, and values that change nothing prove
nothing, so all values of a setting must give different steps.
"""

from itertools import combinations

import pytest
from dense_losses import LOSSES
from proven_steps import proven

from bench.core.objectives import OBJECTIVES
from bench.train.batch_objectives import CONTEXTS

ENTROPY = {"selector": "entropy", "keep": 0.2}
TEACHABILITY = {"selector": "teachability_raw", "keep": 0.3}
FILLED = {"selector": "entropy", "keep": 0.03, "min_keep_per_response": 1}
TIED = {"selector": "first", "keep": 0.07}
"""The cut lies among tokens of one score."""

SELECTION = {
    "selector": (ENTROPY, ["entropy", "teachability_raw", "first"]),
    "selector_params": (
        {"selector": "zscore_mix", "keep": 0.3},
        [{}, {"entropy": 3.0}, {"surprise": 0.0}, {"divergence": -1.0}],
    ),
    "k": (TEACHABILITY, [1, 3, 16, 100]),
    "keep": (ENTROPY, [0.1, 0.4]),
    "scope": (ENTROPY, ["batch", "response"]),
    "min_keep_per_response": (ENTROPY, [0, 3]),
    "refill": (FILLED, ["own", "teachability_raw"]),
    "population": ({"selector": "teachability", "keep": 0.2}, ["sampled", "rows"]),
    "ties": (TIED, ["hash", "earlier"]),
    "seed": (TIED, [0, 1, 2]),
}
LOSS = {
    "objective": ({"selector": "full"}, list(LOSSES)),
    "normalize": (ENTROPY, ["selected", "all", "per_response"]),
}
PARAMETERS = [
    ("jsd", [{}, {"beta": 0.1}]),
    ("skew_reverse_kl", [{}, {"alpha": 0.6}]),
    ("topk_reverse_kl", [{}, {"k": 3}]),
    ("topk_reverse_kl_tail", [{}, {"k": 3}]),
    ("topk_reverse_kl_clamped", [{}, {"k": 40}]),
    ("topk_forward_kl", [{}, {"k": 3}]),
    ("eopd", [{}, {"k": 3}, {"threshold": 6.02}]),
    ("todi", [{}, {"beta": 4.0}]),
    ("aopd", [{}, {"threshold": 0.5}, {"renormalised": 0}, {"k": 3}]),
    ("tail_aware_sc", [{}, {"k": 3}]),
]


def prove(tmp_path, name, given, values):
    found = [
        proven(tmp_path / str(number), **{**given, name: value})
        for number, value in enumerate(values)
    ]
    for one, other in combinations(found, 2):
        assert one.differs(other)
    return found


@pytest.mark.parametrize("name", SELECTION)
def test_a_setting_of_the_selection_is_that_of_the_reference(tmp_path, name):
    found = prove(tmp_path, name, *SELECTION[name])
    for one, other in combinations(found, 2):
        assert one.selected[0].tolist() != other.selected[0].tolist()


@pytest.mark.parametrize("name", LOSS)
def test_a_setting_of_the_loss_is_that_of_the_reference(tmp_path, name):
    prove(tmp_path, name, *LOSS[name])


@pytest.mark.parametrize("objective, values", PARAMETERS)
def test_objective_params_are_those_of_the_reference(tmp_path, objective, values):
    given = {"selector": "full", "objective": objective}
    prove(tmp_path, "objective_params", given, values)


def test_every_objective_and_parameter_is_proven():
    """Those that read a whole batch have proofs of their own: test_batch_objectives.py."""
    assert set(LOSSES) == set(OBJECTIVES) - set(CONTEXTS)
    taken = {name: set(OBJECTIVES[name]) for name in LOSSES if OBJECTIVES[name]}
    assert {name: set().union(*values) for name, values in PARAMETERS} == taken
