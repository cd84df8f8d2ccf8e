"""The first hour on a GPU: checks against the CPU, memory and speed by phase, a step against TRL's.

    python tests/benchmarks/gpu.py [--out results] [--parts checks default phases trl]

`checks` are the tests of `tests/gpu`; `default` the run that `bench run` makes without a flag;
`phases` memory and tokens a second of Qwen3-1.7B from 4B at 1,024 tokens, random weights, beside
the estimate of `bench doctor`; `trl` a step of Qwen3-0.6B from 1.7B on the same responses as TRL's.
Each part is a process of its own, kept in `gpu.json` as soon as it is there, and `gpu.md` is made
of that file. Under ten minutes on one H100.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from against_trl import Side, prepare, say
from gpu_page import page
from settings import Setting

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TRL_SETTING = Setting(
    "gpu", "made", prompts=8, tokens=512, rounds=4, sizes=("Qwen3-0.6B", "Qwen3-1.7B"),
    device="cuda", dtype="bfloat16", repeats=True,
)  # fmt: skip
TRL_ARMS = ("trl", "full@1.0", "teachability@0.05")


def card() -> dict[str, Any]:
    """The device, what is installed, and the rates of a large product of random matrices."""
    import accelerate
    import torch
    import transformers

    rates = {}
    for name in ("float32", "bfloat16"):
        one, other = (
            torch.randn(8192, 8192, device="cuda", dtype=getattr(torch, name)) for _ in range(2)
        )
        seconds = []
        for _ in range(8):
            torch.cuda.synchronize()
            start = time.perf_counter()
            one @ other
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        rates[name] = 2 * 8192**3 / statistics.median(seconds[2:])
    return {
        "name": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
        "flops_per_s": rates,
    }


def checks() -> list[dict[str, Any]]:
    """A line for each check of `tests/gpu`."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "checks.jsonl")
        # A newer or older torch warns of what the pinned one does not: a warning fails no check.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-n0",
            "-W",
            "default",
            "-q",
            "-rfE",
        ]
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "OPD_BENCH_GPU_CHECKS": str(file)}, check=False
        )
        return [json.loads(line) for line in file.read_text().splitlines()]


def default_run() -> dict[str, Any]:
    """`bench run`, and what it came to."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "bench", "run", "--device", "cuda", "--json",
                   "--progress", "off", "--runs-dir", name]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        passed = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        record = json.loads(done.stdout)
    return {
        "run_id": record["run_id"],
        "scores": {who: task["tiny_math"]["mean"] for who, task in record["scores"].items()},
        "seconds": record["seconds"],
        "command_s": passed,
        "tokens": record["tokens"],
        "peak_memory_bytes": record["peak_memory_bytes"],
    }


def phases() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "gpu_phases.py")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit("the phases were not measured")
    return json.loads(done.stdout.splitlines()[-1])


def against_trl(setting: Setting = TRL_SETTING) -> dict[str, Any]:
    """A step without its rollout, seconds and bytes above what is loaded, side after side."""
    found: dict[str, Any] = {
        "student": setting.sizes[0], "teacher": setting.sizes[1], "prompts": setting.prompts,
        "tokens": setting.tokens, "dtype": setting.dtype, "sides": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(setting, folder)
        for arm in TRL_ARMS:
            side = Side(arm, folder)
            first = side.step(rollout=False)
            replies = [side.step(rollout=False) for _ in range(setting.rounds)]
            counted = side.step(rollout=False, count=True)
            side.close()
            found["sides"][arm] = {
                "first_loss": first["loss"],
                "step_s": [reply["step_s"] for reply in replies],
                "phases": replies[-1]["phases"],
                "loaded_bytes": side.resident,
                "flops": counted["flops"],
                "peak_bytes": max(reply["peak"] for reply in (first, *replies)),
            }
            say(f"{arm}: {statistics.median(found['sides'][arm]['step_s']):.3f} s a step")
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "checks": checks,
    "default": default_run,
    "phases": phases,
    "trl": against_trl,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS,
                        help="measure these again; none: only write the page again")  # fmt: skip
    options = parser.parse_args()
    file = options.out / "gpu.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if options.parts:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("make gpu: needs a CUDA device; none is here, nothing was measured")
        for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
            os.environ.setdefault(name, {"OMP_NUM_THREADS": str(os.cpu_count())}.get(name, "1"))
        options.out.mkdir(parents=True, exist_ok=True)
        found |= {"card": card(), "measured": time.strftime("%Y-%m-%d")}
    failed = []
    for part in options.parts:
        start = time.perf_counter()
        say(f"{part} …")
        try:
            found[part] = PARTS[part]()
        except (SystemExit, Exception) as error:
            failed.append(part)
            say(f"{part} failed: {error}")
            continue
        found.setdefault("part_seconds", {})[part] = round(time.perf_counter() - start, 1)
        file.write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "gpu.md").write_text(page(found))
    print(page(found))
    if failed or any(line["outcome"] == "failed" for line in found.get("checks", ())):
        raise SystemExit(f"failed: {', '.join(failed) or 'checks'}")


if __name__ == "__main__":
    main()
