"""Seconds of the shadow panel, as a share of the step that it runs beside.

    python tests/benchmarks/shadow.py [--pair tiny-qwen3] [--rounds 9] [--token-bank]

Trainers with and without the panel alternate round by round on equal steps, so that a noisy machine
disturbs both alike; the clock is the process's CPU time (the sum over its threads), which other
processes hardly move. Two measures, each a median over rounds with its range: the panel's own
seconds over the rest of the same step, and a whole step over the same step without the panel.
"""

import argparse
import statistics
import tempfile
import time

import bench.train.loop
import bench.train.metrics
import bench.train.scoring
from bench.core.config import Experiment, Runtime
from bench.pairs.models import load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.train.trainer import Trainer

RULES = {"teachability": 0.05, "tip": 0.05, "full": 1.0, "entropy": 0.05, "random": 0.05}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", default="tiny-qwen3")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--token-bank", action="store_true", help="write every step's tokens too")
    options = parser.parse_args()
    for module in (bench.train.loop, bench.train.metrics, bench.train.scoring):
        module.perf_counter = time.process_time

    def trainer(selector: str, keep: float, **runtime) -> Trainer:
        settings = Runtime.parse({"runs_dir": tempfile.mkdtemp(), "progress": "off", **runtime})
        experiment = Experiment(pair=options.pair, selector=selector, keep=keep)
        plan = make_plan(experiment, settings)
        plan.folder.create({}, {})
        found = open_trainer(plan, load_pair(plan.pair), settings)
        found.step(0)
        return found

    bank = {"token_bank": 1} if options.token_bank else {}
    arms = {
        selector: (trainer(selector, keep), trainer(selector, keep, shadow=("all",), **bank))
        for selector, keep in RULES.items()
        if selector in options.rules
    }
    lines = {selector: [] for selector in arms}
    for step in range(1, options.rounds + 1):
        for selector, (plain, shadowed) in arms.items():
            pair = (plain.step(step)["seconds"], shadowed.step(step)["seconds"])
            lines[selector].append(pair)
    shadow = next(iter(arms.values()))[1].observer
    assert shadow is not None
    print(f"{options.pair}, {len(shadow.panel.members)} rules, {options.rounds} rounds")
    print(f"{'run':14} {'step s':>8} {'panel s':>8}   panel / rest of step     step / step without")
    for selector, pairs in lines.items():
        own = [with_["shadow"] / (sum(with_.values()) - with_["shadow"]) for _, with_ in pairs]
        whole = [sum(with_.values()) / sum(without.values()) for without, with_ in pairs]
        print(
            f"{selector:14} {statistics.median(sum(without.values()) for without, _ in pairs):8.3f}"
            f" {statistics.median(with_['shadow'] for _, with_ in pairs):8.3f}"
            f"   {statistics.median(own):5.3f} ({min(own):.3f} to {max(own):.3f})"
            f"   {statistics.median(whole):5.3f} ({min(whole):.3f} to {max(whole):.3f})"
        )


if __name__ == "__main__":
    main()
