"""The training loop: equal experiments give equal numbers, whatever is cut or interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import vllm_stand_in
from safetensors import SafetensorError
from small_pair import pair_folder
from steps import (
    QUIET,
    SMALL,
    experiment,
    metrics_lines,
    run_steps,
    same,
    trainer,
    weights,
    without_costs,
)

from bench.core.config import Runtime
from bench.core.errors import BenchError, ConfigError, Stopped
from bench.core.progress import Progress
from bench.core.randomness import keyed_uniform
from bench.core.stopping import StopRequest
from bench.run.run_experiment import run_experiment
from bench.train.checkpoints import last_checkpoint
from bench.train.loop import train
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

    monkeypatch.setattr("bench.train.loop.select_tokens", select)
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


RULES = '''
import torch
from bench import selector

@selector("weighted", kind="weight", needs=("student_entropy_BT",))
def weighted(signals, power=1.0):
    """Weigh tokens by entropy."""
    return signals.student_entropy_BT.clamp(min=0) ** power

@selector("early_only", abstains=True)
def early_only(signals):
    """Keep only the first two positions."""
    return torch.where(signals.position_BT < 2, 1.0, -torch.inf)

@selector("greedy_budget")
def greedy_budget(signals):
    """Forget to say that it abstains."""
    return torch.where(signals.position_BT < 1, 1.0, -torch.inf)

@selector("broken")
def broken(signals):
    """Return NaN."""
    return signals.uniform_BT * torch.nan
'''


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "my_rules.py"
    path.write_text(RULES)
    return path


def test_weights_replace_the_budget(tmp_path, rules):
    found = trainer(tmp_path, selector=f"{rules}:weighted")
    assert found.experiment.keep == 1.0
    for line in run_steps(found):
        assert line["realised_keep"] == 1.0
        assert 1 < line["effective_sample_size"] < line["sampled_tokens"]
    flat = trainer(tmp_path, selector=f"{rules}:weighted", selector_params={"power": 0.0}, steps=1)
    plain = trainer(tmp_path, selector="full", steps=1)
    assert run_steps(flat)[0]["loss"] == pytest.approx(run_steps(plain)[0]["loss"])


def test_a_rule_that_abstains_may_spend_less(tmp_path, rules):
    found = trainer(tmp_path, selector=f"{rules}:early_only", keep=0.5)
    for line in run_steps(found):
        assert line["trained_tokens"] <= 12
    with pytest.raises(ValueError, match="only 6 have a score above -inf"):
        trainer(tmp_path, selector=f"{rules}:greedy_budget", keep=0.5).step(0)


def test_a_selector_that_returns_nan_is_named(tmp_path, rules):
    with pytest.raises(BenchError, match=r"broken' returned \d+ NaN"):
        trainer(tmp_path, selector=f"{rules}:broken").step(0)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    found = trainer(tmp_path, {"checkpoint_every": 1})
    honest = found.step

    def poisoned(step):
        if step == 2:
            with torch.no_grad():
                next(found.student.parameters())[:] = torch.nan
        return honest(step)

    found.step = poisoned
    with pytest.raises(BenchError, match=r"step 3.*(?:not finite|NaN).*step-000002"):
        train(found, Progress("off"), StopRequest(), dict)
    assert last_checkpoint(found.folder.checkpoints).step == 2
    assert len(metrics_lines(found.folder.path)) == 2


def test_stopping_finishes_the_step_and_resuming_gives_the_same_run(tmp_path):
    settings = {"steps": 4, "selector": "teachability", "schedule": "cosine", "warmup_steps": 1}
    whole = trainer(tmp_path / "a", **settings)
    train(whole, Progress("off"), StopRequest(), dict)
    stopped = trainer(tmp_path / "b", **settings)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped, match="stopped after step 1 of 4"):
        train(stopped, Progress("off"), request, dict)
    resumed = trainer(tmp_path / "b", **settings)
    train(resumed, Progress("off"), StopRequest(), dict)
    assert same(weights(whole), weights(resumed))
    assert resumed.totals.trained == whole.totals.trained
    lines = [[json.loads(line) for line in metrics_lines(t.folder.path)] for t in (whole, resumed)]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4]
    for one, other in zip(*lines, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "signals", "trained_tokens"):
            assert one[name] == other[name]


MEMORIES = {
    "adakd": {"selector_params": {"decay": 0.5, "move": 0.01}},
    "reopold": {"selector_params": {"switch_step": 2}},
    "rock": {},
    "gate(rock, soft_or(entropy, tip))": {"keep": 0.3},
    "entropy": {"keep": "cosine(0.6, 0.2)"},
    "cc": {"keep": 0.3},
    "oracle_gain": {"keep": 0.3},
}


@pytest.mark.parametrize("selector", MEMORIES)
def test_what_a_rule_carries_from_step_to_step_survives_a_stop(tmp_path, selector):
    settings = {"steps": 4, "selector": selector, **MEMORIES[selector]}
    whole = trainer(tmp_path / "a", **settings)
    train(whole, Progress("off"), StopRequest(), dict)
    stopped = trainer(tmp_path / "b", {"checkpoint_every": 1}, **settings)
    honest = stopped.step

    def killed(step):
        if step == 3:
            raise KeyboardInterrupt
        return honest(step)

    stopped.step = killed
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Progress("off"), StopRequest(), dict)
    resumed = trainer(tmp_path / "b", **settings)
    train(resumed, Progress("off"), StopRequest(), dict)
    assert same(weights(whole), weights(resumed))
    lines = [[json.loads(line) for line in metrics_lines(t.folder.path)] for t in (whole, resumed)]
    for one, other in zip(*lines, strict=True):
        for name in ("loss", "grad_norm", "keep", "realised_keep", "signals"):
            assert one[name] == other[name]
    if whole.selector.has_memory:
        one, other = (str(t.selector.state_dict()) for t in (whole, resumed))
        assert one == other != str(trainer(tmp_path / "c", **settings).selector.state_dict())


def test_a_schedule_is_spent_step_by_step(tmp_path):
    found = trainer(tmp_path, selector="entropy", keep="linear(0.5, 0.1)", steps=5)
    for line, keep in zip(run_steps(found), (0.5, 0.4, 0.3, 0.2, 0.1), strict=True):
        assert line["keep"] == keep
        assert line["trained_tokens"] == -(-round(10 * keep) * line["sampled_tokens"] // 10)


def test_a_rule_may_set_its_own_budget(tmp_path):
    settings = {"selector_params": {"decay": 0.0, "move": 0.001, "start": 0.5}, "steps": 4}
    lines = run_steps(trainer(tmp_path, selector="adakd", learning_rate=1e-2, **settings))
    assert lines[0]["keep"] == 0.5 and len({line["keep"] for line in lines}) > 1
    for line in lines:
        assert line["trained_tokens"] == -(-line["keep"] * line["sampled_tokens"] // 1)


def test_one_token_a_response_is_a_budget_too(tmp_path):
    for line in run_steps(trainer(tmp_path, selector="min_gap")):
        assert line["trained_tokens"] == 6 and line["keep"] == 1.0


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


def test_the_reference_is_the_student_before_training(tmp_path):
    found = trainer(tmp_path, {"log_signals": ("student_logprob_BT",)}, selector="cc", keep=1.0)
    first, *_, last = run_steps(found)
    assert first["signals"]["reference_logprob_BT"]["all"] == pytest.approx(
        first["signals"]["student_logprob_BT"]["all"], abs=1e-6
    )
    both = [last["signals"][f"{who}_logprob_BT"]["all"] for who in ("reference", "student")]
    assert abs(both[0] - both[1]) > 1e-5


def test_a_model_may_be_the_reference(tmp_path):
    folder = pair_folder() / "teacher"
    found = trainer(tmp_path, selector="cc", keep=1.0, reference=str(folder), steps=1)
    (line,) = run_steps(found)
    assert line["signals"]["reference_logprob_BT"]["all"] == pytest.approx(
        line["signals"]["teacher_logprob_BT"]["all"], abs=1e-6
    )


def test_models_that_only_a_rule_asks_for_are_not_loaded_without_it(tmp_path):
    assert trainer(tmp_path, selector="teachability").setup.reference is None
    assert trainer(tmp_path, selector="shuffled(cc)").setup.reference is not None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("io")])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, error):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=3)
    save, calls = found.accelerator.save_state, []

    def fail(path, **settings):
        calls.append(path)
        save(path, **settings)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(found.accelerator, "save_state", fail)
    with pytest.raises(BenchError, match=r"step 2 could not be saved.*step 1 is kept"):
        train(found, Progress("off"), StopRequest(), dict)
    folder = found.folder.checkpoints
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_a_signal_waits_for_a_step_and_for_nothing_else():
    request = StopRequest()
    with request.installed():
        with pytest.raises(Stopped, match="the same command goes on from there"):
            os.kill(os.getpid(), signal.SIGINT)
        assert not request.requested
        with request.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.requested
            with pytest.raises(Stopped, match="at once"):
                os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_at_the_last_step_the_run_is_evaluated_by_the_same_command(tmp_path):
    found = trainer(tmp_path, steps=1)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped, match="stopped after step 1 of 1"):
        train(found, Progress("off"), request, dict)
    assert last_checkpoint(found.folder.checkpoints).step == 1
    assert train(trainer(tmp_path, steps=1), Progress("off"), StopRequest(), dict).sampled > 0


def test_the_last_two_checkpoints_are_kept(tmp_path):
    found = trainer(tmp_path, {"checkpoint_every": 1}, steps=4)
    train(found, Progress("off"), StopRequest(), dict)
    names = sorted(path.name for path in found.folder.checkpoints.iterdir())
    assert names == ["step-000003", "step-000004"]


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
    from bench.core.config import experiment_from

    values = {"pair": str(pair_folder()), **SMALL, "dtype": "bfloat16", "steps": 2}
    paper = experiment_from(values, "paper")
    assert (paper.objective, paper.normalize, paper.ties, paper.min_keep_per_response) == (
        "sampled_reverse_kl", "per_response", "earlier", 1,
    )  # fmt: skip
    record = run_experiment(paper, Runtime(runs_dir=tmp_path, **QUIET))
    assert record.state == "done"
    assert record.realised_keep >= 6 * 2 / record.tokens["sampled"]


def command(tmp_path: Path, *more: str) -> list[str]:
    values = {**SMALL, "steps": 12, "pair": str(pair_folder()), "selector": "teachability"}
    flags = [part for k, v in values.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    return [
        sys.executable, "-m", "bench", "run", *flags, "--runs-dir", str(tmp_path),
        "--checkpoint-every", "3", "--progress", "lines", *more,
    ]  # fmt: skip


def wait_for_step(tmp_path: Path, process: subprocess.Popen, step: int) -> None:
    for _ in range(1200):
        files = [path.read_text() for path in tmp_path.glob("*/metrics.jsonl")]
        if sum(text.count("\n") for text in files) >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run made no progress")


def test_a_killed_run_resumes_to_the_record_of_an_uninterrupted_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(tmp_path / "b"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_step(tmp_path / "b", process, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    records = []
    for folder in ("a", "b"):
        done = subprocess.run(
            command(tmp_path / folder, "--json"), env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        records.append(json.loads(done.stdout))
    assert "train: " in done.stderr
    assert without_costs(records[0]) == without_costs(records[1])
    (folder,) = (path.parent for path in (tmp_path / "b").glob("*/record.json"))
    steps = [json.loads(line)["step"] for line in metrics_lines(folder)]
    assert steps == list(range(1, 13))
    rows = (tmp_path / "b" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == 1
    assert len(json.loads(rows[0])["items"]["trained"]["tiny_math"]) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_exit_with_3(tmp_path, number):
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path, process, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    checkpoint = max(tmp_path.glob("*/checkpoints/step-*"))  # one each 3 steps, and the last
    steps = int(checkpoint.name.removeprefix("step-"))
    assert len(metrics_lines(checkpoint.parent.parent)) == steps


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
        signals, _ = one.signals(sampled, 0, Timer(one.totals.seconds))
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


@pytest.mark.parametrize(
    "values, reused",
    [({"selector": "entropy"}, True), ({"selector": "entropy", "dtype": "bfloat16"}, False),
     ({"selector": "random"}, False)],
)  # fmt: skip
def test_hidden_states_are_reused_where_that_moves_the_last_bits_only(tmp_path, values, reused):
    assert trainer(tmp_path, **values).step(0)["reused_hidden"] is reused


def test_a_trainer_samples_through_vllm(tmp_path, monkeypatch):
    vllm_stand_in.install(monkeypatch)
    found = trainer(tmp_path, {"vllm_check_every": 1}, rollout="vllm", steps=2, keep=1.0)
    first, second = run_steps(found)
    assert found.setup.vllm.engine.calls.count("reload") == 2
    assert 0 <= second["vllm_difference"] < 1e-5
    assert first["sampled_tokens"] > 0
    again = trainer(tmp_path / "b", rollout="vllm", steps=2, keep=1.0)
    assert [line["loss"] for line in run_steps(again)] == [first["loss"], second["loss"]]


def test_vllm_gives_no_hidden_states_to_reuse(tmp_path):
    with pytest.raises(ConfigError, match="reuse_hidden: vllm gives no hidden states"):
        trainer(tmp_path, {"reuse_hidden": True}, rollout="vllm")


def test_under_fsdp_autocast_alone_sets_the_precision(tmp_path, monkeypatch):
    """FSDP's own policy would round what a forward pass returns, the loss included."""
    from bench.core.processes import make_accelerator

    plugin = SimpleNamespace(mixed_precision_policy="half")

    def with_plugin(*given):
        made = make_accelerator(*given)
        made.state.fsdp_plugin = plugin
        return made

    monkeypatch.setattr("bench.train.setup.make_accelerator", with_plugin)
    found = trainer(tmp_path, dtype="bfloat16")
    assert plugin.mixed_precision_policy is None
    assert found.accelerator.mixed_precision == "bf16"
