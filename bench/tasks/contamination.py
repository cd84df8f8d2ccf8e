"""n-gram overlap of training prompts with evaluation sets. Pure; imports no sibling."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

N = 13
"""Words of a shared run (arXiv 2005.14165, appendix C)."""
STOCK = 10
"""A run in more of the training texts is a stock phrase ("where m and n are relatively prime
positive integers. Find m + n") and no contamination; the same appendix's rule and number."""

Gram = tuple[str, ...]


def words(text: str) -> tuple[str, ...]:
    """Letters and digits in runs, lower case: LaTeX marks and punctuation separate words."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


@dataclass(frozen=True)
class Overlap:
    """How training texts overlap with one evaluation set, by index."""

    sharing: frozenset[int]
    """Texts that share `n` words in a row with an item."""
    contaminated: frozenset[int]
    """Those that share a run which is no stock phrase: it is in at most `stock` of the texts."""
    items: frozenset[int]
    """Items of the set that such a run comes from."""


def overlaps(
    texts: Sequence[str], sets: Mapping[str, Sequence[str]], n: int = N, stock: int = STOCK
) -> dict[str, Overlap]:
    """The overlap of the texts with each set.

    A text of fewer than `n` words is shared only as a whole, by an item of the same words.
    """
    holders: dict[Gram, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name, items in sets.items():
        for index, item in enumerate(items):
            for gram in grams(words(item), n):
                holders[gram][name].add(index)
    shared: dict[Gram, set[int]] = defaultdict(set)
    for index, text in enumerate(texts):
        for gram in grams(words(text), n):
            if gram in holders:
                shared[gram].add(index)
    found = {}
    for name in sets:
        own = {gram: holding for gram, holding in shared.items() if name in holders[gram]}
        rare = {gram: holding for gram, holding in own.items() if len(holding) <= stock}
        found[name] = Overlap(
            frozenset().union(*own.values()),
            frozenset().union(*rare.values()),
            frozenset().union(*(holders[gram][name] for gram in rare)),
        )
    return found


def grams(said: Gram, n: int) -> Iterator[Gram]:
    """Every run of `n` words; the whole text where it is shorter. No words, no run."""
    if 0 < len(said) < n:
        yield said
    for start in range(len(said) - n + 1):
        yield said[start : start + n]
