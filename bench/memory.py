"""What a run needs: memory by phase and disk, estimated from shapes. Imports no sibling but config.

Parameters, optimizer states, key-value caches and logits are counted; activations are what a
decoder layer keeps for its backward pass without checkpointing. Allocator waste is not in it.
"""

from dataclasses import dataclass
from typing import Any

from bench.config import Experiment, Runtime

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

    def cache_bytes(self, tokens: int, bytes_each: int) -> int:
        """Keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_each

    def activation_bytes(self, tokens: int, bytes_each: int) -> int:
        """Kept by one pass for its backward: inputs of norms, projections, attention and MLP."""
        attention = (2 * self.heads + 2 * self.kv_heads) * self.head_dim
        layer = 6 * self.hidden + 2 * attention + 4 * self.intermediate
        return self.layers * layer * tokens * bytes_each


def shape_of(model: Any) -> Shape:
    """The shape of a loaded decoder, or of one on the meta device."""
    config = model.config
    heads = config.num_attention_heads
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
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
    """Both models, gradients and optimizer: no setting of Runtime makes it less."""
    phases: dict[str, int]
    """The most that each phase of a step holds, `certain` parts included."""
    checkpoint: int
    """One checkpoint on disk: weights and both moments."""
    disk: int
    """Two kept checkpoints, one being written, and the final model."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def needs(
    student: Shape, teacher: Shape, experiment: Experiment, runtime: Runtime, prompt_tokens: int
) -> Needs:
    """The estimate for prompts of `prompt_tokens` and responses that all reach the cap."""
    each = 2 if experiment.dtype == "bfloat16" else FLOAT
    weights = FLOAT * (student.parameters + teacher.parameters)
    moments, gradients = 2 * FLOAT * student.parameters, FLOAT * student.parameters
    # Autocast keeps a half-precision copy of the weights of the model that runs.
    copies = {side: each * shape.parameters if each < FLOAT else 0
              for side, shape in (("student", student), ("teacher", teacher))}  # fmt: skip
    responses = experiment.prompts_per_step * experiment.responses_per_prompt
    length = prompt_tokens + experiment.max_new_tokens
    rows, micro = min(responses, runtime.rollout_batch), min(responses, runtime.micro_batch)
    kept_hidden = responses * experiment.max_new_tokens * each
    chunk = LOGIT_COPIES * FLOAT * max(runtime.logit_chunk, student.vocabulary)
    one_layer = max(
        shape.activation_bytes(micro * length, each) // shape.layers for shape in (student, teacher)
    )
    eval_length = prompt_tokens + (experiment.eval_max_new_tokens or experiment.max_new_tokens)
    sampler = SAMPLER_BYTES * student.vocabulary
    resident = weights + moments
    phases = {
        "rollout": resident + copies["student"] + rows * sampler
        + student.cache_bytes(rows * length, each),
        "teacher": resident + copies["teacher"] + kept_hidden * teacher.hidden + one_layer,
        "score": resident + copies["student"] + one_layer + chunk
        + kept_hidden * (teacher.hidden + student.hidden),
        "loss": resident + copies["student"] + gradients + chunk
        + kept_hidden * teacher.hidden + student.activation_bytes(micro * length, each),
        "evaluate": resident + runtime.eval_batch * max(student.vocabulary, teacher.vocabulary)
        * SAMPLER_BYTES + max(
            shape.cache_bytes(runtime.eval_batch * eval_length, FLOAT)
            for shape in (student, teacher)
        ),
    }  # fmt: skip
    checkpoint = FLOAT * student.parameters + moments
    return Needs(
        certain=resident + gradients,
        phases=phases,
        checkpoint=checkpoint,
        disk=3 * checkpoint + FLOAT * student.parameters,
    )


def readable(amount: int) -> str:
    """1.5 GiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:,.1f} {unit}"
    return f"{amount / 2**10:,.1f} KiB"
