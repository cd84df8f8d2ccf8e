"""Maths sets: public schemas are read, broken files named, nothing is downloaded unless asked."""

import re
from collections import Counter

import pytest
from prompt_files import numbered, prepare, write
from real_data import FOLDER, needs_data

from bench.core.config import INSTRUCTION
from bench.core.errors import ConfigError
from bench.tasks.maths_sets import MATH_SETS, fetch, read_math_set

SCHEMAS = {
    "gsm8k": ("gsm8k-train", {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}, "2"),
    "math": (
        "math-train",
        {"problem": "1+1?", "level": "Level 1", "type": "Algebra",
         "solution": r"We get $\boxed{\frac{4}{2}}$."},
        r"\frac{4}{2}",
    ),
    "deepscaler": ("deepscaler", {"problem": "1+1?", "answer": "2", "solution": "x"}, "2"),
    "deepmath": (
        "deepmath",
        {"question": "1+1?", "final_answer": "2", "difficulty": 1.0, "topic": "x",
         "r1_solution_1": "y"},
        "2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_public_schemas_of_sets_without_a_file_here_are_read(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    stem, row, answer = SCHEMAS[name]
    write(tmp_path / f"{stem}.jsonl", [row])
    (prompt,) = prepare(name).prompts
    assert prompt.text == f"1+1?\n{INSTRUCTION}\n"
    assert prompt.answer == answer
    assert prompt.id.startswith(f"{stem}-")


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    import datasets

    asked = []

    class Rows:
        def to_parquet(self, path):
            import pandas as pd

            pd.DataFrame(numbered(2)).to_parquet(path)

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return Rows()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path / "new"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="is not here"):
        prepare("deepscaler")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        fetch("deepscaler")
    assert asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert fetch("deepscaler") == tmp_path / "new" / "deepscaler.parquet"
    assert asked == [(("agentica-org/DeepScaleR-Preview-Dataset", None), {"split": "train"})]
    assert prepare("deepscaler").report.kept == 2
    fetch("owner/set", "main", "test")
    assert asked[1] == (("owner/set", "main"), {"split": "test"})
    before = (tmp_path / "new" / "owner--set.parquet").read_bytes()
    with pytest.raises(ConfigError, match="'owner/set' is not fetched: .*owner--set.parquet' is"):
        fetch("owner/set", "main", "train")
    assert fetch("deepscaler") == tmp_path / "new" / "deepscaler.parquet" and len(asked) == 2
    assert (tmp_path / "new" / "owner--set.parquet").read_bytes() == before
    with pytest.raises(ConfigError, match="did you mean 'deepmath'"):
        fetch("deepmaths")


def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ConfigError, match="could not be fetched from 'openai/gsm8k'.*no route"):
        fetch("gsm8k")
    assert list(tmp_path.iterdir()) == []


@needs_data
def test_every_set_that_is_here_is_read_with_answers():
    here = {name: read_math_set(name) for name in MATH_SETS if (FOLDER / f"{name}.jsonl").exists()}
    assert len(here) == 7
    for name, problems in here.items():
        assert all(p.answer and p.question for p in problems), name
        assert max(Counter(p.id for p in problems).values()) == 1
    assert {p.absolute for p in here["olympiadbench"]} == {None, 0.1}
    assert all(re.fullmatch(r"-?\d+", p.answer) for p in here["amc23"] + here["aime24"])


def test_a_set_that_is_not_here_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    with pytest.raises(
        ConfigError, match="'math500' is not here.*OPD_BENCH_DATA.*data fetch math500"
    ):
        read_math_set("math500")
    with pytest.raises(ConfigError, match="did you mean 'math500'"):
        read_math_set("math50")


def test_a_broken_file_is_named_with_its_line(monkeypatch, tmp_path):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    file = tmp_path / "aime25.jsonl"
    for text, message in [
        ('{"problem": "1+1?", "answer": 2}\n{"problem": ', r"aime25.jsonl:2: no JSON"),
        ('{"problem": "1+1?"}\n', r"row 1 is not one of 'aime25'.*it has problem"),
        ('{"quest": "1+1?", "answer": 2}\n', r"row 1 is not one of 'aime25'.*problem or question"),
        ("[1]\n", r"aime25.jsonl:1: a row is an object, not list"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_math_set("aime25")
