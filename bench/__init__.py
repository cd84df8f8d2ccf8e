"""opd-bench: a benchmark for selective on-policy distillation.

The public API is imported lazily: `import bench` never imports torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.core.config import Experiment, Runtime
    from bench.core.errors import BenchError, ConfigError
    from bench.pairs.pair import get_pair, pair_names
    from bench.run.run_experiment import run_experiment
    from bench.selection.budget import select_tokens
    from bench.selection.formulas import signals_from_logits
    from bench.selection.registry import get_selector, selector, selector_names
    from bench.selection.signals import TokenSignals

_MODULE_OF = {
    "BenchError": "core.errors",
    "ConfigError": "core.errors",
    "Experiment": "core.config",
    "Runtime": "core.config",
    "TokenSignals": "selection.signals",
    "signals_from_logits": "selection.formulas",
    "selector": "selection.registry",
    "get_selector": "selection.registry",
    "selector_names": "selection.registry",
    "select_tokens": "selection.budget",
    "run_experiment": "run.run_experiment",
    "get_pair": "pairs.pair",
    "pair_names": "pairs.pair",
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
    if name == "__version__":
        return version("opd-bench")
    if name in _MODULE_OF:
        return getattr(import_module(f"bench.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
