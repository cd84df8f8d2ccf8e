"""A registry of one's own, a rule in a file, and signals of the small batch."""

import pytest
from batch_signals import signals_of
from rule_source import RULE

from bench import selector_names
from bench.selection import registry as registry_module


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, so that the rules of these tests are not seen by other files."""
    selector_names()  # discovery happens once, into the real one
    copy = dict(registry_module._REGISTRY)
    monkeypatch.setattr(registry_module, "_REGISTRY", copy)
    monkeypatch.setattr(registry_module, "_filing", copy)


@pytest.fixture
def signals(make_batch):
    return signals_of(make_batch())


@pytest.fixture
def rule_file(tmp_path):
    path = tmp_path / "my_rules.py"
    path.write_text(RULE.format(name="my_rule"))
    return path
