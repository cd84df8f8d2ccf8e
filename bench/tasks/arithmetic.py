"""Multi-step arithmetic told in words, with written-out solutions: GSM8K in miniature, unlimited.

Own generator, not reasoning-gym: the embedded pairs need every word to be one token of a small
vocabulary, two wordings of each solution step, and splits that are disjoint by construction.

A problem's *skeleton* is its arithmetic alone ("12+7-5", no names, items or places). A hash of the
skeleton decides the split, so no skeleton of `eval` or `tune` occurs in `train`, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "tune", "eval"]
Style = Literal["equation", "verb"]

MIN_STEPS, MAX_STEPS = 2, 4
MIN_START, MAX_START = 3, 60
MIN_OPERAND, MAX_OPERAND = 2, 20
MAX_VALUE = 99
PLACE_SHARE = 0.5  # share of steps without a partner that name a place
SPLIT_BUCKETS = 8  # of these, bucket 0 is `eval`, bucket 1 is `tune`, the rest `train`


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Ada Alan Alice Amir Ana Anna Arun Asha Ben Bea Boris Cara Carl Chen Chloe Clara Cleo Dana"
    " David Dina Dora Ella Emil Emma Erik Eva Ezra Finn Fiona Frida Gita Grace Gus Hana Hans"
    " Hugo Ida Ines Iris Ivan Jack Jada Jana Jonas Juan Julia Kai Kara Karl Kofi Lara Lea Leo"
    " Lena Liam Lily Lina Luca Lucy Luis Maja Marco Maria Mark Maya Mia Mina Mona Nadia Nina"
    " Noah Nora Olga Omar Oscar Paul Petra Priya Quinn Rafa Rana Rosa Ruth Sam Sara Sofia Tara"
    " Theo Tom Uma Vera Viktor Yara Yusuf Zoe"
)
ITEMS = _words(
    "apples balls bananas baskets batteries beads bells belts books bottles bowls boxes bricks"
    " brushes buckets buttons cakes candles cards carrots chairs cherries clocks coats coins combs"
    " cookies cups cushions dolls drums eggs envelopes erasers feathers flags flowers forks games"
    " gloves grapes hammers hats jars keys kites knives ladders lamps lemons letters magnets maps"
    " marbles masks melons mirrors mugs muffins nails napkins needles nuts onions oranges paints"
    " papers peaches pears pencils pens pies pillows pins plants plates plums pots puzzles radios"
    " ribbons rings robots rocks ropes rulers scarves seeds shells shirts socks spoons stamps"
    " stickers stones"
)
PLACES = _words(
    "airport bakery bank barn beach bridge cafe camp castle church cinema clinic factory fair farm"
    " forest garden harbor hotel lake library market mill museum office park port school stadium"
    " station store theater tower zoo"
)
GAIN_AT_PLACE = _words("buys collects earns finds gathers grabs harvests orders picks wins")
GAIN_FROM_NAME = _words("accepts borrows gets inherits receives takes")
LOSE_AT_PLACE = _words("breaks burns destroys discards drops forgets loses uses wastes")
LOSE_TO_NAME = _words("donates gives hands lends mails returns sells sends")
GAIN_VERBS = GAIN_AT_PLACE + GAIN_FROM_NAME
LOSE_VERBS = LOSE_AT_PLACE + LOSE_TO_NAME


@dataclass(frozen=True)
class Step:
    """One change: `verb` with `operand` takes the running value to `result`."""

    verb: str
    operation: Literal["+", "-"]
    operand: int
    result: int


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and the facts both are told from."""

    id: str
    split: Split
    question: str
    answer: str
    start: int
    steps: tuple[Step, ...]
    name: str
    item: str

    @property
    def skeleton(self) -> str:
        """The arithmetic alone, e.g. "12+7-5"; what splits are disjoint in."""
        return _skeleton(self.start, [(step.operation, step.operand) for step in self.steps])


def make_problem(split: Split, index: int, seed: int = 0) -> Problem:
    """Problem `index` of `split`; the same arguments give the same problem on every machine.

    Two problems of one split may share a skeleton; two splits never do. Raises ValueError for an
    unknown split or a negative index.
    """
    if split not in ("train", "tune", "eval"):
        raise ValueError(f"unknown split {split!r}: known are train, tune, eval")
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    attempt = 0
    while True:
        rng = random.Random(f"arithmetic/{seed}/{split}/{index}/{attempt}")
        start, changes = _draw_skeleton(rng)
        if _split_of(_skeleton(start, changes)) == split:
            return _tell(rng, split, index, seed, start, changes)
        attempt += 1


def prompt_text(problem: Problem) -> str:
    """What the model is fed: the question and a newline, no chat template."""
    return problem.question + "\n"


def solution_text(problem: Problem, style_by_step: Sequence[Style]) -> str:
    """The written-out solution, one line a step in the wording asked for, then "#### answer".

    "equation" writes "12+7=19 cups", "verb" writes "buys 7 makes 19 cups" ("leaves" after a loss).
    Raises ValueError unless there is exactly one style per step.
    """
    if len(style_by_step) != len(problem.steps):
        raise ValueError(f"{len(style_by_step)} styles for {len(problem.steps)} steps")
    lines, value = [], problem.start
    for step, style in zip(problem.steps, style_by_step, strict=True):
        match style:
            case "equation":
                told = f"{value}{step.operation}{step.operand}={step.result}"
            case "verb":
                outcome = "makes" if step.operation == "+" else "leaves"
                told = f"{step.verb} {step.operand} {outcome} {step.result}"
            case _:
                raise ValueError(f"unknown style {style!r}: known are equation, verb")
        lines.append(f"{told} {problem.item}")
        value = step.result
    return "\n".join([*lines, f"#### {problem.answer}"])


def extract_answer(text: str) -> str | None:
    """The integer after the last "####", as written; None when there is none.

    Spaces may stand between; after the integer the text must end or go on with white space.
    """
    _, found, tail = text.rpartition("####")
    match = re.match(r" *(-?[0-9]+)(?!\S)", tail) if found else None
    return match.group(1) if match else None


def word_pieces() -> tuple[str, ...]:
    """Every piece of text that must be one token, besides single bytes; in a fixed order."""
    verbs = GAIN_VERBS + LOSE_VERBS
    spaced = (*NAMES, *ITEMS, *PLACES, *verbs, "has", "at", "the", "to", "from", "many", "does")
    spaced += ("have", "now", "makes", "leaves", "How")
    return (*NAMES, *verbs, *(" " + word for word in spaced), "####", "?\n")


def _draw_skeleton(rng: random.Random) -> tuple[int, list[tuple[Literal["+", "-"], int]]]:
    start = value = rng.randint(MIN_START, MAX_START)
    changes: list[tuple[Literal["+", "-"], int]] = []
    for _ in range(rng.randint(MIN_STEPS, MAX_STEPS)):
        operand = rng.randint(MIN_OPERAND, MAX_OPERAND)
        operation = rng.choice(("+", "-"))
        if value + operand > MAX_VALUE:
            operation = "-"
        elif value < operand:
            operation = "+"
        value = value + operand if operation == "+" else value - operand
        changes.append((operation, operand))
    return start, changes


def _skeleton(start: int, changes: Sequence[tuple[str, int]]) -> str:
    return str(start) + "".join(f"{operation}{operand}" for operation, operand in changes)


def _split_of(skeleton: str) -> Split:
    bucket = hashlib.blake2b(skeleton.encode(), digest_size=8).digest()[0] % SPLIT_BUCKETS
    return "eval" if bucket == 0 else "tune" if bucket == 1 else "train"


def _tell(
    rng: random.Random,
    split: Split,
    index: int,
    seed: int,
    start: int,
    changes: Sequence[tuple[Literal["+", "-"], int]],
) -> Problem:
    name, *others = rng.sample(NAMES, 1 + len(changes))
    item = rng.choice(ITEMS)
    sentences, steps, value = [f"{name} has {start} {item}."], [], start
    for (operation, operand), other in zip(changes, others, strict=True):
        verb = rng.choice(GAIN_VERBS if operation == "+" else LOSE_VERBS)
        where = ""
        if verb in GAIN_FROM_NAME:
            where = f" from {other}"
        elif verb in LOSE_TO_NAME:
            where = f" to {other}"
        elif rng.random() < PLACE_SHARE:
            where = f" at the {rng.choice(PLACES)}"
        value = value + operand if operation == "+" else value - operand
        sentences.append(f"{name} {verb} {operand} {item}{where}.")
        steps.append(Step(verb, operation, operand, value))
    sentences.append(f"How many {item} does {name} have now?")
    suffix = f"-seed{seed}" if seed else ""
    return Problem(
        id=f"arithmetic-{split}-{index}{suffix}",
        split=split,
        question=" ".join(sentences),
        answer=str(value),
        start=start,
        steps=tuple(steps),
        name=name,
        item=item,
    )
