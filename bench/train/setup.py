"""What a trainer works with: models on their device and processes, optimizer, schedule, rule."""

import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_scheduler

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError
from bench.core.objectives import objective_defaults
from bench.core.processes import Processes, Worked, is_sharded, make_accelerator, shard
from bench.core.provenance import peak_memory_bytes
from bench.pairs.adapters import add_adapter, weight_sharing_copy
from bench.pairs.agreement import shared_vocabulary
from bench.pairs.models import LoadedPair, load_model, load_tokenizer
from bench.selection.registry import get_selector
from bench.selection.selector import Selector
from bench.selection.signals import EXTRA_SIGNALS, REFERENCE_SIGNALS
from bench.train.batch_objectives import context_needs
from bench.train.hidden_states import PassSettings
from bench.train.placement import (
    Offloaded,
    check_offload,
    hold_in_bfloat16,
    shares_weights,
)
from bench.train.vllm_rollout import VllmSampler, VllmSettings


@dataclass(frozen=True)
class Setup:
    """The parts of a run that stay from its first step to its last."""

    accelerator: Accelerator
    processes: Processes
    pair: LoadedPair
    student: torch.nn.Module
    """In what makes it work on several processes."""
    teacher: torch.nn.Module
    reference: torch.nn.Module | None
    """The third model, where a signal asks for one."""
    initial: torch.nn.Module | None
    """The student before training, where the run scores or samples with it, or logs the drift."""
    scorer: torch.nn.Module
    """The student whose signals the rule reads."""
    sampler: torch.nn.Module
    """The student that samples the responses."""
    optimizer: Any
    """AdamW, as accelerate prepares it."""
    schedule: Any
    refill: Selector | None
    """The rule whose score fills a response that keeps nothing; None for the run's own."""
    selector: Selector
    """The run's own rule, with a memory of its own: a plan may serve several trainers."""
    names: tuple[str, ...]
    """Signals of the two models' logits that the rule and the log ask for."""
    extra_names: tuple[str, ...]
    """Those of EXTRA_SIGNALS."""
    objective_names: tuple[str, ...]
    """Signals that the objective reads of the whole batch."""
    objective_params: dict[str, float]
    """All of its parameters."""
    passes: PassSettings
    reuses_hidden: bool
    """Score the hidden states that sampling has computed."""
    vllm: VllmSampler | None

    def peak_memory_bytes(self) -> int:
        """Of the process that needed most."""
        return self.processes.most(peak_memory_bytes(self.accelerator.device.type))


def make_setup(experiment: Experiment, runtime: Runtime, pair: LoadedPair) -> Setup:
    """Raises BenchError for a device or processes that are not there, ConfigError for settings
    that do not go together."""
    accelerator = make_accelerator(experiment, runtime)
    processes = Processes(accelerator)
    _check_batch(experiment, processes)
    selector = get_selector(experiment.selector, **experiment.selector_params)
    refill = None if experiment.refill == "own" else get_selector(experiment.refill)
    filled = () if refill is None else refill.needs
    asked = tuple(dict.fromkeys((*selector.needs, *filled, *runtime.log_signals)))
    objective_names = context_needs(experiment.objective)
    params = {**objective_defaults(experiment.objective), **experiment.objective_params}
    frozen = bool(experiment.lora)
    initial = reference = None
    if needs_initial(experiment, runtime):
        initial = load_reference("student", pair, student_is_frozen=frozen)
        initial.to(accelerator.device)
    if not REFERENCE_SIGNALS.isdisjoint((*asked, *objective_names)):
        reference = initial if experiment.reference == "student" else None
        if reference is None:
            reference = load_reference(experiment.reference, pair, student_is_frozen=frozen)
            reference.to(accelerator.device)
    if experiment.lora:
        add_adapter(pair.student, experiment, pair.student_revision)
    student = Worked(pair.student.to(accelerator.device))
    optimizer = make_optimizer(student, experiment)
    prepared, prepared_optimizer = _prepare(accelerator, student, optimizer)
    teacher: torch.nn.Module = pair.teacher.to(accelerator.device)
    if runtime.offload_teacher:
        check_offload(teacher, student, accelerator.device)
    if is_sharded(prepared):
        _check_sharded(experiment, runtime)
        teacher = shard(teacher)
    schedule = make_schedule(optimizer, experiment)
    uses_vllm = experiment.rollout == "vllm"
    vllm = _make_vllm(experiment, runtime, pair, processes) if uses_vllm else None
    return Setup(
        accelerator=accelerator,
        processes=processes,
        pair=pair,
        student=prepared,
        teacher=teacher,
        reference=reference,
        initial=initial,
        scorer=initial if experiment.score_model == "initial" and initial else prepared,
        sampler=initial if experiment.rollout_model == "initial" and initial else prepared,
        optimizer=prepared_optimizer,
        schedule=schedule,
        refill=refill,
        selector=selector,
        names=tuple(name for name in asked if name not in EXTRA_SIGNALS),
        extra_names=tuple(name for name in asked if name in EXTRA_SIGNALS),
        objective_names=objective_names,
        objective_params=params,
        passes=PassSettings(runtime.micro_batch, runtime.logit_chunk, runtime.micro_batch_tokens),
        reuses_hidden=(
            experiment.dtype == "float32" if runtime.reuse_hidden is None else runtime.reuse_hidden
        ),
        vllm=vllm,
    )


def needs_initial(experiment: Experiment, runtime: Runtime) -> bool:
    """Is the student before training kept?"""
    asked = "initial" in (experiment.score_model, experiment.rollout_model)
    return asked or runtime.drift_every > 0


def place_frozen(setup: Setup, experiment: Experiment, runtime: Runtime) -> None:
    """Frozen models in half precision under autocast, and the teacher where it waits.

    Not before training: the teacher is evaluated as it was loaded.
    """
    if experiment.dtype == "bfloat16":
        for model in filter(None, (setup.teacher, setup.reference, setup.initial)):
            if not is_sharded(model) and not shares_weights(model, setup.student):
                hold_in_bfloat16(model)  # type: ignore[arg-type]
    if runtime.offload_teacher:
        Offloaded(setup.pair.teacher, setup.pair.student, setup.accelerator.device)


def load_reference(name: str, pair: LoadedPair, *, student_is_frozen: bool = False):
    """The third model: the student as it is now, or the one named. Raises ConfigError.

    Its tokenizer must have the pair's vocabulary. A student whose weights stay (it gets adapters)
    shares them.
    """
    if name == "student":
        copied = weight_sharing_copy if student_is_frozen else deepcopy
        reference = copied(pair.student)
    else:
        reference = load_model(name)
        shared = shared_vocabulary(f"reference {name}", pair.tokenizer, load_tokenizer(name))
        if min(shared.size, reference.config.vocab_size) < pair.vocabulary.size:
            raise ConfigError(
                f"reference: {name!r} has fewer token ids than the pair's {pair.vocabulary.size}"
            )
    return reference.requires_grad_(False).eval()


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


def _prepare(
    accelerator: Accelerator, student: Worked, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, Any]:
    """Both as the accelerator spreads them over processes."""
    if (plugin := getattr(accelerator.state, "fsdp_plugin", None)) is not None:
        # Autocast alone sets the precision: FSDP's own would round the loss as well.
        plugin.mixed_precision_policy = None
    with warnings.catch_warnings():
        # Newer torch renames the setting; older ones know only this name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return accelerator.prepare(student, optimizer)


def _check_batch(experiment: Experiment, processes: Processes) -> None:
    """Raise BenchError where a process would have no response of a step."""
    responses = experiment.prompts_per_step * experiment.responses_per_prompt
    if responses < processes.size:
        raise BenchError(
            f"prompts_per_step: a step's {responses} responses are fewer than the "
            f"{processes.size} processes"
        )


def _check_sharded(experiment: Experiment, runtime: Runtime) -> None:
    """Raise ConfigError for what parameters that lie on several processes do not allow."""
    for name, given in (
        ("lora", experiment.lora), ("offload_teacher", runtime.offload_teacher),
    ):  # fmt: skip
        if given:
            raise ConfigError(
                f"{name}: not accepted under FSDP; launch with DDP (adapters need little "
                "memory), or leave it out"
            )


def _make_vllm(
    experiment: Experiment, runtime: Runtime, pair: LoadedPair, processes: Processes
) -> VllmSampler:
    settings = VllmSettings(
        dtype=experiment.dtype,
        max_length=experiment.max_prompt_tokens + experiment.max_new_tokens,
        batch=runtime.rollout_batch,
        memory=runtime.vllm_memory,
        check_every=runtime.vllm_check_every,
    )
    return VllmSampler(pair.student, pair.vocabulary, settings, processes)
