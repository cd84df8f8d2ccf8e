"""Sweeps of a few short runs: their files, their rows, and a stand-in for the runs of a tuning."""

import json
from types import SimpleNamespace

from small_pair import pair_folder

from bench.core.config import Runtime
from bench.core.errors import Stopped

QUIET = Runtime(device="cpu", progress="off")

TOML = """
name = "small"
pairs = [{pair}]
selectors = ["full", "random", "entropy"]
seeds = [0, 1]

[base]
prompts_per_step = 6
max_new_tokens = 10
steps = {steps}
eval_items = 8
k = 8

[grid]
keep = [0.1, 0.3]
"""

TUNING = (
    TOML.replace('"full", "random", "entropy"', '"random", "entropy"').replace(
        "keep = [0.1, 0.3]", "keep = [0.1]"
    )
    + """
[tuning]
trials = 3
sampler = "{sampler}"
pruner = "{pruner}"
report_every = 1

[tuning.ranges.learning_rate]
low = 1e-5
high = 1e-2
log = true
"""
)

GRID = TUNING.replace("low = 1e-5\nhigh = 1e-2\nlog = true", "values = {values}")
"""The text of a sweep file, of one that tunes, of one that tunes over a grid; `write` fills in."""


def write(folder, text=TOML, **values):
    path = folder / "small.toml"
    path.write_text(text.format(**{"pair": json.dumps(str(pair_folder())), "steps": 2, **values}))
    return path


def runtime(folder, **values):
    return QUIET.model_copy(update={"runs_dir": folder / "runs", **values})


def rows_of(folder):
    text = (folder / "runs" / "rows.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def curve_stub(monkeypatch, worth, stop_at=()):
    """In place of runs: a curve that rises evenly to `worth(experiment)`; tells what was run."""
    ran = []

    def execute(launch, experiment, runtime, on_curve=None):
        ran.append(experiment)
        if len(ran) in stop_at:
            raise Stopped("stopped")
        for step in range(experiment.eval_every, experiment.steps + 1, experiment.eval_every or 99):
            if on_curve is not None:
                value = worth(experiment) * step / experiment.steps
                on_curve(step, {"tiny_math_tune": value})
        score = {"mean": worth(experiment)}
        return SimpleNamespace(run_id="r", scores={"trained": {"tiny_math_tune": score}})

    monkeypatch.setattr("bench.sweep.tuning.execute", execute)
    return ran
