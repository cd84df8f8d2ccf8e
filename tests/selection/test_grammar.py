"""The grammar of expressions: errors point at the place, nothing is evaluated, one spelling."""

import pytest

from bench import get_selector
from bench.core.errors import ConfigError

BAD = {
    "product(forward_kl, comptibility)": ("did you mean 'compatibility'", 20),
    "prodct(forward_kl, compatibility)": ("unknown rule 'prodct'", 0),
    "product(forward_kl": ("'(' of product is not closed", 18),
    "product(forward_kl,, tip)": ("',' is not the name of a rule", 19),
    "product(a b)": ("a comma or ')' is missing before 'b'", 10),
    "product(entropy, tip) tip": ("the expression ends before this", 22),
    "product(tip)": ("something is missing; product is written product(a, b, ...)", 0),
    "product(3, tip)": ("3 is not a rule", 8),
    "bottom(entropy, tip)": ("one too many; bottom is written bottom(a)", 16),
    "split(2, entropy, tip)": ("2 is not accepted: a share between 0 and 1", 6),
    "split(entropy, 0.5, tip)": ("entropy is not a number", 6),
    "mix(0.5, entropy)": ("something is missing", 0),
    "mix(0.3, entropy, 0.7)": ("something is missing", 0),
    "mix(entropy, 0.3, tip, 0.7)": ("entropy is not a number", 4),
    "gate(entropy, tip, at=1.5)": ("at: 1.5 is not accepted", 22),
    "gate(entropy, tip, at='high')": ("at: 'high' is not a number", 22),
    "gate(entropy, tip, at=0.5, at=0.6)": ("at is given twice", 27),
    "gate(at=0.5, entropy, tip)": ("name=value comes last", 13),
    "tip(norm='rnk')": ("did you mean 'rank'", 9),
    "tip(norm=rank)": ("a number or a text in quotes is missing", 9),
    "soft_or(entropy, tip(nrm='rank'))": ("'nrm' is not a parameter of 'tip'", 25),
    "entropy(tip)": ("entropy is a rule and joins no others", 8),
    "product(entropy, tip, norm='l2')": ("norm: unknown name 'l2'", 27),
    "bottom(fire)": ("fire gives weights", 0),
    "product(entropy, 'tip')": ("'tip' is not a rule", 17),
    "product(entropy, tip;)": ("';' is not expected", 20),
    "product(entropy, __import__('os'))": ("unknown rule '__import__'", 17),
    "().__class__": ("'(' is not the name of a rule", 0),
    "product(entropy.__class__, tip)": ("'.' is not expected", 15),
}


@pytest.mark.parametrize("text", BAD)
def test_an_error_points_at_the_place(text):
    told, at = BAD[text]
    with pytest.raises(ConfigError) as caught:
        get_selector(text)
    message, shown, caret = str(caught.value).split("\n")
    assert told in message and f"at character {at + 1}" in message
    assert shown == f"  {text}" and caret == f"  {' ' * at}^"


def test_nothing_is_evaluated(monkeypatch):
    import builtins

    def forbidden(*arguments):
        raise AssertionError("evaluated")

    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    assert get_selector("soft_or(entropy, tip(norm='rank'))").name


def test_an_expression_has_one_spelling():
    for text in ("soft_or( entropy ,tip( norm = \"rank\" ), norm='q05' )",
                 "soft_or(entropy,tip(norm='rank'))"):  # fmt: skip
        assert get_selector(text).reference == "soft_or(entropy, tip(norm='rank'))"
    assert get_selector("mix(1.0, entropy, .5, first_n(n=3))").reference == (
        "mix(1, entropy, 0.5, first_n(n=3))"
    )
    assert get_selector("tip(norm='rank')").reference == "tip"
    assert get_selector("teachability_released(floor=1e-12)").reference == "teachability_released"
