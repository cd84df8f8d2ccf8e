"""The class of each token of a vocabulary, from its text. Imports no sibling."""

import unicodedata
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

TOKEN_CLASSES = ("digit", "operator", "word", "punctuation", "space", "stop", "other")
_OPERATORS = frozenset("+-*/=<>^%~|&")


def token_class(text: str) -> str:
    """The class of a token's text; "stop" is a matter of the token's id, not of its text.

    word         holds a letter (so does "x1"); else
    digit        holds a digit; else
    operator     holds one of + - * / = < > ^ % ~ | & or another mathematical sign; else
    punctuation  holds any other punctuation or symbol; else
    space        white space alone;
    other        nothing of these: a part of a character, a control character, no text.
    """
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "other"
    kinds = {unicodedata.category(character) for character in text}
    if any(kind[0] in "LM" for kind in kinds):
        return "word"
    if any(kind[0] == "N" for kind in kinds):
        return "digit"
    if "Sm" in kinds or not _OPERATORS.isdisjoint(text):
        return "operator"
    if any(kind[0] in "PS" for kind in kinds):
        return "punctuation"
    return "space" if text.isspace() else "other"


def vocabulary_texts(tokenizer: Any, size: int) -> list[str]:
    """The text of each id below `size`, decoded by itself."""
    return tokenizer.batch_decode(
        [[token] for token in range(size)], clean_up_tokenization_spaces=False
    )


def vocabulary_classes(tokenizer: Any, size: int, stop_ids: Collection[int]) -> Tensor:
    """int64 (V,): the place in TOKEN_CLASSES of each id below `size`.

    Stop tokens are "stop"; other added tokens that a tokenizer calls special are "other".
    """
    special = set(tokenizer.all_special_ids)
    places = []
    for token, text in enumerate(vocabulary_texts(tokenizer, size)):
        name = "stop" if token in stop_ids else "other" if token in special else token_class(text)
        places.append(TOKEN_CLASSES.index(name))
    return torch.tensor(places)
