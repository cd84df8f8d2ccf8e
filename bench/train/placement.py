"""What is given up in time for memory: recomputed activations, a teacher in half precision, and one
that waits on the CPU. None of it changes a number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from bench.core.errors import ConfigError


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside, decoder layers keep only their inputs, and the backward pass computes the rest again.

    transformers checkpoints a layer only in training mode: the flag is set on the layers alone, so
    that what is inside them, and any dropout there, stays in evaluation mode.
    Raises ConfigError for a model without such layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"gradient_checkpointing: {type(model).__name__} has no layers that can be recomputed"
        )
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, was_training in zip(layers, before, strict=True):
            layer.training, layer.gradient_checkpointing = was_training, False


def hold_in_bfloat16(model: PreTrainedModel) -> None:
    """Half-precision matrices for a frozen model that runs under bfloat16 autocast; exact.

    Autocast rounds the matrix of a linear layer at each use: it is rounded once. Embeddings, which
    autocast leaves alone, are rounded only where nothing is lost (the released Qwen weights are
    bfloat16), and what they give is float32 as before, so hidden states keep their precision from
    layer to layer. Vectors (gains, biases) stay float32.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    kept = set()
    for embedding in embeddings:
        if is_bfloat16(embedding.weight):
            embedding.register_forward_hook(lambda module, inputs, output: output.float())
        else:
            kept.add(embedding.weight)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for weight in {module.weight for module in (*linears, *embeddings)} - kept:
        weight.data = weight.data.to(torch.bfloat16)


def is_bfloat16(weight: Tensor) -> bool:
    """Whether rounding to bfloat16 leaves every value as it is."""
    return all(torch.equal(row.to(torch.bfloat16).to(row.dtype), row) for row in weight.split(4096))


def shares_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether a parameter of one model is a parameter of the other too."""
    own = {id(parameter) for parameter in one.parameters()}
    return any(id(parameter) in own for parameter in other.parameters())


def check_offload(teacher: nn.Module, student: nn.Module, device: torch.device) -> None:
    """Raise ConfigError where offloading the teacher would free nothing."""
    if device.type == "cpu":
        raise ConfigError(
            "offload_teacher: not accepted on the CPU, where the teacher is already; leave it out"
        )
    if shares_weights(teacher, student):
        raise ConfigError(
            "offload_teacher: not accepted here: teacher and student are one model in memory, the "
            "teacher being it without its adapters"
        )


class Offloaded:
    """A frozen model whose layers are on the device only while they run.

    They come when its backbone is called, and go when the `other` model's is: in a training step
    twice at most, since a model passes over the whole batch before the other does. The output
    layer, which the loss needs between the passes, stays, and so does what is tied to it. Weights
    do not change, so that going only drops them: the copy on the CPU is never written.
    """

    def __init__(self, model: PreTrainedModel, other: PreTrainedModel, device: torch.device):
        self.device = device
        self.is_here = True
        self.moves = 0
        """How often the layers came."""
        head = model.get_output_embeddings()
        stays = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        self._moving = [p for p in model.base_model.parameters() if id(p) not in stays]
        self._home = [_on_cpu(parameter.data) for parameter in self._moving]
        self.bytes = sum(home.numel() * home.element_size() for home in self._home)
        self.leave()
        model.base_model.register_forward_pre_hook(lambda module, inputs: self.come())
        other.base_model.register_forward_pre_hook(lambda module, inputs: self.leave())

    def come(self) -> None:
        """Put the layers on the device."""
        if not self.is_here:
            for parameter, home in zip(self._moving, self._home, strict=True):
                parameter.data = home.to(self.device, non_blocking=True, copy=True)
            self.is_here = True
            self.moves += 1

    def leave(self) -> None:
        """Free their memory on the device."""
        if self.is_here:
            for parameter, home in zip(self._moving, self._home, strict=True):
                parameter.data = home
            self.is_here = False


def _on_cpu(value: Tensor) -> Tensor:
    """A copy on the CPU, in pinned memory where that makes the way back faster."""
    copy = value.to("cpu", copy=True)
    return copy.pin_memory() if value.device.type == "cuda" else copy
