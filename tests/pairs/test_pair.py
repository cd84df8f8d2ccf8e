"""The pairs: their names, what they declare, and that the sweeps of the real ones are theirs."""

import re
import tomllib
from pathlib import Path

import pytest
from command import call

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.pairs.pair import Pair, get_pair, pair_names, pair_of

ROOT = Path(__file__).parents[2]
HUB = [name for name in pair_names() if not name.startswith("tiny-")]


def test_the_pairs_are_those_of_the_protocol():
    assert [(get_pair(name).student, get_pair(name).teacher) for name in HUB] == [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-14B"),
        ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-4B-Instruct-2507"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-14B-Instruct"),
        ("Qwen/Qwen2.5-3B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        ("Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-7B"),
    ]


@pytest.mark.parametrize("name", HUB)
def test_a_hub_pair_says_all_that_a_run_depends_on(name):
    pair = get_pair(name)
    for revision in (pair.teacher_revision, pair.student_revision):
        assert re.fullmatch("[0-9a-f]{40}", revision or "")
    assert pair.summary and pair.source
    assert pair.stop_ids["student"] == pair.stop_ids["teacher"]
    assert pair.chat in ("template", "plain")
    hybrid = name.startswith("qwen3") and "base" not in name
    assert pair.thinking is (False if hybrid else None)
    experiment = Experiment.parse({"pair": name, **pair.settings})
    assert experiment.learning_rate == (5e-7 if re.search(r"-0\.[56]b", name) else 1e-6)


def test_settings_given_replace_the_pairs_own():
    pair = pair_of(
        Experiment(pair="qwen3-1.7b-from-4b", thinking="on", chat="plain", stop_ids=(7, 5, 7))
    )
    assert (pair.thinking, pair.chat) == (True, "plain")
    assert pair.stop_ids == {"student": (5, 7), "teacher": (5, 7)}


def test_pairs_are_shown(capsys):
    code, out, _ = call(capsys, "pairs", "show", "qwen3-0.6b-from-4b")
    assert code == 0
    for part in ("1cfa9a7208912126459214e8b04321603b3df60c", "thinking off", "151643, 151645",
                 "--learning-rate 5e-07", "--eval-tasks aime24", "2610.11659"):  # fmt: skip
        assert part in " ".join(out.split())
    code, _, err = call(capsys, "pairs", "show", "qwen3-0.6b-from-4")
    assert code == 2 and "did you mean 'qwen3-0.6b-from-4b'" in err
    assert call(capsys, "pairs")[0] == 0


def test_stops_of_one_side_alone_are_refused():
    with pytest.raises(ConfigError, match="both 'student' and 'teacher'"):
        Pair("half", "a/b", "c/d", stop_ids={"student": (1,)})


@pytest.mark.parametrize("family", ["qwen3", "qwen2.5"])
def test_the_sweep_of_a_family_has_all_of_its_pairs(family):
    sweep = tomllib.loads((ROOT / "sweeps" / f"{family}.toml").read_text())
    blocks = [sweep, *sweep.get("also", [])]
    named = {pair for block in blocks for pair in block.get("pairs", [])}
    assert named == {name for name in HUB if name.startswith(f"{family}-")}
    assert all(block.get("preset", "paper") == "paper" for block in blocks)
    assert sweep["preset"] == "paper"
