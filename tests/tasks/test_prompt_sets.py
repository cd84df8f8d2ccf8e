"""Prompt sets by name: found or told how to get, without a library of the hub."""

import subprocess
import sys

import pytest
from prompt_files import Characters, numbered, prepare, write

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.tasks.chat import Chat
from bench.tasks.prompt_sets import get_prompts, prompt_set_names


def test_names_and_missing_files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    assert prompt_set_names() == [
        "arithmetic", "dapo-math-17k", "gsm8k", "math", "deepscaler", "deepmath",
    ]  # fmt: skip
    for name in prompt_set_names()[1:]:
        source = get_prompts(Experiment(prompts=name))
        assert source.sha256() == "missing"
        with pytest.raises(ConfigError, match=r"is not here.*bench data fetch"):
            source.prepare(Characters(), Chat())
    with pytest.raises(ConfigError, match="owner--set.jsonl.*fetch owner/set"):
        prepare("owner/set")
    write(tmp_path / "owner--set.jsonl", numbered(2))
    assert prepare("owner/set").report.kept == 2
    with pytest.raises(ConfigError, match="does not exist"):
        prepare("nowhere.jsonl")
    with pytest.raises(ConfigError, match="did you mean 'deepmath'"):
        prepare("deepmaths")


def test_naming_prompts_imports_no_hub_library():
    code = "import sys, bench.tasks.prompt_sets as p; p.prompt_set_names(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"datasets", "transformers", "pandas"} & set(done.stdout.split())
