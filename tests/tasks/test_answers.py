"""Answers: what is extracted, and what is equal."""

import pytest

from bench.tasks.answers import boxed_answer, is_equal, marked_answer, plain_number, tidy


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {a} and \fbox{b}", "b"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and then \boxed{unfinished", "3"),
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


def test_tolerances_are_between_numbers_alone():
    assert not is_equal("1.6", "1.61")
    assert is_equal("1.6", "1.61", relative=0.01)
    assert not is_equal("1.6", "1.62", relative=0.01)
    assert is_equal("4.2", "4.3", absolute=0.1)
    assert not is_equal("4.2", "4.31", absolute=0.1)
    assert not is_equal(r"\pi", "3.2", relative=0.05)


def test_plain_numbers():
    assert plain_number("1.5e3") == (1500, False)
    assert plain_number("3/4") == (0.75, True)
    assert plain_number("1e999999999") is None
    assert plain_number("1/0") is None
    assert plain_number("x") is None
    assert tidy(r"$\dfrac{1}{2}$.") == r"\frac{1}{2}"
