"""Rows of anybody's file: which layouts are read, and what is refused in one line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_files import prepare, write

from bench.core.errors import ConfigError
from bench.tasks.row_fields import GOLD_COLUMNS, QUESTION_COLUMNS, gold_answer, question_text

GOLDS = [
    ({"answer": "72"}, "72"),
    ({"answer": 72}, "72"),
    ({"answer": 0}, "0"),
    ({"answer": 27.0}, "27.0"),
    ({"answer": "Natalia sold 48/2 = 24.\n#### 72"}, "72"),
    ({"answer": "so #### 1,072"}, "1072"),
    ({"answer": "#### 5\nor so"}, "5"),
    ({"answer": r"Thus \boxed{\frac12}."}, r"\frac12"),
    ({"answer": r"so \boxed 2"}, "2"),
    ({"answer": ["3", "5"]}, "3, 5"),
    ({"answer": ["3"]}, "3"),
    ({"answer": [3, None, 4.5]}, "3, 4.5"),
    ({"answer": [r"\boxed{7}"]}, "7"),
    ({"answer": None, "solution": r"Then \boxed{9}."}, "9"),
    ({"answer": "", "solution": r"Then \boxed{9}."}, "9"),
    ({"answer": "a long rationale\nof two lines", "solution": r"\boxed{9}"}, "9"),
    ({"reward_model": {"ground_truth": "34", "style": "rule"}}, "34"),
    ({"reward_model": {"ground_truth": None}}, ""),
    ({"reward_model": {}}, ""),
    ({"reward_model": None}, ""),
    ({"ground_truth": "4"}, "4"),
    ({"solution": "First this.\nThen that."}, ""),
    ({"solution": "x" * 3000}, ""),
    ({"solution": "5"}, "5"),
    ({"answer": []}, ""),
    ({"answer": None}, ""),
    ({"answer": b"12"}, "12"),
    ({}, ""),
]


@pytest.mark.parametrize("row, gold", GOLDS, ids=str)
def test_gold_answers_of_known_layouts_are_read(row, gold):
    assert gold_answer(row, GOLD_COLUMNS) == gold


@pytest.mark.parametrize("value", [True, {"value": 5}, [{"a": 1}], b"\xff", "\ud800"])
def test_what_is_no_answer_is_refused(value):
    with pytest.raises(ValueError):
        gold_answer({"answer": value}, GOLD_COLUMNS)


QUESTIONS = [
    {"problem": "2 + 2?"},
    {"question": b"2 + 2?"},
    {"prompt": [{"role": "user", "content": "2 + 2?"}]},
    {"prompt": {"role": "user", "content": "2 + 2?"}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}]},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"},
                                             {"type": "text", "text": ""}]}]},
    {"problem": None, "question": "2 + 2?"},
]  # fmt: skip


@pytest.mark.parametrize("row", QUESTIONS, ids=str)
def test_questions_of_known_layouts_are_read(row):
    assert question_text(row, QUESTION_COLUMNS) == "2 + 2?"


@pytest.mark.parametrize(
    "row",
    [
        {"problem": ""},
        {"problem": " \n"},
        {"problem": "\ud800 + 2?"},
        {"problem": b"\xff"},
        {"problem": 5},
        {"problem": [1, 2]},
        {"prompt": [{"role": "user", "content": None}]},
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]},
        {"prompt": [{"role": "user", "content": []}]},
        {"prompt": [{"role": "user", "content": [5]}]},
        {"prompt": [{"role": "user"}]},
        {"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]},
        {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        {"prompt": []},
        {"prompt": ["a"]},
        {"answer": "5"},
    ],
    ids=str,
)
def test_what_is_no_question_is_refused_by_row(tmp_path, row):
    try:
        path = write(tmp_path / "x.jsonl", [{"problem": "fine"}, row])
    except TypeError:  # bytes: a column of Parquet
        path = str(tmp_path / "x.parquet")
        pq.write_table(pa.Table.from_pylist([{"problem": b"fine"}, row]), path)
    with pytest.raises(ConfigError, match=r"prompts: .*: row 2: ") as raised:
        prepare(path)
    assert "\n" not in str(raised.value)


def test_answers_that_cannot_be_told_are_counted(tmp_path):
    rows = [{"problem": f"What is {n}?", **row} for n, (row, _) in enumerate(GOLDS[:8])]
    rows += [{"problem": "And this?", "solution": "Long.\nLonger."}, {"problem": "That?"}]
    report = prepare(write(tmp_path / "x.jsonl", rows)).report
    assert (report.kept, report.unanswered) == (10, 2)


def test_a_dotted_column_leads_inside(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"q": "1?", "extra_info": {"gold": "5"}}])
    found = prepare(path, columns={"question": "q", "answer": "extra_info.gold"})
    assert found.prompts[0].answer == "5"
    with pytest.raises(ConfigError, match=r"no column .extra_info.other."):
        prepare(path, columns={"question": "q", "answer": "extra_info.other"})


@pytest.mark.parametrize(
    "content, why",
    [
        (b'{"problem": "a"}\n{"problem": ', ":2: no JSON"),
        (b'{"problem": "a", "answer": ' + b"9" * 5000 + b"}", ":1: no JSON"),
        (b'{"problem": ' + b"[" * 100_000, ":1: no JSON"),
        (b"[1]\n", ":1: a row is an object"),
        (b'{"problem": "\xff"}\n', "cannot be read"),
        (b"", "has none left"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, content, why):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=why) as raised:
        prepare(str(tmp_path / "x.jsonl"))
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_and_other_line_separators_are_no_part_of_a_row(tmp_path):
    rows = [{"problem": "a\u2028b?"}, {"problem": "c\u0085d?"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "X.JSONL").write_text("\ufeff" + text, encoding="utf-8")
    assert prepare(str(tmp_path / "X.JSONL")).report.rows == 2


@pytest.mark.parametrize("name", ["./x.csv", "/data/x.txt", "../y.json"])
def test_another_kind_of_file_is_no_name_of_a_set(name):
    with pytest.raises(ConfigError, match=r"a file of prompts is .jsonl or .parquet"):
        prepare(name)


def test_a_broken_parquet_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        prepare(str(tmp_path / "x.parquet"))
    assert "\n" not in str(raised.value)
