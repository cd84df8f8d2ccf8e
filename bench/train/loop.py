"""The training loop: rollout, signals, score, select, loss, step, in that order."""

import math
import warnings
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from bench.core.config import Runtime
from bench.core.errors import BenchError, ConfigError, Stopped
from bench.core.keep_schedule import keep_at
from bench.core.processes import (
    ALONE,
    Processes,
    Worked,
    is_sharded,
    make_accelerator,
    reshard,
    run,
    shard,
)
from bench.core.progress import Progress
from bench.core.provenance import peak_memory_bytes
from bench.core.stopping import StopRequest
from bench.pairs.adapters import add_adapter
from bench.pairs.models import LoadedPair
from bench.run.plan import Plan
from bench.selection.budget import Selection, select_tokens
from bench.selection.registry import SelectorError, get_selector
from bench.selection.signals import EXTRA_SIGNALS, TokenSignals, base_signals, with_signals
from bench.shadow.shadow import Shadow, observe_rollout
from bench.train import extra_signals as extras
from bench.train.checkpoints import hold_trained_alone, last_checkpoint, save_checkpoint
from bench.train.hidden_states import PassSettings
from bench.train.loss import LossInputs, LossOutputs, accumulate_loss, token_scale
from bench.train.metrics import Timer, Totals, summarise
from bench.train.placement import (
    Offloaded,
    check_offload,
    hold_in_bfloat16,
    recomputed,
    shares_weights,
)
from bench.train.rollout import Rollout, join_rollouts, sample_rollout
from bench.train.scoring import Scored, sampled_logprob, score_rollout
from bench.train.setup import make_optimizer, make_schedule
from bench.train.trackers import Track, open_trackers
from bench.train.vllm_rollout import VllmSampler, VllmSettings


class Trainer:
    """A pair, an optimizer and the step that joins them.

    A rollout, its signals and its selection are always those of the whole batch, on every process;
    the models run on the process's own rows of it.
    """

    def __init__(self, plan: Plan, loaded: LoadedPair, runtime: Runtime):
        self.plan, self.experiment, self.runtime = plan, plan.experiment, runtime
        self.accelerator = make_accelerator(self.experiment, runtime)
        self.processes = Processes(self.accelerator)
        responses = self.experiment.prompts_per_step * self.experiment.responses_per_prompt
        if responses < self.processes.size:
            raise BenchError(
                f"prompts_per_step: a step's {responses} responses are fewer than the "
                f"{self.processes.size} processes"
            )
        self.pair = loaded
        self.prompts = plan.prompts.prepare(loaded.tokenizer, loaded.chat)
        self.settings = PassSettings(
            runtime.micro_batch, runtime.logit_chunk, runtime.micro_batch_tokens
        )
        # A run has a rule of its own, with an empty memory: a plan may serve several trainers.
        self.selector = get_selector(self.experiment.selector, **self.experiment.selector_params)
        asked = tuple(dict.fromkeys((*self.selector.needs, *runtime.log_signals)))
        self.names = tuple(name for name in asked if name not in EXTRA_SIGNALS)
        self.extra_names = tuple(name for name in asked if name in EXTRA_SIGNALS)
        reuses, is_float32 = runtime.reuse_hidden, self.experiment.dtype == "float32"
        self.reuses_hidden = is_float32 if reuses is None else reuses
        self.reference = None
        if "reference_logprob_BT" in asked:
            self.reference = extras.load_reference(
                self.experiment.reference, loaded, student_is_frozen=bool(self.experiment.lora)
            )
            self.reference.to(self.accelerator.device)
        if self.experiment.lora:
            add_adapter(loaded.student, self.experiment, plan.pair.student_revision)
            hold_trained_alone(self.accelerator, loaded.student)
        student = Worked(loaded.student.to(self.accelerator.device))
        optimizer = make_optimizer(student, self.experiment)
        if (plugin := getattr(self.accelerator.state, "fsdp_plugin", None)) is not None:
            # Autocast alone sets the precision: FSDP's own would round the loss as well.
            plugin.mixed_precision_policy = None
        with warnings.catch_warnings():
            # Newer torch renames the setting; older ones know only this name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        self.teacher: torch.nn.Module = loaded.teacher.to(self.accelerator.device)
        if runtime.offload_teacher:
            check_offload(self.teacher, student, self.accelerator.device)
        if is_sharded(self.student):
            self.check_sharded()
            self.teacher = shard(self.teacher)
        self.schedule = make_schedule(optimizer, self.experiment)
        self.vllm = self.make_vllm() if self.experiment.rollout == "vllm" else None
        self.accelerator.register_for_checkpointing(self.schedule)
        self.totals = Totals()
        self.shadow = (
            Shadow(plan.panel, self.experiment, runtime, loaded, plan.folder)
            if runtime.shadow or runtime.token_bank
            else None
        )

    def place_frozen(self) -> None:
        """Frozen models in half precision under autocast, and the teacher where it waits.

        Not before training: the teacher is evaluated as it was loaded.
        """
        if self.experiment.dtype == "bfloat16":
            for model in filter(None, (self.teacher, self.reference)):
                if not is_sharded(model) and not shares_weights(model, self.student):
                    hold_in_bfloat16(model)  # type: ignore[arg-type]
        if self.runtime.offload_teacher:
            Offloaded(self.pair.teacher, self.pair.student, self.accelerator.device)

    def check_sharded(self) -> None:
        """Raise ConfigError for what parameters that lie on several processes do not allow."""
        for name, given in (
            ("lora", self.experiment.lora), ("offload_teacher", self.runtime.offload_teacher),
        ):  # fmt: skip
            if given:
                raise ConfigError(
                    f"{name}: not accepted under FSDP; launch with DDP (adapters need little "
                    "memory), or leave it out"
                )

    def step(self, step: int) -> dict[str, Any]:
        """One update from step `step` (from 0); returns its line of metrics."""
        timer = Timer(self.totals.seconds)
        shadow = self.shadow if self.shadow is not None and self.shadow.is_due(step) else None
        with self.accelerator.autocast():
            with timer.phase("rollout"):
                rollout = self.rollout(step)
            signals, scored = self.signals(rollout, step, timer)
            # A rule computes on float32 signals, and in float32.
            float32 = torch.autocast(self.accelerator.device.type, enabled=False)
            with timer.phase("score"), float32:
                selection = self.select(signals, rollout, step)
            with timer.phase("loss"):
                outputs = self.gradient(rollout, selection, scored.teacher_hidden_ND, shadow)
            if shadow is not None:
                with timer.phase("shadow"):
                    self.observe(shadow, step, rollout, signals, selection, scored, outputs)
            with timer.phase("loss"):
                grad_norm = self.update(outputs.loss)
        return self.metrics(step, rollout, signals, selection, outputs.loss, grad_norm, timer)

    def rollout(self, step: int) -> Rollout:
        """The step's responses: each process samples its own rows, and gets all."""
        experiment, pair, processes = self.experiment, self.pair, self.processes
        prompts = self.prompts.draw(step, experiment.prompts_per_step, experiment.seed)
        rows = processes.rows(len(prompts) * experiment.responses_per_prompt)
        sampling = {
            "samples": experiment.responses_per_prompt,
            "max_new_tokens": experiment.max_new_tokens,
            "temperature": experiment.temperature,
            "stop_ids": pair.student_stop_ids,
            "mask_stop": pair.stops_agree,
            "seed": experiment.seed,
            "step": step,
            "rows": rows,
        }
        if self.vllm is not None:
            own = self.vllm.sample(
                self.student, pair.tokenizer, prompts, passes=self.settings, **sampling
            )
        else:
            sample = partial(
                sample_rollout,
                tokenizer=pair.tokenizer,
                vocabulary=pair.vocabulary,
                prompts=prompts,
                batch=self.runtime.rollout_batch,
                keeps_hidden=self.reuses_hidden and bool(self.names),
                together=processes if is_sharded(self.student) else ALONE,
                **sampling,
            )
            with torch.no_grad():
                own = run(self.student, sample)
        if processes.size == 1:
            return own
        sent = replace(own, student_hidden_ND=None).to("cpu")
        whole = join_rollouts(processes.join_objects([sent])).to(self.accelerator.device)
        return replace(whole, student_hidden_ND=own.student_hidden_ND)

    def own(self, rollout: Rollout) -> Rollout:
        """This process's rows of a rollout."""
        return rollout.rows(self.processes.rows(len(rollout.row_key_B)))

    def make_vllm(self) -> VllmSampler:
        experiment, runtime = self.experiment, self.runtime
        settings = VllmSettings(
            dtype=experiment.dtype,
            max_length=experiment.max_prompt_tokens + experiment.max_new_tokens,
            batch=runtime.rollout_batch,
            memory=runtime.vllm_memory,
            check_every=runtime.vllm_check_every,
        )
        return VllmSampler(self.pair.student, self.pair.vocabulary, settings, self.processes)

    def signals(self, rollout: Rollout, step: int, timer: "Timer") -> tuple[TokenSignals, Scored]:
        """Signals of the whole batch, and what the pass over the own rows leaves behind."""
        scored = score_rollout(
            self.student, self.teacher, self.own(rollout), self.pair.vocabulary, self.names,
            self.experiment.k, self.settings, rollout.student_hidden_ND, self.processes,
        )  # fmt: skip
        for phase, seconds in scored.seconds.items():
            timer.add(phase, seconds)
        if scored.teacher_hidden_ND is not None:
            self.totals.scored += int(rollout.mask_BT.sum())
        base = base_signals(
            rollout.token_BT, rollout.mask_BT,
            seed=self.experiment.seed, step=step, row_key_B=rollout.row_key_B,
        )  # fmt: skip
        with timer.phase("score"):
            extra = {name: self.extra(name, rollout, step, scored) for name in self.extra_names}
        values = {name: self.processes.join(value) for name, value in scored.values.items()}
        return with_signals(base, {**values, **extra}), scored

    def extra(self, name: str, rollout: Rollout, step: int, scored: Scored) -> Tensor:
        """One of EXTRA_SIGNALS: (B,), or (N,) over the sampled tokens of the batch."""
        experiment, pair, own = self.experiment, self.pair, self.own(rollout)
        prompts = self.prompts.draw(step, experiment.prompts_per_step, experiment.seed)
        match name:
            case "reference_logprob_BT":
                assert self.reference is not None
                found_N = sampled_logprob(self.reference, own, pair.vocabulary, self.settings)
                return self.processes.join(found_N)
            case "counterfactual_logprob_BT":
                found_N = extras.counterfactual_logprob(
                    self.student, own, prompts, pair, self.settings, self.processes
                )
                return self.processes.join(found_N)
            case "reward_B":
                return extras.reward_B(rollout, prompts, self.prompts, pair)
            case "group_B":
                return extras.group_B(rollout)
        return self.gain(rollout, scored.teacher_hidden_ND)

    def gain(self, rollout: Rollout, teacher_hidden_ND: Tensor | None) -> Tensor:
        """KL(q‖p) before minus after one update on every token, which is undone again; (N,).

        teacher_hidden_ND is of the own rows."""
        before_N = self.forward_kl(rollout)
        reshard(self.student)
        weights = [parameter.detach().clone() for parameter in self.student.parameters()]
        state, rate = deepcopy(self.optimizer.state_dict()), deepcopy(self.schedule.state_dict())
        clipped, scored = self.totals.clipped_steps, self.totals.scored
        everything = rollout.mask_BT.float()
        whole = Selection(rollout.mask_BT, everything, float(everything.sum()))
        self.update(self.gradient(rollout, whole, teacher_hidden_ND).loss)
        after_N = self.forward_kl(rollout)
        reshard(self.student)
        with torch.no_grad():
            for parameter, weight in zip(self.student.parameters(), weights, strict=True):
                parameter.copy_(weight)
        self.optimizer.load_state_dict(state)
        self.schedule.load_state_dict(rate)
        self.totals.clipped_steps, self.totals.scored = clipped, scored
        return before_N - after_N

    def forward_kl(self, rollout: Rollout) -> Tensor:
        """KL(q‖p) of every sampled token of the batch, (N,)."""
        scored = score_rollout(
            self.student, self.teacher, self.own(rollout), self.pair.vocabulary,
            ("forward_kl_BT",), self.experiment.k, self.settings, processes=self.processes,
        )  # fmt: skip
        return self.processes.join(scored.values["forward_kl_BT"])

    def select(self, signals: TokenSignals, rollout: Rollout, step: int) -> Selection:
        """Score every sampled token, then spend the budget once over the batch.

        Every process does, so that a rule's memory is the same on all; the main one's scores count.
        """
        experiment, selector = self.experiment, self.selector
        score_BT = self.processes.of_main(selector(signals))
        scheduled = keep_at(experiment.keep, step, experiment.steps)
        # Set from scores that each process rounded for itself: the main one's counts, too.
        keep = self.processes.lead(lambda: selector.step_keep) if selector.sets_keep else scheduled
        if selector.kind == "weight":
            weight_BT = torch.where(signals.mask_BT, score_BT.float(), 0)
            square = float(weight_BT.double().square().sum())
            effective = float(weight_BT.double().sum()) ** 2 / square if square else 0.0
            return Selection(weight_BT > 0, weight_BT, effective, keep)
        try:
            selected_BT = select_tokens(
                score_BT,
                signals.mask_BT,
                keep=keep,
                scope=experiment.scope,
                min_keep_per_response=experiment.min_keep_per_response,
                ties=experiment.ties,
                seed=experiment.seed,
                step=step,
                row_key_B=rollout.row_key_B,
                abstains=selector.abstains,
            )
        except ValueError as error:
            raise SelectorError(f"selector {selector.name!r}: {error}") from error
        return Selection(selected_BT, selected_BT.float(), float(selected_BT.sum()), keep)

    def gradient(
        self,
        rollout: Rollout,
        selection: Selection,
        teacher_hidden_ND: Tensor | None,
        shadow: Shadow | None = None,
    ) -> LossOutputs:
        """Loss and gradient over the selection; `teacher_hidden_ND` and those given back are of the
        own rows."""
        scale_BT = token_scale(selection.weight_BT, rollout.mask_BT, self.experiment.normalize)
        own = self.own(rollout)
        inputs = LossInputs(
            self.experiment.objective, self.experiment.objective_params,
            scale_BT[self.processes.rows(scale_BT.shape[0])],
            teacher_hidden_ND, keeps_hidden=shadow is not None,
        )  # fmt: skip
        recompute = recomputed if self.runtime.gradient_checkpointing else nullcontext
        with recompute(self.student):
            outputs = accumulate_loss(
                self.student, self.teacher, own, self.pair.vocabulary, inputs, self.settings,
                self.accelerator.backward, self.processes,
            )  # fmt: skip
        shares = self.processes.join_objects([(outputs.loss, outputs.scored)])
        outputs = replace(
            outputs, loss=sum(loss for loss, _ in shares), scored=sum(n for _, n in shares)
        )
        self.totals.scored += outputs.scored
        return outputs

    def observe(
        self,
        shadow: Shadow,
        step: int,
        rollout: Rollout,
        signals: TokenSignals,
        selection: Selection,
        scored: Scored,
        outputs: LossOutputs,
    ) -> None:
        """The shadow panel on this step's tokens, before the update; changes nothing of the run.

        Signals and hidden states that the run has are not computed again, and what is computed
        for the panel alone counts in none of the run's costs but `seconds["shadow"]`.
        """
        lacking = [name for name in shadow.needs(step) if getattr(signals, name) is None]
        student_ND, teacher_ND = scored.student_hidden_ND, scored.teacher_hidden_ND
        found = observe_rollout(
            self.student, self.teacher, self.own(rollout), self.pair.vocabulary, lacking,
            self.experiment.k, self.settings,
            objective=self.experiment.objective,
            objective_params=self.experiment.objective_params,
            student_hidden_ND=outputs.student_hidden_ND if student_ND is None else student_ND,
            teacher_hidden_ND=outputs.teacher_hidden_ND if teacher_ND is None else teacher_ND,
            processes=self.processes,
        )  # fmt: skip
        found = {name: self.processes.join(value) for name, value in found.items()}
        self.processes.lead(
            lambda: shadow.record(
                step, signals, found, rollout, selection.selected_BT, selection.weight_BT
            )
        )

    def update(self, loss: float) -> float:
        """Clip, AdamW step; returns the gradient's norm. Nothing is updated if it is not finite."""
        reshard(self.student)
        limit = self.experiment.gradient_clip
        norm = full_number(self.accelerator.clip_grad_norm_(self.student.parameters(), limit))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise BenchError(f"loss {loss} and gradient norm {norm} are not finite")
        self.totals.clipped_steps += norm > limit
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return norm

    def metrics(
        self,
        step: int,
        rollout: Rollout,
        signals: TokenSignals,
        selection: Selection,
        loss: float,
        grad_norm: float,
        timer: "Timer",
    ) -> dict[str, Any]:
        """The step's line of metrics.jsonl; adds the step to the totals."""
        sampled, trained = int(rollout.mask_BT.sum()), int(selection.selected_BT.sum())
        self.totals.sampled += sampled
        self.totals.trained += trained
        self.totals.effective += selection.effective_sample_size
        return {
            "step": step + 1,
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "sampled_tokens": sampled,
            "trained_tokens": trained,
            "keep": selection.keep,
            "realised_keep": trained / sampled,
            "effective_sample_size": selection.effective_sample_size,
            "reused_hidden": rollout.student_hidden_ND is not None,
            **({"vllm_difference": self.vllm.difference} if self.vllm is not None else {}),
            "response_length": sampled / len(rollout.finish_reason_B),
            "stop_rate": rollout.finish_reason_B.count("stop") / len(rollout.finish_reason_B),
            "signals": summarise(signals, selection.selected_BT),
            "seconds": timer.step,
            "peak_memory_bytes": self.peak_memory_bytes(),
        }

    def full_state(self) -> dict[str, Any] | None:
        """The student's weights on the main process, where each process holds a part of them."""
        if not is_sharded(self.student):
            return None
        state = self.accelerator.get_state_dict(self.student)
        return {name.removeprefix("model."): value for name, value in state.items()}

    def peak_memory_bytes(self) -> int:
        """Of the process that needed most."""
        return self.processes.most(peak_memory_bytes(self.accelerator.device.type))


def full_number(value: Any) -> float:
    """A number that may lie on several processes (a norm over sharded gradients)."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


def train(trainer: Trainer, progress: Progress, stop: StopRequest, evaluate_curve) -> Totals:
    """All remaining steps, from the last checkpoint on. `evaluate_curve(step)` -> task -> mean.

    Raises Stopped after saving when asked to stop, BenchError for a loss that is not finite.
    """
    experiment, folder, runtime = trainer.experiment, trainer.plan.folder, trainer.runtime
    processes = trainer.processes
    first = 0
    if (checkpoint := last_checkpoint(folder.checkpoints)) is not None:
        trainer.totals = Totals(**checkpoint.load(trainer.accelerator))
        checkpoint.load_selector(trainer.selector)
        first = checkpoint.step
    processes.lead(lambda: folder.cut_logs(first))
    trainer.place_frozen()
    progress.start("train", experiment.steps, first)
    began = perf_counter() - trainer.totals.wall
    tracks: list[Track] = []

    def log(line: dict[str, Any]) -> None:
        folder.append_metrics(line)
        for track in tracks:
            track(line)

    with ExitStack() as held, stop.deferred():
        opened = open_trackers(runtime.log_with, folder.path, experiment.all_values())
        processes.lead(lambda: tracks.append(held.enter_context(opened)))
        for step in range(first, experiment.steps):
            try:
                line = trainer.step(step)
            except BenchError as error:
                told = type(error)(f"step {step + 1}: {error}{_last_good(trainer)}")
                told.process = error.process
                raise told from error
            if experiment.eval_every and (step + 1) % experiment.eval_every == 0:
                line["evaluation"] = evaluate_curve(step + 1)
            processes.lead(partial(log, line))
            progress.update(step + 1, loss=line["loss"], keep=line["realised_keep"])
            trainer.totals.wall = perf_counter() - began
            last, stops = step + 1 == experiment.steps, processes.any(stop.requested)
            if last or stops or (step + 1) % runtime.checkpoint_every == 0:
                save_checkpoint(
                    trainer.accelerator, folder.checkpoints, step + 1, vars(trainer.totals),
                    trainer.selector, processes,
                )  # fmt: skip
            if stops:
                raise Stopped(
                    f"stopped after step {step + 1} of {experiment.steps}, saved in {folder.path}; "
                    "the same command goes on from there"
                )
    return trainer.totals


def _last_good(trainer: Trainer) -> str:
    checkpoint = last_checkpoint(trainer.plan.folder.checkpoints)
    return f"; the last good checkpoint is {checkpoint.path}" if checkpoint else ""
