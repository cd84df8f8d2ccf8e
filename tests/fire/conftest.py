"""Counts what the fire tried, and says it at the end."""

import pytest
from fire_share import COUNTS, SEED, SHARE


@pytest.fixture
def counted():
    """counted("crash points"): one more case that held."""
    return lambda name, count=1: COUNTS.update({name: count})


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(COUNTS.items()))
        share = "the part of make test" if SHARE is None else f"share {SHARE}"
        terminalreporter.write_line(
            f"fire ({share}, seed {SEED}): {told}: nothing lost, nothing wrong"
        )
