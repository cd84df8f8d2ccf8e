"""`bench run` and `bench eval`: what they print, what they leave behind, which run is which."""

import json
import subprocess
import sys

import pytest
from command import call, flags_of, run_flags
from small_pair import pair_folder
from steps import SMALL, without_costs


def again(runs):
    return ["--pair", pair_folder(), "--runs-dir", runs, *flags_of(SMALL)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder of runs and its record."""
    from bench.core.config import Experiment, Runtime
    from bench.run.run_experiment import run_experiment

    runs = tmp_path_factory.mktemp("runs")
    experiment = Experiment.parse({"pair": str(pair_folder()), **SMALL})
    runtime = Runtime(runs_dir=runs, device="cpu", progress="off")
    return runs, run_experiment(experiment, runtime)


def test_json_is_one_document_and_nothing_else(capsys, tmp_path):
    code, out, err = call(capsys, "run", *run_flags(tmp_path, selector="entropy"), "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["state"] == "done"
    assert record["experiment"]["selector"] == "entropy"
    assert record["run_id"].startswith("entropy-keep0.05-s0-")
    assert set(record["scores"]) == {"untrained", "trained", "teacher"}
    for scores in record["scores"].values():
        assert scores["tiny_math"]["n"] == 8
        low, high = scores["tiny_math"]["ci95"]
        assert 0 <= low <= scores["tiny_math"]["mean"] <= high <= 1
    phases = {"rollout", "teacher", "score", "loss", "evaluate", "total"}
    assert set(record["seconds"]) == phases
    assert record["tokens"]["sampled"] >= record["tokens"]["scored"] >= record["tokens"]["trained"]
    assert record["realised_keep"] == record["tokens"]["trained"] / record["tokens"]["sampled"]
    assert record["provenance"]["versions"]["torch"]
    assert "lm_eval" not in err and "it/s" not in err
    row = json.loads((tmp_path / "runs" / "rows.jsonl").read_text())
    assert row["run_id"] == record["run_id"]
    assert len(row["items"]["trained"]["tiny_math"]) == 8
    assert str(tmp_path) not in json.dumps({k: v for k, v in row.items() if k != "experiment"})


def test_a_finished_run_prints_its_record_again_without_training(capsys, finished, monkeypatch):
    runs, record = finished
    monkeypatch.setattr("bench.run.plan.load_pair", None)
    code, out, err = call(capsys, "run", *again(runs), "--json")
    assert code == 0, err
    assert json.loads(out) == record.model_dump(mode="json")
    assert len((runs / "rows.jsonl").read_text().splitlines()) == 1


def test_the_table_shows_scores_tokens_seconds_memory_and_folder(capsys, finished):
    runs, record = finished
    code, out, _ = call(capsys, "run", *again(runs))
    assert code == 0
    for word in ("untrained", "trained", "teacher", "realised keep", "rollout", "peak memory",
                 record.folder, "verdict", f"{record.tokens['sampled']:,} sampled"):  # fmt: skip
        assert word in out


def test_eval_reproduces_the_score_of_a_run(capsys, finished):
    runs, record = finished
    for path in (record.run_id, record.folder, f"{record.folder}/model"):
        limit = [] if "/model" not in path else ["--items", 8, "--max-new-tokens", 10]
        code, out, err = call(capsys, "eval", path, "--runs-dir", runs, "--json", *limit)
        assert code == 0, err
        assert json.loads(out)["scores"] == record.scores["trained"]


def test_the_final_checkpoint_loads_with_transformers_alone(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, record = finished
    model = AutoModelForCausalLM.from_pretrained(f"{record.folder}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{record.folder}/model")
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert tokenizer.decode(tokenizer("Mia has 12 cups.")["input_ids"]) == "Mia has 12 cups."


def test_baselines_are_evaluated_once(finished, monkeypatch):
    from bench.core.config import Experiment, Runtime
    from bench.run.run_experiment import run_experiment

    runs, record = finished
    seen = []
    from bench.run import evaluations as module

    inner = module.evaluate
    monkeypatch.setattr(
        module,
        "evaluate",
        lambda *args, **kwargs: (seen.append(args[2]), inner(*args, **kwargs))[1],
    )
    experiment = Experiment.parse({"pair": str(pair_folder()), **SMALL, "seed": 5})
    other = run_experiment(experiment, Runtime(runs_dir=runs, device="cpu", progress="off"))
    assert len(seen) == 1  # the trained student alone
    for who in ("untrained", "teacher"):
        assert other.scores[who] == record.scores[who]


def test_a_run_in_use_by_another_process_is_left_alone(capsys, finished, tmp_path):
    from bench.core.records import RunFolder

    flags = run_flags(tmp_path, seed=3)
    _, out, _ = call(capsys, "run", *flags, "--json")
    folder = RunFolder(tmp_path / "runs" / json.loads(out)["run_id"])
    with folder.lock():
        script = f"from bench.cli.app import main; main({['run', *map(str, flags)]!r})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "in use by another process" in done.stderr


def test_an_edited_rule_is_a_new_run_and_a_moved_one_is_not(tmp_path):
    from bench.core.config import Experiment, Runtime
    from bench.run.plan import make_plan

    text = (
        "from bench import selector\n\n\n@selector('mine')\ndef mine(signals):\n"
        '    """Keep by chance."""\n    return signals.uniform_BT\n'
    )

    def run_id(place):
        values = {"pair": str(pair_folder()), "selector": f"{place}:mine"}
        return make_plan(Experiment.parse(values), Runtime()).run_id

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (tmp_path / "a" / "rule.py").write_text(text)
    (tmp_path / "b" / "rule.py").write_text(text)
    first = run_id(tmp_path / "a" / "rule.py")
    assert first.startswith("mine-keep0.05-s0-")
    assert run_id(tmp_path / "b" / "rule.py") == first
    (tmp_path / "a" / "rule.py").write_text(text.replace("uniform_BT", "uniform_BT * -1"))
    assert run_id(tmp_path / "a" / "rule.py") != first


def test_parameters_from_flags_and_from_python_name_the_same_run():
    from bench.core.config import Experiment, Runtime
    from bench.run.plan import make_plan

    ids = {
        make_plan(
            Experiment.parse({
                "pair": str(pair_folder()), "selector": "teachability_released",
                "selector_params": params,
            }), Runtime(),
        ).run_id
        for params in ("floor=1e-12", {"floor": 1e-12}, {})
    }  # fmt: skip
    assert len(ids) == 1


def test_a_record_survives_its_json(finished):
    from bench.core.records import RunRecord

    _, record = finished
    again = RunRecord.model_validate_json(record.model_dump_json())
    assert without_costs(again) == without_costs(record)
