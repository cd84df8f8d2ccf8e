"""Experiment -> Plan: names looked up, values settled, and the run's identity. Trains nothing."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import ConfigError, Experiment, Runtime, unknown_name
from bench.evaluate import check_tasks
from bench.grammar import is_expression
from bench.keep import keep_name
from bench.models import content_sha256
from bench.pairs import Pair, get_pair
from bench.panel import Panel, make_panel
from bench.prompts import PromptSet, get_prompts
from bench.records import RunFolder, digest8
from bench.registry import Selector, get_selector
from bench.signals import EXTRA_SIGNALS, SIGNAL_NAMES

ADDED_LATER = ("reference",)
"""Fields that Experiment gained after runs had been made: at its default, such a field is no part
of a run's identity, so that the ids of older rows stay those of their experiments."""


@dataclass(frozen=True)
class Plan:
    """A checked experiment. Equal experiments on equal files give equal run ids."""

    experiment: Experiment
    selector: Selector
    pair: Pair
    prompts: PromptSet
    points_to: dict[str, Any]
    """Hashes of what the experiment names but does not hold: rule, models, tokenizers."""
    run_id: str
    folder: RunFolder
    panel: Panel
    """The rules that are shadowed; no part of the identity."""


def make_plan(experiment: Experiment, runtime: Runtime) -> Plan:
    """Check everything that can be checked before a model is loaded. Raises ConfigError."""
    pair = get_pair(experiment.pair)
    prompts = get_prompts(experiment.prompts)
    selector = get_selector(experiment.selector, **experiment.selector_params)
    experiment = _settle_keep(experiment, selector).model_copy(
        update={"selector": selector.reference, "selector_params": dict(selector.params)}
    )
    check_tasks([*experiment.eval_tasks, *experiment.curve_tasks])
    for name in runtime.log_signals:
        if name not in (*SIGNAL_NAMES, *EXTRA_SIGNALS):
            raise unknown_name("log_signals", name, (*SIGNAL_NAMES, *EXTRA_SIGNALS))
    if selector.has_memory and (runtime.shadow or runtime.token_bank):
        raise ConfigError(
            f"shadow, token_bank: not accepted with selector {selector.name!r}, which has a memory "
            "across steps: scoring it once more would move that memory"
        )
    panel = make_panel(runtime.shadow, selector)
    points_to = {
        "selector": selector.code_sha256(),
        "teacher": content_sha256(pair.teacher),
        "student": content_sha256(pair.student),
    }
    if experiment.reference != "student":
        if "reference_logprob_BT" not in (*selector.needs, *runtime.log_signals):
            raise ConfigError(
                f"reference: {experiment.reference!r} is not accepted with selector "
                f"{selector.name!r}, which compares with no third model"
            )
        points_to["reference"] = content_sha256(experiment.reference)
    identity = {"experiment": identity_of(experiment), "points_to": points_to}
    name = f"{slug(experiment.selector)}-keep{slug(keep_name(experiment.keep))}"
    name += f"-s{experiment.seed}"
    run_id = f"{name}-{digest8(identity)}"
    folder = RunFolder(runtime.runs_dir / run_id)
    return Plan(experiment, selector, pair, prompts, points_to, run_id, folder, panel)


def identity_of(experiment: Experiment) -> dict[str, Any]:
    """What names a run: every field, but a local pair or rule by its content, not its path."""
    values = experiment.model_dump(mode="json")
    for name in ADDED_LATER:
        if values[name] == Experiment.model_fields[name].default:
            del values[name]
    if Path(experiment.pair).is_dir():
        values["pair"] = "local"
    if Path(experiment.reference).is_dir():
        values["reference"] = "local"
    place, _, function = experiment.selector.rpartition(":")
    if is_expression(experiment.selector):
        values["selector"] = re.sub(r"[^\s(),]*/(?=[^/\s(),]+\.py:)", "", experiment.selector)
    elif place.endswith(".py"):
        values["selector"] = f"{Path(place).name}:{function}"
    return values


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
