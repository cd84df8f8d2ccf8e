"""How much faster two workers finish a sweep than one, each time from an empty runs folder.

`python tests/benchmarks/workers.py [--trials 4] [--steps 60] [--repeats 1]` prints seconds and the
ratio. The counts alternate, so that a machine that slows down slows both.
"""

import argparse
import json
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


def seconds_of(sweep: Path, workers: int) -> float:
    """Wall-clock seconds of the command, from nothing."""
    with tempfile.TemporaryDirectory() as runs_dir:
        began = time.perf_counter()
        command = [sys.executable, "-m", "bench", "sweep", str(sweep), "--json"]
        command += ["--workers", str(workers), "--runs-dir", runs_dir]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
    assert json.loads(done.stdout)["failed"] == {}, done.stdout
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "workers.toml")
        sweep.write_text(SWEEP.format(seeds=list(range(given.trials)), steps=given.steps))
        for _ in range(given.repeats):
            for workers in seconds:
                seconds[workers].append(seconds_of(sweep, workers))
                print(f"{workers} worker(s): {seconds[workers][-1]:.1f} s", flush=True)
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
    print(f"two workers finish {given.trials} trials {ratio:.2f} times as fast as one")


if __name__ == "__main__":
    main()
