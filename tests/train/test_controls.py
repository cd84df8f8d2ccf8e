"""Controls: masks and responses of the student before training, one class of stops, the drift."""

import numpy as np
import pytest
import torch
from steps import run_steps, same, trainer, weights

from bench.core.config import Experiment
from bench.core.errors import ConfigError
from bench.core.sampling import EXCLUDED_LOGIT, Vocabulary, sample_tokens
from bench.train.displacement import displacement

STOPS = tuple(range(0, 657, 11))
FAST = {"learning_rate": 3e-3, "steps": 3, "stop_ids": STOPS, "selector": "entropy", "keep": 0.3}


def kept(found) -> list[torch.Tensor]:
    """The selections of the trainer's steps."""
    inner, out = found.select, []

    def select(*given):
        out.append(inner(*given))
        return out[-1]

    found.select = select
    run_steps(found)
    return [selection.selected_BT for selection in out]


@pytest.mark.parametrize("name", ["score_model", "rollout_model", "stop_class"])
def test_a_control_is_that_of_its_definition(tmp_path, name):
    """score_model, rollout_model and stop_class each change a run, and as they say."""
    value = {"stop_class": "one"}.get(name, "initial")
    plain = trainer(tmp_path / "a", **FAST)
    other = trainer(tmp_path / "b", **FAST, **{name: value})
    kept(plain), kept(other)
    assert not same(weights(plain), weights(other))


def test_masks_scored_by_the_initial_student_are_its_own(tmp_path):
    """At rate 0 nothing moves, so both are equal; else the mask is what θ₀ scores."""
    found = trainer(tmp_path, **FAST, score_model="initial")
    initial = trainer(tmp_path / "still", **FAST)  # never stepped: θ₀
    samples, inner = [], found.rollout

    def rollout(step):
        samples.append(inner(step))
        return samples[-1]

    found.rollout = rollout
    masks = kept(found)
    assert not same(weights(found), weights(initial))
    for step, (sample, mask_BT) in enumerate(zip(samples, masks, strict=True)):
        scored = initial.score(sample, ("student_entropy_BT",))
        signals = initial.joined(sample, step, scored, (), initial.student)
        assert torch.equal(initial.select(signals, sample, step).selected_BT, mask_BT)


def test_offline_responses_are_those_of_a_student_that_never_trains(tmp_path):
    offline = trainer(tmp_path / "a", **FAST, rollout_model="initial")
    still = trainer(tmp_path / "b", **FAST)
    live = trainer(tmp_path / "c", **FAST)
    for step in range(3):
        expected = still.rollout(step)
        assert torch.equal(offline.rollout(step).sequence_BL, expected.sequence_BL)
        offline.step(step), live.step(step)
    assert not torch.equal(live.rollout(2).sequence_BL, expected.sequence_BL)
    assert not same(weights(offline), weights(still))


def test_offline_responses_are_refused_where_they_bias_the_gradient():
    with pytest.raises(ConfigError, match="rollout_model: 'initial' is not accepted with obj"):
        Experiment.parse({"rollout_model": "initial", "objective": "sampled_reverse_kl"})


def test_a_control_outlives_a_resume(tmp_path):
    """θ₀ is the pair's student, not that of the checkpoint."""
    from bench.core.progress import open_progress
    from bench.core.stopping import StopRequest
    from bench.train.loop import train

    def ended(folder, stops_after):
        values = {**FAST, "score_model": "initial", "rollout_model": "initial"}
        one = trainer(folder, {"checkpoint_every": 1}, **values)
        if stops_after:
            one.experiment = one.experiment.model_copy(update={"steps": stops_after})
            with open_progress("off") as progress:
                train(one, progress, StopRequest(), lambda step: {})
            one = trainer(folder, {"checkpoint_every": 1}, **values)
        with open_progress("off") as progress:
            train(one, progress, StopRequest(), lambda step: {})
        return weights(one)

    assert same(ended(tmp_path / "a", 0), ended(tmp_path / "b", 2))


# --- one class of stop tokens --------------------------------------------------------------------


def test_one_class_has_the_sum_of_its_probabilities_and_a_gradient_for_each():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double()
    logits.requires_grad_()
    vocabulary = Vocabulary(8, (7,), stop_class=(1, 4, 6))
    p = vocabulary.cut(logits).softmax(-1)
    plain = Vocabulary(8, (7,)).cut(logits).softmax(-1)
    torch.testing.assert_close(p[:, 1], plain[:, [1, 4, 6]].sum(-1))
    assert not p[:, [4, 6, 7]].any()
    torch.testing.assert_close(p[:, [0, 2, 3, 5]], plain[:, [0, 2, 3, 5]])
    (gradient,) = torch.autograd.grad(p[:, 1].log().sum(), logits)
    assert gradient[:, [1, 4, 6]].all() and not gradient[:, 7:].any()
    assert vocabulary.standing_for(torch.tensor([0, 4, 6, 1, 5])).tolist() == [0, 1, 1, 1, 5]
    token, _ = sample_tokens(logits.detach().float(), torch.rand(5), vocabulary, 1.0)
    assert set(token.tolist()).isdisjoint({4, 6, 7})
    assert EXCLUDED_LOGIT < -1e3


def test_a_class_of_stops_ends_responses_on_its_first_and_both_models_agree(tmp_path):
    found = trainer(tmp_path, **{**FAST, "selector": "full", "keep": 1.0}, stop_class="one")
    sample = found.rollout(0)
    ended = [i for i, reason in enumerate(sample.finish_reason_B) if reason == "stop"]
    assert ended
    for row in ended:
        last = sample.length_B[row] - 1
        assert sample.token_BT[row, last] == min(STOPS) and sample.mask_BT[row, last]
    scored = found.score(sample, ("student_logprob_BT", "teacher_logprob_BT"))
    assert all(torch.isfinite(value).all() for value in scored.values.values())


def test_a_class_of_one_is_refused(tmp_path):
    from bench.run.run_experiment import run_experiment

    one = trainer(tmp_path, steps=1)
    values = one.experiment.model_copy(update={"stop_class": "one"})
    with pytest.raises(ConfigError, match="stop_class: 'one' is not accepted: of the stop tokens"):
        run_experiment(values, one.runtime)


# --- what an update moved ------------------------------------------------------------------------


@pytest.mark.parametrize("values", [
    {}, {"weight_decay": 0.5}, {"gradient_clip": 0.01}, {"lora": 2},
    {"schedule": "linear", "warmup_steps": 1},
])  # fmt: skip
def test_the_displacement_is_the_distance_of_the_weights(tmp_path, values):
    found = trainer(tmp_path, **{**FAST, **values})
    before = weights(found)
    for step in range(3):
        line = found.step(step)
        after = weights(found)
        moved = torch.cat([(after[n] - before[n]).flatten() for n in after]).norm()
        np.testing.assert_allclose(line["displacement"], float(moved), rtol=2e-4)
        before = after


def test_the_displacement_before_any_step_is_nothing(tmp_path):
    assert displacement(trainer(tmp_path, steps=1).setup.optimizer) == 0


def test_the_drift_is_how_much_of_the_mask_the_initial_student_shares(tmp_path):
    found = trainer(tmp_path / "a", {"drift_every": 2}, **FAST)
    plain = trainer(tmp_path / "b", **FAST)
    lines, others = run_steps(found), run_steps(plain)
    assert same(weights(found), weights(plain))  # it changes nothing of the run
    assert lines[0]["overlap_with_initial"] == 1.0
    assert "overlap_with_initial" not in lines[1]
    assert 0 < lines[2]["overlap_with_initial"] < 1
    assert [line["loss"] for line in lines] == [line["loss"] for line in others]
    frozen = trainer(tmp_path / "c", {"drift_every": 1}, **FAST, score_model="initial")
    assert [line["overlap_with_initial"] for line in run_steps(frozen)] == [1.0] * 3


def test_what_cannot_go_together_is_said(tmp_path):
    with pytest.raises(ConfigError, match="drift_every: not accepted with selector 'adakd'"):
        trainer(tmp_path, {"drift_every": 1}, selector="adakd")
    with pytest.raises(ConfigError, match="shadow, token_bank: not accepted with score_model"):
        trainer(tmp_path, {"shadow": ("random",)}, score_model="initial")
    with pytest.raises(ConfigError, match="drift_every: not accepted with objective opsa"):
        trainer(tmp_path, {"drift_every": 1}, selector="full", objective="opsa")
    with pytest.raises(ConfigError, match="responses_per_prompt: 1 is not accepted with selector"):
        trainer(tmp_path, selector="problem")
    trainer(tmp_path, selector="problem", responses_per_prompt=2)
