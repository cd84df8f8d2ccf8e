"""Seconds of one optimizer step by phase, rules against plain distillation, as ratios in one run.

    python tests/benchmarks/step.py [--pair tiny-qwen3] [--rounds 5]

The rules alternate round by round, so that a noisy machine disturbs all of them alike; medians and
the spread of the ratio to `full` are printed.
"""

import argparse
import statistics
import tempfile

from bench.core.config import Experiment, Runtime
from bench.pairs.models import load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer

RULES = {"full": 1.0, "random": 0.05, "entropy": 0.05, "teachability": 0.05, "jsd": 1.0}
PHASES = ("rollout", "teacher", "score", "loss")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", default="tiny-qwen3")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runtime = Runtime(runs_dir=tempfile.mkdtemp(), progress="off")
    trainers = {}
    for selector, keep in RULES.items():
        experiment = Experiment(pair=options.pair, selector=selector, keep=keep)
        plan = make_plan(experiment, runtime)
        trainers[selector] = open_trainer(plan, load_pair(plan.pair), runtime)
        trainers[selector].step(0)
    seconds = {selector: [] for selector in RULES}
    for step in range(1, options.rounds + 1):
        for selector, trainer in trainers.items():
            seconds[selector].append(trainer.step(step)["seconds"])
    totals = {s: [sum(line.values()) for line in lines] for s, lines in seconds.items()}
    print(f"{'rule':14} {'keep':>5} " + " ".join(f"{p:>8}" for p in PHASES) + "    step  / full")
    for selector, keep in RULES.items():
        medians = [statistics.median(line[p] for line in seconds[selector]) for p in PHASES]
        ratios = [one / full for one, full in zip(totals[selector], totals["full"], strict=True)]
        print(
            f"{selector:14} {keep:5g} " + " ".join(f"{m:8.3f}" for m in medians)
            + f" {statistics.median(totals[selector]):7.3f} {statistics.median(ratios):6.2f}"
            f"  ({min(ratios):.2f} to {max(ratios):.2f})"
        )  # fmt: skip


if __name__ == "__main__":
    main()
