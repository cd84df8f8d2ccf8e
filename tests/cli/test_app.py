"""The command line: what it prints where, and how bad input ends."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import call, flags_of, run_flags
from small_pair import pair_folder
from steps import SMALL, without_costs

ROOT = Path(__file__).parents[2]


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
    monkeypatch.setattr("bench.run.run_experiment.load_pair", None)
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


def test_selectors_are_listed_with_sources(capsys):
    code, out, _ = call(capsys, "selectors", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert len(rows) >= 22
    for row in rows.values():
        assert {"name", "kind", "needs", "source", "summary"} <= set(row)
        assert row["source"] and row["summary"]
    assert rows["teachability"]["needs"] == ["forward_kl_BT", "teacher_mass_on_student_topk_BT"]
    assert rows["abs_gap"]["reads_sampled_token"] is True
    assert "teachability" in call(capsys, "selectors")[1]


def test_the_list_has_at_least_45_rules_with_formula_and_cost(capsys):
    rows = json.loads(call(capsys, "selectors", "--json")[1])
    assert len(rows) >= 45
    assert all(row["formula"] and row["source"] and row["cost"] for row in rows)
    cost = {row["name"]: row["cost"] for row in rows}
    assert [cost[name] for name in ("entropy", "abs_gap", "overlap", "forward_kl", "cc")] == [
        "no teacher", "sampled log-probs", "top-K", "full vocabulary", "extra pass",
    ]  # fmt: skip


def test_an_expression_has_a_page_of_its_own(capsys):
    code, out, _ = call(capsys, "selectors", "show", "soft_or( entropy, teachability )")
    assert code == 0
    assert "soft_or(entropy, teachability)" in out and "forward_kl_BT" in out
    assert "bench run --selector 'soft_or(entropy, teachability)' --keep 0.05" in out


def test_a_mistake_in_an_expression_is_pointed_at(capsys):
    code, out, err = call(capsys, "run", "--selector", "product(forward_kl, comptibility)")
    assert (code, out) == (2, "")
    first, shown, caret = err.rstrip("\n").split("\n")
    assert first.startswith("bench: error: selector: unknown rule 'comptibility'; did you mean")
    assert shown == "  product(forward_kl, comptibility)"
    assert caret.index("^") == shown.index("comptibility")


def test_a_rule_is_checked_against_the_contract(capsys, tmp_path):
    code, out, err = call(capsys, "selectors", "check", "teachability")
    assert (code, err) == (0, "") and "broken" not in out and out.count("kept") >= 16
    rule = tmp_path / "my_rule.py"
    rule.write_text(
        "from bench import selector\n\n\n@selector('mine')\ndef mine(signals):\n"
        '    """Keep mine.\n\n    Source: a test.\n    """\n'
        "    return signals.student_entropy_BT - signals.student_entropy_BT.mean()\n"
    )
    code, out, err = call(capsys, "selectors", "check", f"{rule}:mine")
    assert code == 1 and "broken" in out and "may read" in out
    assert err.startswith("bench: error: selector") and "promises" in err
    code, out, _ = call(capsys, "selectors", "check", f"{rule}:mine", "--json")
    findings = json.loads(out)["findings"]
    assert code == 1 and len(findings) >= 16
    assert {"promise", "broken"} == set(findings[0]) and any(f["broken"] for f in findings)
    assert call(capsys, "selectors", "check", "teachabilty")[0] == 2


def test_the_catalogue_in_the_repository_is_that_of_the_registry(capsys, tmp_path):
    file = ROOT / "selectors" / "README.md"
    assert call(capsys, "selectors", "catalogue", "--out", file, "--check")[::2] == (0, "")
    other = tmp_path / "README.md"
    code, _, err = call(capsys, "selectors", "catalogue", "--out", other, "--check")
    assert code == 1 and "bench selectors catalogue writes it again" in err and not other.exists()
    assert call(capsys, "selectors", "catalogue", "--out", other)[0] == 0
    assert other.read_text() == file.read_text()


def test_an_objective_that_has_no_gradient_is_refused(capsys):
    code, _, err = call(capsys, "run", "--objective", "topk_reverse_kl_advantage")
    assert code == 2 and "zero expected gradient" in err and err.count("\n") == 1


def test_a_selectors_page_shows_docstring_parameters_and_example(capsys):
    code, out, _ = call(capsys, "selectors", "show", "teachability_released")
    assert code == 0
    assert "floor=1e-12" in out
    assert "bench run --selector teachability_released" in out
    assert "2605.26844" in out


def test_pairs_are_listed(capsys):
    code, out, _ = call(capsys, "pairs", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)][:2] == ["tiny-qwen3", "tiny-qwen2.5"]


RELEASED = ["--selector", "teachability_released"]

BAD = [
    (["--keep", "1.5"], "keep: '1.5'", "less than or equal to 1"),
    (["--keep", "0"], "keep: '0'", "greater than 0"),
    (["--keep", "abc"], "keep: 'abc'", "valid number"),
    (["--selector", "tipp"], "selector: unknown name 'tipp'", "did you mean 'tip'"),
    (["--selector", "nowhere.py:rule"], "'nowhere.py'", "does not exist"),
    (["--selector", "no_such_module:rule"], "'no_such_module'", "does not load"),
    (["--pair", "tiny-qwen4"], "pair: unknown name 'tiny-qwen4'", "did you mean 'tiny-qwen3'"),
    (["--prompts", "arithmetics"], "prompts: unknown name", "did you mean 'arithmetic'"),
    (["--objective", "revers_kl"], "objective: 'revers_kl'", "did you mean 'reverse_kl'"),
    (["--objective-params", "beta=0.5"], "objective_params: 'beta'", "it takes none"),
    (["--objective", "jsd", "--objective-params", "beta=2"], "beta=2", "(0, 1)"),
    (["--eval-tasks", "tiny_mth"], "task: unknown name 'tiny_mth'", "did you mean 'tiny_math'"),
    (["--eval-tasks", "tiny_math_tune", "--eval-every", "2"], "curve_tasks", "leakage"),
    (["--selecto", "tip"], "--selecto", "--selector"),
    (["--selector", "jsd", "--selector-params", "alpha=1"], "selector_params: 'alpha'", "it takes"),
    ([*RELEASED, "--selector-params", "floor=x"], "floor: 'x'", "float"),
    (["--selector", "full", "--keep", "0.05"], "keep: 0.05", "always trains on keep=1"),
    (["--preset", "papr"], "preset: unknown name 'papr'", "did you mean 'paper'"),
    (["--steps", "2", "--warmup-steps", "2"], "warmup_steps: 2", "smaller than steps"),
    (["--log-signals", "entropy_BT"], "log_signals: unknown name", "did you mean"),
    (["--shadow", "entropie"], "shadow: selector: unknown name", "did you mean 'entropy'"),
    (["--shadow-every", "0"], "shadow_every: '0'", "greater than or equal to 1"),
]  # fmt: skip


@pytest.mark.parametrize("flags, names, accepted", BAD)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_written(
    capsys, tmp_path, monkeypatch, flags, names, accepted
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "run", *flags, "--json")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert names in err and accepted in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    code, out, err = call(capsys, "run", *run_flags(tmp_path))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and "runs_dir" in err and "cannot be written" in err
    assert (tmp_path / "runs").read_text() == "a file in the way"


@pytest.mark.parametrize(
    "arguments", [["rn"], ["eval"], ["eval", "nowhere"], ["selectors", "show", "x"]]
)
def test_other_commands_fail_in_one_line_too(capsys, arguments):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


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


def test_help_needs_no_torch_and_little_time():
    script = (
        "import sys, bench, bench.cli.app\n"
        "try: bench.cli.app.main(['--help'])\n"
        "finally: assert not {'torch', 'transformers', 'lm_eval', 'numpy'} & set(sys.modules)"
    )
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout
    assert time.process_time() - start < 1


def test_a_record_survives_its_json(finished):
    from bench.core.records import RunRecord

    _, record = finished
    again = RunRecord.model_validate_json(record.model_dump_json())
    assert without_costs(again) == without_costs(record)


def test_data_check_counts_what_becomes_of_a_prompt_file(capsys, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [("2 + 2 =", "4"), ("2 + 2 =", "4"), ("2 + 2 =", "5"), ("3 + 3 =", "6")]
    file.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows))
    flags = ("--prompts", file, "--pair", pair_folder(), "--preset", "paper")
    code, out, _ = call(capsys, "data", "check", *flags, "--json")
    found = json.loads(out)
    assert code == 0
    assert {name: found[name] for name in ("rows", "repeated", "contradicted", "kept")} == {
        "rows": 4, "repeated": 2, "contradicted": 1, "kept": 2,
    }  # fmt: skip
    code, out, _ = call(capsys, "data", "check", *flags)
    assert code == 0 and "2 left out; 1 problems repeat with another answer" in out
    code, _, err = call(capsys, "data", "check", "--preset", "paper")
    assert code == 2 and "prompts:" in err
