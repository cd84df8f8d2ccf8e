"""What a number was made by: revision, versions, machine, peak memory, and digests of code."""

import ast
import hashlib
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
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
PACKAGE = Path(__file__).parents[1]


def provenance(device: str) -> dict[str, Any]:
    """Git revision of this package's checkout, versions, and the machine."""
    import torch

    root = PACKAGE.parent
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
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


ENGINE_VERSION = 1
"""Of what makes a run's numbers: sampling, scoring, selection, loss, optimizer, randomness. Raised
by hand when a change makes other numbers of the same experiment, beyond a machine's last bits:
then every experiment is a new run.

1: all rows up to this constant, and every engine since that repeats them to the last bit.
"""


def code_digest(files: Iterable[str]) -> str:
    """Hash of what files of this package do, for a cache of what they compute.

    files   paths from `bench/`, without `.py`; a folder stands for all Python and YAML in it.

    Of Python, the syntax tree without imports and docstrings: a file that moves, a comment or a
    reformatted line makes no cache anew. Of YAML, every byte.
    """
    digest = hashlib.sha256()
    for name in files:
        path = PACKAGE / name
        found = sorted(path.glob("*.[py]*")) if path.is_dir() else [PACKAGE / f"{name}.py"]
        for file in found:
            text = file.read_text(encoding="utf-8")
            digest.update(_deeds(text).encode() if file.suffix == ".py" else text.encode())
    return digest.hexdigest()


_PARSING = threading.Lock()
"""Python 3.11 counts its parser's depth once for all threads, and fails where two are at it."""


@cache
def _deeds(source: str) -> str:
    """The syntax tree of Python code, without its imports and bare strings."""
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, part, None), list):
                setattr(node, part, [line for line in lines if not _does_nothing(line)])
    return ast.dump(tree)


def _does_nothing(line: ast.AST) -> bool:
    if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
        return isinstance(line.value.value, str)
    return isinstance(line, ast.Import | ast.ImportFrom)
