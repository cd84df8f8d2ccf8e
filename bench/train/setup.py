"""AdamW and the learning rate over the steps."""

import torch
from transformers import get_scheduler

from bench.core.config import Experiment


def make_optimizer(model: torch.nn.Module, experiment: Experiment) -> torch.optim.AdamW:
    """AdamW; weight decay leaves out gains and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=experiment.learning_rate,
        betas=(experiment.adam_beta1, experiment.adam_beta2),
        weight_decay=experiment.weight_decay,
    )


def make_schedule(optimizer: torch.optim.Optimizer, experiment: Experiment):
    """The learning rate over the steps: linear warm-up, then the named shape."""
    name = {"constant": "constant_with_warmup"}.get(experiment.schedule, experiment.schedule)
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=experiment.warmup_steps,
        num_training_steps=experiment.steps,
    )
