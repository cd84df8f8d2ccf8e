"""Settings made in Python: one error, and help that says what each field is."""

import pytest

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError


def test_a_value_that_is_not_accepted_is_one_error_however_settings_are_made():
    with pytest.raises(ConfigError, match=r"^keep: 5 is not accepted: a fraction"):
        Experiment(keep=5)
    with pytest.raises(ConfigError, match=r"^micro_batch: 0 is not accepted"):
        Runtime(micro_batch=0)


def test_help_lists_every_field_with_its_definition():
    for settings in (Experiment, Runtime):
        for name, field in settings.model_fields.items():
            assert f"    {name} = {field.default!r}: " in settings.__doc__
