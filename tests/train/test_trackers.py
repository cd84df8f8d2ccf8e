"""Trackers: what they hold is what metrics.jsonl says, each step once, however a run went."""

import json
from pathlib import Path

import pytest
from steps import experiment, metrics_lines, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.core.config import Runtime
from bench.core.errors import ConfigError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.run.plan import make_plan
from bench.run.run_experiment import run_experiment
from bench.train.loop import train
from bench.train.trackers import check_installed, open_trackers, plain, scalars

LOGGED = {"log_with": ("tensorboard",)}


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value) of every scalar in the run's event files, written order."""
    folder = run / "trackers" / run.name
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.*")):
        reader = EventAccumulator(str(file), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in reader.Scalars(tag))
    return found


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, metrics_lines(run)):
        for name, value in scalars(line).items():
            found.setdefault(name, []).append((line["step"], pytest.approx(float(value), rel=1e-6)))
    return found


def test_tensorboard_holds_every_number_of_metrics_jsonl(tmp_path):
    found = trainer(tmp_path, LOGGED, eval_every=2, selector="entropy")
    train(found, Progress("off"), StopRequest(), lambda step: {"tiny_math_tune": step / 8})
    run = found.folder.path
    logged = events(run)
    assert logged == expected(run)
    assert logged["evaluation/tiny_math_tune"] == [(2, 0.25)]
    assert {"loss", "seconds/rollout", "signals/student_entropy_BT/q95"} < set(logged)
    assert [step for step, _ in logged["loss"]] == [1, 2, 3]
    (settings,) = (run / "trackers" / run.name).glob("*/hparams.yml")
    assert "selector: entropy" in settings.read_text()


def test_a_stopped_and_resumed_run_sends_no_step_twice(tmp_path):
    stopped = trainer(tmp_path, LOGGED)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped):
        train(stopped, Progress("off"), request, dict)
    run = stopped.folder.path
    assert len(events(run)["loss"]) == 1
    train(trainer(tmp_path, LOGGED), Progress("off"), StopRequest(), dict)
    assert events(run) == expected(run)
    assert len(list((run / "trackers" / run.name).glob("*/hparams.yml"))) == 1


def test_steps_taken_again_after_a_kill_are_not_sent_again(tmp_path):
    killed = trainer(tmp_path, LOGGED | {"checkpoint_every": 1}, steps=4)
    honest = killed.step

    def step(number):
        if number == 3:
            raise KeyboardInterrupt
        return honest(number)

    killed.step = step
    with pytest.raises(KeyboardInterrupt):
        train(killed, Progress("off"), StopRequest(), dict)
    run = killed.folder.path
    for checkpoint in sorted((run / "checkpoints").glob("step-*"))[1:]:  # as if saved less often
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    resumed = trainer(tmp_path, LOGGED, steps=4)
    train(resumed, Progress("off"), StopRequest(), dict)
    assert [step for step, _ in events(run)["loss"]] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm", "learning_rate"):
        assert events(run)[name] == expected(run)[name]


def test_a_tracker_that_is_asked_for_later_gets_the_earlier_steps_too(tmp_path):
    stopped = trainer(tmp_path)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped):
        train(stopped, Progress("off"), request, dict)
    train(trainer(tmp_path, LOGGED), Progress("off"), StopRequest(), dict)
    assert events(stopped.folder.path) == expected(stopped.folder.path)


class Heard:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def start(self):
        self.calls.append("start")

    def store_init_configuration(self, values):
        self.calls.append("config")

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finish")


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped, RuntimeError])
def test_trackers_are_closed_however_a_run_ends(tmp_path, monkeypatch, error):
    heard = Heard()
    monkeypatch.setattr("bench.train.trackers.make_tracker", lambda *_: heard)
    with pytest.raises(error), open_trackers(("wandb",), tmp_path, {}) as track:
        track({"step": 1, "loss": 0.5})
        raise error("end")
    assert heard.calls == ["start", "config", (1, {"loss": 0.5}), "finish"]


def test_a_service_that_does_not_start_is_named_and_the_others_are_closed(tmp_path, monkeypatch):
    class Closed(Heard):
        def start(self):
            raise OSError("no key")

    made = {"trackio": Heard(), "wandb": Closed()}
    monkeypatch.setattr("bench.train.trackers.make_tracker", lambda name, *_: made[name])
    with (
        pytest.raises(ConfigError, match="log_with: wandb does not start: no key"),
        open_trackers(("trackio", "wandb"), tmp_path, {}),
    ):
        pass
    assert made["trackio"].calls[-1] == "finish" and not made["wandb"].calls


def test_an_absent_package_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.train.trackers.find_spec", lambda name: None if name == "wandb" else object()
    )
    monkeypatch.setattr("bench.run.plan.load_pair", lambda *_: pytest.fail("loaded"))
    runtime = Runtime(runs_dir=tmp_path, log_with=("tensorboard", "wandb"), progress="off")
    with pytest.raises(ConfigError, match=r"'wandb' is not installed.*opd-bench\[trackers\]"):
        run_experiment(experiment(), runtime)
    check_installed(("tensorboard",))


def test_one_tracker_or_several_may_be_named():
    assert Runtime.parse({"log_with": "tensorboard"}).log_with == ("tensorboard",)
    assert Runtime.parse({"log_with": ["wandb,trackio"]}).log_with == ("wandb", "trackio")
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        Runtime.parse({"log_with": ["tensorbord"]})


def test_trackers_are_no_part_of_a_run_s_identity():
    plans = [make_plan(experiment(), Runtime(log_with=names)) for names in ((), ("wandb",))]
    assert plans[0].run_id == plans[1].run_id


def test_numbers_are_flattened_and_settings_made_plain():
    line = {"step": 3, "loss": 1, "signals": {"x": {"all": 0.5, "selected": None}}, "note": "no"}
    assert scalars(line) == {"loss": 1, "signals/x/all": 0.5}
    assert plain({"a": (1, 2), "b": None, "c": "text", "d": True}) == {
        "a": "[1,2]", "b": "null", "c": "text", "d": True,
    }  # fmt: skip
