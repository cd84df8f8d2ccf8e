"""The shadow panel and the token bank change no number of a run, and say what was there."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from small_pair import pair_folder
from steps import QUIET, SMALL, experiment, run_steps, same, trainer, weights, without_costs

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, Stopped
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.run.run_experiment import run_experiment
from bench.selection.registry import selector_names
from bench.shadow import token_bank
from bench.shadow.panel import BINS
from bench.shadow.token_classes import TOKEN_CLASSES
from bench.train.checkpoints import last_checkpoint
from bench.train.loop import train

ALL = {"shadow": ("all",), "token_bank": 1}
ARMS = [
    {"selector": "random"},  # the run itself scores nothing
    {"selector": "entropy", "keep": 0.2, "scope": "response"},  # it scores the student alone
    {"selector": "teachability", "ties": "earlier", "min_keep_per_response": 1},  # both models
    {"selector": "full", "objective": "forward_kl"},  # hidden states come from the loss
    {"selector": "abs_gap", "objective": "sampled_reverse_kl", "dtype": "bfloat16"},
]


def lines(found) -> list[dict]:
    return [json.loads(line) for line in found.folder.shadow.read_text().splitlines()]


def bank(found) -> pd.DataFrame:
    return pd.read_parquet(found.folder.token_bank)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm["selector"])
def test_the_panel_and_the_bank_change_no_number_of_the_run(tmp_path, arm):
    plain, shadowed = trainer(tmp_path / "a", **arm), trainer(tmp_path / "b", ALL, **arm)
    for one, other in zip(run_steps(plain), run_steps(shadowed), strict=True):
        for name in ("seconds", "peak_memory_bytes"):
            one.pop(name), other.pop(name)
        assert one == other
    assert same(weights(plain), weights(shadowed))
    for name in ("sampled", "scored", "trained", "effective", "clipped_steps"):
        assert getattr(plain.totals, name) == getattr(shadowed.totals, name)
    assert "shadow" not in plain.totals.seconds and shadowed.totals.seconds["shadow"] > 0
    assert [line["step"] for line in lines(shadowed)] == [1, 2, 3]


def test_record_and_weights_of_a_whole_run_are_equal_to_the_last_bit(tmp_path):
    from safetensors.torch import load_file

    runtimes = [
        Runtime.parse({"runs_dir": tmp_path / "a", **QUIET}),
        Runtime.parse({"runs_dir": tmp_path / "b", **QUIET, **ALL}),
    ]
    records = [run_experiment(experiment(selector="tip"), runtime) for runtime in runtimes]
    assert without_costs(records[0]) == without_costs(records[1])
    files = [load_file(f"{record.folder}/model/model.safetensors") for record in records]
    assert same(*files)
    assert "shadow" in records[1].seconds and "shadow" not in records[0].seconds


def test_the_runs_own_mask_is_the_one_it_trained_on(tmp_path):
    for number, arm in enumerate(ARMS[:3]):
        found = trainer(tmp_path / str(number), ALL, steps=1, **arm)
        run_steps(found)
        frame, name = bank(found), arm["selector"]
        assert (frame[f"mask_{name}"] == frame["selected"]).all()
        assert frame["selected"].sum() == found.totals.trained


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory):
    """A trainer whose steps were all shadowed and banked: response scope, some ties."""
    found = trainer(
        tmp_path_factory.mktemp("shadowed"), ALL, selector="teachability", keep=0.15, steps=2,
        responses_per_prompt=2, prompts_per_step=12,
    )  # fmt: skip
    run_steps(found)
    return found


def test_every_rule_is_logged_or_said_to_be_missing(shadowed):
    line = lines(shadowed)[0]
    assert line["rules"][0] == "teachability"
    assert sorted([*line["rules"], *line["skipped"]]) == selector_names()
    assert all(line["skipped"].values())
    assert line["keep"] == 0.15 and line["gradient_of"] == "reverse_kl"


def test_the_logged_statistics_follow_from_the_banked_tokens(shadowed):
    frame = bank(shadowed)
    for line in lines(shadowed):
        tokens = frame[frame["step"] == line["step"]]
        rules = line["rules"]
        masks = np.array([tokens[f"mask_{rule}"] for rule in rules])
        scores = np.array([tokens[f"score_{rule}"] for rule in rules])
        assert line["tokens"] == len(tokens)
        assert line["kept"] == masks.sum(1).tolist()
        pairs = list(zip(*np.triu_indices(len(rules), 1), strict=True))
        for (a, b), overlap, correlation in zip(
            pairs, line["jaccard"], line["spearman"], strict=True
        ):
            either = (masks[a] | masks[b]).sum()
            if not either:
                assert overlap is None
            else:
                assert overlap == pytest.approx((masks[a] & masks[b]).sum() / either, rel=1e-5)
            if 1 in (len(set(scores[a])), len(set(scores[b]))):
                assert correlation is None  # a rule that keeps all tokens alike
                continue
            assert correlation == pytest.approx(
                stats.spearmanr(scores[a], scores[b]).statistic, rel=1e-4, abs=1e-6
            )
        for rule, mask, score, tied in zip(rules, masks, scores, line["tied"], strict=True):
            if not mask.any():
                assert tied == 0
                continue
            cut = score[mask].min()
            is_split = (score[~mask] == cut).any()
            assert tied == ((score[mask] == cut).sum() if is_split else 0), rule
        norm = tokens["logit_gradient_norm"].to_numpy(float)
        np.testing.assert_allclose(line["gradient_share"], masks @ norm / norm.sum(), rtol=1e-5)
        for place, name in enumerate(line["signals"]["names"]):
            value = tokens[name].to_numpy(float)
            assert line["signals"]["all"][place] == pytest.approx(value.mean(), rel=1e-5)
            found = [row[place] for row in line["signals"]["kept"]]
            with np.errstate(invalid="ignore"):  # a rule that keeps none of a step
                expected = masks @ value / masks.sum(1)
            found = np.array(found, float)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
        tenth = (BINS * tokens["position"]) // tokens["response_length"]
        rank = (stats.rankdata(tokens["student_entropy"]) - 1) / (len(tokens) - 1)
        groups = {
            "position": tenth.to_numpy(),
            "entropy": np.minimum((BINS * rank).astype(int), BINS - 1),
            "class": tokens["token_class"].map(TOKEN_CLASSES.index).to_numpy(),
        }
        for name, group in groups.items():
            size = len(line[name]["all"])
            assert line[name]["all"] == np.bincount(group, minlength=size).tolist()
            for mask, kept in zip(masks, line[name]["kept"], strict=True):
                assert kept == np.bincount(group[mask], minlength=size).tolist()


def test_the_banks_columns_are_those_that_are_documented(shadowed):
    path = token_bank.step_file(shadowed.folder.token_bank, 1)
    schema = pq.read_schema(path)
    facts = json.loads(schema.metadata[b"opd_bench"])
    documented = [
        line.split()[0] for line in token_bank.__doc__.splitlines() if line.startswith("    ")
    ]
    plain = [name for name in documented if "<" not in name]
    per_rule = [f"{what}_{rule}" for rule in facts["rules"] for what in ("score", "mask")]
    assert schema.names == [*plain, *facts["signals"], *per_rule]
    assert schema.field("forward_kl").metadata[b"description"] == b"KL(q\xe2\x80\x96p) = "\
        b"\xce\xa3 q (log q - log p)."  # fmt: skip
    assert facts["step"] == 1 and facts["k"] == 8 and facts["keep"] == 0.15
    assert facts["run_id"] == shadowed.folder.path.name
    frame = bank(shadowed)
    assert sorted(frame["step"].unique()) == [1, 2]
    assert not frame.isna().any().any()
    assert len(frame["student_topk_id"].iloc[0]) == 8
    assert frame["sample"].max() == 1
    assert frame["prompt_id"].iloc[0] == "arithmetic-train-0"
    first = frame[(frame["step"] == 1) & (frame["response"] == 0)]
    assert first["position"].tolist() == list(range(int(first["response_length"].iloc[0])))
    decoded = shadowed.pair.tokenizer.decode(first["token_id"].tolist())
    assert "".join(first["text"]) == decoded or "�" in decoded


def test_what_is_banked_does_not_depend_on_where_the_run_had_it_from(tmp_path):
    """Hidden states of the scoring pass, of the loss, or of passes for the panel alone."""
    banks = []
    for number, selector in enumerate(("teachability", "full", "entropy", "random")):
        settings = {"micro_batch": 2, **ALL}
        found = trainer(tmp_path / str(number), settings, selector=selector, steps=1)
        run_steps(found)
        banks.append(bank(found))
    for other in banks[1:]:
        assert other["token_id"].equals(banks[0]["token_id"])
        for name in ("student_entropy", "teacher_entropy", "forward_kl", "logit_gradient_norm"):
            np.testing.assert_allclose(other[name], banks[0][name], rtol=1e-4, atol=1e-5)


def test_every_nth_step_is_logged_and_banked(tmp_path):
    found = trainer(
        tmp_path, {"shadow": ("entropy", "tip"), "shadow_every": 2, "token_bank": 3}, steps=5
    )
    run_steps(found)
    assert [line["step"] for line in lines(found)] == [2, 4]
    assert lines(found)[0]["rules"] == ["teachability", "entropy", "tip"]
    assert bank(found)["step"].unique().tolist() == [3]
    assert "score_entropy" in bank(found)


def test_the_masks_of_a_run_on_all_tokens_have_a_budget_of_their_own(tmp_path):
    shadow = {"shadow": ("entropy",)}
    found = trainer(tmp_path / "a", shadow, selector="full", steps=1)
    run_steps(found)
    (line,) = lines(found)
    assert line["keep"] == 0.05
    assert line["kept"] == [-(-5 * line["tokens"] // 100)] * 2
    found = trainer(tmp_path / "b", {**shadow, "shadow_keep": 0.2}, selector="full", steps=1)
    run_steps(found)
    assert lines(found)[0]["keep"] == 0.2


def test_a_bank_without_a_panel_holds_the_runs_own_rule(tmp_path):
    found = trainer(tmp_path, {"token_bank": 1}, steps=1)
    run_steps(found)
    assert [name for name in bank(found) if name.startswith("mask_")] == ["mask_teachability"]
    assert not found.folder.shadow.exists()


def test_a_resumed_run_has_the_logs_of_an_uninterrupted_one(tmp_path):
    settings = {"steps": 4, "selector": "entropy", "keep": 0.2}
    whole = trainer(tmp_path / "a", ALL, **settings)
    train(whole, Progress("off"), StopRequest(), dict)
    stopped = trainer(tmp_path / "b", ALL, **settings)
    request = StopRequest()
    request.requested = True
    with pytest.raises(Stopped):
        train(stopped, Progress("off"), request, dict)
    # A killed run took two more steps without a checkpoint, and died in the middle of a write.
    folder = stopped.folder
    stopped.step(1), stopped.step(2)
    with folder.shadow.open("a") as file:
        file.write('{"step": 4, "rul')
    assert last_checkpoint(folder.checkpoints).step == 1
    resumed = trainer(tmp_path / "b", ALL, **settings)
    train(resumed, Progress("off"), StopRequest(), dict)
    assert lines(resumed) == lines(whole)
    pd.testing.assert_frame_equal(bank(resumed), bank(whole))
    assert sorted(bank(resumed)["step"].unique()) == [1, 2, 3, 4]


def test_a_bank_that_cannot_be_written_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    found = trainer(tmp_path, {"token_bank": 1})

    def full_disk(table, path, **settings):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.core.arrays.pq.write_table", full_disk)
    with pytest.raises(BenchError, match=r"token bank .*step-000001.*No space left"):
        found.step(0)
    assert list(found.folder.token_bank.iterdir()) == []


def test_the_panel_is_no_part_of_the_runs_identity():
    from bench.run.plan import make_plan

    plain = Experiment.parse({"pair": str(pair_folder()), **SMALL})
    assert make_plan(plain, Runtime()).run_id == make_plan(plain, Runtime.parse(ALL)).run_id


def test_shadowing_draws_no_random_number(tmp_path):
    found = trainer(tmp_path, ALL, steps=1)
    before = torch.get_rng_state()
    run_steps(found)
    assert torch.equal(torch.get_rng_state(), before)
