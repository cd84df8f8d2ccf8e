"""Tiny random models with the real Qwen configs, tokenizer, template, ids and vocabulary sizes."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from real_data import FOLDER
from transformers import (
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

CLASSES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
ENDOFTEXT, IM_END = 151643, 151645
SMALL, LARGE = 151_936, 152_064
"""Padded vocabularies: of Qwen3 and Qwen2.5 up to 3B, and of Qwen2.5 from 7B on."""


def save(
    folder: Path, architecture: str, *, vocabulary: int, tied: bool, seed: int = 0, width: int = 8,
    **generation,
) -> None:  # fmt: skip
    """One model folder; `generation` goes into its generation_config."""
    disable_progress_bar()
    config_class, model_class = CLASSES[architecture]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=ENDOFTEXT,
        eos_token_id=IM_END,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    model.generation_config = GenerationConfig(
        **{"eos_token_id": [IM_END, ENDOFTEXT], "pad_token_id": ENDOFTEXT, **generation}
    )
    model.save_pretrained(folder)
    assert FOLDER is not None
    for file in (FOLDER / "qwen3-tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)


@cache
def qwen_folder(architecture: str, tied: bool) -> Path:
    """teacher/ (152,064 logits) and student/ (151,936 logits). Read only."""
    folder = Path(tempfile.mkdtemp(prefix="qwen-pair-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save(folder / "student", architecture, vocabulary=SMALL, tied=tied, seed=1)
    save(folder / "teacher", architecture, vocabulary=LARGE, tied=not tied, seed=2, width=12)
    return folder
