"""The identity of a run: what names it, what does not, and that earlier names stay."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_pair import pair_folder

from bench.core import presets
from bench.core.config import FIRST_FIELDS, Experiment, Runtime
from bench.core.errors import ConfigError
from bench.pairs.pair import get_pair
from bench.run import plan as plan_module
from bench.run.plan import make_plan, with_pair_settings

ROOT = Path(__file__).parents[2]


def run_id(**settings):
    return make_plan(Experiment.parse(settings), Runtime()).run_id


def test_the_ids_of_the_committed_rows_recompute():
    rows = [json.loads(line) for line in (ROOT / "results/rows.jsonl").read_text().splitlines()]
    assert len(rows) > 90
    superseded = json.loads((ROOT / "results/superseded.json").read_text())
    assert set(superseded) < {row["run_id"] for row in rows}
    for row in rows:
        is_current = run_id(**row["experiment"]) == row["run_id"]
        assert is_current != (row["run_id"] in superseded)
    assert {run_id.partition("-")[0] for run_id in superseded} == {"teachability_released"}


def test_a_field_added_later_names_a_run_only_where_it_differs_from_its_default():
    later = set(Experiment.model_fields) - FIRST_FIELDS
    assert set(Experiment.model_fields) > FIRST_FIELDS and later
    assert set(Experiment().model_dump(mode="json")) == FIRST_FIELDS
    changed = Experiment(thinking="on", eval_samples=4)
    assert set(changed.model_dump()) == FIRST_FIELDS | {"thinking", "eval_samples"}
    assert Experiment.parse(changed.model_dump(mode="json")) == changed
    assert Experiment.parse(changed.all_values()) == changed
    assert set(changed.all_values()) == set(Experiment.model_fields)
    plain = run_id()
    assert run_id(thinking="pair", eval_samples=None) == plain
    assert run_id(thinking="on") != plain


def test_a_refill_is_a_plain_score_of_an_experiment_that_fills():
    plain = run_id(min_keep_per_response=1)
    assert run_id(min_keep_per_response=1, refill="own") == plain
    assert run_id(min_keep_per_response=1, refill="entropy") != plain
    filled = make_plan(
        Experiment.parse({"min_keep_per_response": 1, "refill": "entropy"}), Runtime()
    )
    assert set(filled.points_to) == {"selector", "refill", "teacher", "student"}
    for name, why in (("full", "keeps every token"), ("adakd", "no plain score"),
                      ("scope", "no plain score"), ("nothing", "unknown name")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            run_id(min_keep_per_response=1, refill=name)
    with pytest.raises(ConfigError, match="min_keep_per_response 0 nothing is filled"):
        run_id(refill="entropy")
    with pytest.raises(ConfigError, match="each fill by their own score"):
        make_plan(filled.experiment, Runtime(shadow=("entropy",)))


def test_a_refill_of_ones_own_counts_by_its_content(tmp_path):
    text = "from bench import selector\n\n\n@selector('own', needs=('student_entropy_BT',))\n"
    text += "def own(signals):\n    return signals.student_entropy_BT\n"
    ids = []
    for place, more in (("a", ""), ("b", ""), ("c", "# edited\n")):
        file = tmp_path / place / "rules.py"
        file.parent.mkdir()
        file.write_text(text + more)
        ids.append(run_id(min_keep_per_response=1, refill=f"{file}:own"))
    assert ids[0] == ids[1] != ids[2]


def test_rows_are_no_population_of_an_expression():
    with pytest.raises(ConfigError, match="population: 'rows' is not accepted with the expression"):
        run_id(population="rows", min_keep_per_response=1, refill="soft_or(entropy, forward_kl)")
    assert run_id(population="rows") != run_id()
    with pytest.raises(ConfigError, match="population: 'rows' is not accepted with the expression"):
        run_id(population="rows", selector="soft_or(entropy, forward_kl)")


def test_a_later_engine_or_task_makes_new_runs(monkeypatch):
    plain = run_id()
    monkeypatch.setattr("bench.core.provenance.ENGINE_VERSION", 2)
    later = run_id()
    monkeypatch.setattr("bench.core.provenance.ENGINE_VERSION", 1)
    assert run_id() == plain != later
    settings = replace(plan_module.task_settings("tiny_math"), version=2)
    monkeypatch.setattr("bench.run.plan.task_settings", lambda _: settings)
    assert run_id() not in (plain, later)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n')
    return path


def test_a_prompt_file_counts_by_its_content(prompts, tmp_path):
    first = run_id(prompts=str(prompts))
    moved = tmp_path / "moved.jsonl"
    shutil.copy(prompts, moved)
    assert run_id(prompts=str(moved)) == first
    moved.write_text('{"problem": "1+2?", "answer": "3"}\n')
    assert run_id(prompts=str(moved)) != first


def test_evaluation_data_counts_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    plain, absent = run_id(), run_id(eval_tasks=["aime25"])
    file = tmp_path / "aime25.jsonl"
    file.write_text('{"problem": "1+1?", "answer": "2"}\n')
    present = run_id(eval_tasks=["aime25"])
    file.write_text('{"problem": "1+1?", "answer": "3"}\n')
    assert len({plain, absent, present, run_id(eval_tasks=["aime25"])}) == 4
    assert run_id() == plain


def test_missing_data_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    for settings, message in [
        ({"eval_tasks": ["aime25"]}, "'aime25' is not here"),
        ({"prompts": "gsm8k"}, "'gsm8k-train' is not here.*data fetch gsm8k-train"),
        ({"decontaminate": ["math500"], "prompts": "deepmath"}, "'deepmath' is not here"),
    ]:
        plan = make_plan(Experiment.parse(settings), Runtime())
        with pytest.raises(ConfigError, match=message):
            plan.check_data()
    make_plan(Experiment(), Runtime()).check_data()


def test_a_pair_made_on_the_spot_counts_by_its_content(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(pair_folder(), folder)
    models = {side: str(folder / side) for side in ("teacher", "student")}
    plan = make_plan(Experiment.parse(models), Runtime())
    assert (plan.pair.teacher, plan.pair.student) == (models["teacher"], models["student"])
    assert plan.experiment.pair == "student-from-teacher"
    moved = folder.rename(tmp_path / "moved")
    again = {side: str(moved / side) for side in models}
    assert run_id(**again) == plan.run_id
    assert run_id(**again, pair="any label") == plan.run_id
    swapped = {"teacher": again["student"], "student": again["teacher"]}
    assert run_id(**swapped) != plan.run_id
    assert Experiment.parse(plan.experiment.model_dump(mode="json")) == plan.experiment


def test_one_model_of_a_named_pair_is_replaced():
    own = str(pair_folder() / "teacher")
    plan = make_plan(Experiment(pair="qwen3-4b-from-8b", teacher=own), Runtime())
    assert (plan.pair.teacher, plan.pair.student) == (own, "Qwen/Qwen3-4B")
    assert plan.pair.thinking is False and plan.pair.stop_ids["teacher"] == (151643, 151645)
    assert plan.pair.teacher_revision is None and plan.pair.student_revision
    assert plan.run_id != run_id(pair="qwen3-4b-from-8b")


def test_hub_models_count_by_name_and_revision_without_a_download():
    models = {"teacher": "owner/big", "student": "owner/small"}
    plain = run_id(**models)
    assert run_id(**models, seed=0) == plain
    pinned = make_plan(Experiment.parse({**models, "teacher": "owner/big@abc123"}), Runtime())
    assert (pinned.pair.teacher, pinned.pair.teacher_revision) == ("owner/big", "abc123")
    assert pinned.run_id != plain
    for wrong in ("nowhere", "./nowhere", "/no/such/folder", "a/b/c", "a/b@"):
        with pytest.raises(ConfigError, match="is no folder here and no hub id"):
            run_id(teacher=wrong, student="owner/small")


def test_settings_that_no_task_takes_are_refused():
    with pytest.raises(ConfigError, match="samples: 4 of 'tiny_math' at temperature 0"):
        run_id(eval_samples=4)
    run_id(eval_samples=4, eval_temperature=1.0)


def test_a_reference_is_only_for_rules_that_compare_with_one():
    teacher = make_plan(Experiment(), Runtime()).pair.teacher
    with pytest.raises(ConfigError, match="reference: .*compare with no third model"):
        make_plan(Experiment(reference=teacher), Runtime())
    one = make_plan(Experiment(selector="cc"), Runtime())
    other = make_plan(Experiment(selector="cc", reference=teacher), Runtime())
    assert "reference" not in one.points_to and len(other.points_to["reference"]) == 64
    assert one.run_id != other.run_id
    asked = Runtime(log_signals=("reference_logprob_BT",))
    assert make_plan(Experiment(reference=teacher), asked).run_id


def test_what_is_right_names_the_runs_that_train_on_it(tmp_path, monkeypatch):
    """A rule that reads rewards of a file's problems trains on verdicts; other rules do not."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"problem": "2 + 2?", "answer": "4"}) + "\n")

    def ids():
        return [
            make_plan(Experiment(selector=rule, prompts=prompts), Runtime(runs_dir=tmp_path)).run_id
            for rule, prompts in (
                ("correct", str(file)), ("entropy", str(file)), ("correct", "arithmetic"),
            )
        ]  # fmt: skip

    before = ids()
    monkeypatch.setattr("bench.tasks.equality.VERSION", 99)
    after = ids()
    assert before[0] != after[0] and before[1:] == after[1:]


def test_what_nobody_gave_is_the_pairs():
    pair = get_pair("qwen3-1.7b-from-4b")
    plan = make_plan(Experiment(pair=pair.name, steps=7), Runtime())
    left = {name: value for name, value in pair.settings.items() if name != "steps"}
    differs = {n: v for n, v in left.items() if v != getattr(Experiment(), n)}
    assert plan.of_pair == differs and "learning_rate" in differs
    assert {name: getattr(plan.experiment, name) for name in left} == left
    assert plan.experiment.steps == 7
    typed = Experiment(pair=pair.name, steps=7, **left)
    assert make_plan(typed, Runtime()).run_id == plan.run_id
    other = Experiment(pair=pair.name, steps=7, learning_rate=3e-4)
    assert make_plan(other, Runtime()).experiment.learning_rate == 3e-4


def test_a_record_says_all_and_its_pair_nothing():
    plan = make_plan(Experiment(pair="qwen3-1.7b-from-4b", dtype="float32"), Runtime())
    again = Experiment.parse(plan.experiment.model_dump(mode="json"))
    assert make_plan(again, Runtime()).run_id == plan.run_id
    whole = Experiment.parse(Experiment().model_dump() | {"pair": "qwen3-1.7b-from-4b"})
    assert with_pair_settings(whole) == whole  # ours by default, and recorded so


def test_the_embedded_pairs_have_the_defaults():
    for name in ("tiny-qwen3", "tiny-qwen2.5"):
        assert with_pair_settings(Experiment(pair=name)) == Experiment(pair=name)


def test_two_models_given_have_no_pair_to_ask(tmp_path):
    given = Experiment(pair="qwen3-1.7b-from-4b", teacher="a/b", student="c/d")
    assert with_pair_settings(given) == given
    one = Experiment(pair="qwen3-1.7b-from-4b", teacher="a/b")
    assert with_pair_settings(one).learning_rate == 1e-6


def test_a_preset_goes_before_the_pair_and_a_flag_before_both(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "slow", {"learning_rate": 1e-7, "steps": 3})
    experiment = presets.experiment_from({"pair": "qwen3-1.7b-from-4b", "steps": 4}, "slow")
    found = with_pair_settings(experiment)
    assert (found.learning_rate, found.steps, found.max_new_tokens) == (1e-7, 4, 1024)
