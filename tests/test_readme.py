"""The README says what is true: its commands parse, its targets exist, its rule runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import call
from small_pair import pair_folder
from steps import SMALL

from bench.cli.app import app
from bench.core.config import Experiment, Runtime
from bench.run.run_experiment import run_experiment

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


def test_the_readmes_own_rule_keeps_the_contract_as_told(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n# my_rule.py\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my_rule.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    (command,) = [line for line in lines("bench") if line.startswith("bench selectors check ./")]
    code, out, err = call(capsys, *shlex.split(command)[1:])
    assert (code, err) == (0, "") and "broken" not in out
    for line in lines("bench"):
        if "my_rule" in line and line.startswith("bench run"):
            place = shlex.split(line)[shlex.split(line).index("--selector") + 1]
            assert call(capsys, "selectors", "show", place)[0] == 0


def test_a_package_with_the_readmes_entry_point_is_found_by_name(tmp_path):
    """The rule as an installed package: its module, and the entry point as pip writes it."""
    (code,) = re.findall(r"```python\n# my_rule.py\n(.*?)```", README, re.DOTALL)
    ((group, name, target),) = re.findall(
        r'\[project\.entry-points\."([\w.]+)"\]\n(\w+) = "([\w.]+)"', README
    )
    package, module = target.split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(code)
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "selectors", "show", "soft_or(my_rule, entropy)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "soft_or(my_rule, entropy)" in done.stdout


def test_links_inside_the_repository_lead_somewhere():
    for target in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_headline_is_the_generated_one():
    (shown,) = re.findall(r"<!-- headline -->\n(.*)<!-- /headline -->", README, re.DOTALL)
    assert shown == (ROOT / "results" / "headline.md").read_text()


@pytest.mark.parametrize("rows", [(), ("results/mismatch/rows.jsonl", "--out", "results/mismatch")])
def test_the_committed_results_are_those_of_the_rows(rows, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, _, err = call(capsys, "leaderboard", *rows, "--check")
    assert (code, err) == (0, "")
