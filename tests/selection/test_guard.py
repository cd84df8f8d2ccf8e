"""What a rule does besides returning scores is refused, or does not reach the run."""

import sys

import numpy as np
import pytest
import torch
from batch_signals import signals_of

from bench.selection.guard import odd_part
from bench.selection.selector import Selector, SelectorError


def scored(rule, make_batch, **declared):
    signals = signals_of(make_batch(seed=1, vocabulary=16))
    return Selector("own", rule, ("student_entropy_BT",), **declared)(signals), signals


def writes_mask(signals):
    signals.mask_BT[:, 0] = False
    return signals.student_entropy_BT


def writes_signal(signals):
    return signals.student_entropy_BT.neg_()


def writes_view(signals):
    signals.student_entropy_BT[0].mul_(2)
    return signals.student_entropy_BT.clone()


def writes_behind(signals):
    signals.mask_BT.numpy()[:, 0] = False
    return signals.student_entropy_BT


@pytest.mark.parametrize(
    "rule, name",
    [(writes_mask, "mask_BT"), (writes_signal, "student_entropy_BT"),
     (writes_view, "student_entropy_BT"), (writes_behind, "mask_BT")],
)  # fmt: skip
def test_a_rule_that_writes_into_a_signal_is_refused(rule, name, make_batch):
    with pytest.raises(SelectorError, match=f"'own' changed {name} in place: signals are"):
        scored(rule, make_batch)


def test_a_rule_that_works_on_a_copy_is_not(make_batch):
    found_BT, signals = scored(lambda s: s.student_entropy_BT.clone().neg_(), make_batch)
    assert found_BT.equal(-signals.student_entropy_BT)


@pytest.mark.parametrize("code", [0, 1, None])
def test_a_rule_that_leaves_the_interpreter_is_an_error(code, make_batch):
    with pytest.raises(SelectorError, match="'own' called sys.exit"):
        scored(lambda _: sys.exit(code), make_batch)


def test_what_a_rule_prints_is_no_output_of_the_command(make_batch, capsys):
    def talks(signals):
        print("hello")
        return signals.student_entropy_BT

    scored(talks, make_batch)
    assert capsys.readouterr() == ("", "hello\n")


class Own:
    """Something that torch.load would refuse."""


@pytest.mark.parametrize(
    "state, place",
    [(Own(), "state: Own"), ({"a": [1, Own()]}, r"state\['a'\]\[1\]: Own"),
     ({(1, 2): 3}, "state: a key of type tuple"), ({"s": {1, 2}}, r"state\['s'\]: set"),
     ({"n": np.float64(1.0)}, r"state\['n'\]: float64")],
)  # fmt: skip
def test_a_memory_that_no_checkpoint_could_load_is_refused(state, place, make_batch):
    rule = lambda signals, memory: (signals.student_entropy_BT, state)  # noqa: E731
    with pytest.raises(SelectorError, match=f"more than plain values and tensors .*{place}"):
        scored(rule, make_batch, state={"n": 0})


def test_a_plain_memory_is_kept(make_batch):
    state = {"n": 1, "x": [torch.ones(2), 0.5, None, "word", (True,)]}
    assert odd_part(state) is None
    rule = Selector(
        "own",
        lambda s, memory: (s.student_entropy_BT, state),
        ("student_entropy_BT",),
        state={"n": 0},
    )
    rule(signals_of(make_batch(seed=1, vocabulary=16)))
    assert rule.memory.state is state
