"""The arithmetic problems: splits, solutions, answers."""

import re
import subprocess
import sys

import pytest

from bench.tasks.arithmetic import (
    ITEMS,
    MAX_VALUE,
    NAMES,
    PLACES,
    extract_answer,
    make_problem,
    prompt_text,
    solution_text,
)

SPLITS = ("train", "tune", "eval")


def test_no_skeleton_of_one_split_occurs_in_another_whatever_the_seed():
    skeletons = {
        split: {make_problem(split, i, seed=seed).skeleton for seed in (0, 3) for i in range(1500)}
        for split in SPLITS
    }
    assert not skeletons["train"] & skeletons["tune"]
    assert not skeletons["train"] & skeletons["eval"]
    assert not skeletons["tune"] & skeletons["eval"]


def test_a_problem_is_a_function_of_split_index_and_seed():
    assert make_problem("train", 7, seed=2) == make_problem("train", 7, seed=2)
    assert make_problem("train", 7, seed=2).question != make_problem("train", 7, seed=3).question
    assert make_problem("train", 7, seed=2).question != make_problem("train", 8, seed=2).question


def test_the_first_problem_is_the_same_on_every_machine():
    problem = make_problem("eval", 0)
    assert problem.id == "arithmetic-eval-0"
    assert make_problem("eval", 0, seed=4).id == "arithmetic-eval-0-seed4"
    assert problem.skeleton == "54+7-16-6"
    assert problem.question == (
        "Tom has 54 jars. Tom earns 7 jars at the bank. Tom destroys 16 jars at the airport."
        " Tom returns 6 jars to Dana. How many jars does Tom have now?"
    )


def test_the_question_tells_the_skeleton():
    for index in range(300):
        problem = make_problem("train", index)
        numbers = [int(n) for n in re.findall(r"\d+", prompt_text(problem))]
        assert numbers == [problem.start, *(step.operand for step in problem.steps)]
        assert prompt_text(problem).endswith(f" {problem.name} have now?\n")
        assert 2 <= len(problem.steps) <= 4


@pytest.mark.parametrize("style", ["equation", "verb"])
def test_every_line_of_a_solution_is_true_and_ends_in_the_answer(style):
    for index in range(300):
        problem = make_problem("tune", index)
        *lines, last = solution_text(problem, [style] * len(problem.steps)).split("\n")
        value = problem.start
        for line, step in zip(lines, problem.steps, strict=True):
            if style == "equation":
                left, op, right, result, item = re.fullmatch(
                    r"(\d+)([+-])(\d+)=(\d+) (\w+)", line
                ).groups()
                assert int(left) == value
            else:
                verb, right, outcome, result, item = line.split(" ")
                assert verb == step.verb
                op = {"makes": "+", "leaves": "-"}[outcome]
            value += int(right) if op == "+" else -int(right)
            assert (value, item) == (int(result), problem.item)
            assert 0 <= value <= MAX_VALUE
        assert last == f"#### {value}" == f"#### {problem.answer}"


def test_styles_can_be_mixed_step_by_step():
    problem = make_problem("train", 0)
    styles = ["verb", "equation", "verb", "equation"][: len(problem.steps)]
    lines = solution_text(problem, styles).split("\n")
    assert lines[0][0].isalpha()
    assert lines[1][0].isdigit()
    with pytest.raises(ValueError, match="styles for"):
        solution_text(problem, ["verb"])
    with pytest.raises(ValueError, match="unknown style 'prose'"):
        solution_text(problem, ["prose"] * len(problem.steps))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12+7=19 cups\n#### 19", "19"),
        ("####19", "19"),
        ("#### 1\n#### -2\n", "-2"),
        ("#### 007", "007"),
        ("#### 19 cups", "19"),
        ("#### 19cups", None),
        ("#### 1.5", None),
        ("#### 12\n####", None),
        ("#### ", None),
        ("####\n12", None),
        ("### 12", None),
        ("", None),
    ],
)
def test_the_answer_is_the_integer_after_the_last_mark(text, answer):
    assert extract_answer(text) == answer


def test_unknown_splits_and_negative_indices_are_refused():
    with pytest.raises(ValueError, match="known are train, tune, eval"):
        make_problem("test", 0)
    with pytest.raises(ValueError, match="-1"):
        make_problem("eval", -1)


def test_words_are_distinct():
    words = (*NAMES, *ITEMS, *PLACES)
    assert len(set(words)) == len(words)


def test_problems_need_neither_torch_nor_transformers():
    code = "import sys, bench.tasks.arithmetic; print({'torch', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
