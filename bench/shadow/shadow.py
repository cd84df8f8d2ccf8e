"""The shadow panel of a run: what other rules would have kept, step by step, beside its own rule.

It reads the models and the rollout, draws no random number that the run draws, and writes files of
its own; the run's numbers are those of a run without it. A line of `shadow.jsonl`:

    step, tokens     optimizer step (from 1), sampled tokens
    keep             budget of every mask in the line
    gradient_of      objective whose logit-gradient norm is measured
    rules            labels; the run's own rule is the first, and all lists follow this order
    skipped          rule -> why it is not in the line
    kept, tied       tokens kept, and how many of them the tie rule chose among equal scores
    jaccard          of every two masks, above the diagonal, row by row; null for two empty masks
    spearman         of every two rules' scores, likewise; null where a score is constant
    position         tokens by tenth of their response: {"all": [10], "kept": [rules][10]}
    entropy          tokens by decile of the student's entropy in the batch, likewise
    class            tokens by class (bench.shadow.token_classes.TOKEN_CLASSES), likewise
    signals          {"names": [...], "all": means over all tokens, "kept": means over kept ones}
    gradient_share   Σ of the logit-gradient norm over kept tokens / over all tokens
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.config import Experiment, Runtime
from bench.core.keep_schedule import keep_at
from bench.core.logits import head_weight, project
from bench.core.processes import ALONE, Processes
from bench.core.records import RunFolder
from bench.core.sampling import Vocabulary
from bench.pairs.models import LoadedPair
from bench.selection.formulas import Chunk
from bench.selection.signals import SIGNAL_NAMES, TokenSignals, with_signals
from bench.shadow.panel import Panel, Spend, choose, compare, group_tokens
from bench.shadow.token_bank import BankedStep, write_step
from bench.shadow.token_classes import vocabulary_classes, vocabulary_texts
from bench.tasks.prompts import PromptSet
from bench.train.extra_signals import FREE
from bench.train.hidden_states import PassSettings, chunks, hidden_states
from bench.train.logit_gradients import logit_gradient_norm, measured_objective
from bench.train.metrics import StepTaken
from bench.train.rollout import Rollout
from bench.train.setup import Setup

KEEP_OF_FULL = 0.05
"""Budget of the panel's masks where the run itself keeps every token."""
OBSERVED_CHUNK = 524_288
"""Logits (positions x vocabulary) at once in `observe_rollout`: small pieces stay in the cache."""
OBSERVED_POSITIONS = 256
"""Yet at least this many positions: the heads of large vocabularies want long matrices."""


class Shadow:
    """The panel of one run, and where it is logged: an `Observer` of the training loop."""

    phase = "shadow"

    def __init__(
        self,
        panel: Panel,
        experiment: Experiment,
        runtime: Runtime,
        pair: LoadedPair,
        folder: RunFolder,
        prompts: PromptSet,
    ):
        self.panel, self.experiment, self.runtime, self.folder = panel, experiment, runtime, folder
        self.prompts, self.pair = prompts, pair
        self.log_every = runtime.shadow_every if runtime.shadow else 0
        size = pair.vocabulary.size
        self.class_V = vocabulary_classes(pair.tokenizer, size, pair.student_stop_ids)
        self.text_V = vocabulary_texts(pair.tokenizer, size) if runtime.token_bank else []

    def logs(self, step: int) -> bool:
        """Is step `step` (from 0) one of those that shadow.jsonl has a line for?"""
        return _is_nth(step, self.log_every)

    def banks(self, step: int) -> bool:
        return _is_nth(step, self.runtime.token_bank)

    def is_due(self, step: int) -> bool:
        return self.logs(step) or self.banks(step)

    def needs(self, step: int) -> tuple[str, ...]:
        """The signals to be computed at this step, whatever the run has computed."""
        if self.banks(step):
            return SIGNAL_NAMES
        return tuple(dict.fromkeys(("student_entropy_BT", *self.panel.needs)))

    def observe(self, setup: Setup, taken: StepTaken) -> None:
        """The panel on a step's tokens, before the update; changes nothing of the run.

        Signals and hidden states that the run has are not computed again, and what is computed
        for the panel alone counts in none of the run's costs but `seconds["shadow"]`.
        """
        processes, rollout = setup.processes, taken.rollout
        scored, outputs = taken.scored, taken.outputs
        lacking = [name for name in self.needs(taken.step) if getattr(taken.signals, name) is None]
        told = {name: FREE[name](rollout) for name in lacking if name in FREE}
        student_ND, teacher_ND = scored.student_hidden_ND, scored.teacher_hidden_ND
        found = observe_rollout(
            setup.student, setup.teacher, rollout.rows(processes.rows(len(rollout.row_key_B))),
            setup.pair.vocabulary, [name for name in lacking if name not in FREE],
            self.experiment.k, setup.passes,
            objective=self.experiment.objective,
            objective_params=self.experiment.objective_params,
            student_hidden_ND=outputs.student_hidden_ND if student_ND is None else student_ND,
            teacher_hidden_ND=outputs.teacher_hidden_ND if teacher_ND is None else teacher_ND,
            processes=processes,
        )  # fmt: skip
        found = told | {name: processes.join(value) for name, value in found.items()}
        selection = taken.selection
        processes.lead(
            lambda: self.record(
                taken.step, taken.signals, found, rollout, selection.selected_BT,
                selection.weight_BT,
            )
        )  # fmt: skip

    def record(
        self,
        step: int,
        signals: TokenSignals,
        found: Mapping[str, Tensor],
        rollout: Rollout,
        selected_BT: Tensor,
        weight_BT: Tensor,
    ) -> None:
        """Log step `step` (from 0). `found` are the signals that the run itself lacked, and
        `logit_gradient_norm`, of the N tokens under the mask."""
        values = dict(found)
        gradient_N = values.pop("logit_gradient_norm")
        signals = with_signals(signals, values)
        spend = self.spend(step, rollout)
        choices = choose(self.panel, signals, spend)
        head = {"keep": spend.keep, "gradient_of": measured_objective(self.experiment.objective)}
        if self.logs(step):
            line = {"step": step + 1, "tokens": gradient_N.numel(), **head}
            groups = group_tokens(signals, self.class_V)
            self.folder.append_shadow(line | compare(choices, signals, groups, gradient_N))
        if self.banks(step):
            facts = {**head, "run_id": self.folder.path.name, "pair": self.experiment.pair,
                     "seed": spend.seed, "k": self.experiment.k, "scope": spend.scope,
                     "min_keep_per_response": spend.min_keep_per_response,
                     "ties": spend.ties, **self.asked(step, rollout)}  # fmt: skip
            banked = BankedStep(
                step + 1, rollout, signals, choices, selected_BT, weight_BT, gradient_N,
                self.class_V, self.text_V, facts,
            )  # fmt: skip
            write_step(self.folder.token_bank, banked)

    def asked(self, step: int, rollout: Rollout) -> dict[str, Any]:
        """The step's prompts with their right answers, and which responses give them."""
        experiment = self.experiment
        drawn = self.prompts.draw(step, experiment.prompts_per_step, experiment.seed)
        by_id = {prompt.id: prompt for prompt in drawn}
        correct: list[bool | None] = []
        for prompt_id, token_T, length in zip(
            rollout.prompt_id_B, rollout.token_BT.tolist(), rollout.length_B, strict=True
        ):
            prompt = by_id[prompt_id]
            text = self.pair.tokenizer.decode(token_T[:length], skip_special_tokens=True)
            right = self.prompts.is_correct(prompt, str(text)) if prompt.answer else None
            correct.append(right)
        prompts = {prompt.id: {"text": prompt.text, "answer": prompt.answer} for prompt in drawn}
        return {"prompts": prompts, "correct": correct}

    def spend(self, step: int, rollout: Rollout) -> Spend:
        experiment = self.experiment
        own_keep = keep_at(experiment.keep, step, experiment.steps)
        own_keep = own_keep if own_keep < 1 else KEEP_OF_FULL
        return Spend(
            keep=self.runtime.shadow_keep or own_keep,
            scope=experiment.scope,
            min_keep_per_response=experiment.min_keep_per_response,
            ties=experiment.ties,
            seed=experiment.seed,
            step=step,
            row_key_B=rollout.row_key_B,
        )


def _is_nth(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def observe_rollout(
    student: nn.Module,
    teacher: nn.Module,
    rollout: Rollout,
    vocabulary: Vocabulary,
    names: Sequence[str],
    k: int,
    settings: PassSettings,
    *,
    objective: str,
    objective_params: Mapping[str, float],
    student_hidden_ND: Tensor | None = None,
    teacher_hidden_ND: Tensor | None = None,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """The named signals of every token under the mask, and `logit_gradient_norm`, for logging.

    Runs a backbone only where its hidden states are not given. Without gradient.
    """
    token_N = rollout.token_BT[rollout.mask_BT]
    positions = max(OBSERVED_POSITIONS, OBSERVED_CHUNK // vocabulary.size)
    pieces: list[dict[str, Tensor]] = []
    with torch.no_grad():
        if student_hidden_ND is None:
            student_hidden_ND = hidden_states(
                student, rollout, rollout.mask_BT, settings, processes
            )
        if teacher_hidden_ND is None:
            teacher_hidden_ND = hidden_states(
                teacher, rollout, rollout.mask_BT, settings, processes
            )
        student_head_VD, teacher_head_VD = head_weight(student), head_weight(teacher)
        for piece in chunks(token_N.numel(), min(positions, settings.positions(vocabulary.size))):
            chunk = Chunk(
                project(student_hidden_ND[piece], student_head_VD, vocabulary),
                project(teacher_hidden_ND[piece], teacher_head_VD, vocabulary),
                token_N[piece],
                k,
            )
            found = chunk.signals(names)
            found["logit_gradient_norm"] = logit_gradient_norm(chunk, objective, objective_params)
            pieces.append(found)
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
