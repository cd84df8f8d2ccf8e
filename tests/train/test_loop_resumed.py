"""A run that is stopped, killed or fails goes on to the record of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_pair import pair_folder
from steps import SMALL, metrics_lines, same, trainer, weights, without_costs

from bench.core.errors import BenchError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.train.checkpoints import last_checkpoint
from bench.train.loop import train


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


def test_stopped_at_the_last_step_the_run_is_evaluated_by_the_same_command(tmp_path):
    found = trainer(tmp_path, steps=1)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped, match="stopped after step 1 of 1"):
        train(found, Progress("off"), request, dict)
    assert last_checkpoint(found.folder.checkpoints).step == 1
    assert train(trainer(tmp_path, steps=1), Progress("off"), StopRequest(), dict).sampled > 0


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
        assert process.poll() is None, process.communicate(timeout=200)
        time.sleep(0.05)
    raise AssertionError("the run made no progress")


def test_a_killed_run_resumes_to_the_record_of_an_uninterrupted_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(tmp_path / "b"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_step(tmp_path / "b", process, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
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
