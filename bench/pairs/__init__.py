"""Teacher and student: names, loading, adapters; the embedded pairs."""

from bench.pairs.pair import Pair, get_pair, pair_names

__all__ = ["Pair", "get_pair", "pair_names"]
