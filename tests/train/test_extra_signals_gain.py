"""The gain that a rule may ask for: measured by an update that leaves no trace."""

import pytest
from steps import run_steps, same, trainer, weights


def test_a_measured_gain_leaves_the_run_as_it_was(tmp_path):
    settings = {"log_signals": ("forward_kl_BT",)}  # the teacher's states serve the loss in both
    plain = trainer(tmp_path / "a", settings, selector="random", schedule="linear")
    settings = {"log_signals": ("gain_BT", "forward_kl_BT")}
    measured = trainer(tmp_path / "b", settings, selector="random", schedule="linear")
    one, other = run_steps(plain), run_steps(measured)
    assert same(weights(plain), weights(measured))
    for line, again in zip(one, other, strict=True):
        assert again["loss"] == pytest.approx(line["loss"], rel=1e-6)
        assert again["learning_rate"] == line["learning_rate"]
        assert again["signals"]["gain_BT"]["all"] > 0
    assert measured.totals.clipped_steps == plain.totals.clipped_steps


def test_the_gain_is_the_divergence_that_a_full_update_takes_away(tmp_path):
    """Measured independently: a run of `full` for one step, the same tokens before and after."""
    measured = trainer(tmp_path / "a", {"log_signals": ("gain_BT",)}, selector="random", steps=1)
    gain = run_steps(measured)[0]["signals"]["gain_BT"]["all"]
    full = trainer(tmp_path / "b", selector="full", steps=1)
    sample = full.rollout(0)
    before = full.forward_kl(sample).mean()
    full.step(0)
    assert gain == pytest.approx(float(before - full.forward_kl(sample).mean()), rel=1e-4)
