"""The groups of `--help`: which setting is shown in which, and in what order."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from cyclopts import App, Argument, ArgumentCollection, Group, Parameter
from cyclopts.help import (
    ColumnSpec,
    DefaultFormatter,
    DescriptionRenderer,
    HelpEntry,
    NameRenderer,
)

SETTINGS: dict[str, str] = {
    "Diagnostic": """update update_seeds responses samples_per_prompt positions keeps k_sweep
        selectors draws gradients""",
    "Pair and data": """pair prompts preset teacher student chat thinking instruction columns
        max_prompt_tokens decontaminate stop_ids""",
    "Selection": """selector keep selector_params k scope min_keep_per_response refill population
        ties reference score_model""",
    "Objective": "objective objective_params normalize stop_class",
    "Optimisation": """seed steps learning_rate prompts_per_step responses_per_prompt
        max_new_tokens temperature schedule warmup_steps weight_decay adam_beta1 adam_beta2
        gradient_clip dtype lora lora_alpha lora_targets rollout
        rollout_model""",
    "Evaluation": """eval_tasks eval_items eval_samples eval_every eval_temperature eval_top_p
        eval_max_new_tokens curve_tasks curve_items""",
    "Place and speed": """runs_dir rows device micro_batch micro_batch_tokens
        gradient_checkpointing offload_teacher rollout_batch eval_batch logit_chunk reuse_hidden
        checkpoint_every vllm_memory vllm_check_every""",
    "Logging": """progress log_with log_signals shadow shadow_keep shadow_every token_bank
        drift_every""",
    "Output": "as_json",
}
"""group -> what it shows: fields of Experiment, Runtime and Diagnosis, and FLAGS."""

FLAGS = ("preset", "as_json")
"""Flags of commands that are shown among the settings."""


def _columns(console: Any, options: Any, entries: Sequence[HelpEntry]) -> tuple[ColumnSpec, ...]:
    """Names and descriptions. No name is broken that fits into half of the width."""
    longest = max(len(name) for entry in entries for name in entry.names)
    usual, indent = ceil(0.35 * console.width), 2
    width = max(usual, min(longest + indent, console.width // 2))
    names = ColumnSpec(
        renderer=NameRenderer(max_width=width), style="cyclopts.name", max_width=width
    )
    return names, ColumnSpec(renderer=DescriptionRenderer(), overflow="fold")


GROUPS = {
    name: Group(name, sort_key=place, help_formatter=DefaultFormatter(column_specs=_columns))
    for place, name in enumerate(SETTINGS)
}
_PLACES = [(name, group) for group, names in SETTINGS.items() for name in names.split()]
_GROUP_OF = dict(_PLACES)
_ORDER = {name: place for place, (name, _) in enumerate(_PLACES)}


def _setting(argument: Argument) -> str | None:
    """The argument's name in the table; None for what a command declares itself."""
    if argument.keys:
        return argument.keys[0]
    return argument.field_info.name if argument.field_info.name in FLAGS else None


def in_groups(arguments: ArgumentCollection) -> ArgumentCollection:
    """The arguments of a command, each setting in its group and in the order of the table.

    A command's own flags stay where they are declared, and a command without settings as it is.
    """
    if not any(argument.keys for argument in arguments):
        return arguments
    places = []
    for argument in arguments:
        name = _setting(argument)
        if name is not None:
            group = Parameter(group=GROUPS[_GROUP_OF[name]])
            argument.parameter = Parameter.combine(argument.parameter, group)
        places.append(len(_ORDER) if name is None else _ORDER[name])
    order = sorted(range(len(arguments)), key=places.__getitem__)
    return ArgumentCollection(arguments[place] for place in order)


def default_text(value: Any) -> str | None:
    """A default in words; nothing for None and for what is empty."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or None
    return None if value is None or value == {} else str(value)


class GroupedApp(App):
    """An App whose help shows settings in groups; what it parses is an App's."""

    def assemble_argument_collection(
        self, *, default_parameter: Parameter | None = None, parse_docstring: bool = False
    ) -> ArgumentCollection:
        found = super().assemble_argument_collection(
            default_parameter=default_parameter, parse_docstring=parse_docstring
        )
        return in_groups(found) if parse_docstring else found
