"""results/gpu.md from results/gpu.json."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

GIB = 2**30
PHASES = {
    "rollout": "rollout",
    "teacher": "teacher's pass",
    "score": "student's pass, signals, selection",
    "loss": "loss and update, 5 % of the tokens",
    "loss_of_all": "loss and update, all tokens",
    "evaluate": "evaluation of the teacher, float32",
}
SIDES = {
    "trl": "TRL, every token",
    "full@1.0": "`full`",
    "teachability@0.05": "`teachability`, 5 %",
}


def page(found: Mapping[str, Any]) -> str:
    """What was measured, part by part; a part that was not is said to be missing."""
    lines = ["# On a GPU", ""]
    if "card" not in found:
        return "\n".join([*lines, "Nothing was measured: no CUDA device was reached.", ""])
    parts = {"checks": _checks, "default": _default, "phases": _phases, "trl": _trl}
    lines += _card(found)
    for name, part in parts.items():
        lines += [""]
        lines += part(found[name]) if name in found else [f"*`{name}` was not measured.*"]
    lines += ["", "Made by `make gpu`; the numbers are in [gpu.json](gpu.json).", ""]
    return "\n".join(lines)


def _card(found: Mapping[str, Any]) -> Iterator[str]:
    card = found["card"]
    versions = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    rates = ", ".join(
        f"{value / 1e12:.0f} TFLOP/s in {name}" for name, value in card["flops_per_s"].items()
    )
    yield (
        f"{card['name']}, {card['memory_bytes'] / GIB:.0f} GiB, CUDA {card['cuda']}, {versions}, "
        f"Python {card['python']}; {found['measured']}. A product of two 8,192 × 8,192 matrices: "
        f"{rates}."
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    passed = sum(line["outcome"] == "passed" for line in checks)
    yield "## Checks against the CPU"
    yield ""
    yield f"{passed} of {len(checks)} passed. Their bounds are in `tests/gpu`."
    yield ""
    yield from _table(
        ["check", "outcome", "measured", "s"],
        [
            [
                line["check"].removeprefix("test_").replace("_", " "),
                line["outcome"],
                ", ".join(
                    f"{name.replace('_', ' ')} {_small(value)}"
                    for name, value in line["measured"].items()
                ),
                f"{line['seconds']:.1f}",
            ]
            for line in checks
        ],
    )
    yield ""
    yield (
        "*loss*: the largest relative difference; *moved*, *gradient*, *weights*: ‖a − b‖ / ‖b‖; "
        "*selected*: the share of selected tokens that only one side keeps; *made twice*: the same "
        "run, made twice on the GPU."
    )


def _default(run: Mapping[str, Any]) -> Iterator[str]:
    seconds = run["seconds"]
    yield "## The default run"
    yield ""
    yield (
        f"`bench run` without a flag ({run['run_id']}): "
        + ", ".join(f"{who} {100 * mean:.1f} %" for who, mean in run["scores"].items())
        + f". {seconds['total']:.1f} s of training and evaluation, {run['command_s']:.1f} s from "
        "the command to its end: "
        + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
        + f". At most {run['peak_memory_bytes'] / GIB:.2f} GiB."
    )


def _phases(found: Mapping[str, Any]) -> Iterator[str]:
    load = found["load"]
    student, teacher = load["sizes"]
    yield f"## {student} from {teacher.removeprefix('Qwen3-')}, {load['tokens']:,} tokens"
    yield ""
    yield (
        f"Random weights, {load['dtype']}, {load['prompts']} responses that all reach "
        f"{load['tokens']:,} tokens ({found['sampled_tokens']:,} sampled), "
        f"--micro-batch {load['micro_batch']}; evaluation of {load['eval_items']} items at once, "
        f"{load['eval_tokens']} tokens each. *Estimated* is what `bench doctor` says."
    )
    yield ""
    rows = []
    for name, title in PHASES.items():
        peak = found["peak_bytes"][name]
        estimate = found["estimated_bytes"].get(name.removesuffix("_of_all"))
        speed = found["tokens_per_s"].get(name)
        rows.append([
            title,
            f"{found['seconds'][name]:.2f}",
            "" if speed is None else f"{speed:,.0f}",
            f"{peak / GIB:.1f}",
            f"{estimate / GIB:.1f}",
            f"{peak / estimate:.2f}",
        ])  # fmt: skip
    yield from _table(
        ["phase", "s", "tokens a second", "GiB at most", "GiB estimated", "ratio"], rows
    )
    yield ""
    twice = "the same bits" if found["same_gradient_twice"] else "other last bits"
    yield f"The gradient on all tokens, computed twice, has {twice}."
    if attention := found["attention"]:
        yield (
            f"A position of {load['warm_tokens']} takes {1000 * attention['torch']:.0f} ms to "
            f"sample; with cuDNN's attention, which the engine turns off since it plans each "
            f"length anew, {1000 * attention['cudnn']:.0f} ms."
        )


def _trl(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## A step against TRL's"
    yield ""
    yield (
        f"{found['student']} from {found['teacher'].removeprefix('Qwen3-')}, random weights, "
        f"{found['prompts']} responses of {found['tokens']} tokens, the same for every side, "
        f"{found['dtype']}; the step without its rollout, the median of "
        f"{len(found['sides']['trl']['step_s'])} after one to warm up. TRL's DistillationTrainer "
        "holds the whole batch's logits of both models; memory is what a step adds to what is "
        "loaded."
    )
    yield ""
    base = found["sides"]["trl"]
    rows = []
    for name, side in found["sides"].items():
        seconds, added = median(side["step_s"]), side["peak_bytes"] - side["loaded_bytes"]
        rows.append([
            SIDES[name],
            f"{side['first_loss']:.4f}",
            f"{seconds:.3f} ({min(side['step_s']):.3f} to {max(side['step_s']):.3f})",
            f"{seconds / median(base['step_s']):.2f}",
            f"{added / GIB:.1f}",
            f"{added / (base['peak_bytes'] - base['loaded_bytes']):.2f}",
            f"{side['peak_bytes'] / GIB:.1f}",
            f"{side['flops'] / 1e12:.0f}",
        ])  # fmt: skip
    yield from _table(
        ["side", "first loss", "s a step", "ratio", "GiB added", "ratio", "GiB at most", "TFLOP"],
        rows,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"
