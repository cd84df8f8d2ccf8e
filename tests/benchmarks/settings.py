"""What is compared: the pairs, the prompts, the batch and the length of a response."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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

    @property
    def steps(self) -> int:
        return self.rounds + 2

    def write(self, folder: Path) -> "Setting":
        """Into the folder, with the pair where it is to be made."""
        found = self
        if self.pair == "made":
            make_pair(folder / "pair", self.vocabulary)
            found = replace(self, pair=str(folder / "pair"))
        (folder / "setting.json").write_text(json.dumps(asdict(found)))
        return found

    @staticmethod
    def read(folder: Path) -> "Setting":
        found = json.loads((folder / "setting.json").read_text())
        return Setting(**{**found, "texts": tuple(map(tuple, found["texts"]))})


SETTINGS = {
    "embedded": Setting("embedded", "tiny-qwen3", prompts=64, tokens=48, rounds=15),
    "qwen_vocabulary": Setting(
        "qwen_vocabulary", "made", prompts=8, tokens=128, rounds=5, rollout_every=2
    ),
}


def make_pair(folder: Path, vocabulary: int, layers: int = 4) -> None:
    """Random models of the Qwen3 class: hidden 128 and 256, tied heads, float32.

    They have the embedded pairs' tokenizer, whose prompts they are given; the other ids only ever
    come out of the student.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from bench.pairs.tiny.tokenizer import build_tokenizer

    disable_progress_bar()
    tokenizer = build_tokenizer()
    for seed, (side, width) in enumerate({"student": 128, "teacher": 256}.items()):
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 64,
            head_dim=32,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
