"""What a rule may not do while it scores: write into the signals, print, exit, keep odd things.

A rule is somebody's code. What it does besides returning scores would change the run, or what the
run prints, without a word.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from torch import Tensor

from bench.selection.signals import TokenSignals


class Misdeed(Exception):
    """What a rule did; the sentence's subject is the rule."""


@contextmanager
def alone(signals: TokenSignals) -> Iterator[None]:
    """Around a rule's call: what it prints goes to standard error. Raises Misdeed where it
    leaves the interpreter or has written into a signal.
    """
    tensors = {name: value for name, value in vars(signals).items() if isinstance(value, Tensor)}
    versions = {name: _version(value) for name, value in tensors.items()}
    mask_BT = signals.mask_BT.clone()
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as stop:
        raise Misdeed(f"called sys.exit({stop.code!r})") from None
    written = [name for name, value in tensors.items() if _version(value) != versions[name]]
    if not written and not signals.mask_BT.equal(mask_BT):
        written = ["mask_BT"]
    if written:
        raise Misdeed(
            f"changed {', '.join(sorted(written))} in place: signals are read-only, change a "
            ".clone()"
        )


def _version(value: Tensor) -> int:
    """How often a tensor was written into; 0 for one that does not count."""
    return 0 if value.is_inference() else value._version


def odd_part(state: Any, place: str = "state") -> str | None:
    """Where a memory holds something that a checkpoint could not load again; None where nowhere."""
    if isinstance(state, Tensor) or type(state) in (type(None), bool, int, float, str):
        return None
    if type(state) is dict:
        items = [(f"{place}[{key!r}]", value) for key, value in state.items()]
        odd = next((key for key in state if not isinstance(key, str | int)), None)
        if odd is not None:
            return f"{place}: a key of type {type(odd).__name__}"
    elif type(state) in (list, tuple):
        items = [(f"{place}[{number}]", value) for number, value in enumerate(state)]
    else:
        return f"{place}: {type(state).__name__}"
    return next((found for name, value in items if (found := odd_part(value, name))), None)
