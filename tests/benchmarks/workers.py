"""How much faster two workers finish a sweep than one, each time from an empty runs folder.

`python tests/benchmarks/workers.py [--trials 8] [--steps 60] [--repeats 1]` prints seconds and
ratios, on two cores, against one worker with one core (what a second worker adds) and against one
with both (what a user gains by `--workers 2`, less what one run gains by a second thread). They
take turns, so that a machine that slows down slows all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
name = "workers"
pairs = ["tiny-qwen3"]
selectors = ["teachability"]
seeds = {seeds}
base = {{ steps = {steps} }}

[grid]
keep = [0.05]
"""

ARMS = {
    "one worker, one core": (1, {"OMP_NUM_THREADS": "1"}),
    "one worker, both cores": (1, {}),
    "two workers, a core each": (2, {}),
}


def seconds_of(sweep: Path, workers: int, threads: dict[str, str]) -> float:
    """Wall-clock seconds of the command, from nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | threads
    with tempfile.TemporaryDirectory() as runs_dir:
        began = time.perf_counter()
        command = [sys.executable, "-m", "bench", "sweep", str(sweep), "--json"]
        command += ["--workers", str(workers), "--runs-dir", runs_dir]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        seconds = time.perf_counter() - began
    assert json.loads(done.stdout)["failed"] == {}, done.stdout
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "workers.toml")
        sweep.write_text(SWEEP.format(seeds=list(range(given.trials)), steps=given.steps))
        for _ in range(given.repeats):
            for arm, settings in ARMS.items():
                seconds[arm].append(seconds_of(sweep, *settings))
                print(f"{arm}: {seconds[arm][-1]:.1f} s", flush=True)
    *ones, two = (statistics.median(measured) for measured in seconds.values())
    for arm, one in zip(ARMS, ones, strict=False):
        print(f"two workers finish {given.trials} trials {one / two:.2f} times as fast as {arm}")


if __name__ == "__main__":
    main()
