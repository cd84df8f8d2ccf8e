"""opd-bench: a benchmark for selective on-policy distillation.

The public API is imported lazily: `import bench` never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.budget import select_tokens
    from bench.config import BenchError, ConfigError, Experiment, Runtime
    from bench.pairs import get_pair, pair_names
    from bench.registry import get_selector, selector, selector_names
    from bench.run import run_experiment
    from bench.signals import TokenSignals, signals_from_logits

_MODULE_OF = {
    "BenchError": "config",
    "ConfigError": "config",
    "Experiment": "config",
    "Runtime": "config",
    "TokenSignals": "signals",
    "signals_from_logits": "signals",
    "selector": "registry",
    "get_selector": "registry",
    "selector_names": "registry",
    "select_tokens": "budget",
    "run_experiment": "run",
    "get_pair": "pairs",
    "pair_names": "pairs",
}

__all__ = [
    "BenchError",
    "ConfigError",
    "Experiment",
    "Runtime",
    "TokenSignals",
    "get_pair",
    "get_selector",
    "pair_names",
    "run_experiment",
    "select_tokens",
    "selector",
    "selector_names",
    "signals_from_logits",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"bench.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
