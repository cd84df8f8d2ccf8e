"""results/benchmark.md from what was measured."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from math import log
from statistics import median
from typing import Any

from curves import AXES, LABELS, SIDES

BARS = {
    ("embedded", 1.0, "step_without_rollout_s"): 0.9,
    ("embedded", 0.05, "step_without_rollout_s"): 0.6,
    ("qwen_vocabulary", 1.0, "step_without_rollout_s"): 0.7,
    ("qwen_vocabulary", 0.05, "step_without_rollout_s"): 0.35,
    ("qwen_vocabulary", 1.0, "peak_memory_bytes"): 0.8,
    ("qwen_vocabulary", 0.05, "peak_memory_bytes"): 0.5,
    ("embedded", 1.0, "rollout_tokens_per_s"): 1.0,
    ("embedded", 0.05, "rollout_tokens_per_s"): 1.0,
}
"""What the ratio ours / TRL shall not exceed; for tokens per second, not fall below."""
DESCRIPTIONS = {
    "embedded": "the pair `tiny-qwen3`, 64 prompts, at most 48 tokens each; the output layers cut "
    "to the 657 real ids, as TRL accepts no teacher with another number of logits",
    "qwen_vocabulary": "random models of the Qwen3 class, 151,936 logits, hidden 128 (student) and "
    "256 (teacher), 4 layers each, tied heads; 8 prompts, 128 tokens each",
}
UNITS = {
    "step_without_rollout_s": ("step without rollout, s", 1.0),
    "peak_memory_bytes": ("peak memory above the models, MiB", 2.0**20),
    "rollout_tokens_per_s": ("rollout, tokens/s", 1.0),
}
INTRODUCTION = """# Speed and memory of a step

Written by `make benchmark` ({machine}; torch {torch}, transformers {transformers}, TRL {trl}).
Float32, one thread, on-policy reverse KL, AdamW, gradient clipping at 1. TRL is its
`DistillationTrainer` with beta = 1, gradient checkpointing, logging and saving off; the plain loop
is dense logits, two `log_softmax` and autograd. Every side is a process of its own and takes its
steps in turn with the others, on the same prompts, the same responses and the same vocabulary; the
first losses of ours on all tokens, TRL's and the plain loop's must agree to 1e-4 or nothing is
written (a test compares the gradients too). TRL selects nothing: at keep 0.05 ours is compared with
its whole step. Our sampling keeps the student's hidden states, which our scoring reads: for the
given responses they are there when the step begins, and what keeping them costs is in our tokens
per second. Ratios are of two sides in the same round: median (least to greatest). Other work
may run on the machine, so CPU time stands beside the clock."""


def report(found: dict[str, Any], rows: list[dict[str, Any]], curves: dict[str, Any] | None) -> str:
    """The whole page."""
    machine = f"{platform.machine()} CPU"
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    parts = [INTRODUCTION.format(machine=machine, **versions), against_trl(rows)]
    peak = max((measured["matmul_flops_per_s"] for measured in found.values()), default=0.0)
    for name, measured in found.items():
        parts += [f"## {name}\n\n{DESCRIPTIONS[name][0].upper()}{DESCRIPTIONS[name][1:]}."]
        parts += [steps(measured, peak), phases(measured)]
    if curves is not None:
        parts += [curve_tables(curves), start_up(curves["start_up"])]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def against_trl(rows: list[dict[str, Any]]) -> str:
    """benchmark.json as a table, with the bars."""
    lines = []
    for row in rows:
        unit, scale = UNITS[row["measure"]]
        bar = BARS.get((row["setting"], row["keep"], row["measure"]))
        verdict = ""
        if bar is not None:
            is_speed = row["measure"] == "rollout_tokens_per_s"
            is_met = row["ratio"] >= bar if is_speed else row["ratio"] <= bar
            verdict = f"{'≥' if is_speed else '≤'} {bar:g}: {'met' if is_met else 'missed'}"
        ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        values = [f"{row[side] / scale:,.{0 if scale > 1 or row[side] > 100 else 3}f}"
                  for side in ("ours", "trl")]  # fmt: skip
        lines.append(
            [f"{row['setting']}, keep {row['keep']:g}: {unit}", *values, ratio, verdict,
             str(row["runs"])]
        )  # fmt: skip
    header = ["", "ours", "TRL", "ours / TRL", "bar", "rounds"]
    return "## Against TRL\n\n" + table(header, lines)


def steps(measured: dict[str, Any], peak: float) -> str:
    """Every side: the clock, CPU time, memory, sampling, and FLOPs against the machine's peak."""
    lines = []
    replies = measured["replies"]
    for arm, found in replies.items():
        *timed, counted = found
        seconds, cpu = ([reply[key] for reply in timed] for key in ("step_s", "cpu_s"))
        others = [reply["cpu_s"] for reply in replies["trl"][:-1]]
        ratio = [one / other for one, other in zip(cpu, others, strict=True)]
        memory = measured["memory"].get(arm)
        speed = [r["rollout_tokens"] / r["rollout_s"] for r in timed if "rollout_s" in r]
        floor = counted["flops"] / peak
        lines.append([
            arm.replace("@", ", keep "),
            f"{median(seconds):.3f}",
            f"{median(cpu):.3f}",
            spread(ratio),
            f"{median(memory) / 2**20:,.0f}" if memory else "",
            f"{median(speed):,.0f}",
            f"{counted['flops'] / 1e9:.1f}",
            f"{floor:.3f}",
            f"{floor / median(cpu):.0%}",
        ])  # fmt: skip
    header = ["", "step, s", "CPU s", "CPU / TRL's", "peak MiB", "rollout tokens/s", "GFLOP",
              "floor, s", "share achieved"]  # fmt: skip
    note = (
        f"A step without its rollout. GFLOP are those of the matrix products, counted by "
        f"torch's FlopCounterMode (attention on a CPU is not counted); the floor is their time at "
        f"{peak / 1e9:.0f} GFLOP/s, the best of a 2,048² product on one thread here; the share "
        "achieved is floor over CPU time."
    )
    return table(header, lines) + "\n\n" + note


def phases(measured: dict[str, Any]) -> str:
    """Median seconds by phase; the sides do not cut a step alike."""
    lines = []
    for arm, found in measured["replies"].items():
        timed = found[:-1]
        sampled = [reply["rollout_s"] for reply in timed if "rollout_s" in reply]
        parts = [f"rollout {median(sampled):.3f}"]
        parts += [
            f"{phase} {value:.3f}"
            for phase in timed[0]["phases"]
            if (value := median(reply["phases"][phase] for reply in timed)) >= 0.0005
        ]
        lines.append([arm.replace("@", ", keep "), ", ".join(parts)])
    return table(["", "seconds by phase"], lines)


def curve_tables(curves: dict[str, Any]) -> str:
    """One line an axis and side, with the power of the axis that the cost grows by."""
    lines = []
    for axis, values in AXES.items():
        sides = curves["axes"][axis]
        for side, points in sides.items():
            seconds, peaks = ([point[key] for point in points] for key in ("seconds", "peak"))
            own = ""
            if side != "backbone" and "backbone" in sides:
                beyond = zip(peaks, sides["backbone"], strict=True)
                own = ", ".join(f"{(peak - b['peak']) / 2**20:,.0f}" for peak, b in beyond)
            lines.append([
                f"{LABELS[axis]}, {SIDES[side]}",
                ", ".join(f"{value:,}" for value in values),
                ", ".join(f"{value:.2f}" for value in seconds),
                f"{power(values, seconds):.2f}",
                ", ".join(f"{value / 2**20:,.0f}" for value in peaks),
                own,
            ])  # fmt: skip
    header = ["cost against", "values", "CPU s", "grows as power", "peak MiB above the models",
              "beyond the backbones"]  # fmt: skip
    return (
        "## Cost curves\n\n![cost curves](benchmark/cost_curves.png)\n\n"
        "A step without its rollout on a made pair (hidden 128 and 256, 2 layers), 4 responses a "
        "pass; `tests/benchmarks/curves.py`. The backbones alone are what no method avoids: memory "
        "beyond theirs is the method's own, and full once a chunk of logits is "
        "(`--logit-chunk`, 16,777,216: 1,024 positions at a vocabulary of 16,384). The power is "
        "that of the line through the last two values: 1 is linear.\n\n" + table(header, lines)
    )


def power(values: Sequence[float], costs: Sequence[float]) -> float:
    return log(costs[-1] / costs[-2]) / log(values[-1] / values[-2])


def start_up(seconds: dict[str, float]) -> str:
    lines = [[f"`{name}`", f"{value:.2f}"] for name, value in seconds.items()]
    return "## Start\n\nNeither imports torch.\n\n" + table(["", "s, interpreter included"], lines)
