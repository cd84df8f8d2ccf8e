"""Does a change of the code leave every result as it was? Run it before and after, and compare.

    python tests/benchmarks/equal_results.py --out before.json     # in the commit before
    python tests/benchmarks/equal_results.py --against before.json # in the commit after

Writes the run ids of every sweep file, and of short runs the SHA-256 of the trained weights and of
the metrics (seconds and memory aside). Through the command line alone, so that it runs at any
commit; one thread, since a sum over two may round otherwise. Five minutes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RUNS: dict[str, list[str]] = {
    "teachability": ["--selector", "teachability"],
    "full": ["--selector", "full", "--keep", "1"],
    "adakd": ["--selector", "adakd", "--keep", "1"],
    "expression": ["--selector", "soft_or(entropy, product(forward_kl, compatibility))"],
    "paper": ["--preset", "paper", "--selector", "teachability"],
    "per response": ["--scope", "response", "--min-keep-per-response", "2", "--ties", "earlier"],
    "topk": ["--objective", "topk_reverse_kl_tail", "--pair", "tiny-qwen2.5", "--keep", "0.2"],
    "extra signals": ["--selector", "scope", "--normalize", "all"],
    "shadow": ["--selector", "tip", "--shadow", "all", "--shadow-every", "2"],
    "schedule": ["--selector", "entropy", "--keep", "cosine(0.5, 0.05)", "--schedule", "cosine"],
}
"""Flags of each run, on top of five steps."""
UNEQUAL = {"seconds", "peak_memory_bytes", "ended"}
"""What may differ from one run of the same code to the next."""


def bench(*arguments: str) -> Any:
    """The JSON document that a command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--json"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"bench {' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def without_costs(value: Any) -> Any:
    """A JSON value less what a run's time and memory say."""
    if isinstance(value, dict):
        return {name: without_costs(v) for name, v in value.items() if name not in UNEQUAL}
    return [without_costs(v) for v in value] if isinstance(value, list) else value


def lines_of(path: Path) -> str:
    """Digest of a JSONL file, less costs."""
    lines = [without_costs(json.loads(line)) for line in path.read_text().splitlines()]
    return digest(json.dumps(lines, sort_keys=True))


def run_of(flags: list[str], runs_dir: Path) -> dict[str, Any]:
    record = bench(
        "run", *flags, "--steps", "5", "--eval-items", "64", "--runs-dir", str(runs_dir),
    )  # fmt: skip
    folder = runs_dir / record["run_id"]
    found = {
        "run_id": record["run_id"],
        "scores": digest(json.dumps(without_costs(record["scores"]), sort_keys=True)),
        "weights": digest((folder / "model" / "model.safetensors").read_bytes()),
        "metrics": lines_of(folder / "metrics.jsonl"),
    }
    if (folder / "shadow.jsonl").exists():
        found["shadow"] = lines_of(folder / "shadow.jsonl")
    return found


def measure() -> dict[str, Any]:
    """Everything that must not change."""
    found: dict[str, Any] = {"sweeps": {}, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(Path("sweeps").glob("*.toml")):
            try:
                plan = bench("sweep", str(path), "--dry-run", "--runs-dir", f"{folder}/none")
            except SystemExit as refused:  # pairs that are not here: so before as after
                plan = {"refused": str(refused).partition("bench: error: ")[2].strip()}
            found["sweeps"][path.name] = plan
        for name, flags in RUNS.items():
            found["runs"][name] = run_of(flags, Path(folder))
            print(name, found["runs"][name]["run_id"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    found = measure()
    if given.out:
        given.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if given.against:
        before = json.loads(given.against.read_text())
        unequal = [
            f"{kind} {name}"
            for kind in found
            for name in before[kind] | found[kind]
            if before[kind].get(name) != found[kind].get(name)
        ]
        print("unequal: " + "; ".join(unequal) if unequal else "all equal")
        raise SystemExit(bool(unequal))


if __name__ == "__main__":
    main()
