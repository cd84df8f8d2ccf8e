"""Gain against accuracy over rules: the correlation, what counts, and what is too little."""

import numpy as np
import planted_rows
import pytest
from planted_contexts import analyse, contexts
from scipy import stats

from bench.core.config import Experiment
from bench.diagnose.against_leaderboard import compare_rows, spearman
from bench.tables.rows import read_rows

RULES = {"forward_kl": 0.06, "teachability": 0.04, "teachability_raw": 0.05, "entropy": -0.03,
         "compatibility": -0.05}  # fmt: skip
PARAMS = {name: {} for name in (*RULES, "random")}
FULL = Experiment(selector="full", keep=1.0)


@pytest.fixture(scope="module")
def analysis():
    return analyse(contexts(lambda d, c: 0.3 * d), keeps=(0.05, 0.2))


def compare(analysis, rows, pair="tiny-qwen3", params=PARAMS):
    return compare_rows(analysis, read_rows({"r": planted_rows.text(rows)}), pair, FULL, params)


def planted(rules=RULES, keeps=(0.05,), **fields):
    return planted_rows.planted(rules=rules, keeps=keeps, reference_seeds=3, **fields)


def test_the_correlation_is_scipys_over_the_rules_of_both(analysis):
    found = compare(analysis, planted())["tasks"]["tiny_math"]["0.05"]
    assert set(found["rules"]) == {*RULES, "random"}
    gain, accuracy = zip(
        *((rule["gain"], rule["accuracy"]) for rule in found["rules"].values()), strict=True
    )
    assert found["rank_correlation"] == pytest.approx(stats.spearmanr(gain, accuracy).statistic)
    assert found["rank_correlation"] > 0.5
    for name in ("ci95", "ci95_rules"):
        assert -1 <= found[name][0] <= found[name][1] <= 1
    width = {name: found[name][1] - found[name][0] for name in ("ci95", "ci95_rules")}
    assert width["ci95_rules"] > width["ci95"]


def test_rows_of_another_pair_regime_or_parameters_do_not_count(analysis):
    rows = [*planted(pair="tiny-qwen2.5"), *planted(learning_rate=1e-3)]
    assert compare(analysis, rows)["tasks"] == {}
    found = compare(analysis, planted(), params=PARAMS | {"entropy": {"power": 2.0}})
    assert "entropy" not in found["tasks"]["tiny_math"]["0.05"]["rules"]


def test_too_few_rules_give_no_correlation(analysis):
    found = compare(analysis, planted({"forward_kl": 0.05}))["tasks"]["tiny_math"]
    assert found["0.05"]["rank_correlation"] is None and len(found["0.05"]["rules"]) == 2
    assert found["0.2"]["rules"] == {}


def test_rows_of_spearman_share_ranks_where_equal():
    generator = np.random.default_rng(0)
    one, other = np.round(generator.normal(size=(2, 5, 8)), 1)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert spearman(one, other) == pytest.approx(expected)
    assert np.isnan(spearman(np.ones((1, 8)), other[:1]))[0]
