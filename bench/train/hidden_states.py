"""How responses are cut into micro-batches. Imports no sibling."""

from collections.abc import Iterator, Sequence


def micro_batches(length_M: Sequence[int], rows: int, tokens: int | None = None) -> Iterator[slice]:
    """Runs of at most `rows` neighbours that, padded to their longest, hold at most `tokens`.

    Without `tokens`, only rows count. A response that alone exceeds `tokens` is a run by itself:
    nothing is left out. Sorted by length, long responses pass few at a time, short ones many.
    """
    start, longest = 0, 0
    for row, length in enumerate(length_M):
        longest = max(longest, length)
        count = row - start
        if count and (count == rows or (tokens is not None and longest * (count + 1) > tokens)):
            yield slice(start, row)
            start, longest = row, length
    if length_M:
        yield slice(start, len(length_M))
