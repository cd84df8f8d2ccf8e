"""What a run needs: memory by phase and disk, estimated from shapes. Imports no sibling but config.

Parameters, optimizer states, key-value caches and logits are counted; activations are what a
decoder layer keeps for its backward pass. Allocator waste is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.core.config import Experiment, Runtime
from bench.train.setup import needs_initial

FLOAT = 4
"""Bytes of a weight, a gradient and each of AdamW's two moments: always float32."""
LOGIT_COPIES = 6
"""Tensors of a chunk's logits alive at once: both sides, their log-softmax, product, gradient."""
SAMPLER_BYTES = 4 + 4 + 8 + 8 + 8
"""Of the sampler's logits, log-softmax, probabilities and sums in float64, one vocabulary a row."""


@dataclass(frozen=True)
class Shape:
    """What memory depends on in a model."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def head(self) -> int:
        """Parameters of the output layer."""
        return self.vocabulary * self.hidden

    def adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Of low-rank adapters on the named linear layers of every block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = {
            "q_proj": self.hidden + queries, "k_proj": self.hidden + keys,
            "v_proj": self.hidden + keys, "o_proj": queries + self.hidden,
            "gate_proj": self.hidden + self.intermediate,
            "up_proj": self.hidden + self.intermediate,
            "down_proj": self.intermediate + self.hidden,
        }  # fmt: skip
        return self.layers * rank * sum(sides[target] for target in targets)

    def cache_bytes(self, tokens: int, bytes_each: int) -> int:
        """Keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_each

    def activation_bytes(self, tokens: int, bytes_each: int) -> int:
        """Kept by one pass for its backward: inputs of norms, projections, attention and MLP.

        Bytes of a token: 24 a hidden number and 16 one of a query or key in float32. Under bfloat16
        autocast they are 26 and 10: hidden states between layers, and what norms make of them, stay
        float32, and half-precision copies are kept beside them. The MLP's four halve.
        """
        hidden, head = (24, 16) if bytes_each == FLOAT else (26, 10)
        layer = hidden * self.hidden + 4 * bytes_each * self.intermediate
        layer += head * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * layer * tokens

    def recomputed_bytes(self, tokens: int, bytes_each: int) -> int:
        """Kept with gradient checkpointing: float32 inputs of layers, and one layer at a time."""
        inputs = self.layers * self.hidden * tokens * FLOAT
        return inputs + self.activation_bytes(tokens, bytes_each) // self.layers


def shape_of(model: Any) -> Shape:
    """The shape of a loaded decoder, or of one on the meta device; adapters are left out."""
    config = model.config
    heads = config.num_attention_heads
    return Shape(
        parameters=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )


@dataclass(frozen=True)
class Needs:
    """Bytes."""

    certain: int
    """Both models, gradients and optimizer: no size of batches makes it less."""
    phases: dict[str, int]
    """The most that each phase of a step holds, `certain` parts included."""
    checkpoint: int
    """One checkpoint on disk: what is trained, and both moments."""
    disk: int
    """Two kept checkpoints, one being written, and the final model."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def needs(
    student: Shape,
    teacher: Shape,
    experiment: Experiment,
    runtime: Runtime,
    prompt_tokens: int,
    *,
    one_model: bool = False,
) -> Needs:
    """The estimate for prompts of `prompt_tokens` and responses that all reach the cap.

    `one_model`: the teacher is the student's base, held once.
    """
    held = _held(student, teacher, experiment, runtime, one_model)
    checkpoint = FLOAT * held.trained + held.moments
    return Needs(
        certain=max(held.loaded, held.resident + held.waiting + held.gradients),
        phases=_phases(student, teacher, experiment, runtime, prompt_tokens, held),
        checkpoint=checkpoint,
        disk=3 * checkpoint + FLOAT * held.trained,
    )


@dataclass(frozen=True)
class _Held:
    """What both models and the optimizer hold, in bytes, whatever the batch is."""

    each: int
    """Of one number in the run's dtype."""
    trained: int
    """Parameters, not bytes."""
    own: int
    """The student, and its adapters."""
    moments: int
    gradients: int
    loaded: int
    """Both models as they are loaded and evaluated."""
    whole: int
    """The teacher while it scores."""
    waiting: int
    """The teacher while it does not."""
    copies: int
    """Of the student in the run's dtype."""

    @property
    def resident(self) -> int:
        return self.own + self.moments


def _held(
    student: Shape, teacher: Shape, experiment: Experiment, runtime: Runtime, one_model: bool
) -> _Held:
    each = 2 if experiment.dtype == "bfloat16" else FLOAT
    trained = student.parameters
    if experiment.lora:
        trained = student.adapter_parameters(experiment.lora, experiment.lora_targets)
    own = FLOAT * (student.parameters + (trained if experiment.lora else 0))
    if needs_initial(experiment, runtime) and not experiment.lora:
        own += FLOAT * student.parameters  # the student before training
    whole = 0 if one_model else each * teacher.parameters
    # Autocast keeps half-precision copies of what is trained, and makes others at each use.
    copies = each * (student.head if experiment.lora else student.parameters)
    return _Held(
        each=each,
        trained=trained,
        own=own,
        moments=2 * FLOAT * trained,
        gradients=FLOAT * trained,
        # Under autocast the teacher is held in half precision, yet it is evaluated in float32
        # before.
        loaded=own + (0 if one_model else FLOAT * teacher.parameters),
        whole=whole,
        waiting=each * teacher.head if runtime.offload_teacher else whole,
        copies=copies if each < FLOAT else 0,
    )


def _phases(
    student: Shape,
    teacher: Shape,
    experiment: Experiment,
    runtime: Runtime,
    prompt_tokens: int,
    held: _Held,
) -> dict[str, int]:
    """Bytes of each phase of a step at its highest, and of the evaluation."""
    responses = experiment.prompts_per_step * experiment.responses_per_prompt
    length = prompt_tokens + experiment.max_new_tokens
    rows, micro = min(responses, runtime.rollout_batch), min(responses, runtime.micro_batch)
    tokens = micro * length
    if runtime.micro_batch_tokens is not None:
        tokens = min(tokens, max(length, runtime.micro_batch_tokens))
    kept_hidden = responses * experiment.max_new_tokens * FLOAT
    chunk = LOGIT_COPIES * FLOAT * max(runtime.logit_chunk, student.vocabulary)
    one_layer = max(
        shape.activation_bytes(tokens, held.each) // shape.layers for shape in (student, teacher)
    )
    recomputes = runtime.gradient_checkpointing
    kept = (student.recomputed_bytes if recomputes else student.activation_bytes)(tokens, held.each)
    eval_length = prompt_tokens + (experiment.eval_max_new_tokens or experiment.max_new_tokens)
    caches = [
        shape.cache_bytes(runtime.eval_batch * eval_length, FLOAT) for shape in (student, teacher)
    ]
    idle = held.resident + held.waiting
    awake = idle + held.copies
    return {
        "rollout": awake + rows * SAMPLER_BYTES * student.vocabulary
        + student.cache_bytes(rows * length, held.each),
        "teacher": held.resident + held.whole + kept_hidden * teacher.hidden + one_layer,
        "score": awake + one_layer + chunk + kept_hidden * (teacher.hidden + student.hidden),
        "loss": awake + held.gradients + chunk + kept_hidden * teacher.hidden + kept,
        "evaluate": runtime.eval_batch * max(student.vocabulary, teacher.vocabulary)
        * SAMPLER_BYTES + max(held.loaded + max(caches), idle + caches[0]),
    }  # fmt: skip


def readable(amount: int) -> str:
    """1.5 GiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:,.1f} {unit}"
    return f"{amount / 2**10:,.1f} KiB"


def memory_advice(need: Needs, runtime: Runtime) -> str:
    """What lowers the phase that needs the most."""
    phase = max(need.phases, key=lambda name: need.phases[name])
    flags = {
        "rollout": ["lower --rollout-batch"],
        "teacher": ["lower --micro-batch"],
        "score": ["lower --micro-batch or --logit-chunk"],
        "loss": ["lower --micro-batch or --logit-chunk, or set --micro-batch-tokens"],
        "evaluate": ["lower --eval-batch"],
    }[phase]
    if phase == "loss" and not runtime.gradient_checkpointing:
        flags.append("use --gradient-checkpointing")
    if phase not in ("teacher", "evaluate") and not runtime.offload_teacher:
        flags.append("on a GPU, --offload-teacher")
    return f"{phase} needs the most: {'; '.join(flags)}"


def device_memory(runtime: Runtime) -> tuple[str, int, int]:
    """(name, free bytes, total bytes) of the device that a run would use."""
    if runtime.device in ("auto", "cuda") and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return torch.cuda.get_device_name(), free, total
    with open("/proc/meminfo") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return "this machine", kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
