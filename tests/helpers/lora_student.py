"""Students with adapters: the settings, and adapters and base apart."""

from steps import weights

from bench.train.trainer import Trainer

LORA = {"lora": 4, "learning_rate": 1e-2}
PAIRS = [("qwen3", True), ("qwen3", False), ("qwen2", True), ("qwen2", False)]


def split(found: Trainer) -> tuple[dict, dict]:
    """(adapters, base) of a trainer's student, copied."""
    own = weights(found)
    adapters = {name: value for name, value in own.items() if "lora_" in name}
    return adapters, {name: own[name] for name in own.keys() - adapters.keys()}
