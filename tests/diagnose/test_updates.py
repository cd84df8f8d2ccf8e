"""Updates change what they say, and gains are those of the updated student."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_diagnosis import DIAGNOSIS, experiment, full, runtime

from bench.core.errors import ConfigError
from bench.core.progress import open_progress
from bench.diagnose import run_diagnostic as module
from bench.diagnose import updates
from bench.diagnose.diagnosis import Diagnosis
from bench.diagnose.measured import RESOLUTION
from bench.diagnose.updates import check_disjoint, drawn_counts, make_updates, measure
from bench.pairs.models import load_model
from bench.tasks.prompts import Arithmetic


def test_gains_are_those_of_the_updated_student(bank, folder):
    (update, *_) = make_updates(bank, runtime(folder))
    with open_progress("off") as progress:
        after = measure(bank, update, runtime(folder), progress, None)  # kept beside the bank
    before = {name: bank.column(f"{name}_BT") for name in after}
    assert any(np.abs(before[name] - after[name]).max() > 1e-3 for name in after)
    assert len(after["forward_kl"]) == len(bank.response_N)


def test_a_student_that_did_not_change_has_no_gain_at_all(bank, folder, pair):
    from bench.diagnose.updates import score_after

    student = load_model(f"{pair}/student")
    with open_progress("off") as progress:
        after = score_after(bank, student, runtime(folder), progress, 0)
    for name, value_N in after.items():
        assert np.abs(value_N - bank.column(f"{name}_BT")).max() < RESOLUTION["float32"] / 2


def test_bfloat16_has_a_coarser_resolution(pair, tmp_path):
    found = module.diagnose(
        experiment(pair, dtype="bfloat16"),
        Diagnosis.parse(DIAGNOSIS | {"update_seeds": [0]}),
        runtime(tmp_path),
    )
    assert found["update_experiment"]["dtype"] == "bfloat16"
    assert found["gain"]["mean"]["value"] is not None


def test_one_step_is_taken_on_the_bank_and_a_run_is_a_checkpoint(record, pair, folder, tmp_path):
    one = module.diagnose(
        experiment(pair, learning_rate=1e-2),
        Diagnosis.parse(DIAGNOSIS | {"update": "one_step"}),
        runtime(folder),
    )
    assert one["bank"] == record["bank"] and one["update_experiment"]["steps"] == 1
    by_seed = one["verdicts"][0]["by_seed"]
    assert len(set(by_seed)) == 3  # each seed draws the bank's prompts anew
    assert drawn_counts(0, 50).sum() == 50 and (drawn_counts(0, 50) != drawn_counts(1, 50)).any()

    run = tmp_path / "a-run"
    shutil.copytree(f"{pair}/student", run / "model")
    points_to = {side: record["bank"][side] for side in ("teacher", "student")}
    settings = full(pair, seed=7).model_dump(mode="json")
    (run / "experiment.json").write_text(
        json.dumps({"experiment": settings, "points_to": points_to})
    )
    update = {"update": f"run:{run}"}
    found = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS | update), runtime(folder))
    assert found["update_seeds"] == [7] and found["gain"]["none_share"] == 1
    assert found["verdicts"] == []
    (run / "experiment.json").write_text(
        json.dumps({"experiment": settings, "points_to": points_to | {"student": "0" * 64}})
    )
    with pytest.raises(ConfigError, match=r"another student than pair"):
        module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS | update), runtime(folder))


def test_an_update_on_a_prompt_of_the_bank_is_refused(pair, folder, monkeypatch):
    from bench.tasks.prompt_sets import get_held_out

    monkeypatch.setattr(updates, "get_prompts", get_held_out)
    with pytest.raises(ConfigError, match=r"prompts: 'arithmetic' gives prompt .* holds it too"):
        module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))


def test_a_prompt_of_the_bank_is_refused_at_whatever_step_it_comes(pair):
    def check(prompt, **settings):
        agreement = SimpleNamespace(tokenizer=None, chat=None)
        held = SimpleNamespace(prompts=[prompt], agreement=agreement)
        check_disjoint(held, full(pair, prompts_per_step=4, **settings))

    (*_, last) = Arithmetic().draw(2, 4, 7)  # the last prompt of the third step
    with pytest.raises(ConfigError, match=f"gives prompt '{last.id}' to step 3 of the update"):
        check(last, steps=3, seed=7)
    with pytest.raises(ConfigError, match="holds it too"):
        check(replace(last, id="another"), steps=5, seed=7)
    check(last, steps=2, seed=7)
    check(last, steps=3, seed=8)
    check(replace(last, text="another"), steps=3, seed=7)


def test_every_update_that_draws_prompts_is_checked(bank, folder, monkeypatch):
    checked = []
    monkeypatch.setattr(
        updates, "check_disjoint", lambda bank, experiment: checked.append(experiment)
    )
    found = make_updates(bank, runtime(folder))
    assert checked == [update.experiment for update in found]
    assert [experiment.seed for experiment in checked] == list(bank.diagnosis.update_seeds)
    monkeypatch.setattr(bank, "diagnosis", bank.diagnosis.model_copy(update={"update": "one_step"}))
    make_updates(bank, runtime(folder))
    assert len(checked) == len(found)
