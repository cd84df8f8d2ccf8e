"""The artefacts page follows from its JSON, and its measures are what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call
from small_pair import loaded_pair

from bench.core.config import Experiment
from bench.selection.population import norm_q05
from bench.shadow import artefacts, conventions
from bench.shadow.artefact_batch import draw_batch
from bench.shadow.artefact_page import page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def batch():
    experiment = Experiment(prompts_per_step=6, max_new_tokens=10, k=4)
    pair = loaded_pair()
    stops = tuple(range(0, 657, 11))  # many stop tokens: responses of unequal length
    return draw_batch(replace(pair, student_stop_ids=stops), experiment, seed=0)


def test_the_committed_page_is_the_one_of_the_committed_json(capsys, tmp_path):
    source = ROOT / "results" / "artefacts.json"
    document = json.loads(source.read_text())
    assert page(document) == (ROOT / "results" / "artefacts.md").read_text()
    (tmp_path / "artefacts.json").write_bytes(source.read_bytes())
    code, _, err = call(capsys, "artefacts", "--render", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert (tmp_path / "artefacts.md").read_text() == page(document)


def test_measurements_go_into_the_runs_folder_and_none_of_more_are_replaced(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    document = json.loads((ROOT / "results" / "artefacts.json").read_text())
    monkeypatch.setattr(artefacts, "measure_artefacts", lambda *_: document)
    assert call(capsys, "artefacts", "--batches", "2")[0] == 0
    place = tmp_path / "runs" / "artefacts"
    assert sorted(path.name for path in place.iterdir()) == ["artefacts.json", "artefacts.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    monkeypatch.setattr(artefacts, "measure_artefacts", lambda *_: pytest.fail("measured"))
    code, _, err = call(capsys, "artefacts", "--batches", "5", "--pairs", "tiny-qwen3")
    told = "batches: 5 are fewer than 20; pairs: tiny-qwen3 leave out tiny-qwen2.5 of 'runs/"
    assert code == 2 and err.startswith(f"bench: error: {told}") and "--replace" in err
    monkeypatch.setattr(artefacts, "measure_artefacts", lambda *_: {**document, "new": 1})
    assert call(capsys, "artefacts", "--batches", "5", "--replace")[0] == 0
    assert json.loads((place / "artefacts.json").read_text())["new"] == 1
    (place / "artefacts.json").write_text("mine")
    assert call(capsys, "artefacts", "--batches", "20")[0] == 2
    assert (place / "artefacts.json").read_text() == "mine"


def test_every_number_has_a_value_of_every_batch():
    document = json.loads((ROOT / "results" / "artefacts.json").read_text())
    count = document["settings"]["batches"]
    assert count >= 10 and set(document["pairs"]) == {"tiny-qwen3", "tiny-qwen2.5"}
    for sections in document["pairs"].values():
        assert set(sections) == set(artefacts.SECTIONS)
        for section, rows in sections.items():
            for row in rows:
                values = {n: v for n, v in row.items() if n not in artefacts.KEYS[section]}
                assert values and all(len(v) == count for v in values.values())
                assert np.isfinite(list(values.values())).all()


def test_the_union_divergence_with_its_floor_is_the_released_rules(batch):
    found = conventions.union_kl(batch, floor=1e-12)
    score_BT = norm_q05(batch.spread(found.total_N), batch.mask_BT)
    score_BT *= norm_q05(batch.spread(found.shared_mass_N), batch.mask_BT)
    released_BT = batch.score("teachability_released")
    torch.testing.assert_close(
        score_BT[batch.mask_BT].float(), released_BT[batch.mask_BT], atol=2e-4, rtol=0
    )


def test_without_a_floor_and_with_every_id_the_union_divergence_is_the_exact_one(batch):
    size = batch.student_logprob_NV.shape[1]
    everything = torch.arange(size).expand(*batch.mask_BT.shape, size)
    whole = replace(batch.signals, student_topk_id_BTK=everything, teacher_topk_id_BTK=everything)
    found = conventions.union_kl(replace(batch, signals=whole), None)
    exact_N = batch.signals.forward_kl_BT[batch.mask_BT].double()
    torch.testing.assert_close(found.total_N, exact_N, atol=1e-4, rtol=1e-4)
    assert float(found.off_support_N.abs().max()) == 0
    assert float(found.shared_mass_N.mean()) == pytest.approx(1, abs=1e-5)


def test_scoring_the_padding_leaves_the_tokens_themselves_alone(batch):
    assert bool((~batch.mask_BT).any())
    for name in ("student_entropy_BT", "forward_kl_BT"):
        own, padded = getattr(batch.signals, name), getattr(batch.padded, name)
        torch.testing.assert_close(own[batch.mask_BT], padded[batch.mask_BT], atol=1e-4, rtol=1e-4)
        assert bool((padded[~batch.mask_BT] > 0).all())


def test_refilling_adds_a_token_to_each_response_that_has_none(batch):
    responses = int((batch.signals.length_B > 0).sum())
    rows = conventions.refill(batch)
    for (_, keep), row in rows.items():
        tokens = int(batch.mask_BT.sum())
        budget = -(-tokens * keep // 1)
        added = row["responses_refilled"] * len(batch.mask_BT)
        assert row["realised_keep"] * tokens == pytest.approx(budget + added)
        assert row["realised_keep"] * tokens >= responses
    assert rows["teachability", 0.01]["other_token_by_teachability"] == 0


def test_at_k_of_the_whole_vocabulary_compatibility_is_neutral(batch):
    rows = conventions.top_k(batch)
    (last,) = [row for (k,), row in rows.items() if k == batch.student_logprob_NV.shape[1]]
    assert last["is_neutral"] == 1 and last["raw_overlap"] == 1
    masses = [row["mass"] for row in rows.values()]
    assert masses == sorted(masses) and masses[-1] == pytest.approx(1, abs=1e-5)


def test_ties_of_a_clipped_score_are_all_that_earlier_positions_change(batch):
    for (name, _), row in conventions.ties(batch).items():
        if row["by_tie_rule"] == 0:
            assert row["jaccard"] == 1 and row["position_hash"] == row["position_earlier"], name
        else:
            assert row["position_earlier"] <= row["position_hash"]
