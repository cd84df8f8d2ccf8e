"""The model card of an embedded pair: card.json with what was measured, README.md made from it.

`python -m bench.pairs.tiny.card PAIR_DIR` measures and writes both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.core.files import write_text
from bench.pairs.tiny.measure import Distillation, measure

REGIMES = {
    "tiny-qwen3": "The student learned the teacher's own way of writing solutions and was stopped"
    " early: most disagreement lies on its support.",
    "tiny-qwen2.5": "The student learned another wording of each step and was stopped early; the"
    " teacher masters both wordings and prefers its own in a share of the steps, so that a real"
    " part of its mass lies off the student's top K.",
}


def readme_text(name: str, card: dict) -> str:
    """The model card in Markdown; every number comes from `card`."""
    lines = [
        f"# {name}",
        "",
        f"A teacher and an untrained student for selective on-policy distillation, both"
        f" `{card['models']['teacher']['class']}`. {REGIMES[name]}",
        "",
        "Made by `bench pairs build`; generated from `card.json` by `bench.pairs.tiny.card`.",
        "",
        *_architecture(card),
        *_data(card["data"]),
        *_recipe(card["build"]),
        *_accuracy(card),
        *_disagreement(card),
        "## Limits",
        "",
        "A model organism: it knows this one task, in these words, within 256 positions. Effects"
        " found here are hypotheses about larger models, not evidence about them.",
        "",
    ]
    return "\n".join(lines)


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _architecture(card: dict) -> list[str]:
    models, data = card["models"], card["data"]
    shape = ("parameters", "width", "layers", "intermediate", "heads", "kv_heads", "vocab_size")
    return [
        "## Architecture",
        "",
        _row("", "teacher", "student"),
        _row("---", "---:", "---:"),
        *(_row(key, models["teacher"][key], models["student"][key]) for key in shape),
        "",
        f"Tied embeddings, float32. One byte-level tokenizer of {data['tokenizer']} tokens: 256"
        f" bytes and one token per word, digits one by one; {data['tokens_in_use']} tokens are in"
        " real use. Ids beyond the tokenizer are padding and were never a training target."
        " Responses end in `<|im_end|>`; `<|endoftext|>` pads.",
        "",
    ]


def _data(data: dict) -> list[str]:
    return [
        "## Data",
        "",
        "`tasks/arithmetic`: additions and subtractions told in words, 2 to 4 steps, all values in"
        " 0 to 99. Splits are disjoint by skeleton (start, operations, operands). Prompts have"
        f" {data['mean_prompt_tokens']:.1f} tokens on average, responses"
        f" {data['mean_response_tokens']['equation']:.1f} worded as equations and"
        f" {data['mean_response_tokens']['verb']:.1f} worded with verbs.",
        "",
    ]


def _recipe(build: dict) -> list[str]:
    recipe, trained = build["recipe"], build["trained"]
    schedule = ("equation_share", "learning_rate", "batch_size", "weight_decay", "clip_norm")
    return [
        "## Recipe",
        "",
        "Cross-entropy on response tokens, AdamW, linear warm-up; the teacher's learning"
        " rate falls at the end, the student keeps its own and stops at the first evaluation on"
        f" `tune` that reaches {_percent(recipe['student']['stop_at'])}.",
        "",
        _row("", "teacher", "student"),
        _row("---", "---:", "---:"),
        _row("steps", trained["teacher"]["steps"], trained["student"]["steps"]),
        *(_row(key, recipe["teacher"][key], recipe["student"][key]) for key in schedule),
        "",
    ]


def _accuracy(card: dict) -> list[str]:
    full = card["full"]
    roles = {"student": "untrained student", "teacher": "teacher"}
    splits = ("tune", "eval")
    return [
        "## Accuracy",
        "",
        f"Greedy, {card['problems']} problems a split.",
        "",
        _row("", *splits),
        _row("---", "---:", "---:"),
        *(
            _row(label, *(_percent(card["accuracy"][role][split]) for split in splits))
            for role, label in roles.items()
        ),
        "",
        "The teacher on `tune`, held to one wording at every step start: "
        + ", ".join(f"{k} {_percent(v)}" for k, v in card["teacher_by_wording"].items())
        + ".",
        "",
        f"`full` distillation by a plain loop ({full['recipe']['steps']} steps of"
        f" {full['recipe']['prompts_per_step']} prompts, learning rate"
        f" {full['recipe']['learning_rate']:g}, reverse KL at temperature 1), `tune`, seeds"
        f" {', '.join(map(str, full['seeds']))}: {', '.join(map(_percent, full['tune']))}; a mean"
        f" lift of {100 * full['lift']:.1f} points.",
        "",
    ]


def _disagreement(card: dict) -> list[str]:
    prefixes = card["prefix_accuracy"]
    return [
        "## Disagreement",
        "",
        "Mean teacher mass off the student's top K (1 - C), over the tokens of"
        f" {card['rollouts']} first rollouts at temperature 1: "
        + ", ".join(f"{v:.4f} at K = {k}" for k, v in card["off_support"].items())
        + ".",
        "",
        "The teacher continuing student responses cut at a share of their tokens, greedy, by"
        f" whether the student's own response was right (n = {prefixes['n']['right']}) or wrong"
        f" (n = {prefixes['n']['wrong']}):",
        "",
        _row("cut at", "right", "wrong"),
        _row("---", "---:", "---:"),
        *(
            _row(share, _percent(groups["right"]), _percent(groups["wrong"]))
            for share, groups in prefixes.items()
            if share != "n"
        ),
        "",
        "Right responses can hold wrong steps that cancel out; the teacher goes on from the numbers"
        " as they are written, which is why it does not reach its own accuracy on them.",
        "",
    ]


def write_card(pair_dir: Path, recipe: Distillation | None = None) -> None:
    """Measures `pair_dir` and writes its card.json and README.md."""
    card = measure(pair_dir, recipe or Distillation())
    write_text(pair_dir / "card.json", json.dumps(card, indent=1) + "\n")
    write_text(pair_dir / "README.md", readme_text(card["build"]["name"], card))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        write_card(Path(folder))
