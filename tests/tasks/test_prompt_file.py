"""Prompt files: unique, short enough, uncontaminated, in an order that the seed alone decides."""

import pytest
from prompt_files import numbered, prepare, write
from real_data import FOLDER, needs_data, qwen3_tokenizer

from bench.core.config import INSTRUCTION, Experiment
from bench.core.errors import ConfigError
from bench.tasks.chat import Chat
from bench.tasks.maths_sets import DAPO_AFTER, DAPO_BEFORE, read_rows, strip_instruction
from bench.tasks.prompt_sets import get_prompts


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
