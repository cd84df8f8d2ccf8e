"""Sweep files: the points that they hold, and mistakes named with their line."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from command import call
from small_pair import pair_folder
from small_sweep import GRID, TOML, TUNING, runtime, write

from bench.core.config import Runtime
from bench.core.errors import ConfigError
from bench.selection.registry import get_selector
from bench.sweep.run_sweep import run_sweep
from bench.sweep.sweep_file import read_sweep

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_sweep_reads(path, tmp_path, monkeypatch):
    for pair in re.findall(r'"(pairs/[^"]+)"', path.read_text()):  # what the user builds first
        (tmp_path / pair).parent.mkdir(exist_ok=True)
        (tmp_path / pair).symlink_to(pair_folder(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep(path, Runtime())
    assert sweep.file.name == path.stem
    assert sweep.file.about
    assert len(sweep.plans) > 1


def test_points_are_crossed_and_full_ignores_keep(tmp_path):
    sweep = read_sweep(write(tmp_path), runtime(tmp_path))
    points = [(p.experiment.seed, p.experiment.selector, p.experiment.keep) for p in sweep.plans]
    assert points == [
        (seed, selector, keep)
        for seed in (0, 1)
        for selector, keeps in (("full", [1]), ("random", [0.1, 0.3]), ("entropy", [0.1, 0.3]))
        for keep in keeps
    ]
    assert all(p.experiment.steps == 2 for p in sweep.plans)


def test_more_blocks_add_points_and_inherit_the_rest(tmp_path):
    more = TOML + '\n[[also]]\nselectors = ["full"]\nseeds = [0, 5]\ngrid = {{}}\n'
    sweep = read_sweep(write(tmp_path, more), runtime(tmp_path))
    assert len(sweep.plans) == 11
    assert (sweep.plans[-1].experiment.selector, sweep.plans[-1].experiment.seed) == ("full", 5)
    assert sweep.plans[-1].experiment.steps == 2


def test_expressions_schedules_and_rules_with_a_budget_of_their_own_are_points_too(tmp_path):
    text = TOML.replace('"entropy"]', '"soft_or( entropy, tip )", "min_gap", "adakd", "fire"]')
    text = text.replace("keep = [0.1, 0.3]", 'keep = [0.1, "linear(0.5,0.1)"]')
    sweep = read_sweep(write(tmp_path, text), runtime(tmp_path))
    points = [(p.experiment.selector, p.experiment.keep) for p in sweep.plans]
    assert points[: len(points) // 2] == [
        ("full", 1.0),
        ("random", 0.1),
        ("random", "linear(0.5, 0.1)"),
        ("soft_or(entropy, tip)", 0.1),
        ("soft_or(entropy, tip)", "linear(0.5, 0.1)"),
        ("min_gap", 1.0),
        ("adakd", 1.0),
        ("fire", 1.0),
    ]
    assert run_sweep(tmp_path / "small.toml", runtime(tmp_path)).done == len(points)


def test_the_catalogue_sweep_has_every_selector_and_the_control_of_each():
    from bench import selector_names

    plans = read_sweep(ROOT / "sweeps" / "catalogue.toml", Runtime()).plans
    by_rule = defaultdict(set)
    for plan in plans:
        by_rule[plan.experiment.selector].add((plan.experiment.pair, plan.experiment.seed))
    assert set(selector_names()) <= set(by_rule)
    assert {len(cells) for cells in by_rule.values()} == {6}  # both pairs, three seeds
    for name in selector_names():
        rule = get_selector(name)
        if rule.kind == "weight":
            assert f"shuffled({name})" in by_rule
        elif rule.abstains and rule.keep is not None:
            assert f"matched({name})" in by_rule
    for plan in plans:
        if plan.selector.keep is None and plan.selector.kind == "score":
            assert plan.experiment.keep in (0.01, 0.02, 0.05, 0.1, 1)


BAD = [
    ('"entropy"]', '"soft_or(entropy, tpi)"]', "small.toml:4", "did you mean 'tip'"),
    ("keep = [0.1, 0.3]", 'keep = ["liner(1, 0.3)"]', "small.toml:15", "linear(a, b)"),
    ('"entropy"]', '"entropi"]', "small.toml:4", "did you mean 'entropy'"),
    ("keep = [0.1, 0.3]", "keep = [0.1, 3.0]", "small.toml:15", "less than or equal to 1"),
    ("steps = 2", "stepz = 2", "small.toml:10", "did you mean 'steps'"),
    ("[grid]", "[gird]", "small.toml:14", "extra inputs"),
    ("seeds = [0, 1]", "seeds = []", "small.toml:5", "at least 1 item"),
    ("seeds = [0, 1]", "seeds = [0, 1", "small.toml", "line 7"),
    ("keep = [0.1, 0.3]", "seed = [1]", "small.toml:15", "list it under `seeds`"),
    ('name = "small"', 'name = "a b"', "small.toml:2", "pattern"),
    ("seeds = [0, 1]", "seeds = 3", "small.toml:5", "a valid list"),
    ("k = 8", "k = 8\nkeep = 0.1", "small.toml:13", "keep: is in base and in grid"),
    ("eval_items = 8", "learning_rate = -1", "small.toml:11", "learning_rate: -1"),
]


@pytest.mark.parametrize("old, new, place, message", BAD)
def test_a_mistake_is_named_with_its_line(capsys, tmp_path, old, new, place, message):
    path = write(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    code, out, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert (code, out) == (2, "")
    has_caret = err.rstrip().endswith(" ^")  # an expression, and the place in it
    assert len(err.splitlines()) == (3 if has_caret else 1)
    assert place in err and message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "also, line",
    [
        ('selectors = ["random"]\n\n[also.base]\nsteps = 1\nlearning_rate = -1', 22),
        ("[also.grid]\nkeep = [0.2, 1.5]", 19),
        ('[also.base]\nsteps = 3\n\n[[also]]\nselectors = ["entropi"]', 22),
        ('selectors = ["random"]\nseeds = 4', 19),
    ],
)
def test_a_mistake_in_a_later_block_is_not_looked_for_in_the_first(tmp_path, also, line):
    text = TOML.replace("k = 8", "learning_rate = 1e-3") + f"\n[[also]]\n{also}\n"
    with pytest.raises(ConfigError, match=f"small.toml:{line}: "):
        read_sweep(write(tmp_path, text), runtime(tmp_path))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("trials = 3", "trials = 4", "the grid has 3 points"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1, 0.2, 0.2]", "repeat"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1]\nlow = 0.1", "stand alone"),
        ("values = [0.1, 0.2, 0.3]", "low = 0.1\nhigh = 0.2", "needs `values`"),
        ("values = [0.1, 0.2, 0.3]", "values = [0.1, -1, 0.3]", "learning_rate"),
    ],
)
def test_a_grid_that_is_none_is_refused(capsys, tmp_path, old, new, message):
    path = write(tmp_path, GRID, sampler="grid", pruner="none", values=[0.1, 0.2, 0.3])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    code, _, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("trials = 3", "trials = 3\nseed = 1", 19, "also in 'seeds'"),
        ("trials = 3", 'trials = 3\ntask = "tiny_maths"', 19, "unknown name 'tiny_maths'"),
        ("trials = 3", 'trials = 3\ntask = "tiny_math"', 19, "leakage"),
        ("k = 8", 'k = 8\neval_tasks = ["tiny_math_tune"]', 13, "leakage"),
        ("seeds = [0, 1]", "seeds = [0, 1000]", 5, "tuning.seed: 1000"),
        ("ranges.learning_rate", "ranges.seed", 23, "seed: cannot have a range"),
        ("ranges.learning_rate", "ranges.keep", 23, "keep: cannot have a range"),
        ("ranges.learning_rate", "ranges.selector", 23, "selector: cannot have a range"),
        ("ranges.learning_rate", "ranges.learning_rat", 23, "did you mean 'learning_rate'"),
        ("low = 1e-5", "low = -1e-5", 23, "learning_rate"),
        ("report_every = 1", "report_every = 5", 21, "hear of nothing"),
        ("trials = 3", "trials = 0", 18, "greater than or equal to 1"),
    ],
)
def test_a_mistake_in_tuning_is_named_with_its_line(tmp_path, old, new, line, message):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="median")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError) as refused:
        read_sweep(path, runtime(tmp_path))
    assert f"small.toml:{line}: " in str(refused.value) and message in str(refused.value)
    assert "{" not in str(refused.value)


def test_tuning_on_a_reported_split_is_refused(capsys, tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    path.write_text(path.read_text().replace("trials = 3", 'trials = 3\ntask = "tiny_math"'))
    code, _, err = call(capsys, "sweep", path, "--runs-dir", tmp_path / "runs")
    assert code == 2
    assert "leakage" in err and len(err.splitlines()) == 1


def test_a_range_that_does_not_go_with_a_points_other_settings_is_refused(tmp_path):
    path = write(tmp_path, TUNING, sampler="tpe", pruner="none")
    text = path.read_text().replace("k = 8", 'k = 8\nobjective = "sampled_reverse_kl"')
    text = text.replace("low = 1e-5", "low = 0.5").replace("high = 1e-2", "high = 1.0")
    path.write_text(text.replace("ranges.learning_rate", "ranges.temperature"))
    with pytest.raises(ConfigError, match=r"tuning\.ranges\.temperature: temperature: "):
        read_sweep(path, runtime(tmp_path))


RANGED = """
name = "ranged"
selectors = ["entropy"]
seeds = [0]

[base]
steps = {steps}
{base}

[tuning]
trials = 2
report_every = 1

[tuning.ranges.{name}]
low = {low}
high = {high}
"""


@pytest.mark.parametrize(
    "steps, base, name, low, high, refused",
    [
        (200, "", "warmup_steps", 0, 100, ""),  # over the default's 60 steps, within the sweep's
        (3, "", "warmup_steps", 0, 40, "warmup_steps: 40"),
        (60, "warmup_steps = 50", "steps", 60, 200, ""),
        (60, "warmup_steps = 50", "steps", 10, 200, "steps"),
        (60, "", "learning_rate", -1.0, 1.0, "learning_rate"),
        (60, "", "k", 1.5, 8, "k"),
    ],
)
def test_a_range_is_checked_against_the_sweeps_settings(
    tmp_path, steps, base, name, low, high, refused
):
    path = tmp_path / "ranged.toml"
    path.write_text(RANGED.format(steps=steps, base=base, name=name, low=low, high=high))
    if not refused:
        assert read_sweep(path, Runtime(runs_dir=tmp_path)).plans
        return
    with pytest.raises(ConfigError, match=f"tuning.ranges.{name}: .*{refused}") as raised:
        read_sweep(path, Runtime(runs_dir=tmp_path))
    assert "ranged.toml:" in str(raised.value)
