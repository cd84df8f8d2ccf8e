"""Experiment (every setting that can change the science; hashed) and Runtime (where and how fast).

Each setting is written once, here: the flags of `bench run` are generated from these fields.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    model_serializer,
    model_validator,
)
from pydantic_core import to_jsonable_python

from bench.core.fields import (
    Count,
    CountOrZero,
    Named,
    NonNegative,
    Parameter,
    Positive,
    Settings,
    Several,
)
from bench.core.keep_schedule import read_keep
from bench.core.objectives import OBJECTIVES, ON_SAMPLED_TOKEN

Scope = Literal["batch", "response"]
Ties = Literal["hash", "earlier"]
Normalize = Literal["selected", "all", "per_response"]


if TYPE_CHECKING:
    Objective = str
else:
    Objective = Literal[tuple(OBJECTIVES)]

Schedule = Literal["constant", "linear", "cosine"]
LoraTarget = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]  # fmt: skip
LORA_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)
"""Every linear layer of a Qwen block, as in Qwen's own fine-tuning script. Alpha 32 at any rank:
the best learning rate then hardly depends on the rank (Schulman et al., LoRA Without Regret)."""
TrackerName = Literal["tensorboard", "wandb", "trackio"]
Dtype = Literal["float32", "bfloat16"]
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
"""Asked of every problem of the public sets (the form of Qwen's own cards)."""

COLUMNS = ("question", "answer", "paraphrase", "one_change")
"""What a column of a prompt file may be named as."""

FIRST_FIELDS = frozenset({
    "pair", "prompts", "selector", "selector_params", "k", "keep", "scope",
    "min_keep_per_response", "ties", "objective", "objective_params", "normalize", "steps",
    "prompts_per_step", "responses_per_prompt", "max_new_tokens", "temperature", "learning_rate",
    "schedule", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "gradient_clip",
    "dtype", "eval_tasks", "eval_items", "eval_every", "curve_tasks", "curve_items", "seed",
})  # fmt: skip
"""Fields that every experiment's values hold. One added later is left out while it has its
default, so that the run ids of earlier versions stay."""


def _refuse_advantages(name: Any) -> Any:
    """A divergence over the top K is a number of the position, not of the sampled token."""
    if isinstance(name, str) and re.fullmatch(r"topk_\w*_advantage", name):
        raise ValueError(
            "a top-K divergence used as a policy-gradient advantage has zero expected gradient: "
            "it is the same for every token that could have been sampled, and the mean of "
            "∇ log p(y) over y ~ p is 0; use the divergence itself, or sampled_reverse_kl"
        )
    return name


Keep = Annotated[float | str, BeforeValidator(read_keep)]


class Experiment(Settings):
    """Every setting that can change the science. Its canonical JSON names the run."""

    pair: str = "tiny-qwen3"
    """Teacher-student pair; `bench pairs` lists them."""
    prompts: str = "arithmetic"
    """Prompt set the student answers during training."""
    selector: str = "teachability"
    """Registered name, `module:function`, `file.py:function`, or an expression of these."""
    selector_params: Annotated[dict[str, Parameter], Named] = {}
    """Parameters of the selector, as name=value[,name=value]."""
    k: Count = 16
    """Size K of the top-K sets that top-K signals are computed on."""
    keep: Keep = 0.05
    """Fraction of the sampled tokens to train on, or a schedule: linear(a, b), cosine(a, b),
    step(a, b, at=0.5)."""
    scope: Scope = "batch"
    """Spend the budget over the whole optimizer batch, or in each response."""
    min_keep_per_response: CountOrZero = 0
    """At least this many tokens of every response, by the same score; raises the realised keep."""
    refill: str = "own"
    """Whose score brings a response up to min_keep_per_response: the rule's own, or that of another
    rule, which then fills only responses that keep nothing (an artefact to measure)."""
    population: Literal["sampled", "rows"] = "sampled"
    """What quantiles and ranks of a rule are over: the sampled tokens, or every position of every
    row, padding as 0 (an artefact to measure)."""
    ties: Ties = "hash"
    """Equal scores: a keyed hash orders them, or earlier positions win (an artefact to measure)."""
    objective: Annotated[Objective, BeforeValidator(_refuse_advantages)] = "reverse_kl"
    """Loss of a selected token."""
    objective_params: Annotated[dict[str, float], Named] = {}
    """Parameters of the objective, as name=value (jsd: beta, topk_*: k, ...)."""
    normalize: Normalize = "selected"
    """Denominator: selected tokens, all sampled tokens, or per-response means."""
    steps: Count = 60
    """Optimizer steps; the checkpoint reported is the last one."""
    prompts_per_step: Count = 64
    """Prompts in an optimizer batch."""
    responses_per_prompt: Count = 1
    """Responses sampled for each prompt."""
    max_new_tokens: Count = 64
    """Cap on the length of a response, in training and in evaluation."""
    temperature: Positive = 1.0
    """Temperature of the student's sampling in training; 1 for objectives of the sampled token
    (sampled_reverse_kl, k2, eopd)."""
    learning_rate: Positive = 3e-4
    """Peak learning rate of AdamW."""
    schedule: Schedule = "constant"
    """Shape of the learning rate after warm-up; linear and cosine end at 0."""
    warmup_steps: CountOrZero = 0
    """Steps of linear warm-up."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW first-moment decay."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW second-moment decay."""
    gradient_clip: NonNegative = 1.0
    """Largest global gradient norm; 0 clips nothing."""
    dtype: Dtype = "float32"
    """Precision of the forward passes (divergences and master weights are always float32)."""
    eval_tasks: tuple[str, ...] = ("tiny_math",)
    """lm-eval tasks that score the untrained student, the trained student and the teacher."""
    eval_items: Count | None = None
    """Only the first items of each evaluation task; all of them when not given."""
    eval_every: CountOrZero = 0
    """Evaluate every N steps during training for a learning curve; 0 turns it off."""
    curve_tasks: tuple[str, ...] = ("tiny_math_tune",)
    """lm-eval tasks of the learning curve; never the split that is reported."""
    curve_items: Count = 256
    """Items of each task of the learning curve."""
    seed: CountOrZero = 0
    """Seed of prompts, sampling, random scores and ties."""
    score_model: Literal["current", "initial"] = "current"
    """Whose signals a rule reads of the student: the student as it is, or before training, so that
    masks are never refreshed (a control of arXiv 2609.22109)."""
    rollout_model: Literal["current", "initial"] = "current"
    """Who samples the responses: the student as it is, or before training (offline, the Semi-OPD of
    arXiv 2610.11291); not with objectives of the sampled token, whose gradient it would bias."""
    stop_class: Literal["separate", "one"] = "separate"
    """Stop tokens of both sides are ids like others, or one class, whose probability is their sum
    (arXiv 2609.20511)."""
    reference: str = "student"
    """Third model, for rules that compare with one: the student before training, a local folder,
    or a hub id."""
    teacher: str | None = None
    """Another teacher than the pair's: a local folder or a hub id, perhaps with @revision."""
    student: str | None = None
    """Another student than the pair's; with `teacher`, a pair made on the spot."""
    stop_ids: tuple[CountOrZero, ...] = ()
    """Token ids that end a response for both sides, where their configurations do not agree."""
    chat: Literal["pair", "template", "plain"] = "pair"
    """Problems go through the student's chat template, or are plain text; or what the pair says."""
    thinking: Literal["pair", "on", "off"] = "pair"
    """Thinking mode of the chat template, in training and in evaluation; or what the pair says."""
    columns: Annotated[dict[str, str], Named] = {}
    """Columns of a prompt file, as question=NAME,answer=NAME; also paraphrase and one_change, the
    question in other words and with one condition changed, for rules that read them."""
    instruction: str = INSTRUCTION
    """What follows each training problem of a prompt file; may be empty."""
    max_prompt_tokens: Count = 1024
    """Longer prompts of a prompt file are left out."""
    decontaminate: Annotated[tuple[str, ...], Field(min_length=1)] = ("tasks",)
    """Evaluation sets whose 13-grams no training prompt may share: names, `tasks` (those of the
    evaluation tasks), `all`, or `none`."""
    eval_samples: Count | None = None
    """Samples k of each evaluation item; each task's own number when not given."""
    eval_temperature: NonNegative | None = None
    """Temperature in evaluation, 0 for greedy; each task's own when not given."""
    eval_top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus in evaluation; each task's own when not given."""
    eval_max_new_tokens: Count | None = None
    """Cap on the length of a response in evaluation; that of training when not given."""
    rollout: Literal["transformers", "vllm"] = "transformers"
    """What samples the responses of training. vllm needs a GPU and the extra of that name; its
    random numbers are others, so its responses are others of the same distribution."""
    lora: CountOrZero = 0
    """Rank of low-rank adapters, trained instead of the weights; 0 trains the weights."""
    lora_alpha: Positive = 32.0
    """Scale of the adapters: they add alpha / rank times their product."""
    lora_targets: Annotated[tuple[LoraTarget, ...], Several, Field(min_length=1)] = LORA_TARGETS
    """Linear layers of each block that get an adapter; all of them unless named."""

    def all_values(self) -> dict[str, Any]:
        """JSON values of every field, also of those that a dump leaves out at their default."""
        return to_jsonable_python({name: getattr(self, name) for name in type(self).model_fields})

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in handler(self).items()
            if name in FIRST_FIELDS or getattr(self, name) != type(self).model_fields[name].default
        }

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        accepted = OBJECTIVES[self.objective]
        for name, value in self.objective_params.items():
            if name not in accepted:
                takes = f"it takes {', '.join(sorted(accepted))}" if accepted else "it takes none"
                raise ValueError(
                    f"objective_params: {name!r} is not a parameter of {self.objective}; {takes}"
                )
            accepted[name].check(name, value)
        if self.temperature != 1 and self.objective in ON_SAMPLED_TOKEN:
            raise ValueError(
                f"temperature: {self.temperature:g} is not accepted with objective "
                f"{self.objective}, which averages over sampled tokens: drawn at another "
                "temperature than 1, they bias its gradient"
            )
        if self.rollout_model == "initial" and self.objective in ON_SAMPLED_TOKEN:
            raise ValueError(
                f"rollout_model: 'initial' is not accepted with objective {self.objective}, which "
                "averages over tokens that the student itself samples: those of the student before "
                "training bias its gradient"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} must be smaller than steps ({self.steps})"
            )
        for name in ("lora_alpha", "lora_targets"):
            if not self.lora and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is for adapters; give their rank with lora, 16 say")
        for name in self.columns:
            if name not in COLUMNS:
                raise ValueError(f"columns: {name!r} is not accepted: {', '.join(COLUMNS)}")
        if set(self.curve_tasks) & set(self.eval_tasks) and self.eval_every:
            raise ValueError(
                f"curve_tasks: {', '.join(self.curve_tasks)} shares a task with eval_tasks; "
                "a learning curve on the reported split is leakage"
            )
        return self


class Runtime(Settings):
    """Where and how fast: nothing here may change a result beyond floating-point rounding."""

    runs_dir: Path = Path("runs")
    """Folder of the run folders."""
    rows: Path | None = None
    """File that gains one line per finished run (default: rows.jsonl in the runs folder)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    micro_batch: Count = 16
    """Responses per forward and backward pass."""
    micro_batch_tokens: Count | None = None
    """Tokens per forward and backward pass, padding among them; `micro_batch` holds as well."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    offload_teacher: bool = False
    """The teacher's layers wait on the CPU while the student samples and trains."""
    rollout_batch: Count = 256
    """Responses sampled at once."""
    vllm_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the device's memory that vllm holds while it samples; none at other times."""
    vllm_check_every: Count = 10
    """Steps from one check that vllm samples with the student's present weights to the next."""
    reuse_hidden: bool | None = None
    """Score with the student's hidden states kept while sampling, in place of a pass of its own
    (default: where passes are float32, in which the two differ in the last bits only)."""
    logit_chunk: Count = 16_777_216
    """Logits (positions x vocabulary) held at once."""
    eval_batch: Count = 256
    """Items per evaluation batch."""
    checkpoint_every: Count = 20
    """Steps between checkpoints; the last two are kept."""
    log_signals: tuple[str, ...] = ()
    """Further signals whose means are logged (costs their computation)."""
    shadow: tuple[str, ...] = ()
    """Rules whose masks are logged beside the run's own, and never trained on: `all`, or names."""
    shadow_every: Count = 1
    """Steps from one line of shadow.jsonl to the next."""
    shadow_keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Budget of the logged masks (default: the run's keep; 0.05 where the run keeps all tokens)."""
    drift_every: CountOrZero = 0
    """Every Nth step, score the batch by the student before training as well, and log how much of
    the mask both share (`overlap_with_initial`); 0 turns it off."""
    token_bank: CountOrZero = 0
    """Write every Nth step's tokens to parquet in the run folder; 0 turns it off."""
    log_with: Annotated[tuple[TrackerName, ...], Several] = ()
    """Trackers that metrics.jsonl is sent to as well: tensorboard, wandb, trackio."""
    progress: Literal["auto", "bar", "lines", "off"] = "auto"
    """A live bar on a terminal, plain lines elsewhere."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.shadow_every != 1 and not self.shadow:
            raise ValueError(
                f"shadow_every: {self.shadow_every} is not accepted without shadow: all, or names"
            )
        if self.shadow_keep is not None and not (self.shadow or self.token_bank):
            raise ValueError(
                f"shadow_keep: {self.shadow_keep:g} is not accepted without shadow or token_bank"
            )
        return self


def rows_file(runtime: Runtime) -> Path:
    """The file of result rows."""
    return runtime.rows or runtime.runs_dir / "rows.jsonl"
