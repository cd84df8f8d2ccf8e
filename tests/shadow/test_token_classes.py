"""The class of a token follows from its text, and stop tokens from their ids."""

from collections import Counter

import pytest

from bench.pairs.models import load_tokenizer
from bench.pairs.pair import get_pair
from bench.shadow.token_classes import TOKEN_CLASSES, token_class, vocabulary_classes

EXAMPLES = {
    "digit": ["7", " 12", "3.5", "½", "٣"],
    "operator": ["+", " =", "-", "**", "≤", "+=", "×"],
    "word": ["cups", " Mia", "x1", "\\frac", "步", "é", "don't"],
    "punctuation": [".", "?\n", " (", "####", "“", "$", "_"],
    "space": [" ", "\n", "\n\n", "\t", "\u00a0"],
    "other": ["", "�", " �", "\x00", "\u200b"],
}


@pytest.mark.parametrize("name, text", [(n, t) for n, ts in EXAMPLES.items() for t in ts])
def test_each_text_has_its_class(name, text):
    assert token_class(text) == name


def test_the_embedded_vocabulary_is_classed_as_it_is_used():
    tokenizer = load_tokenizer(get_pair("tiny-qwen3").student)
    stop = tokenizer.eos_token_id
    class_V = vocabulary_classes(tokenizer, 657, (stop,)).tolist()

    def of(text):
        return [TOKEN_CLASSES[class_V[i]] for i in tokenizer(text)["input_ids"]]

    assert of("12+7=19 cups\n#### 19") == [
        "digit", "digit", "operator", "digit", "operator", "digit", "digit", "word", "space",
        "punctuation", "space", "digit", "digit",
    ]  # fmt: skip
    assert TOKEN_CLASSES[class_V[stop]] == "stop"
    assert Counter(class_V)[TOKEN_CLASSES.index("stop")] == 1
    pad = tokenizer.pad_token_id
    assert TOKEN_CLASSES[class_V[pad]] == "other"
