"""Prompt sets: unique, uncontaminated, short enough, in an order that the seed alone decides."""

import json
import subprocess
import sys

import pytest
from real_data import FOLDER, needs_data, qwen3_tokenizer

from bench.core.config import INSTRUCTION, Experiment
from bench.core.errors import ConfigError
from bench.tasks.chat import PLAIN_TEXT, Chat
from bench.tasks.contamination import Overlap, overlaps, words
from bench.tasks.maths_sets import DAPO_AFTER, DAPO_BEFORE, fetch, read_rows, strip_instruction
from bench.tasks.prompt_file import FilePrompts
from bench.tasks.prompt_sets import get_prompts, prompt_set_names


class Characters:
    """One token a character; no chat template."""

    chat_template = None
    name_or_path = "characters"

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [list(map(ord, text)) for text in texts]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(path, chat=PLAIN_TEXT, tokenizer=None, **settings) -> FilePrompts:
    experiment = Experiment(prompts=path, **settings)
    return get_prompts(experiment).prepare(tokenizer or Characters(), chat)


def numbered(count):
    return [{"problem": f"What is {number} plus one?", "answer": number + 1}
            for number in range(count)]  # fmt: skip


def test_a_file_of_ones_own_becomes_prompts(tmp_path):
    found = prepare(write(tmp_path / "own.jsonl", numbered(3)))
    assert [prompt.text for prompt in found.prompts] == [
        f"What is {number} plus one?\n{INSTRUCTION}\n" for number in range(3)
    ]
    assert [prompt.answer for prompt in found.prompts] == ["1", "2", "3"]
    plain = prepare(write(tmp_path / "own.jsonl", numbered(1)), instruction="")
    assert plain.prompts[0].text == "What is 0 plus one?\n"


def test_columns_are_named_or_found(tmp_path):
    rows = [{"Frage": "Was ist 2 + 2?", "Antwort": "4"}]
    path = write(tmp_path / "own.jsonl", rows)
    (prompt,) = prepare(path, columns={"question": "Frage", "answer": "Antwort"}).prompts
    assert (prompt.text.splitlines()[0], prompt.answer) == ("Was ist 2 + 2?", "4")
    with pytest.raises(
        ConfigError, match="row 1: no column problem or question or prompt.*Frage, A"
    ):
        prepare(path)
    with pytest.raises(ConfigError, match="no column 'Loesung'; it has Frage, Antwort"):
        prepare(path, columns={"question": "Frage", "answer": "Loesung"})
    with pytest.raises(ConfigError, match="columns: 'frage'"):
        Experiment.parse({"columns": {"frage": "Frage"}})
    with pytest.raises(ConfigError, match="columns: 'math' is a known set"):
        get_prompts(Experiment(prompts="math", columns={"question": "x"}))


def test_chat_messages_and_parquet_are_read(tmp_path):
    import pandas as pd

    path = tmp_path / "own.parquet"
    message = [{"role": "user", "content": DAPO_BEFORE + "What is 1?" + DAPO_AFTER}]
    pd.DataFrame({"prompt": [message], "answer": ["1"]}).to_parquet(path)
    (prompt,) = prepare(str(path)).prompts
    assert prompt.text == f"What is 1?\n{INSTRUCTION}\n"


def test_ids_are_of_the_problem_alone(tmp_path):
    rows = numbered(5)
    ids = {p.id for p in prepare(write(tmp_path / "a.jsonl", rows)).prompts}
    spaced = [{"question": row["problem"].upper().replace(" ", "  ")} for row in rows[::-1]]
    assert {p.id for p in prepare(write(tmp_path / "b.jsonl", spaced)).prompts} == ids
    assert len(ids) == 5


def test_repeats_leave_and_contradictions_are_counted(tmp_path):
    rows = [*numbered(3), {"problem": "what is  1 plus ONE?", "answer": 2},
            {"problem": "What is 2 plus one?", "answer": 17}]  # fmt: skip
    found = prepare(write(tmp_path / "own.jsonl", rows))
    assert [prompt.answer for prompt in found.prompts] == ["1", "2", "3"]
    report = found.report
    assert (report.rows, report.repeated, report.contradicted, report.kept) == (5, 2, 1, 3)


def test_prompts_over_the_cap_leave_whole(tmp_path):
    rows = [{"problem": "a" * length} for length in (5, 50, 6)]
    path = write(tmp_path / "own.jsonl", rows)
    found = prepare(path, instruction="", max_prompt_tokens=10)
    assert [prompt.text for prompt in found.prompts] == ["aaaaa\n", "aaaaaa\n"]
    assert (found.report.too_long, found.report.tokens["longest"]) == (1, 51)
    with pytest.raises(ConfigError, match="has none left"):
        prepare(path, max_prompt_tokens=1)


def test_every_prompt_comes_once_an_epoch_in_an_order_of_the_seed(tmp_path):
    path = write(tmp_path / "own.jsonl", numbered(10))
    found = prepare(path)
    again = prepare(write(tmp_path / "turned.jsonl", numbered(10)[::-1]))

    def ids(prompts, step, seed=0):
        return [prompt.id for prompt in prompts.draw(step, 3, seed)]

    epoch = [prompt for step in range(3) for prompt in ids(found, step)]
    assert len(set(epoch)) == 9
    following = [prompt for step in range(3, 6) for prompt in ids(found, step)]
    assert len(set(following)) == 9 and following != epoch
    assert [ids(again, step) for step in range(6)] == [ids(found, step) for step in range(6)]
    assert ids(found, 0, seed=1) != ids(found, 0)
    with pytest.raises(ConfigError, match="prompts_per_step: 11 .* has 10 prompts"):
        found.draw(0, 11, 0)


def test_contamination_is_thirteen_words_in_a_row():
    twenty = [f"w{index}" for index in range(20)]
    item = " ".join(twenty)
    run = " ".join(twenty[3:16])
    assert words(r"The $\frac{AB}{2}$-th x_1!") == ("the", "frac", "ab", "2", "th", "x", "1")
    texts = [
        f"before {run} after",
        " ".join(twenty[3:15]) + " and " + " ".join(twenty[16:]),  # twelve and four
        run.upper().replace(" ", ", "),
        "something else",
        "",
    ]
    found = overlaps(texts, {"a": ["nothing", item], "b": []})
    assert found == {
        "a": Overlap(frozenset({0, 2}), frozenset({0, 2}), frozenset({1})),
        "b": Overlap(frozenset(), frozenset(), frozenset()),
    }


def test_a_stock_phrase_is_counted_and_contaminates_nothing():
    phrase = " ".join(f"w{index}" for index in range(13))
    texts = [f"{number} {phrase}" for number in range(11)]
    own = " ".join(f"u{index}" for index in range(13))
    found = overlaps([*texts, own], {"a": [phrase, own]})["a"]
    assert found == Overlap(frozenset(range(12)), frozenset({11}), frozenset({1}))
    found = overlaps([*texts[1:], own], {"a": [phrase, own]})["a"]
    assert found.contaminated == frozenset(range(11))


def test_a_short_item_is_shared_only_as_a_whole():
    found = overlaps(["Compute sin 60.", "Compute sin 60 and cos 60"], {"a": ["compute $sin 60$"]})
    assert found["a"].sharing == frozenset({0})


def test_prompts_that_overlap_with_the_tasks_leave(tmp_path, monkeypatch):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    text = "A train leaves at noon with nine red cars and three blue ones how many in all"
    write(tmp_path / "aime25.jsonl", [{"problem": f"{text} then?", "answer": 12}])
    write(tmp_path / "aime24.jsonl", [{"problem": "Other words", "answer": 1}])
    path = write(tmp_path / "own.jsonl", [*numbered(2), {"problem": f"Riddle: {text}"}])

    def kept(**settings):
        report = prepare(path, **settings).report
        shared = {name: found["contaminated"] for name, found in report.overlapping.items()}
        return report.kept, report.contaminated, shared

    assert kept() == (3, 0, {})
    assert kept(eval_tasks=("aime25",)) == (2, 1, {"aime25": 1})
    assert kept(eval_tasks=("aime24",)) == (3, 0, {"aime24": 0})
    assert kept(decontaminate=("aime25", "aime24")) == (2, 1, {"aime25": 1, "aime24": 0})
    assert kept(eval_tasks=("aime25",), decontaminate=("none",)) == (3, 0, {})
    with pytest.raises(ConfigError, match="'gsm8k' is not here"):
        kept(decontaminate=("all",))
    with pytest.raises(ConfigError, match="did you mean 'aime25'"):
        kept(decontaminate=("aime26",))


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


def test_naming_prompts_imports_no_hub_library():
    code = "import sys, bench.tasks.prompt_sets as p; p.prompt_set_names(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"datasets", "transformers", "pandas"} & set(done.stdout.split())


DAPO_OVERLAPS = {
    "gsm8k": (0, 0, 0),
    "math500": (314, 75, 45),
    "aime24": (375, 50, 8),
    "aime25": (364, 62, 9),
    "amc23": (97, 63, 29),
    "minerva_math": (0, 0, 0),
    "olympiadbench": (107, 107, 93),
}
"""Unique DAPO problems that share 13 words in a row, those that share no stock phrase, items."""


@needs_data
def test_the_real_dapo_set_is_deduplicated_decontaminated_and_counted():
    tokenizer = qwen3_tokenizer()
    source = get_prompts(Experiment(prompts="dapo-math-17k", decontaminate=("all",)))
    found = source.prepare(tokenizer, Chat(template=True, thinking=False))
    report = found.report
    texts = [
        strip_instruction(row["prompt"][0]["content"])
        for row in read_rows(FOLDER / "dapo-math-17k.parquet")
    ]
    assert report.rows == len(texts) == 17917
    independent = {" ".join(text.casefold().split()) for text in texts}
    assert abs(report.rows - report.repeated - len(independent)) <= 1  # NFKC joins one more
    counted = {name: tuple(found.values()) for name, found in report.overlapping.items()}
    assert counted == DAPO_OVERLAPS
    assert report.kept == report.rows - report.repeated - report.contaminated - report.too_long
    assert len({prompt.id for prompt in found.prompts}) == report.kept
    assert not any("Remember to put your answer" in prompt.text for prompt in found.prompts)
    assert all(prompt.text.count(INSTRUCTION) == 1 for prompt in found.prompts)
    longest = max(len(ids) for ids in tokenizer([p.text for p in found.prompts[:500]])["input_ids"])
    assert longest <= report.longest_allowed
