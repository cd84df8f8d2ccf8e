"""TRL's DistillationTrainer as a side of the comparison: its own loop, stopped before each step.

On-policy, reverse KL (beta = 1), one response a prompt, in the setting's precision. Where its
defaults would cost time that the comparison does not ask for, they are turned off: gradient
checkpointing, logging, saving, progress bars. Everything else is its default.
"""

import tempfile
from time import process_time
from typing import Any

from arms import Clock, Service, load, resident, responses
from datasets import Dataset
from settings import Setting
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from trl import DistillationConfig, DistillationTrainer

from bench.core.clock import now
from bench.train.rollout import Rollout


class TimedTrainer(DistillationTrainer):
    """The trainer with a clock; it trains on given responses, whatever it has sampled."""

    clock: Clock
    given: list[list[int]] | None = None
    samples: bool = False
    rollout_s: float = 0.0
    rollout_cpu_s: float = 0.0
    rollout_tokens: int = 0
    loss_value: float = 0.0

    def _generate_single_turn(self, *arguments: Any, **settings: Any) -> list[list[int]]:
        if self.given is not None:
            return self.given
        return super()._generate_single_turn(*arguments, **settings)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Prompts in, padded tensors out: the rollout, which no step time contains."""
        whole, cpu = now(self.clock.device), process_time()
        if self.samples:
            given, self.given = self.given, None
            start = now(self.clock.device)
            found = super()._generate_and_score_completions(inputs)
            self.rollout_s = now(self.clock.device) - start
            self.rollout_tokens = int(found["completion_mask"].sum())
            self.given = given
        found = super()._generate_and_score_completions(inputs)
        self.clock.seconds["rollout"] = now(self.clock.device) - whole
        self.rollout_cpu_s = process_time() - cpu
        return found

    def compute_loss(self, *arguments: Any, **settings: Any) -> Any:
        with self.clock.phase("forward"):
            return super().compute_loss(*arguments, **settings)

    def training_step(self, *arguments: Any, **settings: Any) -> Any:
        start = now(self.clock.device)
        loss = super().training_step(*arguments, **settings)
        known = self.clock.seconds["rollout"] + self.clock.seconds["forward"]
        self.clock.seconds["backward"] = now(self.clock.device) - start - known
        self.loss_value = float(loss)
        return loss


class Stepwise(TrainerCallback):
    """Waits for a request before each step, and answers after it."""

    def __init__(self, service: Service, rollouts: list[Rollout]):
        self.service, self.rollouts = service, rollouts
        self.requests = service.requests()
        self.trainer: TimedTrainer | None = None
        self.step = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.service.ready()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        self.request = next(self.requests)
        trainer.given = responses(self.rollouts[self.step])
        trainer.samples = self.request["rollout"]
        trainer.clock = Clock(self.service.device)
        # A count would see the sampling too: it is asked for without.
        self.counter = FlopCounterMode(display=False) if self.request["count"] else None
        if self.counter is not None:
            self.counter.__enter__()
        self.start, self.cpu = now(trainer.clock.device), process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        trainer = self.trainer
        assert trainer is not None
        seconds, cpu = now(trainer.clock.device) - self.start, process_time() - self.cpu
        reply: dict[str, Any] = {
            "loss": trainer.loss_value,
            "peak": resident("VmHWM", self.service.device),
        }
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            reply["flops"] = self.counter.get_total_flops()
        if self.request["rollout"]:
            reply |= {"rollout_s": trainer.rollout_s, "rollout_tokens": trainer.rollout_tokens}
        phases = dict(trainer.clock.seconds)
        step_s = seconds - phases.pop("rollout")
        cpu_s = cpu - trainer.rollout_cpu_s
        phases["update"] = step_s - phases["forward"] - phases["backward"]
        self.service.send({**reply, "step_s": step_s, "cpu_s": cpu_s, "phases": phases})
        self.step += 1


def make_trainer(setting: Setting, callback: TrainerCallback | None = None) -> TimedTrainer:
    """A trainer whose first batch is the setting's first step, and so on in order."""
    pair = load(setting)
    # TRL pads prompts with the tokenizer's own settings and wants them on the left.
    pair.tokenizer.padding_side = "left"
    config = DistillationConfig(
        output_dir=tempfile.mkdtemp(),
        beta=1.0,
        max_completion_length=setting.tokens,
        per_device_train_batch_size=setting.prompts,
        max_steps=setting.steps,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant",
        use_cpu=setting.device == "cpu",
        bf16=setting.dtype == "bfloat16",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    prompts = [{"prompt": text} for texts in setting.texts for text in texts]
    return TimedTrainer(
        model=pair.student, teacher_model=pair.teacher, args=config,
        train_dataset=Dataset.from_list(prompts), processing_class=pair.tokenizer,
        callbacks=[callback] if callback is not None else None,
    )  # fmt: skip


def serve(service: Service, setting: Setting, rollouts: list[Rollout]) -> None:
    callback = Stepwise(service, rollouts)
    trainer = make_trainer(setting, callback)
    callback.trainer = trainer
    trainer.train()
