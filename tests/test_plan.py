"""Run ids: those of the committed rows recompute, whatever Experiment and the rules have gained."""

import json
from pathlib import Path

import pytest

from bench.config import ConfigError, Experiment, Runtime
from bench.plan import ADDED_LATER, identity_of, make_plan

ROWS = Path(__file__).parent.parent / "results" / "rows.jsonl"


def test_the_ids_of_the_committed_rows_are_those_of_their_experiments():
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    assert len(rows) > 90
    for row in rows:
        plan = make_plan(Experiment.parse(row["experiment"]), Runtime())
        assert plan.run_id == row["run_id"]


@pytest.mark.parametrize("name", ADDED_LATER)
def test_a_field_added_later_counts_only_when_it_is_not_at_its_default(name):
    experiment = Experiment()
    assert name in experiment.model_dump() and name not in identity_of(experiment)
    assert name in identity_of(experiment.model_copy(update={name: "another"}))


def test_a_reference_is_only_for_rules_that_compare_with_one(tmp_path):
    pair = make_plan(Experiment(), Runtime()).pair
    with pytest.raises(ConfigError, match="reference: .*compares with no third model"):
        make_plan(Experiment(reference=pair.teacher), Runtime())
    one = make_plan(Experiment(selector="cc"), Runtime())
    other = make_plan(Experiment(selector="cc", reference=pair.teacher), Runtime())
    assert "reference" not in one.points_to and len(other.points_to["reference"]) == 64
    assert one.run_id != other.run_id
    asked = Runtime(log_signals=("reference_logprob_BT",))
    assert make_plan(Experiment(reference=pair.teacher), asked).run_id
