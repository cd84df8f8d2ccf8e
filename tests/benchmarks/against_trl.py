"""Speed and memory of a step against TRL's DistillationTrainer and a plain dense loop.

    python tests/benchmarks/against_trl.py [--settings embedded qwen_vocabulary] [--out results]

Every side is a process of its own (`arms.py`), started by this one; they take their steps in turn,
round by round, on the same prompts and responses, so that a noisy machine disturbs all alike.
Ratios are of two sides in the same round: their median, least and greatest. Peak memory is
measured in fresh processes. Writes `benchmark.json`, `benchmark/steps.json` and `benchmark.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from report import report
from settings import SETTINGS, Setting

HERE = Path(__file__).parent
OURS = {1.0: "full@1.0", 0.05: "teachability@0.05"}
"""The rule that stands for us at each keep; TRL, which selects nothing, takes its whole step."""
ARMS = ("trl", "plain", "full@1.0", "teachability@0.05", "entropy@0.05", "random@0.05")
MEMORY_ARMS = ("trl", "plain", *OURS.values())
MEMORY_RUNS, MEMORY_STEPS = 3, 2


class Side:
    """A running arm."""

    def __init__(self, arm: str, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "arms.py"), arm, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self.resident = self.reply()["resident"]

    def reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]
        return json.loads(line)

    def step(self, rollout: bool, count: bool = False) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"rollout": rollout, "count": count}) + "\n")
        self.process.stdin.flush()
        return self.reply()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment() -> dict[str, str]:
    """One thread and no network, unless told otherwise."""
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**fixed, **os.environ, "TOKENIZERS_PARALLELISM": "false"}


def prepare(setting: Setting, folder: Path) -> None:
    setting.write(folder)
    subprocess.run(
        [sys.executable, str(HERE / "arms.py"), "sample", str(folder)], check=True,
        env=environment(),
    )  # fmt: skip


def timed_rounds(setting: Setting, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Replies of every arm, round by round; the last one of each counts FLOPs."""
    sides = {arm: Side(arm, folder) for arm in ARMS}
    first = {arm: side.step(rollout=True)["loss"] for arm, side in sides.items()}
    for arm in ("plain", "full@1.0"):
        if abs(first[arm] - first["trl"]) > 1e-4 * abs(first["trl"]):
            raise SystemExit(f"unequal computations: first losses are {first}")
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for number in range(setting.rounds):
        order = ARMS if number % 2 == 0 else ARMS[::-1]
        for arm in order:
            found[arm].append(sides[arm].step(rollout=number % setting.rollout_every == 0))
        say(f"{setting.name}: round {number + 1} of {setting.rounds}")
    for arm, side in sides.items():
        found[arm].append(side.step(rollout=False, count=True))
        side.close()
    return found


def peak_memory(setting: Setting, folder: Path) -> dict[str, list[int]]:
    """Bytes above what is resident with the models loaded, each time in a fresh process."""
    found: dict[str, list[int]] = {arm: [] for arm in MEMORY_ARMS}
    replace(Setting.read(folder), rounds=MEMORY_STEPS - 2).write(folder)
    for number in range(MEMORY_RUNS):
        for arm in MEMORY_ARMS:
            side = Side(arm, folder)
            peaks = [side.step(rollout=False)["peak"] for _ in range(MEMORY_STEPS)]
            found[arm].append(max(peaks) - side.resident)
            side.close()
        say(f"{setting.name}: memory {number + 1} of {MEMORY_RUNS}")
    return found


def matmul_peak(size: int = 2048, tries: int = 5) -> float:
    """Floating-point operations per second of a square float32 product, the best of a few."""
    code = (
        "import torch, time\n"
        f"a, b, best = torch.randn({size}, {size}), torch.randn({size}, {size}), 9e9\n"
        f"for _ in range({tries + 1}):\n"
        "    t = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - t)\n"
        f"print(2 * {size}**3 / best)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    return float(done.stdout)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def measure(setting: Setting) -> dict[str, Any]:
    """Everything that is measured of one setting."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(setting, folder)
        replies = timed_rounds(setting, folder)
        return {
            "replies": replies,
            "memory": peak_memory(setting, folder),
            "matmul_flops_per_s": matmul_peak(),
        }


def ratios(ours: list[float], trl: list[float], scale: float = 1.0) -> dict[str, Any]:
    """Medians of both sides, and of the ratio in each pair with its range."""
    found = [one / other for one, other in zip(ours, trl, strict=True)]
    return {
        "ours": statistics.median(ours), "trl": statistics.median(trl),
        "ratio": statistics.median(found), "ratio_min": min(found), "ratio_max": max(found),
        "runs": len(found),
    }  # fmt: skip


def rows_of(name: str, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of benchmark.json for one setting."""
    replies, memory = measured["replies"], measured["memory"]
    seconds = {arm: [reply["step_s"] for reply in found[:-1]] for arm, found in replies.items()}
    speed = {
        arm: [reply["rollout_tokens"] / reply["rollout_s"] for reply in found
              if "rollout_s" in reply]
        for arm, found in replies.items()
    }  # fmt: skip
    measures = {
        "step_without_rollout_s": seconds,
        "peak_memory_bytes": memory,
        "rollout_tokens_per_s": speed,
    }
    return [
        {"setting": name, "keep": keep, "measure": measure, **ratios(values[arm], values["trl"])}
        for keep, arm in OURS.items()
        for measure, values in measures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS,
                        help="measure these again; none: only write the tables again")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="instead of each setting's own number")
    parser.add_argument("--out", type=Path, default=HERE.parent.parent / "results")
    options = parser.parse_args()
    file = options.out / "benchmark" / "steps.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in options.settings:
        setting = SETTINGS[name]
        if options.rounds:
            setting = replace(setting, rounds=options.rounds)
        found[name] = measure(setting)
        file.write_text(json.dumps(found) + "\n")
    rows = [row for name in SETTINGS if name in found for row in rows_of(name, found[name])]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (options.out / "benchmark.json").write_text(f"[\n{lines}\n]\n")
    curves = file.parent / "curves.json"
    text = report(found, rows, json.loads(curves.read_text()) if curves.exists() else None)
    (options.out / "benchmark.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
