"""Experiment -> Plan: names looked up, values settled, and the run's identity. Trains nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core import provenance
from bench.core.config import FIRST_FIELDS, Experiment, Runtime
from bench.core.errors import ConfigError, unknown_name
from bench.core.files import digest8
from bench.core.keep_schedule import keep_name
from bench.core.objectives import SELECT_THEMSELVES
from bench.core.records import RunFolder
from bench.pairs.adapters import check_peft
from bench.pairs.agreement import pair_chat
from bench.pairs.models import LoadedPair, content_sha256, load_pair, load_tokenizer
from bench.pairs.pair import Pair, label_of, pair_of, settings_of
from bench.selection.contract_batch import VOCABULARY, make_batch
from bench.selection.grammar import is_expression
from bench.selection.registry import Selector, get_selector
from bench.selection.selector import REWORDED
from bench.selection.signals import EXTRA_SIGNALS, REFERENCE_SIGNALS, SIGNAL_NAMES
from bench.shadow.panel import Panel, make_panel
from bench.tasks import equality
from bench.tasks.chat import PLAIN_TEXT
from bench.tasks.data_files import data_sha256, missing
from bench.tasks.prompt_file import FilePrompts, PromptFile
from bench.tasks.prompt_sets import evaluation_sets, get_prompts
from bench.tasks.prompts import PromptSource
from bench.tasks.protocol import asking_of, check_tasks, task_settings
from bench.train.batch_objectives import context_needs
from bench.train.trackers import check_installed


@dataclass(frozen=True)
class Plan:
    """A checked experiment. Equal experiments on equal files give equal run ids."""

    experiment: Experiment
    selector: Selector
    pair: Pair
    prompts: PromptSource
    points_to: dict[str, Any]
    """Hashes of what the experiment names but does not hold: rule, models, tokenizers."""
    run_id: str
    folder: RunFolder
    panel: Panel
    """The rules that are shadowed; no part of the identity."""
    of_pair: Mapping[str, Any] = field(default_factory=dict)
    """The settings that are the pair's: nobody gave them."""

    def check_packages(self, runtime: Runtime) -> None:
        """Raise ConfigError, before a model is loaded, for an extra that is not installed."""
        check_installed(runtime.log_with)
        if self.experiment.lora:
            check_peft()

    def load_pair(self) -> LoadedPair:
        """Both models, as this experiment uses them. Raises ConfigError."""
        loaded = load_pair(self.pair, one_model=self.is_one_model)
        return loaded.with_one_stop() if self.experiment.stop_class == "one" else loaded

    @property
    def is_one_model(self) -> bool:
        """Teacher and student have the same files, and only adapters are trained."""
        same = self.points_to["teacher"] == self.points_to["student"]
        return bool(self.experiment.lora) and same

    def check_rule(self) -> None:
        """Raise SelectorError, before a model is loaded, for a rule that fails on a small batch of
        random logits: a rule of one's own is wrong in seconds, not after the baselines."""
        experiment = self.experiment
        rule = get_selector(experiment.selector, **experiment.selector_params)
        rule(make_batch().signals(k=min(experiment.k, VOCABULARY)))

    def check_data(self) -> None:
        """Raise ConfigError, before a model is loaded, for a data file that is not here."""
        self.prompts.check()
        for name, found in self.points_to.get("data", {}).items():
            if found == "missing":
                raise ConfigError(missing(name))

    def baseline_key(self, side: str, commits: Mapping[str, str | None]) -> str:
        """What an untrained model's evaluation is kept by: its content, or its hub commit."""
        return "@".join(filter(None, (self.points_to[side], commits[side])))


def make_plan(experiment: Experiment, runtime: Runtime) -> Plan:
    """Check everything that can be checked before a model is loaded. Raises ConfigError."""
    if experiment.teacher is not None and experiment.student is not None:
        label = label_of(experiment.teacher, experiment.student)
        experiment = experiment.model_copy(update={"pair": label})
    pair = pair_of(experiment)
    of_pair = open_settings(experiment)
    experiment = experiment.model_copy(update=of_pair)
    check_tasks([*experiment.eval_tasks, *experiment.curve_tasks])
    curve_tasks = experiment.curve_tasks if experiment.eval_every else ()
    for task in (*experiment.eval_tasks, *curve_tasks):
        asking_of(experiment, PLAIN_TEXT).of(task)
    prompts = get_prompts(experiment)
    selector = get_selector(experiment.selector, **experiment.selector_params)
    experiment = _settle_keep(experiment, selector).model_copy(
        update={"selector": selector.reference, "selector_params": dict(selector.params)}
    )
    for name in runtime.log_signals:
        if name not in (*SIGNAL_NAMES, *EXTRA_SIGNALS):
            raise unknown_name("log_signals", name, (*SIGNAL_NAMES, *EXTRA_SIGNALS))
    if selector.has_memory and (runtime.shadow or runtime.token_bank or runtime.drift_every):
        raise ConfigError(
            f"shadow, token_bank, drift_every: not accepted with selector {selector.name!r}, which "
            "has a memory across steps: scoring it once more would move that memory"
        )
    if experiment.score_model == "initial" and (runtime.shadow or runtime.token_bank):
        raise ConfigError(
            "shadow, token_bank: not accepted with score_model 'initial': their masks are those of "
            "the student as it is, the run's own are not"
        )
    _check_objective(experiment, selector)
    if experiment.objective in SELECT_THEMSELVES and runtime.drift_every:
        raise ConfigError(
            f"drift_every: not accepted with objective {experiment.objective}, which selects its "
            "tokens itself: no mask of a rule's is there to drift"
        )
    if selector.responses > experiment.responses_per_prompt:
        raise ConfigError(
            f"responses_per_prompt: {experiment.responses_per_prompt} is not accepted with "
            f"selector {selector.name!r}, which compares the responses to a prompt: "
            f"{selector.responses} or more"
        )
    if runtime.reuse_hidden and experiment.rollout == "vllm":
        raise ConfigError("reuse_hidden: vllm gives no hidden states, transformers does")
    refill = _refill_of(experiment, runtime)
    if refill is not None:
        experiment = experiment.model_copy(update={"refill": refill.reference})
    for rule in (selector, refill):
        if experiment.population != "sampled" and rule is not None and rule.parts:
            raise ConfigError(
                f"population: {experiment.population!r} is not accepted with the expression "
                f"{rule.reference!r}, whose words normalise over the tokens that may be kept"
            )
    panel = make_panel(runtime.shadow, selector, runtime.log_signals)
    points_to = {
        "selector": selector.code_sha256(),
        **({} if refill is None else {"refill": refill.code_sha256()}),
        "teacher": content_sha256(pair.teacher, pair.teacher_revision),
        "student": content_sha256(pair.student, pair.student_revision),
        **_data_hashes(experiment, prompts),
    }
    read = (*selector.needs, *(() if refill is None else refill.needs))
    read += context_needs(experiment.objective)
    if not REWORDED.isdisjoint((*read, *runtime.log_signals)):
        prompts.check_rewordings()
    if experiment.reference != "student":
        if REFERENCE_SIGNALS.isdisjoint((*read, *runtime.log_signals)):
            raise ConfigError(
                f"reference: {experiment.reference!r} is not accepted with selector "
                f"{selector.name!r} and objective {experiment.objective}, which compare with no "
                "third model"
            )
        points_to["reference"] = content_sha256(experiment.reference)
    identity = {"experiment": identity_of(experiment), "points_to": points_to}
    identity |= _later_versions(experiment)
    if "reward_B" in read and isinstance(prompts, PromptFile):
        identity["verdicts"] = equality.VERSION  # of the responses during training
    name = f"{slug(experiment.selector)}-keep{slug(keep_name(experiment.keep))}"
    name += f"-s{experiment.seed}"
    run_id = f"{name}-{digest8(identity)}"
    folder = RunFolder(runtime.runs_dir / run_id)
    return Plan(experiment, selector, pair, prompts, points_to, run_id, folder, panel, of_pair)


def open_settings(experiment: Experiment) -> dict[str, Any]:
    """The named pair's settings that this experiment leaves open and that are not the defaults;
    none where it is a whole record.

    Raises ConfigError where one does not go with what was given.
    """
    given = experiment.model_fields_set
    if given >= FIRST_FIELDS:
        return {}
    found = {
        name: value
        for name, value in settings_of(experiment).items()
        if name not in given and value != getattr(experiment, name)
    }
    if not found:
        return {}
    own = Experiment.parse({**{name: getattr(experiment, name) for name in given}, **found})
    return {name: getattr(own, name) for name in found}


def with_pair_settings(experiment: Experiment) -> Experiment:
    """The experiment with what its pair says of all that was not given."""
    return experiment.model_copy(update=open_settings(experiment))


def of_pair_text(of_pair: Mapping[str, Any]) -> str:
    """Settings that are the pair's: learning_rate 1e-06, steps 200."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in of_pair.items())


def setting_text(value: Any) -> str:
    """A setting as a flag takes it; of several, one after another."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_objective(experiment: Experiment, selector: Selector) -> None:
    """Raise ConfigError where an objective that selects for itself has a rule beside it."""
    if experiment.objective not in SELECT_THEMSELVES:
        return
    if selector.kind == "weight" or selector.abstains or experiment.keep != 1:
        raise ConfigError(
            f"objective: {experiment.objective} selects its tokens itself and is not accepted with "
            f"selector {selector.name!r} at keep={experiment.keep}: use --selector full"
        )


def _refill_of(experiment: Experiment, runtime: Runtime) -> Selector | None:
    """The rule that fills responses which keep nothing; None for the run's own. Raises ConfigError
    for one that cannot.
    """
    if experiment.refill == "own":
        return None
    refill = get_selector(experiment.refill)
    why = None
    if refill.kind == "weight" or refill.sets_keep or refill.has_memory or refill.abstains:
        why = "it is no plain score: weights, budgets of their own, memories and rules that abstain"
    elif refill.keep is not None:
        why = "it keeps every token"
    elif experiment.min_keep_per_response == 0:
        why = "with min_keep_per_response 0 nothing is filled: give 1 or more"
    elif runtime.shadow or runtime.token_bank:
        why = "with shadow or token_bank, whose rules each fill by their own score"
    if why is not None:
        raise ConfigError(f"refill: {experiment.refill!r} is not accepted: {why}")
    return refill


def _data_hashes(experiment: Experiment, prompts: PromptSource) -> dict[str, Any]:
    """Hashes of the data files; nothing where the experiment reads none.

    A file that is not here is "missing": such a plan can be listed, not run.
    """
    found: dict[str, Any] = {}
    if (sha256 := prompts.sha256()) is not None:
        found["prompts"] = sha256
    tasks = [task_settings(task).data for task in experiment.eval_tasks]
    sets = {name for name in tasks if name} | set(evaluation_sets(experiment))
    if sets:
        found["data"] = {name: data_sha256(name) or "missing" for name in sorted(sets)}
    return found


def _later_versions(experiment: Experiment) -> dict[str, Any]:
    """Versions of the engine and of tasks after their first, which no id names."""
    found: dict[str, Any] = {}
    if provenance.ENGINE_VERSION > 1:
        found["engine_version"] = provenance.ENGINE_VERSION
    versions = {task: task_settings(task).version for task in experiment.eval_tasks}
    if later := {task: version for task, version in versions.items() if version > 1}:
        found["task_versions"] = later
    return found


def identity_of(experiment: Experiment) -> dict[str, Any]:
    """What names a run: every field, but a local pair or rule by its content, not its path."""
    values = experiment.model_dump(mode="json")
    if Path(experiment.reference).is_dir():
        values["reference"] = "local"
    if Path(experiment.pair).is_dir() or (experiment.teacher and experiment.student):
        values["pair"] = "local"
    for side in ("teacher", "student"):
        if side in values and Path(values[side]).is_dir():
            values[side] = "local"
    if Path(experiment.prompts).is_file():
        values["prompts"] = "local"
    for name in ("selector", "refill"):
        if name in values:
            values[name] = _without_place(values[name])
    return values


def _without_place(selector: str) -> str:
    """A rule's reference, its files by name: what they hold is in its hash."""
    place, _, function = selector.rpartition(":")
    if is_expression(selector):
        return re.sub(r"[^\s(),]*/(?=[^/\s(),]+\.py:)", "", selector)
    return f"{Path(place).name}:{function}" if place.endswith(".py") else selector


def _settle_keep(experiment: Experiment, selector: Selector) -> Experiment:
    """A rule that spends no budget of the user's has keep 1, whatever the default is."""
    own = selector.kind == "weight" or selector.sets_keep
    fixed = 1.0 if own else selector.keep
    if fixed is None or experiment.keep == fixed:
        return experiment
    if "keep" in experiment.model_fields_set:
        raise ConfigError(
            f"keep: {experiment.keep} is not accepted with selector {selector.name!r}, "
            + (
                "which sets its own"
                if own or selector.abstains
                else f"which always trains on keep={fixed:g} of the tokens"
            )
        )
    return experiment.model_copy(update={"keep": fixed})


def slug(selector: str) -> str:
    """A selector's name, or an expression, as part of a folder's name."""
    is_joined = is_expression(selector)
    text = re.sub(r"[^\s(),]*:", "", selector) if is_joined else selector.rpartition(":")[2]
    return re.sub(r"[^\w.-]+", "-", text).strip("-")[:60]


def prompt_report(experiment: Experiment, runtime: Runtime) -> dict[str, Any]:
    """What becomes of the experiment's prompt file, through the student's tokenizer and template.

    Raises ConfigError for prompts that come from no file.
    """
    plan = make_plan(experiment, runtime)
    tokenizer = load_tokenizer(plan.pair.student, plan.pair.student_revision)
    prompts = plan.prompts.prepare(tokenizer, pair_chat(plan.pair, tokenizer))
    if not isinstance(prompts, FilePrompts):
        raise ConfigError(f"prompts: {experiment.prompts!r} is generated and needs no check")
    return prompts.report.to_json()
