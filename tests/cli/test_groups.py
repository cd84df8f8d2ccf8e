"""The groups of `--help`: every setting in one, the same ones everywhere, parsing untouched."""

import re

import pytest
from command import call

from bench.cli.app import app
from bench.cli.groups import FLAGS, SETTINGS
from bench.core.config import Experiment, Runtime
from bench.diagnose.diagnosis import Diagnosis

OF_RUNTIME = ["Place and speed", "Logging", "Output"]
OF_BOTH = ["Pair and data", "Selection", "Objective", "Optimisation", "Evaluation", *OF_RUNTIME]


def test_every_setting_is_in_one_group():
    shown = [name for names in SETTINGS.values() for name in names.split()]
    fields = [name for model in (Experiment, Runtime, Diagnosis) for name in model.model_fields]
    assert sorted(shown) == sorted([*fields, *FLAGS])


@pytest.mark.parametrize(
    "command, groups",
    [
        ("run", OF_BOTH),
        ("doctor", OF_BOTH),
        ("data check", OF_BOTH),
        ("diagnose", ["Diagnostic", *OF_BOTH]),
        ("eval", ["Parameters", *OF_RUNTIME]),
        ("sweep", ["Parameters", *OF_RUNTIME]),
        ("merge", ["Parameters"]),
    ],
)
def test_commands_with_settings_show_the_same_groups_in_one_order(capsys, command, groups):
    _, out, _ = call(capsys, *command.split(), "--help")
    assert re.findall(r"^╭─ (.*?) ─", out, re.MULTILINE) == groups


def test_flags_are_in_the_order_of_the_table(capsys):
    flags = re.findall(r"^│ (--[\w-]+)", call(capsys, "run", "--help")[1], re.MULTILINE)
    named = [name for group in OF_BOTH for name in SETTINGS[group].split()]
    assert flags == [f"--{name.replace('_', '-').removeprefix('as-')}" for name in named]


def test_a_flag_of_the_command_is_no_setting_of_the_same_name(capsys):
    out = call(capsys, "eval", "--help")[1]
    own = out[: out.index("Place and speed")]
    for flag in ("--temperature", "--max-new-tokens", "--chat", "--thinking"):
        assert f" {flag} " in own


def test_defaults_are_shown_in_words(capsys):
    out = " ".join(re.sub("[│╭╮╰╯─]", " ", call(capsys, "run", "--help")[1]).split())
    for default in ("0.05", "teachability", "60", "0.0003", "tiny_math", "False"):
        assert f"[default: {default}]" in out
    assert "[default: q_proj, k_proj," in out
    assert not {"()", "{}", "None"} & set(re.findall(r"\[default: (.*?)\]", out))


def test_settings_are_parsed_to_themselves():
    _, bound, _ = app.parse_args(["run", "--steps", "5"], exit_on_error=False, print_error=False)
    given = bound.arguments["experiment"]
    assert type(given) is Experiment
    assert (given.model_fields_set, given.steps) == ({"steps"}, 5)
