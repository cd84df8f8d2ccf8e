"""How much of the fire is made: all of it (`make fire`), or a part that a seed draws.

OPD_BENCH_FIRE is the share, 0 to 1; without it, what `make test` makes: a small part.
"""

import os
import random
from collections import Counter

SHARE = os.environ.get("OPD_BENCH_FIRE")
SEED = int(os.environ.get("OPD_BENCH_FIRE_SEED", "0"))
COUNTS: Counter[str] = Counter()


def drawn(cases, at_least: int, name: str = "") -> list:
    """The cases of this run: `at_least` of them in `make test`, else a share."""
    cases = list(cases)
    count = at_least if SHARE is None else max(at_least, round(float(SHARE) * len(cases)))
    if count >= len(cases):
        return cases
    places = sorted(random.Random(f"{SEED} {name}").sample(range(len(cases)), count))
    return [cases[place] for place in places]


def examples(few: int, many: int) -> int:
    """Hypothesis examples of one entry point."""
    return few if SHARE is None else max(few, round(float(SHARE) * many))
