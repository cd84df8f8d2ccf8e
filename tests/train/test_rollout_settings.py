"""Settings of prompts and responses: what the student is fed, and what it then samples."""

import json
import shutil
from itertools import combinations

import pytest
from dense_step import DenseRun
from proven_steps import STOPS
from small_pair import pair_folder
from steps import trainer

from bench.core.config import INSTRUCTION
from bench.tasks.arithmetic import make_problem, prompt_text

RESPONSES = {
    "prompts_per_step": [6, 4],
    "responses_per_prompt": [1, 3],
    "max_new_tokens": [10, 5],
    "temperature": [1.0, 0.4, 1.7],
    "seed": [0, 1],
    "stop_ids": [(), tuple(range(100)), STOPS],
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_setting_of_the_responses_is_that_of_the_reference(tmp_path, name):
    found = []
    for number, value in enumerate(RESPONSES[name]):
        values = {"stop_ids": STOPS, "objective": "forward_kl", name: value}
        own = trainer(tmp_path / str(number), **values)
        found.append(DenseRun(own.experiment, {}).responses(1))
        sample = own.rollout(1)
        got = {}
        for row, key in enumerate(sample.row_key_B):
            start, tokens = int(sample.prompt_length_B[row]), sample.token_BT[row]
            prompt = sample.sequence_BL[row, :start].tolist()
            got[key] = (prompt, tokens[: sample.length_B[row]].tolist())
        assert got == found[-1]
        assert sample.mask_BT.sum(1).tolist() == list(sample.length_B)
    for one, other in combinations(found, 2):
        assert one != other


def fed(tmp_path, **values) -> set[str]:
    """The texts that the student answers in its first step."""
    own = trainer(tmp_path, **{"prompts_per_step": 2, "max_new_tokens": 1, **values})
    sample = own.rollout(0)
    starts = zip(sample.sequence_BL.tolist(), sample.prompt_length_B.tolist(), strict=True)
    return {own.pair.tokenizer.decode(sequence[:length]) for sequence, length in starts}


QUESTIONS = [
    "What is 2 plus 3?",
    "A train leaves at noon with nine red cars and three blue ones, how many in all?",
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Two problems, the second in an evaluation set, too, with another wording of both."""
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    path = tmp_path / "own.jsonl"
    rows = [{"problem": text, "other": f"Now, {text}", "answer": "1"} for text in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = {"problem": QUESTIONS[1], "answer": "12"}
    (tmp_path / "aime25.jsonl").write_text(json.dumps(held_out) + "\n")
    return str(path)


def asked(*questions, instruction=INSTRUCTION):
    return {f"{question}\n{instruction}\n" for question in questions}


def test_prompts_and_their_settings_are_what_the_student_is_fed(tmp_path, file):
    arithmetic = {prompt_text(make_problem("train", number)) for number in range(2)}
    assert fed(tmp_path, prompts="arithmetic") == arithmetic
    assert fed(tmp_path, prompts=file) == asked(*QUESTIONS)
    other = {"question": "other", "answer": "answer"}
    assert fed(tmp_path, prompts=file, columns=other) == asked(*(f"Now, {q}" for q in QUESTIONS))
    said = asked(*QUESTIONS, instruction="Be brief.")
    assert fed(tmp_path, prompts=file, instruction="Be brief.") == said
    one = {"prompts": file, "prompts_per_step": 1, "instruction": ""}
    first = {QUESTIONS[0] + "\n"}
    assert fed(tmp_path, **one, max_prompt_tokens=30) == first
    assert fed(tmp_path, **one, decontaminate=["aime25"]) == first
    assert fed(tmp_path, **one | {"prompts_per_step": 2}, decontaminate=["none"]) == {
        question + "\n" for question in QUESTIONS
    }


TEMPLATE = """{% for message in messages %}<{{ message.content }}>{% endfor %}
{%- if enable_thinking is defined %}{{ 'slow' if enable_thinking else 'fast' }}{% endif %}"""


def test_chat_and_thinking_are_those_of_the_template(tmp_path, file):
    folder = tmp_path / "pair"
    shutil.copytree(pair_folder(), folder)
    for side in ("teacher", "student"):
        (folder / side / "chat_template.jinja").write_text(TEMPLATE)
    given = {"prompts": file, "pair": str(folder), "instruction": ""}
    for settings, start, end in [
        ({}, "<", ">"),
        ({"chat": "plain"}, "", "\n"),
        ({"chat": "template"}, "<", ">"),
        ({"chat": "template", "thinking": "on"}, "<", ">slow"),
        ({"chat": "template", "thinking": "off"}, "<", ">fast"),
    ]:
        expected = {f"{start}{question}{end}" for question in QUESTIONS}
        assert fed(tmp_path, **given, **settings) == expected
