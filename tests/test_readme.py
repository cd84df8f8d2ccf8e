"""README and guides say what is true: commands parse, links lead somewhere, the rule runs."""

import ast
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

import bench
from bench.cli.app import app
from bench.core.config import Experiment, Runtime
from bench.run.run_experiment import run_experiment

ROOT = Path(__file__).parent.parent
GUIDES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        *(ROOT / name / "README.md" for name in ("results", "selectors", "sweeps", "tests")),
        *sorted((ROOT / "bench").glob("*/README.md")),
    )
}
"""The README, and the guides beside what they are about."""
README = GUIDES["README.md"]
EVERY = "\n".join(GUIDES.values())


def lines(program: str) -> list[str]:
    """The indented command lines of a program, each once, joined and without their comments."""
    joined = re.sub(r" *\\\n +", " ", EVERY)
    found = re.findall(rf"^    ({program} .*)$", joined, re.MULTILINE)
    return list(dict.fromkeys(line.partition("  #")[0].strip() for line in found))


def launched() -> list[str]:
    """What launchers start: `bench run ...` of `accelerate launch ... -m bench run ...`."""
    started = (line.partition(" -m bench ")[2] for line in lines(".*accelerate launch"))
    return [f"bench {arguments}" for arguments in started if arguments]


def inline() -> list[str]:
    """Commands with flags that stand in a sentence."""
    found = re.findall(r"`(bench\s[^`]*--[^`]*)`", EVERY)
    return [" ".join(line.split()) for line in dict.fromkeys(found) if "--help" not in line]


@pytest.mark.parametrize("line", dict.fromkeys([*lines("bench"), *launched(), *inline()]))
def test_every_command_of_the_guides_parses(line):
    app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_the_guides_show_every_command():
    shown = {line.split()[1] for line in lines("bench")}
    assert shown == {name for name in app if not name.startswith("-")}


def test_every_make_target_of_the_guides_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {*re.findall(r"`make ([a-z]+)`", EVERY), *(line.split()[1] for line in lines("make"))}
    assert {"demo", "test", "lint"} <= named <= set(targets)


def test_the_demo_is_the_command_that_the_readme_names():
    demo = "bench run --selector teachability --keep 0.05"
    assert demo in README and demo in (ROOT / "Makefile").read_text()


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", EVERY, re.DOTALL)


@pytest.mark.parametrize("code", python_blocks())
def test_python_of_the_guides_is_python_and_imports_what_bench_offers(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert node.module == "bench"
            assert {alias.name for alias in node.names} <= set(bench.__all__)


def own_rule() -> str:
    """The rule that a guide writes in ten lines."""
    (code,) = (block for block in python_blocks() if block.startswith("# my_rule.py\n"))
    return code.partition("\n")[2]


def test_the_guides_own_rule_runs_as_told(tmp_path):
    assert len(own_rule().strip().splitlines()) <= 13
    rule = tmp_path / "my_rule.py"
    rule.write_text(own_rule())
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


def test_the_guides_own_rule_keeps_the_contract_as_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_rule.py").write_text(own_rule())
    monkeypatch.chdir(tmp_path)
    (command,) = [line for line in lines("bench") if line.startswith("bench selectors check ./")]
    code, out, err = call(capsys, *shlex.split(command)[1:])
    assert (code, err) == (0, "") and "broken" not in out
    of_runs = [line for line in lines("bench run") if "my_rule" in line and "--selector" in line]
    assert len(of_runs) >= 3
    for line in of_runs:
        place = shlex.split(line)[shlex.split(line).index("--selector") + 1]
        assert call(capsys, "selectors", "show", place)[0] == 0


def test_a_package_with_the_guides_entry_point_is_found_by_name(tmp_path):
    """The rule as an installed package: its module, and the entry point as pip writes it."""
    ((group, name, target),) = re.findall(
        r'\[project\.entry-points\."([\w.]+)"\]\n(\w+) = "([\w.]+)"', EVERY
    )
    package, module = target.split(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(own_rule())
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


def anchors(markdown: str) -> set[str]:
    """What a link may name of a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES)
def test_links_inside_the_repository_lead_somewhere(guide):
    for target in re.findall(r"\]\(([^):]+)\)", GUIDES[guide]):
        place, _, anchor = target.partition("#")
        path = (ROOT / guide).parent / place if place else ROOT / guide
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("guide", GUIDES)
def test_every_path_that_a_guide_names_is_there(guide):
    rooted = r"(?<![\w./-])(?:bench|results|selectors|sweeps|tests)/[\w./-]*\w"
    for path in re.findall(rooted, GUIDES[guide]):
        assert (ROOT / path).exists(), path


def test_the_readme_leads_to_every_guide():
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^):]+)\)", README)}
    assert set(GUIDES) - {"README.md"} <= linked


def test_the_readmes_way_through_the_files_is_there():
    steps = re.findall(r"`(\w+/\w+)`", README)
    assert len(steps) >= 13
    for step in steps:
        assert (ROOT / "bench" / f"{step}.py").is_file(), step


def test_the_readmes_rooms_are_those_of_the_layout():
    told = re.findall(r"^\| `(\w+)` \| (.+) \| ([\w ]+|–) \|$", README, re.MULTILINE)
    layout = ast.parse((ROOT / "tests" / "test_layout.py").read_text())
    (rooms,) = (
        ast.literal_eval(node.value)
        for node in layout.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_IMPORT"
    )
    assert [room for room, _, _ in told] == list(rooms)
    for room, _, may in told:
        named = {"–": set(), "all": set(rooms) - {room}}.get(may, set(may.split()))
        assert named == set(rooms[room].split()), room
    for room, meaning, _ in told:
        first_line = (ROOT / "bench" / room / "__init__.py").read_text().splitlines()[0]
        assert first_line.strip('"').rstrip(".") == meaning


def test_the_headline_is_the_generated_one():
    (shown,) = re.findall(r"<!-- headline -->\n(.*)<!-- /headline -->", README, re.DOTALL)
    assert shown == (ROOT / "results" / "headline.md").read_text()


MISMATCH = ("results/mismatch/rows.jsonl", "--out", "results/mismatch", "--claims",
            "sweeps/mismatch.toml")  # fmt: skip


RATES = ("results/rates/rows.jsonl", "--out", "results/rates", "--claims", "sweeps/rates.toml")


@pytest.mark.parametrize("rows", [(), MISMATCH, RATES])
def test_the_committed_results_are_those_of_the_rows(rows, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, _, err = call(capsys, "leaderboard", *rows, "--check")
    assert (code, err) == (0, "")
