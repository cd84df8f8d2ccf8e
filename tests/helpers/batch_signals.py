"""Signals of the small batch, and what a rule makes of signals."""

from bench import get_selector, signals_from_logits

K = 3


def signals_of(batch, k: int = K, **keywords):
    return signals_from_logits(**vars(batch), k=k, **keywords)


def under(signals, name, **params):
    """The rule's scores of the N tokens under the mask."""
    return get_selector(name, **params)(signals)[signals.mask_BT]
