"""One step of training: rollout, signals, score, select, loss, update, in that order."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError
from bench.core.keep_schedule import keep_at
from bench.core.processes import ALONE, full_number, is_sharded, reshard, run
from bench.core.records import RunFolder
from bench.pairs.models import LoadedPair
from bench.selection.budget import Selection, refill_empty, select_tokens
from bench.selection.registry import SelectorError
from bench.selection.signals import EXTRA_SIGNALS, TokenSignals, base_signals, with_signals
from bench.tasks.prompts import PromptSet
from bench.train.batch_objectives import Context, context_of
from bench.train.displacement import Moved, displacement
from bench.train.extra_signals import ExtraSources, extra_signal
from bench.train.loss import LossInputs, LossOutputs, accumulate_loss, token_scale
from bench.train.metrics import StepTaken, Timer, Totals, line_of
from bench.train.placement import recomputed
from bench.train.rollout import Rollout, Sampling, sample_rollout
from bench.train.scoring import Scored, score_rollout
from bench.train.setup import Setup, make_setup

NO_CONTEXT = Context()


class Observer(Protocol):
    """Looks at steps before their update, and changes nothing of the run."""

    phase: str
    """What its seconds are counted as."""

    def is_due(self, step: int) -> bool:
        """Does it look at step `step` (from 0)?"""
        ...

    def observe(self, setup: Setup, taken: StepTaken) -> None:
        """Look at a step; called on every process."""
        ...


class Trainer:
    """A pair, an optimizer and the step that joins them.

    A rollout, its signals and its selection are always those of the whole batch, on every process;
    the models run on the process's own rows of it.
    """

    def __init__(
        self,
        experiment: Experiment,
        runtime: Runtime,
        pair: LoadedPair,
        prompts: PromptSet,
        folder: RunFolder,
        observer: Observer | None = None,
    ):
        self.experiment, self.runtime, self.pair = experiment, runtime, pair
        self.prompts, self.folder, self.observer = prompts, folder, observer
        self.setup = setup = make_setup(experiment, runtime, pair)
        self.accelerator, self.processes = setup.accelerator, setup.processes
        self.student, self.teacher, self.selector = setup.student, setup.teacher, setup.selector
        self.totals = Totals()

    def step(self, step: int) -> dict[str, Any]:
        """One update from step `step` (from 0); returns its line of metrics."""
        timer = Timer(self.totals.seconds, self.accelerator.device)
        observer = self.observer if self.observer and self.observer.is_due(step) else None
        with self.accelerator.autocast():
            with timer.phase("rollout"):
                rollout = self.rollout(step)
            signals, scored = self.signals(rollout, step, timer)
            # A rule computes on float32 signals, and in float32.
            float32 = torch.autocast(self.accelerator.device.type, enabled=False)
            with timer.phase("score"), float32:
                selection = self.select(signals, rollout, step)
                context = self.context(rollout, step, scored)
                if context.selected_BT is not None:
                    selection = Selection.of_weights(context.selected_BT.float())
            overlap = self.overlap_with_initial(rollout, step, selection, scored, timer)
            with timer.phase("loss"):
                teacher_ND = scored.teacher_hidden_ND
                if teacher_ND is None:
                    teacher_ND = context.teacher_hidden_ND
                outputs = self.gradient(
                    rollout, selection, teacher_ND, context,
                    keeps_hidden=observer is not None,
                )  # fmt: skip
            taken = StepTaken(step, rollout, signals, scored, selection, outputs, overlap)
            if observer is not None:
                with timer.phase(observer.phase):
                    observer.observe(self.setup, taken)
            with timer.phase("loss"):
                moved = self.update(outputs.loss)
        self.totals.add(taken)
        return line_of(taken, moved, self.setup, timer.step)

    def rollout(self, step: int) -> Rollout:
        """The step's responses: each process samples its own rows, and gets all."""
        experiment, pair, processes, setup = self.experiment, self.pair, self.processes, self.setup
        prompts = self.prompts.draw(step, experiment.prompts_per_step, experiment.seed)
        sampling = Sampling(
            prompts=prompts,
            samples=experiment.responses_per_prompt,
            max_new_tokens=experiment.max_new_tokens,
            temperature=experiment.temperature,
            stop_ids=pair.student_stop_ids,
            mask_stop=pair.stops_agree,
            seed=experiment.seed,
            step=step,
            rows=processes.rows(len(prompts) * experiment.responses_per_prompt),
        )
        if setup.vllm is not None:
            own = setup.vllm.sample(setup.sampler, pair.tokenizer, sampling, setup.passes)
        else:
            sample = partial(
                sample_rollout,
                tokenizer=pair.tokenizer,
                vocabulary=pair.vocabulary,
                sampling=sampling,
                batch=self.runtime.rollout_batch,
                keeps_hidden=(
                    setup.reuses_hidden and bool(setup.names) and setup.scorer is setup.sampler
                ),
                together=processes if is_sharded(setup.sampler) else ALONE,
            )
            with torch.no_grad():
                own = run(setup.sampler, sample)
        own = replace(own, token_BT=pair.vocabulary.standing_for(own.token_BT))
        return own.of_all(processes)

    def own(self, rollout: Rollout) -> Rollout:
        """This process's rows of a rollout."""
        return rollout.rows(self.processes.rows(len(rollout.row_key_B)))

    def signals(self, rollout: Rollout, step: int, timer: Timer) -> tuple[TokenSignals, Scored]:
        """Signals of the whole batch, and what the pass over the own rows leaves behind."""
        scored = self.score(
            rollout, self.setup.names, rollout.student_hidden_ND, model=self.setup.scorer
        )
        for phase, seconds in scored.seconds.items():
            timer.add(phase, seconds)
        if scored.teacher_hidden_ND is not None:
            self.totals.scored += int(rollout.mask_BT.sum())
        with timer.phase("score"):
            signals = self.of_population(
                self.joined(rollout, step, scored, self.setup.extra_names, self.setup.scorer)
            )
        return signals, scored

    def of_population(self, signals: TokenSignals) -> TokenSignals:
        """The signals as a rule reads them: with statistics over what `population` says."""
        return signals.over_rows() if self.experiment.population == "rows" else signals

    def joined(
        self,
        rollout: Rollout,
        step: int,
        scored: Scored,
        extra_names: Sequence[str],
        scorer: nn.Module,
        k: int | None = None,
    ) -> TokenSignals:
        """What every process scored, of the whole batch, and the extra signals that are named."""
        base = base_signals(
            rollout.token_BT, rollout.mask_BT,
            seed=self.experiment.seed, step=step, row_key_B=rollout.row_key_B,
        )  # fmt: skip
        values = {name: self.processes.join(value) for name, value in scored.values.items()}
        values |= self.extra_signals(rollout, step, scored, extra_names, scorer, k)
        return with_signals(base, values)

    def score(
        self,
        rollout: Rollout,
        names: tuple[str, ...],
        student_hidden_ND: Tensor | None = None,
        *,
        model: nn.Module | None = None,
        k: int | None = None,
        teacher_hidden_ND: Tensor | None = None,
    ) -> Scored:
        """The scoring pass over the own rows, of the student unless another model is given."""
        return score_rollout(
            model or self.student, self.teacher, self.own(rollout), self.pair.vocabulary, names,
            k or self.experiment.k, self.setup.passes, student_hidden_ND, self.processes,
            teacher_hidden_ND,
        )  # fmt: skip

    def context(self, rollout: Rollout, step: int, scored: Scored | None = None) -> Context:
        """What the objective reads of the whole batch, of the student as it is now."""
        experiment, setup = self.experiment, self.setup
        if not setup.objective_names:
            return Context()
        k = int(setup.objective_params.get("k", experiment.k))
        student_ND = None
        if scored is not None and setup.scorer is setup.student:
            student_ND = scored.student_hidden_ND
        names = tuple(name for name in setup.objective_names if name not in EXTRA_SIGNALS)
        extra = [name for name in setup.objective_names if name in EXTRA_SIGNALS]
        found = self.score(
            rollout, names, student_ND, k=k,
            teacher_hidden_ND=None if scored is None else scored.teacher_hidden_ND,
        )  # fmt: skip
        if found.teacher_hidden_ND is not None and (
            scored is None or scored.teacher_hidden_ND is None
        ):
            self.totals.scored += int(rollout.mask_BT.sum())
        signals = self.joined(rollout, step, found, extra, self.student, k)
        context = context_of(experiment.objective, signals, setup.objective_params)
        selected_BT = context.selected_BT
        if selected_BT is not None:
            # Each process rounds for itself: the main one's choice counts.
            selected_BT = self.processes.of_main(selected_BT.float()) > 0
        return Context(context.value_BT, selected_BT, found.teacher_hidden_ND)

    def overlap_with_initial(
        self, rollout: Rollout, step: int, selection: Selection, scored: Scored, timer: Timer
    ) -> float | None:
        """Σ min(w, w₀)/Σ w, w₀ the selection of the same batch by the student before training."""
        every = self.runtime.drift_every
        if not every or step % every:
            return None
        initial = self.setup.initial
        assert initial is not None
        with timer.phase("drift"):
            found = self.score(
                rollout, self.setup.names, model=initial, teacher_hidden_ND=scored.teacher_hidden_ND
            )
            signals = self.of_population(
                self.joined(rollout, step, found, self.setup.extra_names, initial)
            )
            with torch.autocast(self.accelerator.device.type, enabled=False):
                before = self.select(signals, rollout, step)
        both = torch.minimum(selection.weight_BT, before.weight_BT).double().sum()
        return float(both / selection.weight_BT.double().sum().clamp(min=1e-38))

    def extra_signals(
        self,
        rollout: Rollout,
        step: int,
        scored: Scored,
        names: Sequence[str],
        scorer: nn.Module,
        k: int | None = None,
    ) -> dict[str, Tensor]:
        """The named ones of EXTRA_SIGNALS, of the whole batch."""
        experiment, teacher_ND = self.experiment, scored.teacher_hidden_ND
        sources = ExtraSources(
            rollout=rollout,
            own=self.own(rollout),
            prompts=self.prompts.draw(step, experiment.prompts_per_step, experiment.seed),
            is_correct=self.prompts.is_correct,
            forward_kl=lambda: self.forward_kl(rollout),
            update_on_all=lambda: self.update_on_all(rollout, step, teacher_ND),
            scorer=scorer,
            k=k or experiment.k,
            student_hidden_ND=scored.student_hidden_ND,
            teacher_hidden_ND=teacher_ND,
            totals=self.totals,
        )
        return {name: extra_signal(name, sources, self.setup) for name in names}

    def forward_kl(self, rollout: Rollout) -> Tensor:
        """KL(q‖p) of every sampled token of the batch, (N,)."""
        return self.processes.join(self.score(rollout, ("forward_kl_BT",)).values["forward_kl_BT"])

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
            return Selection.of_weights(torch.where(signals.mask_BT, score_BT.float(), 0), keep)
        refill, least = self.setup.refill, experiment.min_keep_per_response
        order = {
            "ties": experiment.ties, "seed": experiment.seed, "step": step,
            "row_key_B": rollout.row_key_B,
        }  # fmt: skip
        try:
            selected_BT = select_tokens(
                score_BT,
                signals.mask_BT,
                keep=keep,
                scope=experiment.scope,
                min_keep_per_response=least if refill is None else 0,
                abstains=selector.abstains,
                **order,
            )
            if refill is not None:
                fill_BT = self.processes.of_main(refill(signals))
                selected_BT = refill_empty(
                    selected_BT, fill_BT, signals.mask_BT, count=least, **order
                )
        except ValueError as error:
            raise SelectorError(f"selector {selector.name!r}: {error}") from error
        return Selection(selected_BT, selected_BT.float(), float(selected_BT.sum()), keep)

    def gradient(
        self,
        rollout: Rollout,
        selection: Selection,
        teacher_hidden_ND: Tensor | None,
        context: Context = NO_CONTEXT,
        *,
        keeps_hidden: bool = False,
    ) -> LossOutputs:
        """Loss and gradient over the selection; hidden states, given or found, are own rows'."""
        scale_BT = token_scale(selection.weight_BT, rollout.mask_BT, self.experiment.normalize)
        own = self.processes.rows(scale_BT.shape[0])
        inputs = LossInputs(
            self.experiment.objective, self.experiment.objective_params, scale_BT[own],
            teacher_hidden_ND, {name: x_BT[own] for name, x_BT in context.value_BT.items()},
            keeps_hidden,
        )  # fmt: skip
        recompute = recomputed if self.runtime.gradient_checkpointing else nullcontext
        with recompute(self.student):
            outputs = accumulate_loss(
                self.student, self.teacher, self.own(rollout), self.pair.vocabulary, inputs,
                self.setup.passes, self.accelerator.backward, self.processes,
            )  # fmt: skip
        self.totals.scored += outputs.scored
        return outputs

    def update(self, loss: float) -> Moved:
        """Clip, AdamW step; nothing is updated if loss or gradient is not finite."""
        reshard(self.student)
        limit = self.experiment.gradient_clip or math.inf
        norm = full_number(self.accelerator.clip_grad_norm_(self.student.parameters(), limit))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise BenchError(f"loss {loss} and gradient norm {norm} are not finite")
        self.totals.clipped_steps += norm > limit
        self.setup.optimizer.step()
        moved = Moved(norm, displacement(self.setup.optimizer))
        self.setup.schedule.step()
        self.setup.optimizer.zero_grad()
        return moved

    def update_on_all(self, rollout: Rollout, step: int, teacher_hidden_ND: Tensor | None) -> None:
        """One update on every token of a rollout."""
        everything = Selection.of_weights(rollout.mask_BT.float())
        context = self.context(rollout, step)
        teacher_ND = context.teacher_hidden_ND if teacher_hidden_ND is None else teacher_hidden_ND
        self.update(self.gradient(rollout, everything, teacher_ND, context).loss)
