"""Trainers on small random pairs, and what is compared of their runs."""

from pathlib import Path

import torch
from small_pair import pair_folder

from bench.core.config import Experiment, Runtime
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.train.trainer import Trainer

SMALL = {"prompts_per_step": 6, "max_new_tokens": 10, "steps": 3, "eval_items": 8, "k": 8}
QUIET = {"device": "cpu", "progress": "off"}


def experiment(**values) -> Experiment:
    return Experiment.parse({"pair": str(pair_folder()), **SMALL, **values})


def trainer(tmp_path, runtime=None, **values) -> Trainer:
    runtime = Runtime.parse({"runs_dir": tmp_path, **QUIET, **(runtime or {})})
    plan = make_plan(experiment(**values), runtime)
    plan.folder.create({}, {})
    return open_trainer(plan, plan.load_pair(), runtime)


def weights(found: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in found.pair.student.named_parameters()}


def run_steps(found: Trainer) -> list[dict]:
    return [found.step(step) for step in range(found.experiment.steps)]


def metrics_lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def without_costs(record) -> dict:
    values = record.model_dump() if not isinstance(record, dict) else dict(record)
    for name in ("seconds", "peak_memory_bytes", "provenance", "folder", "ended"):
        del values[name]
    return values
