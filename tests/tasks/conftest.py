"""A small model over bytes, with its tokenizer, and a script of what it says."""

import pytest
import torch
from byte_model import BOS, PAD, SPECIAL, Scripted
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte; adds <bos> unless told not to, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    backend.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<end>"
    )


@pytest.fixture
def model(tokenizer):
    """Random weights, large enough for responses to depend on the prompt."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


@pytest.fixture
def script(tokenizer, monkeypatch):
    def install(reply):
        scripted = Scripted(tokenizer, reply)
        monkeypatch.setattr("bench.core.decode.decode", scripted)
        return scripted

    return install
