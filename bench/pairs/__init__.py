"""Teacher and student: names, loading, adapters; the embedded pairs.

pair       the pairs by name
models     loading them; agreement: what the two sides must share
adapters   LoRA, through peft
tiny/      how the embedded pairs were made, measured and described
assets/    the embedded pairs
"""

from bench.pairs.pair import Pair, get_pair, pair_names

__all__ = ["Pair", "get_pair", "pair_names"]
