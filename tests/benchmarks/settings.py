"""What is compared: the pairs, the prompts, the batch and the length of a response."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

VOCABULARY = 151_936
"""Logits of Qwen2.5 up to 3B and of Qwen3."""


@dataclass(frozen=True)
class Setting:
    name: str
    pair: str
    """A name, or the folder of a pair that `write` makes."""
    prompts: int
    """Prompts in a step, one response each."""
    tokens: int
    """Cap on the length of a response."""
    rounds: int
    """Steps that are measured; one more before them warms up, one after them is counted."""
    rollout_every: int = 1
    """Rounds from one measured rollout to the next."""
    learning_rate: float = 3e-4
    texts: tuple[tuple[str, ...], ...] = ()
    """The prompts of each step, once they are drawn."""
    vocabulary: int = VOCABULARY
    """Logits of a pair that `write` makes."""
    sizes: tuple[str, str] = ("small", "double")
    """Sizes of its student and teacher, by name."""
    device: str = "cpu"
    dtype: str = "float32"
    repeats: bool = False
    """Every step takes the responses of the first: sampling them takes longer than the steps."""

    @property
    def steps(self) -> int:
        return self.rounds + 2

    def write(self, folder: Path) -> "Setting":
        """Into the folder, with the pair where it is to be made."""
        found = self
        if self.pair == "made":
            make_pair(folder / "pair", self.vocabulary, self.sizes, self.device)
            found = replace(self, pair=str(folder / "pair"))
        (folder / "setting.json").write_text(json.dumps(asdict(found)))
        return found

    @staticmethod
    def read(folder: Path) -> "Setting":
        found = json.loads((folder / "setting.json").read_text())
        texts, sizes = tuple(map(tuple, found["texts"])), tuple(found["sizes"])
        return Setting(**{**found, "texts": texts, "sizes": sizes})


SETTINGS = {
    "embedded": Setting("embedded", "tiny-qwen3", prompts=64, tokens=48, rounds=15),
    "qwen_vocabulary": Setting(
        "qwen_vocabulary", "made", prompts=8, tokens=128, rounds=5, rollout_every=2
    ),
}


@dataclass(frozen=True)
class Size:
    """What a model of the Qwen3 class is made of; its head is tied to its embedding."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


SIZES = {
    "small": Size(128, 384, 4, 4, 2, 32),
    "double": Size(256, 768, 4, 8, 4, 32),
    "Qwen3-0.6B": Size(1024, 3072, 28, 16, 8, 128),
    "Qwen3-1.7B": Size(2048, 6144, 28, 16, 8, 128),
    "Qwen3-4B": Size(2560, 9728, 36, 32, 8, 128),
}
"""Those of a released model as its config.json has them."""


def config_of(name: str, vocabulary: int = VOCABULARY, layers: int | None = None) -> Any:
    """The Qwen3 configuration of a size."""
    from transformers import Qwen3Config

    size = SIZES[name]
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=layers or size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
    )


def make_pair(
    folder: Path, vocabulary: int, sizes: tuple[str, str] = ("small", "double"),
    device: str = "cpu", layers: int | None = None,
) -> None:  # fmt: skip
    """Random models of the Qwen3 class, student and teacher; of a released size in bfloat16, as the
    released weights are, and else in float32.

    They have the embedded pairs' tokenizer, whose prompts they are given; the other ids only ever
    come out of the student. They are made on the device, where that is quicker.
    """
    import torch
    from transformers import Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from bench.pairs.tiny.tokenizer import build_tokenizer

    disable_progress_bar()
    tokenizer = build_tokenizer()
    for seed, (side, name) in enumerate(zip(("student", "teacher"), sizes, strict=True)):
        config = config_of(name, vocabulary, layers)
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(seed)
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
        if name.startswith("Qwen3"):
            model.to(torch.bfloat16)
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
