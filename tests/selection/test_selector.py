"""A selector: its parameters, and a rule that breaks its contract named."""

import pytest
import torch

from bench import get_selector, selector
from bench.core.errors import ConfigError
from bench.selection.registry import SelectorError
from bench.selection.selector import Selector, source_of

pytestmark = pytest.mark.usefixtures("registry")


def test_parameters_are_parsed_from_text_in_the_type_of_their_default(rule_file):
    name = f"{rule_file}:my_rule"
    assert get_selector(name).parameters() == {
        "power": 2.0,
        "flip": False,
        "top": 3,
        "mode": "a",
    }
    assert get_selector(name).params == get_selector(name).parameters()
    params = get_selector(name, power="0.5", flip="true", top="7", mode="b").params
    assert params == {"power": 0.5, "flip": True, "top": 7, "mode": "b"}
    assert [type(value) for value in params.values()] == [float, bool, int, str]
    assert get_selector(name, power=1).params["power"] == 1.0
    assert get_selector("teachability_released", floor="1e-6").params == {"floor": 1e-6}


def test_a_parameter_reaches_the_rule(rule_file, signals):
    score_BT = get_selector(f"{rule_file}:my_rule", power="0.5", flip="True")(signals)
    assert torch.equal(score_BT, -(signals.student_entropy_BT**0.5))


@pytest.mark.parametrize(
    "wrong", [{"power": "two"}, {"flip": "yes please"}, {"top": "2.5"}, {"top": 2.5}, {"power": ""}]
)
def test_a_parameter_of_the_wrong_type_is_named(rule_file, wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ConfigError) as caught:
        get_selector(f"{rule_file}:my_rule", **wrong)
    assert key in str(caught.value) and repr(value) in str(caught.value)


def test_an_unknown_parameter_lists_the_known_ones(rule_file):
    with pytest.raises(ConfigError, match="'alpha' is not a parameter of 'my_rule'.*flip.*power"):
        get_selector(f"{rule_file}:my_rule", alpha=0.5)
    with pytest.raises(ConfigError, match="'alpha' is not a parameter of 'entropy'.*none"):
        get_selector("entropy", alpha=0.5)


def test_a_parameter_without_a_default_must_be_given(signals):
    @selector("strict")
    def strict(signals, alpha):
        return signals.uniform_BT * alpha

    with pytest.raises(ConfigError, match="'strict' needs alpha"):
        get_selector("strict")
    assert torch.equal(get_selector("strict", alpha=2)(signals), signals.uniform_BT * 2)


BROKEN = {
    "wrong_shape": lambda s: s.uniform_BT[:, :-1],
    "one_number_a_row": lambda s: s.uniform_BT.sum(1),
    "integers": lambda s: s.position_BT,
    "booleans": lambda s: s.mask_BT,
    "nan": lambda s: s.uniform_BT * torch.nan,
    "a_list": lambda s: s.uniform_BT.tolist(),
    "numpy": lambda s: s.uniform_BT.numpy(),
    "nothing": lambda s: None,
    "undeclared": lambda s: -s.student_entropy_BT,
    "undeclared_norm": lambda s: s.norm_q05(s.forward_kl_BT),
    "undeclared_topk": lambda s: s.student_topk_logprob_BTK[..., 0],
    "misspelt": lambda s: s.student_entropy,
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_a_rule_that_breaks_its_contract_is_named(case, signals):
    selector("broken", needs=("jsd_BT",))(BROKEN[case])
    with pytest.raises(SelectorError, match="selector 'broken'"):
        get_selector("broken")(signals)


def test_a_single_nan_under_the_mask_is_refused_and_any_off_it_is_not(signals):
    hurt = {}

    @selector("hurt")
    def hurt_rule(signals):
        score_BT = signals.uniform_BT.clone()
        score_BT[hurt["at"]] = torch.nan
        return score_BT

    hurt["at"] = ~signals.mask_BT
    assert get_selector("hurt")(signals).isnan().sum() == (~signals.mask_BT).sum()
    hurt["at"] = (2, 6)
    with pytest.raises(SelectorError, match="'hurt' returned 1 NaN of 26"):
        get_selector("hurt")(signals)


def test_minus_infinity_is_a_score_but_no_weight(signals):
    def never(signals):
        return signals.uniform_BT.masked_fill(signals.position_BT == 0, -torch.inf)

    selector("score", abstains=True)(never)
    assert get_selector("score")(signals)[0, 0] == -torch.inf
    for bad in (-torch.inf, torch.inf, -1e-9):
        selector("weight", kind="weight")(lambda s, bad=bad: torch.full_like(s.uniform_BT, bad))
        with pytest.raises(SelectorError, match="'weight'.*weights"):
            get_selector("weight")(signals)


def test_signals_that_were_not_computed_are_named(signals):
    with pytest.raises(SelectorError, match="'tip' needs reverse_kl_BT"):
        get_selector("tip")(signals.only(["student_entropy_BT"]))


def test_scores_carry_no_gradient(signals):
    weight = torch.ones((), requires_grad=True)

    @selector("learned")
    def learned(signals):
        return signals.uniform_BT * weight

    assert not get_selector("learned")(signals).requires_grad


@pytest.mark.parametrize(
    "needs, cost",
    [
        ((), "no teacher"),
        (("student_entropy_BT",), "no teacher"),
        (("reward_B", "group_B"), "no teacher"),
        (("teacher_logprob_BT",), "sampled log-probs"),
        (("teacher_topk_logprob_BTK",), "top-K"),
        (("teacher_topk_logprob_BTK", "teacher_logprob_BT"), "top-K"),
        (("forward_kl_BT",), "full vocabulary"),
        (("forward_kl_BT", "teacher_logprob_BT"), "full vocabulary"),
        (("gain_BT",), "extra pass"),
        (("gain_BT", "forward_kl_BT"), "extra pass"),
    ],
)
def test_the_cost_is_that_of_the_dearest_signal(needs, cost):
    assert Selector("x", lambda signals: None, needs, "score").cost == cost


def with_docstring_one(signals):
    """Keep x."""
    return signals.uniform_BT


def with_docstring_two(signals):
    """Keep y: another text."""
    return signals.uniform_BT


def with_another_body(signals):
    """Keep x."""
    return -signals.uniform_BT


def test_code_is_told_by_its_body_and_not_by_its_docstring():
    """It is in the run id of what is no file of its own."""
    one, two, other = (
        source_of(rule).partition(":")[2]
        for rule in (with_docstring_one, with_docstring_two, with_another_body)
    )
    assert one == two != other and "uniform_BT" in one
