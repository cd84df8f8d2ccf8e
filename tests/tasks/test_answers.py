"""Answers: what is extracted, and what is equal."""

import pytest

from bench.tasks.answers import boxed_answer, marked_answer
from bench.tasks.equality import is_equal


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {a}; no, \fbox{b}", "b"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and then \boxed{unfinished", "3"),
        (r"\boxed{1} and $\boxed{2}$.", "1, 2"),
        (r"\boxed{1}, and \boxed{1}", "1"),
        (r"\boxed{1}. Then \boxed{2}", "2"),
        (r"\boxed 2", "2"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxedx{7}", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    "text, answer",
    [
        ("#### 18", "18"),
        ("#### -1,234.", "-1234"),
        ("#### 1\nanother problem\n#### 2", "1"),
        ("####18", None),
        ("18", None),
    ],
)
def test_marked_answers(text, answer):
    assert marked_answer(text) == answer


EQUAL = [
    ("27", "27.0"),
    ("25", "025"),
    ("1000", "1,000"),
    ("1000", "1{,}000"),
    ("36", r"\$36"),
    ("145", r"145^\circ"),
    ("0.5", r"\frac{1}{2}"),
    (r"\frac{1}{3}", "0.3333333"),
    (r"\dfrac{1}{2}", r"\frac12"),
    ("4.5e33", r"4.5 \times 10^{33}"),
    ("1e-8", "10^{-8}"),
    (".0000672", "6.72e-5"),
    ("-1/3", r"-\frac{1}{3}"),
    ("50", r"50\%"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"\text{Evelyn}", "Evelyn"),
    ("3, 5, 7", "7,5,3"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    ("y = -2x", "-2x"),
    (r"\frac{1}{2n+2}", r"\frac{1}{2(n+1)}"),
    (r"2 \cos (\pi t+\pi / 3)", r"2\cos(\pi t + \frac{\pi}{3})"),
    (r"(-\infty, 0) \cup\{1\}", r"(-\infty,0) \cup \{1\}"),
]


@pytest.mark.parametrize("gold, answer", EQUAL, ids=str)
def test_equal_answers_are_equal(gold, answer):
    assert is_equal(gold, answer)


DIFFERENT = [
    ("1e-8", "2e-8"),  # math-verify alone reads 1e-8 as 1·e − 8, and rounds to six decimals
    ("6.6e-27", "1.3e-27"),
    ("1000000007", "1000000008"),
    ("12", "1 2 3"),
    (r"\frac{1}{2}", r"\frac{1}{3}"),
    ("0.333", r"\frac{1}{3}"),
    ("(1,2)", "(2,1)"),
    ("3, 5, 7", "3, 5"),
    (r"\text{Evelyn}", r"\text{Angela}"),
    ("x+1", "x-1"),
    ("5", ""),
    ("0", "1e-9"),
]


@pytest.mark.parametrize("gold, answer", DIFFERENT, ids=str)
def test_different_answers_differ(gold, answer):
    assert not is_equal(gold, answer)
