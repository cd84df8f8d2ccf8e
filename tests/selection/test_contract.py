"""What every selector owes, whoever wrote it: each promise of the contract over all rules."""

import pytest
import torch

from bench import get_selector, selector_names
from bench.selection.contract import CHECKS, check

EXPRESSIONS = [
    "soft_or(entropy, teachability)",
    "product(forward_kl, compatibility)",
    "split(0.5, entropy, teachability)",
    "mix(0.3, entropy, 0.7, reverse_kl)",
    "gate(low_entropy, teachability)",
    "shuffled(teachability)",
    "shuffled(abs_gap_no_lowlow, within='response')",
    "reversed(teachability)",
    "bottom(teachability)",
    "reversed(fire)",
    "shuffled(sure)",
    "tip(norm='rank')",
    "teachability(norm='zscore')",
    "soft_or(ier, entropy, norm='rank')",
    "product(complement(entropy), normalised(adakd), norm='none')",
    "gate(correct, soft_or(rock, gate(sign_gate, tip)))",
    "bottom(adakd)",
]


@pytest.mark.parametrize("promise", CHECKS, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", [*selector_names(), *EXPRESSIONS])
def test_it_keeps_the_promise(name, promise):
    promise(lambda: get_selector(name))


@pytest.mark.parametrize("name", selector_names())
def test_a_rule_of_the_catalogue_has_a_name_a_formula_and_a_source(name):
    selector = get_selector(name)
    assert selector.name == name
    assert selector.params == {k: v for k, v in selector.parameters().items() if k != "norm"} or (
        selector.params == selector.parameters()
    )
    assert selector.formula and len(selector.source) > 10


BROKEN = {
    "nan": ("lambda s: s.student_entropy_BT * torch.nan", "NaN"),
    "undeclared": ("lambda s: s.student_entropy_BT + s.forward_kl_BT", "does not declare"),
    "unread": ("lambda s: s.uniform_BT", "declares student_entropy_BT and does not read it"),
    "padding": ("lambda s: s.student_entropy_BT - s.student_entropy_BT.mean()", "padding"),
    "in_place": ("lambda s: s.student_entropy_BT.mul_(2)", "in place"),
    "global": (
        "lambda s: s.student_entropy_BT + torch.rand(s.mask_BT.shape)",
        "signals.uniform_BT",
    ),
    "order": (
        "lambda s: s.student_entropy_BT + torch.arange(len(s.mask_BT))[:, None]",
        "order of the responses",
    ),
    "never": ("lambda s: s.student_entropy_BT.log().clamp(max=0).ceil().log()", "abstains=True"),
    "token": ("lambda s: s.student_entropy_BT * s.token_BT", "reads_sampled_token=True"),
    "infinite": ("lambda s: 1 / s.student_entropy_BT.clamp(min=0)", "+inf"),
    "gradient": ("lambda s: s.student_entropy_BT[:, :-1]", "not float"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_told_what_it_breaks_and_how(case, tmp_path):
    code, told = BROKEN[case]
    path = tmp_path / "rule.py"
    path.write_text(
        f"import torch\nfrom bench import selector\n\n"
        f'@selector("mine", needs=("student_entropy_BT",))\ndef mine(signals):\n'
        f'    """Keep what it keeps.\n\n    Source: a test.\n    """\n'
        f"    return ({code})(signals)\n"
    )
    state = torch.get_rng_state()
    broken = [finding.broken for finding in check(f"{path}:mine") if finding.broken]
    assert any(told in text for text in broken), broken
    assert case == "global" or torch.equal(torch.get_rng_state(), state)


def test_a_rule_that_forgets_its_docstring_or_hides_its_state_is_told_so(tmp_path):
    path = tmp_path / "rule.py"
    path.write_text(
        "from bench import selector\n\n"
        '@selector("mine", state={"seen": None})\ndef mine(signals, state):\n'
        '    return signals.uniform_BT, {"seen": object()}\n'
    )
    broken = "\n".join(finding.broken for finding in check(f"{path}:mine"))
    assert "not with Keep or Weight" in broken
    assert "plain values and tensors" in broken or "pickle" in broken
