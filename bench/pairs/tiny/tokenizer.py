"""The embedded pairs' tokenizer: Qwen's byte-level scheme with a small vocabulary."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.tasks.arithmetic import word_pieces

PAD_TOKEN, EOS_TOKEN = "<|endoftext|>", "<|im_end|>"
MAX_CONTEXT = 256
# Source: tokenizer.json of Qwen/Qwen2.5-0.5B.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's byte-level scheme with a small vocabulary: 256 bytes, then one token for each word.

    Any text encodes, and decodes to itself (NFC, as Qwen); what is no word of the task becomes its
    bytes. Words are added tokens, not merges: `AutoTokenizer` rebuilds the tokenizer beside any
    Qwen2 model as a `Qwen2Tokenizer`, which keeps added tokens but drops `ignore_merges`, and
    merges would need many tokens more.
    """
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(byte_symbols)}
    bpe = models.BPE(vocab=vocab, merges=[], continuing_subword_prefix="", end_of_word_suffix="")
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in word_pieces()])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PAD_TOKEN, EOS_TOKEN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_CONTEXT,
    )
