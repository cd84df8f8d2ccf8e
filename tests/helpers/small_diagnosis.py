"""Settings of a diagnostic of seconds."""

from pathlib import Path

from bench.core.config import Experiment, Runtime

DIAGNOSIS = {"responses": 12, "positions": 10, "k_sweep": [2, 4], "draws": 100, "keeps": [0.1, 0.3]}


def experiment(pair: str, **settings) -> Experiment:
    small = {"k": 4, "steps": 2, "prompts_per_step": 4, "max_new_tokens": 6}
    return Experiment.parse({"pair": pair, **small, **settings})


def runtime(folder: Path) -> Runtime:
    return Runtime(runs_dir=folder / "runs", progress="off", device="cpu", checkpoint_every=1)


def full(pair: str, **settings) -> Experiment:
    return experiment(pair, selector="full", keep=1.0, **settings)
