"""The training loop: equal experiments give equal numbers, whatever is cut or interrupted."""

import pytest
import torch
from small_pair import pair_folder
from steps import (
    QUIET,
    SMALL,
    experiment,
    run_steps,
    same,
    trainer,
    weights,
)

from bench.core.config import Runtime
from bench.core.randomness import keyed_uniform
from bench.run.run_experiment import run_experiment
from bench.train.metrics import Timer


def test_the_same_experiment_gives_the_same_numbers_to_the_last_bit(tmp_path):
    one, other = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    first, second = run_steps(one), run_steps(other)
    for line, again in zip(first, second, strict=True):
        for name in ("loss", "grad_norm", "signals", "trained_tokens", "response_length"):
            assert line[name] == again[name]
    assert same(weights(one), weights(other))


@pytest.mark.parametrize(
    "selector", ["random", "entropy", "teachability", "abs_gap", "tip", "first"]
)
@pytest.mark.parametrize("normalize", ["selected", "per_response"])
def test_every_selector_at_keep_1_is_plain_distillation(tmp_path, selector, normalize):
    plain = trainer(tmp_path / "full", selector="full", normalize=normalize, steps=2)
    other = trainer(tmp_path / "other", selector=selector, keep=1.0, normalize=normalize, steps=2)
    losses = [line["loss"] for line in run_steps(plain)]
    assert [line["loss"] for line in run_steps(other)] == losses
    assert same(weights(plain), weights(other))


def test_memory_settings_change_neither_selection_nor_numbers(tmp_path):
    whole = trainer(tmp_path / "a", selector="teachability", keep=0.3)
    pieces = trainer(
        tmp_path / "b", {"micro_batch": 2, "rollout_batch": 4, "logit_chunk": 2000},
        selector="teachability", keep=0.3,
    )  # fmt: skip
    for one, other in zip(run_steps(whole), run_steps(pieces), strict=True):
        assert other["trained_tokens"] == one["trained_tokens"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_random_numbers_and_ties_are_keyed_by_step_and_response(tmp_path, monkeypatch):
    found, seen = trainer(tmp_path, selector="random"), []

    def select(score_BT, mask_BT, **settings):
        seen.append((score_BT.clone(), settings["step"], settings["row_key_B"], settings["seed"]))
        return mask_BT

    monkeypatch.setattr("bench.train.trainer.select_tokens", select)
    run_steps(found)
    assert [step for _, step, _, _ in seen] == [0, 1, 2]
    for score_BT, step, keys, seed in seen:
        assert keys[0] == f"arithmetic-train-{6 * step}/0"
        expected_BT = keyed_uniform(seed, "selector", step, keys, tuple(score_BT.shape))
        assert torch.equal(score_BT, expected_BT)


def test_what_is_logged_cannot_change_the_run(tmp_path):
    plain = trainer(tmp_path / "a", selector="random")
    logged = trainer(tmp_path / "b", {"log_signals": ("forward_kl_BT",)}, selector="random")
    one, other = run_steps(plain), run_steps(logged)
    assert one[0]["signals"] == {}
    assert other[0]["signals"]["forward_kl_BT"]["all"] > 0
    assert [line["trained_tokens"] for line in one] == [line["trained_tokens"] for line in other]
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other])


def test_the_budget_is_spent_over_the_whole_batch(tmp_path):
    found = trainer(tmp_path, selector="entropy", keep=0.13)
    for line in run_steps(found):
        assert line["trained_tokens"] == -(-13 * line["sampled_tokens"] // 100)
        assert line["realised_keep"] == line["trained_tokens"] / line["sampled_tokens"]


def test_only_what_is_needed_is_scored_by_the_teacher(tmp_path):
    cheap = trainer(tmp_path / "a", selector="entropy", keep=0.1)
    dear = trainer(tmp_path / "b", selector="forward_kl", keep=0.1)
    run_steps(cheap), run_steps(dear)
    assert cheap.totals.scored == cheap.totals.trained
    assert dear.totals.scored == dear.totals.sampled


def test_a_minimum_per_response_raises_the_realised_keep(tmp_path):
    found = trainer(tmp_path, selector="first", keep=0.01, min_keep_per_response=2)
    for line in run_steps(found):
        assert line["trained_tokens"] >= 12
        assert line["realised_keep"] > 0.01


def test_the_learning_curve_is_measured_when_asked_for_and_changes_nothing(tmp_path):
    plain = run_experiment(experiment(), Runtime(runs_dir=tmp_path / "a", **QUIET))
    curved = run_experiment(
        experiment(eval_every=2, curve_items=4), Runtime(runs_dir=tmp_path / "b", **QUIET)
    )
    assert [point["step"] for point in curved.curve] == [2]
    assert "tiny_math_tune" in curved.curve[0]
    assert plain.curve == []
    assert curved.scores == plain.scores and curved.tokens == plain.tokens


def test_seconds_of_a_curve_are_counted_once(tmp_path, monkeypatch):
    now = iter(range(10_000))
    monkeypatch.setattr("bench.run.evaluations.perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(
        "bench.train.loop.perf_counter", lambda: 0.0
    )  # the loop itself takes no time
    record = run_experiment(
        experiment(eval_every=1, curve_items=2), Runtime(runs_dir=tmp_path, **QUIET)
    )
    # One second each: untrained, teacher, trained, and three points of the curve inside the loop.
    assert record.seconds["evaluate"] == 6.0
    assert record.seconds["total"] == 6.0 - 3.0


def test_the_papers_preset_and_bfloat16_run(tmp_path):
    from bench.core.presets import experiment_from

    values = {"pair": str(pair_folder()), **SMALL, "dtype": "bfloat16", "steps": 2}
    paper = experiment_from(values, "paper")
    assert (paper.objective, paper.normalize, paper.ties, paper.min_keep_per_response) == (
        "sampled_reverse_kl", "per_response", "earlier", 1,
    )  # fmt: skip
    record = run_experiment(paper, Runtime(runs_dir=tmp_path, **QUIET))
    assert record.state == "done"
    assert record.realised_keep >= 6 * 2 / record.tokens["sampled"]


@pytest.mark.parametrize("selector", ["teachability", "jsd"])
def test_reused_hidden_states_move_no_signal_and_no_choice_but_at_the_cut(tmp_path, selector):
    values = {"selector": selector, "keep": 0.2, "prompts_per_step": 16}
    plain, reusing = (
        trainer(tmp_path / name, {"reuse_hidden": name == "reusing"}, **values)
        for name in ("plain", "reusing")
    )
    rollout, kept = plain.rollout(0), reusing.rollout(0)
    assert rollout.student_hidden_ND is None
    assert kept.student_hidden_ND.shape[0] == int(kept.mask_BT.sum())
    assert torch.equal(rollout.sequence_BL, kept.sequence_BL)
    found = []
    for one, sampled in ((plain, rollout), (reusing, kept)):
        signals, _ = one.signals(sampled, 0, Timer(one.totals.seconds, one.accelerator.device))
        found.append((signals, one.selector(signals), one.select(signals, sampled, 0).selected_BT))
    (expected, score_BT, selected_BT), (got, other_BT, chosen_BT) = found
    for name, value in expected.computed().items():
        torch.testing.assert_close(getattr(got, name), value, atol=2e-5, rtol=0)
    cut = score_BT[selected_BT].min()
    torch.testing.assert_close(other_BT[kept.mask_BT], score_BT[kept.mask_BT], atol=1e-4, rtol=0)
    moved = selected_BT != chosen_BT
    assert ((score_BT[moved] - cut).abs() <= 1e-5).all()
    assert plain.step(0)["reused_hidden"] is False
    assert reusing.step(0)["reused_hidden"] is True
