"""How many seeds a claim needs: read from the simulated table, never more hopeful than it."""

import pytest

from bench.core.claims import Claim, Claims, NamedClaims
from bench.core.config import Experiment
from bench.core.moderated import TEST_VERSION
from bench.tables import power
from bench.tables.power import plan, seeds_needed, smallest_effects

CLAIM = Claim(words="as well", rule="entropy", reference="full", margin=0.02)


def test_the_table_is_of_the_test_in_use():
    assert power.power_table()["test_version"] == TEST_VERSION


def test_more_seeds_find_less_and_more_comparisons_need_more():
    for ratio in (1.0, 4.0):
        effects = smallest_effects(10, 8, ratio)
        assert list(effects.values()) == sorted(effects.values(), reverse=True)
        assert min(effects) == 3
        assert all(effects[s] < smallest_effects(10, 64, ratio)[s] for s in effects)
    assert smallest_effects(10, 1, 4.0)[5] > smallest_effects(10, 1, 1.0)[5]


def test_between_simulated_numbers_the_harder_one_counts():
    assert smallest_effects(12, 9, 1.0) == smallest_effects(10, 16, 1.0)
    assert smallest_effects(500, 8, 1.0) == smallest_effects(31, 8, 1.0)
    assert smallest_effects(10, 129, 1.0) == {}


@pytest.mark.parametrize("effect, seeds", [(9.0, 3), (4.0, 5), (2.0, None)])
def test_the_fewest_seeds_that_find_an_effect(effect, seeds):
    assert seeds_needed(effect, {3: 8.0, 5: 4.0, 10: 2.5}) == seeds


def test_a_plan_counts_the_seeds_and_comparisons_of_the_file():
    points = [
        Experiment.parse({"selector": name, "seed": seed, "pair": pair}).model_dump(mode="json")
        for pair in ("tiny-qwen3", "tiny-qwen2.5")
        for name, seeds in (("full", 5), ("entropy", 4), ("random", 5))
        for seed in range(seeds)
    ]
    claims = Claims.model_validate({"named": "2026-11-26", "primary": [CLAIM.model_dump()]})
    found = plan(NamedClaims("x.toml", "x", claims, points, False))
    assert [line["pair"] for line in found] == ["tiny-qwen3", "tiny-qwen2.5"]
    assert {(line["seeds"], line["comparisons"], line["kind"]) for line in found} == {
        (4, 2, "primary")
    }
    quiet = smallest_effects(1, 2, 1.0)
    assert found[0]["smallest_points"]["quiet"] == quiet[4]
    assert found[0]["seeds_needed"]["5"]["quiet"] == seeds_needed(5.0, quiet)
    assert set(found[0]["seeds_needed"]) == {"2", "3", "5"}
