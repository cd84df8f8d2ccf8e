"""Arms over learning rates: swings, own bests chosen on tune, and the verdicts that turn."""

import pytest
from planted_rows import PUBLISHED, planted, row, tables_of

from bench.core.stats import moderated_difference, verdicts
from bench.tables import pages
from bench.tables.family_figures import by_rate
from bench.tables.leaderboard import compare
from bench.tables.rates import (
    Flips,
    against_sheet,
    flips,
    flips_sheet,
    matrices,
    pairwise,
    rates_sheet,
    steps_sheet,
)
from bench.tables.style import render

RATES = (1e-4, 3e-4, 9e-4)
EFFECTS = {
    "full": (0.1, 0.1, 0.1),
    "random": (0.0, 0.0, 0.0),
    "entropy": (-0.1, 0.2, 0.0),  # best at the shared rate
    "teachability": (0.0, 0.0, 0.2),  # best at another
}


def world(seeds=4, effects=EFFECTS, eval_every=20, **fields):
    return [
        row(name, 1.0 if name == "full" else 0.05, seed, effect, learning_rate=rate,
            eval_every=eval_every, **fields)
        for name, of_rates in effects.items()
        for rate, effect in zip(RATES, of_rates, strict=True)
        for seed in range(seeds)
    ]  # fmt: skip


def matrix_of(rows):
    (matrix,) = matrices(tables_of(rows))
    return matrix


def test_an_arm_is_everything_but_rate_and_seed():
    matrix = matrix_of(world())
    assert matrix.arms[0].label == "full"
    assert {arm.label: tuple(arm.by_rate) for arm in matrix.arms} == dict.fromkeys(EFFECTS, RATES)
    assert matrix.rates == RATES and matrix.shared == 3e-4
    for arm in matrix.arms:
        for rate, line in arm.by_rate.items():
            assert {run.experiment["learning_rate"] for run in line.runs} == {rate}
            assert {run.experiment["selector"] for run in line.runs} == {arm.label}


def test_objectives_clipping_and_batches_are_arms_of_their_own():
    rows = world()
    for change in ({"objective": "opsa"}, {"gradient_clip": 0.0}):
        rows += world(effects={"full": (0.1, 0.0, 0.0)}, **change)
    rows += world(effects={"entropy": (0.1, 0.0, 0.0)}, objective="forward_kl", gradient_clip=0.5)
    rows += [row("random", 0.05, seed, 0.1, prompts_per_step=1280) for seed in range(3)]
    matrix = matrix_of(rows)
    assert {arm.label for arm in matrix.arms} - set(EFFECTS) == {
        "opsa", "full, unclipped", "entropy by forward_kl, clipped at 0.5", "random, 1280 prompts",
    }  # fmt: skip
    assert not matrix.changes


def test_other_regimes_and_steps_have_matrices_of_their_own():
    rows = world() + world(steps=240) + world(normalize="all")
    found = matrices(tables_of(rows))
    assert sorted(str(dict(matrix.changes)) for matrix in found) == [
        "{'normalize': 'all'}", "{'steps': 240}", "{}",
    ]  # fmt: skip
    assert not matrices(tables_of(planted(2)))  # one rate is no matrix
    one = {name: effects for name, effects in EFFECTS.items() if name == "entropy"}
    assert not matrices(tables_of(world(effects=one)))  # nor is one arm


def test_swing_and_own_best_are_those_of_the_planted_world():
    arms = {arm.label: arm for arm in matrix_of(world()).arms}
    assert arms["entropy"].best == 3e-4 and arms["teachability"].best == 9e-4
    assert arms["full"].best == 1e-4  # of equal ones the smallest
    for name, effects in EFFECTS.items():
        assert arms[name].swing == pytest.approx(max(effects) - min(effects), abs=0.02)


def test_the_best_is_chosen_on_tune_and_never_on_the_reported_items():
    rows = world()
    for one in rows:
        if one["experiment"]["selector"] == "entropy":
            better = one["experiment"]["learning_rate"] == 1e-4
            one["curve"][-1]["tiny_math_tune"] = 0.9 if better else 0.1
    arms = {arm.label: arm for arm in matrix_of(rows).arms}
    assert arms["entropy"].best == 1e-4  # where it is worst on the reported items
    assert arms["teachability"].best == 9e-4


def test_without_a_last_evaluation_on_tune_there_is_no_best():
    assert {arm.best for arm in matrix_of(world(eval_every=0)).arms} == {None}
    unfinished = world()
    for one in unfinished:
        one["curve"] = one["curve"][:-1]
    assert {arm.best for arm in matrix_of(unfinished).arms} == {None}
    sheet = rates_sheet(matrix_of(world(eval_every=0)))
    assert {cells[-2] for cells in sheet.rows} == {"—"}
    assert against_sheet(matrix_of(world(eval_every=0))) is None


def test_all_pairs_of_arms_are_one_family():
    matrix = matrix_of(world())
    lines = matrix.at(3e-4)
    found = pairwise(lines)
    assert len(found) == 6
    expected = verdicts([compare(lines[a], lines[b]).crossed for a, b in found])
    assert list(found.values()) == expected
    one, other = lines["entropy"], lines["full"]
    assert compare(one, other).crossed == moderated_difference(
        one.score_SI - other.score_SI, one.seed_variance, other.seed_variance
    )
    assert found["entropy", "full"] == "better" and found["random", "teachability"] == "tie"


def test_flips_count_what_changed_and_what_turned_round():
    before = {("a", "b"): "better", ("a", "c"): "tie", ("b", "c"): "worse", ("a", "d"): "tie"}
    after = {("a", "b"): "worse", ("a", "c"): "better", ("b", "c"): "worse", ("x", "y"): "tie"}
    assert flips(before, after) == Flips(pairs=3, changed=2, reversed=1)


def test_the_sheets_say_what_turned():
    matrix = matrix_of(world())
    rows = {cells[0]: cells[1:] for cells in flips_sheet(matrix).rows}
    assert rows["0.0003 for all"][0] == "6"
    # teachability was below entropy and full at 3e-4 and is level with or above them at its best.
    changed, of = rows["each at its own best"][3].split(" of ")
    assert (int(changed), int(of)) == (3, 6) and rows["each at its own best"][4] == "1"
    (header, cells) = against_sheet(matrix).header, against_sheet(matrix).rows
    line = next(c for c in cells if c[0] == "teachability")
    at = dict(zip(header, line, strict=True))
    assert at["− full, shared"].endswith("worse") and at["− full, own best"].endswith("better")


def test_the_steps_are_told_where_every_run_says_so():
    rows = world()
    for one in rows:
        one["training"] = {"grad_norm": 2.0 + one["experiment"]["seed"], "displacement": 0.5}
    sheet = steps_sheet(matrix_of(rows))
    told = {(cells[0], cells[1]): cells[2:] for cells in sheet.rows}
    assert told["gradient norm", "entropy"] == ("3.5", "3.5", "3.5")
    assert told["clipped steps", "full"] == ("0.25", "0.25", "0.25")
    assert ("overlap with untrained", "entropy") not in told


def test_the_page_and_the_figure_hold_the_matrix():
    tables = tables_of(world())
    page = pages.documents(tables, PUBLISHED)["leaderboard.md"].decode()
    assert "## By learning rate: tiny-qwen3, tiny_math, regime default" in page
    assert "## Verdicts that a rate turns" in page
    assert pages.documents(tables, PUBLISHED)["leaderboard.tex"].isascii()
    drawn = render([("rates", by_rate(matrix_of(world())))])
    assert drawn["rates.svg"].startswith(b"<?xml")
