"""The README says what is true: its commands parse, its targets exist, its rule runs."""

import re
import shlex
from pathlib import Path

import pytest
from small_pair import pair_folder
from test_cli import call
from test_engine import SMALL

from bench.cli import app
from bench.config import Experiment, Runtime
from bench.run import run_experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def lines(program: str) -> list[str]:
    """The README's indented command lines of a program, without their comments."""
    found = re.findall(rf"^    ({program} .*)$", README, re.MULTILINE)
    return [line.partition("  #")[0].strip() for line in found]


@pytest.mark.parametrize("line", lines("bench"))
def test_every_command_of_the_readme_parses(line):
    app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_every_make_target_of_the_readme_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in lines("make")}
    assert {"demo", "test", "lint"} <= named <= set(targets)


def test_the_demo_is_the_command_that_the_readme_names():
    assert "bench run --selector teachability --keep 0.05" in (ROOT / "Makefile").read_text()


def test_the_readmes_own_rule_runs_as_told(tmp_path):
    (code,) = re.findall(r"```python\n# my_rule.py\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 13
    rule = tmp_path / "my_rule.py"
    rule.write_text(code)
    experiment = Experiment.parse(
        {
            "pair": str(pair_folder()),
            "selector": f"{rule}:my_rule",
            "selector_params": "power=0.5",
            **SMALL,
        }
    )
    record = run_experiment(experiment, Runtime(runs_dir=tmp_path / "runs", progress="off"))
    assert record.experiment["selector_params"] == {"power": 0.5}
    assert record.run_id.startswith("my_rule-keep0.05-s0-")


def test_links_inside_the_repository_lead_somewhere():
    for target in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_headline_is_the_generated_one():
    (shown,) = re.findall(r"<!-- headline -->\n(.*)<!-- /headline -->", README, re.DOTALL)
    assert shown == (ROOT / "results" / "headline.md").read_text()


def test_the_committed_results_are_those_of_the_rows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, _, err = call(capsys, "leaderboard", "results/rows.jsonl", "--out", "results", "--check")
    assert (code, err) == (0, "")
