"""Small random pairs for tests: the real Qwen classes and the embedded pairs' tokenizer."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from bench.pairs.models import LoadedPair, load_pair
from bench.pairs.pair import get_pair
from bench.pairs.tiny.tokenizer import build_tokenizer
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.tasks.prompts import Prompt
from bench.train.rollout import Rollout, Sampling, sample_rollout

CLASSES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def save_model(folder: Path, architecture: str, *, width: int, vocabulary: int, seed: int, **extra):
    """One random model with its tokenizer. Weights are large enough for peaked distributions."""
    config_class, model_class = CLASSES[architecture]
    tokenizer = build_tokenizer()
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        **{
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **extra,
        },
    )
    torch.manual_seed(seed)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@cache
def pair_folder(architecture: str = "qwen3", tied: bool = True) -> Path:
    """teacher/ and student/, with padded vocabularies of unequal size. Read only."""
    disable_progress_bar()
    folder = Path(tempfile.mkdtemp(prefix="small-pair-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    extra = {"tie_word_embeddings": tied}
    save_model(folder / "student", architecture, width=16, vocabulary=672, seed=1, **extra)
    save_model(folder / "teacher", architecture, width=24, vocabulary=704, seed=2, **extra)
    return folder


def loaded_pair(architecture: str = "qwen3", tied: bool = True) -> LoadedPair:
    return load_pair(get_pair(str(pair_folder(architecture, tied))))


def prompts(count: int = 4) -> list[Prompt]:
    problems = [make_problem("train", i) for i in range(count)]
    return [Prompt(p.id, prompt_text(p), p.answer, p.split) for p in problems]


def sampling(count: int = 4, **values) -> Sampling:
    """Responses of unequal length: the stop tokens are made likely by declaring many of them."""
    return Sampling(
        **{
            "prompts": prompts(count),
            "samples": 2,
            "max_new_tokens": 12,
            "temperature": 1.0,
            "stop_ids": tuple(range(0, 657, 11)),
            "mask_stop": True,
            "seed": 0,
            "step": 0,
            **values,
        }
    )


def rollout(
    pair: LoadedPair, count: int = 4, batch: int = 64, keeps_hidden: bool = False, **values
) -> Rollout:
    """`sampling(count, **values)` of the pair's student."""
    return sample_rollout(
        pair.student, pair.tokenizer, pair.vocabulary, sampling(count, **values),
        batch=batch, keeps_hidden=keeps_hidden,
    )  # fmt: skip
