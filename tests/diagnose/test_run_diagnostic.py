"""The diagnostic end to end, on a small random pair: bank, updates, gains, record, files."""

import pyarrow.parquet as pq
import pytest
import small_pair
from small_diagnosis import DIAGNOSIS, experiment, runtime

from bench.core.errors import ConfigError
from bench.diagnose import build_bank as build_module
from bench.diagnose import run_diagnostic as module
from bench.diagnose.diagnosis import Diagnosis
from bench.pairs.models import read_agreement
from bench.pairs.pair import get_pair


def test_the_record_has_the_keys_it_promises(record):
    assert record["update_seeds"] == [0, 1, 2] and record["k"] == 4
    assert record["n_prompts"] == 12 and 12 < record["n_contexts"] <= 120
    for name in ("spearman", "auroc"):
        assert set(record[name]["forward_kl"]) == {"value", "ci95"}
    assert set(record["delta_spearman"]) == {"value", "ci95"}
    assert set(record["matched_top"]) == {"0.1", "0.3"}
    assert {"random", "oracle", "teachability"} <= set(record["matched_top"]["0.1"])
    assert set(record["matched_top"]["0.1"]["oracle"]) >= {"gain", "ci95"}
    assert set(record["regressions"]) == {"2", "4"}
    assert all(verdict["line"] for verdict in record["verdicts"])
    assert record["skipped"]["full"] == "always keeps 100 % of the tokens"


def test_scores_of_every_selector_lie_beside_the_bank(bank, record):
    table = pq.read_table(bank.path / "scores.parquet")
    assert set(table.column_names) == set(record["selectors"])
    assert table.num_rows == record["n_contexts"]
    assert table.column("forward_kl").to_numpy() == pytest.approx(bank.column("forward_kl_BT"))


def test_the_same_settings_use_what_is_there_and_give_the_same_record(
    record, pair, folder, monkeypatch
):
    monkeypatch.setattr(
        build_module, "load_model", lambda path: pytest.fail("a finished bank loads no model")
    )
    again = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(folder))
    assert again == record


def test_a_fresh_folder_gives_the_same_record(record, pair, tmp_path, three_parts):
    again = module.diagnose(experiment(pair), Diagnosis.parse(DIAGNOSIS), runtime(tmp_path))
    assert again == record


def test_a_rule_that_needs_what_a_bank_cannot_give_is_named_with_its_reason(bank, tmp_path):
    rule = tmp_path / "rule.py"
    rule.write_text(
        "from bench import selector\n"
        "@selector('needs_more')\n"
        "def needs_more(signals):\n"
        "    '''Keep nothing.'''\n"
        "    raise ValueError('no rewards here')\n"
        "@selector('weighted', needs=('forward_kl_BT',), kind='weight')\n"
        "def weighted(signals):\n"
        "    '''Weigh by D.'''\n"
        "    return signals.forward_kl_BT.clamp(min=0)\n"
    )
    found = module.find_selectors([f"{rule}:needs_more", f"{rule}:weighted"])
    chosen = {name: found[name] for name in ("needs_more", "weighted", "full")}
    scores, skipped = module.score_bank(bank, chosen)
    assert set(scores) == {"weighted"}
    assert "no rewards here" in skipped["needs_more"]


@pytest.mark.parametrize(
    "diagnosis, message",
    [
        ({"responses": 7, "samples_per_prompt": 2}, r"responses: 7 is not a multiple"),
        ({"responses": 4, "samples_per_prompt": 4}, r"responses: intervals resample prompts"),
        ({"update": "two_steps"}, r"update: 'two_steps' is not accepted: train, one_step"),
        ({"update": "run:"}, r"update: 'run:' is not accepted"),
        ({"update_seeds": []}, r"update_seeds: \[\] must name one value"),
        ({"draws": 5}, r"draws: 5 is not accepted"),
        ({"respones": 5}, r"unknown name 'respones'; did you mean 'responses'"),
    ],
)
def test_bad_settings_are_one_clear_error(diagnosis, message):
    with pytest.raises(ConfigError, match=message):
        Diagnosis.parse(diagnosis)


def test_errors_of_a_diagnostic_name_the_field(pair, folder):
    def run(diagnosis=None, **settings):
        module.diagnose(
            experiment(pair, **settings),
            Diagnosis.parse(DIAGNOSIS | (diagnosis or {})),
            runtime(folder),
        )

    with pytest.raises(ConfigError, match=r"selector: 'tip' is not accepted: the update trains"):
        run(selector="tip")
    with pytest.raises(ConfigError, match=r"k: 5000 is not accepted: 1 to 657, the vocabulary"):
        run({"k_sweep": [5000]})
    with pytest.raises(ConfigError, match=r"update: run 'gone' is neither in .* nor a run folder"):
        run({"update": "run:gone"})


def test_stops_and_vocabulary_are_read_without_weights(pair):
    whole = small_pair.loaded_pair()
    found = read_agreement(get_pair(pair))
    assert found.vocabulary == whole.vocabulary and found.stops_agree
    assert found.student_stop_ids == whole.student_stop_ids
