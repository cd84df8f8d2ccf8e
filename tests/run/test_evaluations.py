"""Baselines: one evaluation for all runs, however many start together."""

import threading
from dataclasses import replace

import pytest
from filelock import FileLock

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.processes import ALONE
from bench.core.progress import Progress
from bench.pairs.pair import embedded_pair_names, get_pair
from bench.run.evaluations import Baseline, Evaluations, read_shipped, write_shipped
from bench.run.shipped import untrained
from bench.tasks.chat import PLAIN_TEXT
from bench.tasks.protocol import asking_of
from bench.tasks.results import Sample, TaskResult

TASK = "tiny_math"


def baseline(label):
    return Baseline(label, None, None, (0,), f"content of {label}")


BOTH = (baseline("untrained"), baseline("teacher"))


def result(score):
    sample = Sample("7", 1, False, "7", "right")
    return TaskResult(TASK, "exact_match", 1, 1, score, score, (score,), ("0",), ((sample,),))


class Scripted(Evaluations):
    """Evaluates at once; `before(label)` is called first."""

    def __init__(self, folder, before=lambda label: None):
        runtime = Runtime(runs_dir=folder, progress="off")
        super().__init__(runtime, asking_of(Experiment(), PLAIN_TEXT), None, Progress("off"), ALONE)
        self.seen, self.before = [], before

    def examine(self, model, tokenizer, tasks, stops, label, limit=None):
        self.before(label)
        self.seen.append(label)
        return {TASK: result({"untrained": 0.25, "teacher": 1.0}[label])}


def test_a_kept_baseline_is_read(tmp_path):
    first, second = Scripted(tmp_path), Scripted(tmp_path)
    assert first.baselines(BOTH, (TASK,), None) == second.baselines(BOTH, (TASK,), None)
    assert (first.seen, second.seen) == (["untrained", "teacher"], [])
    other = Scripted(tmp_path)
    other.baselines(BOTH, (TASK,), 5)  # on other items it is another baseline
    assert other.seen == ["untrained", "teacher"]


def test_two_that_start_together_share_the_models_out(tmp_path):
    begun, teacher = threading.Event(), threading.Event()

    def first_waits(label):
        begun.set()
        assert teacher.wait(30)

    first = Scripted(tmp_path, first_waits)
    second = Scripted(tmp_path, lambda label: teacher.set())
    found = {}
    threads = []
    for name, evaluations in (("first", first), ("second", second)):
        work = threading.Thread(
            target=lambda n=name, e=evaluations: found.update({n: e.baselines(BOTH, (TASK,), None)})
        )
        threads.append(work)
        work.start()
        assert begun.wait(30)
    for work in threads:
        work.join(60)
    assert (first.seen, second.seen) == (["untrained"], ["teacher"])
    assert found["first"] == found["second"]
    assert {label: results[TASK].mean for label, results in found["first"].items()} == {
        "untrained": 0.25, "teacher": 1.0,
    }  # fmt: skip


def test_one_that_fails_leaves_its_baseline_to_the_next(tmp_path):
    def fail(label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scripted(tmp_path, fail).baselines(BOTH, (TASK,), None)
    after = Scripted(tmp_path)
    after.baselines(BOTH, (TASK,), None)
    assert after.seen == ["untrained", "teacher"]


def test_a_baseline_that_is_waited_for_is_looked_at_again_and_again(tmp_path, monkeypatch):
    """Processes that wait together hear of each other before their collectives time out."""
    monkeypatch.setattr("bench.run.evaluations.WAIT_S", 0.05)
    evaluations = Scripted(tmp_path)
    looked = []
    monkeypatch.setattr(evaluations.progress, "start", lambda phase, total: looked.append(phase))
    file = evaluations.file_of(BOTH[0], TASK, None)
    file.parent.mkdir(parents=True)
    lock = FileLock(file.with_name(f".{file.name}.lock"), thread_local=False)
    lock.acquire()
    threading.Timer(2.0, lock.release).start()
    evaluations.baselines(BOTH, (TASK,), None)
    assert evaluations.seen == ["teacher", "untrained"]
    assert len(looked) > 1
    assert looked[0] == "another run evaluates untrained on tiny_math; waiting"


@pytest.mark.parametrize("name", embedded_pair_names())
def test_the_scores_that_ship_are_those_of_this_code(name):
    """Stale: `make baselines`. Another machine's last bits may turn an answer or two."""
    pair = untrained(name)
    file = get_pair(name).baselines
    shipped = {key: TaskResult.from_json(read_shipped(file, key)) for key in pair.names()}
    for key, score in pair.scores().items():
        turned = [a != b for a, b in zip(score.score_I, shipped[key].score_I, strict=True)]
        assert sum(turned) <= 20
        assert score.item_id_I == shipped[key].item_id_I


def test_what_shipped_is_read_and_not_evaluated(tmp_path):
    file = tmp_path / "baselines.json"
    scripted = Scripted(tmp_path / "runs")
    first, second = (replace(one, shipped=file) for one in BOTH)
    write_shipped(file, {scripted.file_of(first, TASK, None).stem: result(0.75)})
    found = scripted.baselines((first, second), (TASK,), None)
    assert found["untrained"][TASK] == result(0.75)
    assert scripted.seen == ["teacher"]  # of which nothing shipped
    scripted.baselines((first,), (TASK,), 5)  # other items: another score
    assert scripted.seen == ["teacher", "untrained"]


def test_what_shipped_damaged_is_refused(tmp_path):
    file = tmp_path / "baselines.json"
    write_shipped(file, {"one": result(0.75)})
    file.write_text(file.read_text().replace("0.75", "0.85", 1))
    with pytest.raises(ConfigError, match="baselines.json' is damaged: the checksum of one"):
        read_shipped(file, "one")
    assert read_shipped(file, "two") is None
    assert read_shipped(tmp_path / "none.json", "one") is None
