"""Seconds to score a batch with every selector: 64 responses of 512 tokens, K = 16.

    python tests/benchmarks/scoring.py [--responses 64] [--tokens 512] [--k 16] [--rounds 5]

The signals come from random logits over a small vocabulary, in chunks: what a selector costs on top
of them does not depend on the vocabulary. Medians over rounds; the rules alternate round by round.
"""

import argparse
import statistics
from time import perf_counter

import torch

from bench import get_selector, selector_names
from bench.selection.formulas import chunk_signals
from bench.selection.signals import SIGNAL_NAMES, base_signals, with_signals

CHUNK = 4096


def batch(responses: int, tokens: int, k: int, vocabulary: int):
    """(every signal of the batch, seconds that the signals of the logits took)."""
    generator = torch.Generator().manual_seed(0)
    length_B1 = torch.randint(tokens // 4, tokens + 1, (responses, 1), generator=generator)
    mask_BT = torch.arange(tokens)[None] < length_B1
    token_BT = torch.randint(vocabulary, mask_BT.shape, generator=generator)
    token_N = token_BT[mask_BT]
    pieces, seconds = [], 0.0
    for piece in token_N.split(CHUNK):
        student_NV = 3 * torch.randn(len(piece), vocabulary, generator=generator)
        teacher_NV = 0.5 * student_NV + 3 * torch.randn(len(piece), vocabulary, generator=generator)
        start = perf_counter()
        pieces.append(chunk_signals(student_NV, teacher_NV, piece, SIGNAL_NAMES, k))
        seconds += perf_counter() - start
    values = {name: torch.cat([piece[name] for piece in pieces]) for name in SIGNAL_NAMES}
    values |= {
        "reference_logprob_BT": values["student_logprob_BT"] - 0.1,
        "counterfactual_logprob_BT": values["student_logprob_BT"] - 0.2,
        "gain_BT": values["forward_kl_BT"] * 0.1,
        "reward_B": (torch.arange(responses) % 2).float(),
        "group_B": torch.arange(responses) // 4,
    }
    base = base_signals(token_BT, mask_BT, seed=0, step=0, row_key_B=None)
    return with_signals(base, values), seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("responses", 64), ("tokens", 512), ("k", 16), ("rounds", 5),
                        ("vocabulary", 1024)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    signals, seconds = batch(options.responses, options.tokens, options.k, options.vocabulary)
    names = selector_names()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds + 1):  # the first round warms up
        for name in names:
            selector = get_selector(name)
            start = perf_counter()
            selector(signals)
            taken[name].append(perf_counter() - start)
    median = {name: statistics.median(found[1:]) for name, found in taken.items()}
    for name, value in sorted(median.items(), key=lambda item: -item[1]):
        print(f"{name:28} {1000 * value:9.2f} ms")
    rounds = [
        sum(found[place] for found in taken.values()) for place in range(1, options.rounds + 1)
    ]
    print(
        f"all {len(names)} selectors: median {statistics.median(rounds):.3f} s "
        f"({min(rounds):.3f} to {max(rounds):.3f}) for {int(signals.mask_BT.sum()):,} tokens, "
        f"{options.responses} x {options.tokens}, K = {options.k}; their signals from logits over "
        f"{options.vocabulary} ids: {seconds:.3f} s; threads: {torch.get_num_threads()}"
    )


if __name__ == "__main__":
    main()
