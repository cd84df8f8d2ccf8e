"""What a step costs against response length, batch, vocabulary and K, without its rollout.

    python tests/benchmarks/curves.py [--out results/benchmark]

One process for each side: training on all tokens, on 5 % by teachability, and the models' backbones
alone (a forward pass of both, backward through the student's, AdamW), which no method can avoid.
Seconds are the process's CPU time on one thread, which other processes hardly move. Writes
`curves.json` and the figure `cost_curves`; `against_trl.py --settings` puts the numbers into
benchmark.md.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPT, STEPS = 32, 3


@dataclass(frozen=True)
class Point:
    """One batch: responses of equal length over a made pair."""

    tokens: int = 256
    batch: int = 4
    vocabulary: int = 16_384
    k: int = 16


AXES: dict[str, tuple[int, ...]] = {
    "tokens": (128, 256, 512, 1024, 2048),
    "batch": (2, 4, 8, 16, 32),
    "vocabulary": (4096, 16_384, 65_536, 151_936),
    "k": (4, 16, 64, 256),
}
LABELS = {
    "tokens": "response length (tokens)",
    "batch": "responses in a step",
    "vocabulary": "vocabulary",
    "k": "K",
}
SIDES = {
    "full@1.0": "all tokens",
    "teachability@0.05": "5 % by teachability",
    "backbone": "backbones alone",
}
ROWS = 4
"""Responses per backbone pass, on all sides: memory may grow with the length, not the batch."""


def measure(side: str, points: list[Point]) -> list[dict[str, float]]:
    """CPU seconds of a step and bytes above what was resident before it, point by point."""
    import arms

    found = []
    for point in points:
        with tempfile.TemporaryDirectory() as folder:
            step = make_step(side, point, Path(folder))
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = arms.resident("VmRSS")
            seconds = []
            for number in range(STEPS):
                start = time.process_time()
                step(number)
                seconds.append(time.process_time() - start)
            peak = arms.resident("VmHWM") - before
            found.append({"seconds": statistics.median(seconds), "peak": float(peak)})
            del step
    return found


def make_step(side: str, point: Point, folder: Path) -> Any:
    """A function of the step's number."""
    import torch
    from arms import load
    from settings import Setting, make_pair

    from bench.core.config import Experiment, Runtime
    from bench.run.plan import make_plan
    from bench.run.run_experiment import open_trainer

    make_pair(folder / "pair", point.vocabulary, layers=2)
    pair = load(Setting("curves", str(folder / "pair"), point.batch, point.tokens, STEPS))
    rollout = made_rollout(point)
    if side == "backbone":
        optimizer = torch.optim.AdamW(pair.student.parameters())

        def step(_: int) -> None:
            for rows_BL in rollout.sequence_BL.split(ROWS):
                with torch.no_grad():
                    pair.teacher.base_model(rows_BL, use_cache=False)
                pair.student.base_model(rows_BL, use_cache=False).last_hidden_state.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step
    rule, keep = side.split("@")
    experiment = Experiment(
        pair=str(folder / "pair"), selector=rule, keep=float(keep), k=point.k,
        prompts_per_step=point.batch, max_new_tokens=point.tokens,
    )  # fmt: skip
    runtime = Runtime(runs_dir=folder, progress="off", device="cpu", micro_batch=ROWS)
    trainer = open_trainer(make_plan(experiment, runtime), pair, runtime)
    trainer.rollout = lambda step: rollout  # type: ignore[method-assign]
    return trainer.step


def made_rollout(point: Point) -> Any:
    """Random tokens: what a step costs does not depend on what was sampled."""
    import torch

    from bench.train.rollout import Rollout

    generator = torch.Generator().manual_seed(0)
    shape = (point.batch, PROMPT + point.tokens)
    sequence_BL = torch.randint(point.vocabulary, shape, generator=generator)
    token_BT = sequence_BL[:, PROMPT:].contiguous()
    keys = tuple(f"{row}/0" for row in range(point.batch))
    return Rollout(
        token_BT=token_BT,
        mask_BT=torch.ones_like(token_BT, dtype=torch.bool),
        student_logprob_BT=torch.zeros(token_BT.shape),
        prompt_id_B=keys,
        finish_reason_B=("length",) * point.batch,
        sequence_BL=sequence_BL,
        prompt_length_B=torch.full((point.batch,), PROMPT),
        row_key_B=keys,
        length_B=(point.tokens,) * point.batch,
    )


def start_up(tries: int = 7) -> dict[str, float]:
    """Seconds of `import bench` and `bench --help`, interpreter included, the median of a few.

    Raises CalledProcessError if either imports torch.
    """
    codes = {
        "python -c pass": "pass",
        "import bench": "import bench, sys; assert 'torch' not in sys.modules",
        "bench --help": (
            "import sys; sys.argv = ['bench', '--help']\n"
            "from bench.cli.app import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules"
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(tries):
        for name, code in codes.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in taken.items()}


def draw(found: dict[str, Any], folder: Path) -> None:
    """cost_curves.svg and .png: seconds above, memory below, one column an axis."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "opd-bench"
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, panels = plt.subplots(2, len(AXES), figsize=(12, 6), layout="constrained")
    for column, (axis, values) in enumerate(AXES.items()):
        for place, (side, label) in enumerate(SIDES.items()):
            points = found["axes"][axis].get(side)
            if points is None:
                continue
            for row, (measure, scale) in enumerate((("seconds", 1.0), ("peak", 2**20))):
                heights = [point[measure] / scale for point in points]
                panels[row, column].plot(values, heights, f"C{place}o-", label=label)
        for row, unit in enumerate(("CPU seconds a step", "peak above the models (MiB)")):
            panel = panels[row, column]
            panel.set_xscale("log")
            panel.set_xticks(values, [f"{value:,}" for value in values], rotation=30)
            panel.xaxis.set_minor_locator(NullLocator())
            if axis == "k":
                panel.set_ylim(0, 1.2 * panel.get_ylim()[1])
            else:
                panel.set_yscale("log", base=2)
                panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(unit)
            if row == 1:
                panel.set_xlabel(LABELS[axis])
    panels[0, 0].legend(frameon=False, fontsize=8)
    default = Point()
    figure.suptitle(
        f"A step without its rollout; where not varied: {default.batch} responses of "
        f"{default.tokens} tokens, vocabulary {default.vocabulary:,}, K = {default.k}", fontsize=10,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "cost_curves.svg", metadata={"Date": None})
    figure.savefig(folder / "cost_curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES, help="measure one side, print JSON")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured")
    parser.add_argument("--out", type=Path, default=HERE.parent.parent / "results" / "benchmark")
    options = parser.parse_args()
    axes = {axis: [replace(Point(), **{axis: v}) for v in values] for axis, values in AXES.items()}
    if options.side:
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        asked = {a: p for a, p in axes.items() if a != "k" or options.side.startswith("teach")}
        out.write(json.dumps({axis: measure(options.side, p) for axis, p in asked.items()}))
        return
    if options.draw:
        draw(json.loads((options.out / "curves.json").read_text()), options.out)
        return
    found: dict[str, Any] = {"axes": {axis: {} for axis in axes}, "start_up": start_up()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for side in SIDES:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side], stdout=subprocess.PIPE, text=True,
            check=True, env=environment,
        )  # fmt: skip
        for axis, points in json.loads(done.stdout).items():
            found["axes"][axis][side] = points
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.out)


if __name__ == "__main__":
    main()
