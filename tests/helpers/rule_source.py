"""The source of a rule with parameters, for files of rules."""

RULE = '''
"""Rules of a test."""

from bench import selector


@selector({name!r}, needs=("student_entropy_BT",))
def my_rule(signals, power: float = 2.0, flip: bool = False, top: int = 3, mode: str = "a"):
    """Keep tokens by a power of the entropy.

    Source: this test.
    """
    score_BT = signals.student_entropy_BT**power
    return -score_BT if flip else score_BT


def helper(signals):
    return signals.uniform_BT
'''
