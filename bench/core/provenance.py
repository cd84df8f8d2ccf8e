"""What a number was made by: revision, versions, machine, peak memory, and digests of code."""

import ast
import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "opd-bench", "torch", "transformers", "accelerate", "lm_eval", "tokenizers", "numpy", "scipy",
    "math-verify",
)  # fmt: skip

EXTRAS = ("peft",)
"""Named where they are installed."""


def provenance(device: str) -> dict[str, Any]:
    """Git revision of this package's checkout, versions, and the machine."""
    import torch

    root = Path(__file__).parents[2]
    revision = _git(root, "rev-parse", "HEAD")
    return {
        "git": revision,
        "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        "versions": {
            name: version(name)
            for name in (*PACKAGES, *(name for name in EXTRAS if find_spec(name)))
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def reset_peak_memory(device: str) -> None:
    """Start a new peak, where the system can: a sweep's worker runs many experiments."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: str) -> int:
    """Peak memory since the last reset: of the device's allocator on CUDA, resident elsewhere."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def code_digest(modules: Sequence[str]) -> str:
    """Hash of what modules of this package do: their syntax trees without docstrings."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse((Path(__file__).parents[1] / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )
