"""What the student's hidden states kept while sampling save of a step, and how far they move it.

    python tests/benchmarks/hidden.py [--rounds 5]

Each round samples with and without keeping them and scores with and without the student's pass, in
turn; medians, the ratio with its spread, the largest difference of each signal that `teachability`
and `jsd` read, and how many of the tokens kept at 5 % change.
"""

import argparse
import statistics
from time import perf_counter

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.core.sampling import Vocabulary
from bench.pairs.models import load_pair
from bench.pairs.pair import get_pair
from bench.selection.budget import select_tokens
from bench.selection.registry import get_selector
from bench.selection.signals import base_signals, with_signals
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.tasks.prompts import Prompt
from bench.train.hidden_states import PassSettings
from bench.train.rollout import Rollout, Sampling, sample_rollout
from bench.train.scoring import score_rollout

SETTINGS = PassSettings(micro_batch=64, logit_chunk=4_194_304)
K = 16


def qwen_vocabulary(hidden: int, layers: int, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        head_dim=hidden // 4, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def problems(count: int) -> list[Prompt]:
    found = [make_problem("train", number) for number in range(count)]
    return [Prompt(p.id, prompt_text(p), p.answer, p.split) for p in found]


class Case:
    """A pair, and how its responses are sampled and scored."""

    def __init__(self, name, student, teacher, vocabulary, tokenizer, stop_ids, count, length):
        self.name, self.student, self.teacher = name, student, teacher
        self.vocabulary, self.tokenizer, self.stop_ids = vocabulary, tokenizer, stop_ids
        self.count, self.length = count, length

    def sample(self, keeps_hidden: bool) -> Rollout:
        return sample_rollout(
            self.student, self.tokenizer, self.vocabulary,
            Sampling(
                problems(self.count), samples=1, max_new_tokens=self.length, temperature=1.0,
                stop_ids=self.stop_ids, mask_stop=True, seed=0, step=0,
            ),
            batch=256, keeps_hidden=keeps_hidden,
        )  # fmt: skip

    def score(self, rollout: Rollout, names: tuple[str, ...]):
        return score_rollout(
            self.student, self.teacher, rollout, self.vocabulary, names, K, SETTINGS,
            rollout.student_hidden_ND,
        )  # fmt: skip


def measure(case: Case, selector: str, rounds: int) -> None:
    rule = get_selector(selector)
    seconds = {(phase, kept): [] for phase in ("rollout", "score") for kept in (False, True)}
    found = {}
    for number in range(rounds + 1):  # the first round warms up
        for kept in (False, True) if number % 2 else (True, False):
            start = perf_counter()
            rollout = case.sample(kept)
            sampled = perf_counter()
            scored = case.score(rollout, rule.needs)
            if number:
                seconds["rollout", kept].append(sampled - start)
                seconds["score", kept].append(scored.seconds["score"])
            found[kept] = rollout, scored.values
    print(f"{case.name}, {selector}: {int(rollout.mask_BT.sum())} tokens")
    for phase in ("rollout", "score"):
        before, after = seconds[phase, False], seconds[phase, True]
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        print(
            f"  {phase:8} {statistics.median(before):7.3f} s, kept "
            f"{statistics.median(after):7.3f} s: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    (rollout, values), (_, others) = found[False], found[True]
    far = {name: float((values[name] - others[name]).abs().max()) for name in values}
    print("  largest differences:", ", ".join(f"{name} {far[name]:.1e}" for name in far))
    chosen = []
    for one in (values, others):
        base = base_signals(
            rollout.token_BT, rollout.mask_BT, seed=0, step=0, row_key_B=rollout.row_key_B
        )
        score_BT = rule(with_signals(base, one))
        chosen.append(
            select_tokens(score_BT, rollout.mask_BT, keep=0.05, seed=0, row_key_B=rollout.row_key_B)
        )
    changed = int((chosen[0] & ~chosen[1]).sum())
    print(f"  kept tokens that change: {changed} of {int(chosen[0].sum())}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pair = load_pair(get_pair("tiny-qwen3"))
    embedded = Case(
        "tiny-qwen3, 64 x 64", pair.student, pair.teacher, pair.vocabulary, pair.tokenizer,
        pair.student_stop_ids, 64, 64,
    )  # fmt: skip
    large = Case(
        "151,936 ids, 8 x 128", qwen_vocabulary(128, 4, seed=1), qwen_vocabulary(128, 4, seed=2),
        Vocabulary(151_669), pair.tokenizer, (151_643,), 8, 128,
    )  # fmt: skip
    for case, rounds in ((embedded, options.rounds), (large, max(1, options.rounds // 2))):
        for selector in ("teachability", "jsd"):
            measure(case, selector, rounds)


if __name__ == "__main__":
    main()
