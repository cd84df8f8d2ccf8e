"""Budgets over the steps: closed forms, one spelling, and errors that say what is accepted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.keep_schedule import keep_at, mean_keep, read_keep
from bench.run.plan import make_plan
from bench.selection.budget import budget
from bench.tables.sheet import headline_keep, keep_percent

fractions = st.integers(1, 1000).map(lambda n: n / 1000)


@pytest.mark.parametrize(
    ("given_", "read"),
    [
        (0.05, 0.05),
        ("0.05", 0.05),
        (1, 1.0),
        ("constant(0.2)", 0.2),
        ("linear(0.5,0.05)", "linear(0.5, 0.05)"),
        (" cosine( 5e-1 , .05 ) ", "cosine(0.5, 0.05)"),
        ("step(0.5, 0.1)", "step(0.5, 0.1, at=0.5)"),
        ("step(0.5, 0.1, at=0.25)", "step(0.5, 0.1, at=0.25)"),
        ("step(0.5, 0.1, 0.25)", "step(0.5, 0.1, at=0.25)"),
    ],
)
def test_a_budget_has_one_spelling(given_, read):
    assert read_keep(given_) == read and type(read_keep(given_)) is type(read)
    assert Experiment.parse({"keep": given_}).keep == read
    assert read_keep(read) == read


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (0, "greater than 0"),
        (1.5, "less than or equal to 1"),
        (math.nan, "greater than 0"),
        ("a lot", "linear(a, b), cosine(a, b), step(a, b, at=0.5)"),
        ("linear(0.5)", "linear has 1 numbers"),
        ("linear(0.5, 2)", "less than or equal to 1"),
        ("cosine(0, 0.5)", "greater than 0"),
        ("step(0.5, 0.1, at=1)", "at=1 is not a share"),
        ("exponential(0.5, 0.1)", "valid number"),
        (None, "valid number"),
    ],
)
def test_a_wrong_budget_is_told_what_is_accepted(wrong, told):
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"keep": wrong})
    assert str(caught.value).startswith("keep: ") and told in str(caught.value)


def test_a_linear_schedule_goes_from_the_first_step_to_the_last():
    assert [keep_at("linear(0.5, 0.1)", step, 5) for step in range(5)] == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert keep_at("linear(0.5, 0.1)", 0, 1) == 0.5


def test_a_cosine_schedule_is_slow_at_both_ends():
    found = [keep_at("cosine(0.6, 0.2)", step, 5) for step in range(5)]
    expected = [0.4 + 0.2 * math.cos(math.pi * x / 4) for x in range(5)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_step_schedule_changes_once():
    assert [keep_at("step(0.5, 0.1, at=0.5)", step, 4) for step in range(4)] == [0.5, 0.5, 0.1, 0.1]
    assert [keep_at("step(0.5, 0.1, at=0.2)", s, 5) for s in range(5)] == [0.5, 0.1, 0.1, 0.1, 0.1]


@given(fractions, fractions, st.sampled_from(["linear", "cosine"]), st.integers(2, 50))
def test_a_schedule_is_monotone_and_meets_its_ends(first, last, shape, steps):
    keep = f"{shape}({first}, {last})"
    found = [keep_at(keep, step, steps) for step in range(steps)]
    assert (found[0], found[-1]) == (first, last)
    assert found == sorted(found, reverse=first > last)
    assert mean_keep(keep, steps) == pytest.approx((first + last) / 2)
    assert all(0 < budget(value, 1000) <= 1000 for value in found)


def test_a_fraction_is_itself_at_every_step():
    assert keep_at(0.05, 17, 60) == 0.05 and mean_keep(0.05, 60) == 0.05


def test_one_budget_stands_for_several():
    assert headline_keep(["0.01", "0.05", "0.2"]) == "0.05"
    assert headline_keep({"0.1": 1, "0.2": 2}) == "0.1"
    assert keep_percent("0.05") == keep_percent(0.05) == "5 %" and keep_percent(0.003) == "0.3 %"


def test_a_schedule_names_its_run():
    plan = make_plan(Experiment(selector="entropy", keep="linear(0.5, 0.05)"), Runtime())
    assert plan.run_id.startswith("entropy-keeplinear-0.5-0.05-s0-")
    assert plan.experiment.model_dump(mode="json")["keep"] == "linear(0.5, 0.05)"
    for selector, told in (("full", "always trains on keep=1"), ("min_gap", "sets its own"),
                           ("fire", "sets its own"), ("adakd", "sets its own")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            make_plan(Experiment(selector=selector, keep="linear(0.5, 0.05)"), Runtime())
        assert make_plan(Experiment(selector=selector), Runtime()).experiment.keep == 1.0
