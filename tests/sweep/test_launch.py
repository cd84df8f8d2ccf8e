"""Runs in processes of their own, as a launcher starts them."""

import signal
import threading
import time

import pytest
from small_pair import pair_folder
from steps import SMALL

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError, Stopped
from bench.run.plan import make_plan
from bench.run.run_experiment import run_experiment
from bench.sweep.launch import run_launched

# One after another: each finds a free port, which another could take first.
pytestmark = pytest.mark.xdist_group("launched")

ACCELERATE = (
    "python -m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no"
)


def experiment(**values):
    return Experiment.parse({"pair": str(pair_folder()), "selector": "entropy", **SMALL, **values})


def quiet(folder):
    return Runtime(runs_dir=folder, device="cpu", progress="off", checkpoint_every=1)


TWO = (
    "env ACCELERATE_USE_CPU=true python -m accelerate.commands.launch --multi_gpu "
    "--num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0"
)


@pytest.mark.parametrize("launch", [ACCELERATE, TWO])
def test_a_launched_run_has_the_record_of_a_run_here(launch, tmp_path):
    launched = run_launched(launch, experiment(), quiet(tmp_path / "a"))
    here = run_experiment(experiment(), quiet(tmp_path / "b"))
    assert launched.provenance["processes"] == (2 if launch == TWO else 1)
    for name in ("run_id", "experiment", "scores", "tokens", "realised_keep"):
        assert getattr(launched, name) == getattr(here, name)
    for name, summary in here.signals.items():
        assert launched.signals[name] == pytest.approx(summary, rel=1e-5)
    assert (tmp_path / "a" / "rows.jsonl").read_text().count("\n") == 1


def test_what_a_launched_run_says_is_the_error(tmp_path):
    rule = tmp_path / "rules.py"
    rule.write_text(
        "from bench import selector\n\n\n@selector('broken')\ndef broken(signals):\n"
        "    return signals.uniform_BT / 0 * 0\n"
    )
    with pytest.raises(BenchError, match="'broken' returned .* NaN"):
        run_launched("python", experiment(selector=f"{rule}:broken"), quiet(tmp_path / "runs"))
    with pytest.raises(BenchError, match="no such option|unrecognized|unknown option|usage"):
        run_launched("python --nonsense", experiment(), quiet(tmp_path / "runs"))
    with pytest.raises(ConfigError, match="launch: 'nosuchlauncher' cannot be started"):
        run_launched("nosuchlauncher -x", experiment(), quiet(tmp_path / "runs"))


@pytest.mark.parametrize("launch", ["python", TWO])
def test_a_launched_run_that_is_stopped_saves_and_goes_on(launch, tmp_path):
    long, runtime = experiment(steps=400), quiet(tmp_path)
    folder = make_plan(long, runtime).folder

    def stop(number, frame):
        raise Stopped("stopped")

    def watch():
        while folder.steps_done() < 3:
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Thread(target=watch, daemon=True).start()
        with pytest.raises(Stopped):
            run_launched(launch, long, runtime)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert folder.state == "incomplete"
    assert list(folder.checkpoints.glob("step-*"))
    with folder.lock():
        pass  # nobody runs it any more
