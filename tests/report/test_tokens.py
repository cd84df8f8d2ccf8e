"""What a rule keeps at any budget, from a token bank, against the budget itself."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from steps import trainer

from bench.core.errors import ConfigError
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.report.sample import write_published, write_sample
from bench.report.tokens import NEVER, read_bank, sampled, token_data
from bench.selection.budget import select_tokens
from bench.train.loop import train


@pytest.fixture(scope="module", params=["batch", "response"])
def banked(request, tmp_path_factory):
    """A run's second step, some of whose rules tie and abstain."""
    found = trainer(
        tmp_path_factory.mktemp("bank"),
        {"token_bank": 2, "shadow": ("all",), "shadow_every": 2},
        steps=2, scope=request.param, seed=3, keep=0.3,
    )  # fmt: skip
    train(found, Progress("off"), StopRequest(), dict)
    return found, read_bank(found.folder.token_bank / "step-000002.parquet")


@pytest.mark.parametrize("rule", ["teachability", "random", "first", "quadrant"])
def test_first_keeps_are_what_the_budget_keeps(banked, rule):
    found, bank = banked
    rows, positions = (
        torch.from_numpy(bank.column(n).astype(int)) for n in ("response", "position")
    )
    mask_BT = torch.zeros(rows.max() + 1, positions.max() + 1, dtype=torch.bool)
    score_BT = torch.zeros(mask_BT.shape, dtype=torch.float64)
    mask_BT[rows, positions] = True
    score_BT[rows, positions] = torch.from_numpy(bank.column(f"score_{rule}").astype(float))
    pairs = sorted({*zip(rows.tolist(), bank.table["prompt_id"].to_pylist(), bank.column("sample"),
                         strict=True)})  # fmt: skip
    keys = [f"{prompt}/{sample}" for _, prompt, sample in pairs]
    first_N = bank.column(f"first_keep_{rule}")
    for per_cent in (1, 5, 20, 50, 99, 100):
        kept_BT = select_tokens(
            score_BT, mask_BT, keep=per_cent / 100, scope=found.experiment.scope, seed=3, step=1,
            row_key_B=keys, abstains=True,
        )  # fmt: skip
        assert np.array_equal(first_N <= per_cent, kept_BT[rows, positions].numpy())
    abstained = ~np.isfinite(bank.column(f"score_{rule}"))
    assert np.array_equal(first_N == NEVER, abstained)


def test_at_the_banks_own_budget_every_mask_is_the_banks(banked):
    """Of rules with a budget of their own too, which no other budget changes."""
    _, bank = banked
    own = bank.facts["own_budget"]
    assert {"first_n", "sign_gate", "entropy_p98"} <= set(own)
    assert not {"teachability", "random", "quadrant", "entropy"} & set(own)
    per_cent = round(100 * bank.facts["keep"])
    for rule in bank.rules:
        kept_N = bank.column(f"first_keep_{rule}") <= per_cent
        assert np.array_equal(kept_N, bank.column(f"mask_{rule}")), rule
    for rule in own:
        assert set(bank.column(f"first_keep_{rule}").tolist()) <= {1, NEVER}


def test_a_least_number_of_each_response_is_kept_at_every_budget(tmp_path):
    found = trainer(
        tmp_path, {"token_bank": 1, "shadow": ("entropy",)}, steps=1, keep=0.1,
        min_keep_per_response=2,
    )  # fmt: skip
    train(found, Progress("off"), StopRequest(), dict)
    bank = read_bank(found.folder.token_bank / "step-000001.parquet")
    assert bank.facts["own_budget"] == []
    kept_N = bank.column("first_keep_entropy") <= 1
    least = np.bincount(bank.column("response")[kept_N])
    assert least.min() == 2


def test_a_sample_holds_right_and_wrong_responses_and_the_whole_batchs_budget(banked, tmp_path):
    _, bank = banked
    bank.facts["correct"] = [row % 3 == 0 for row in range(len(bank.facts["correct"]))]
    part = sampled(bank, 4)
    rows = sorted(set(part.column("response").tolist()))
    assert len(rows) == 4 and sum(bank.facts["correct"][row] for row in rows) == 2
    write_sample(bank, tmp_path / "part.parquet", 4)
    again = read_bank(tmp_path / "part.parquet")
    assert again.rules == bank.rules
    for rule in bank.rules:
        name = f"first_keep_{rule}"
        assert np.array_equal(again.column(name), part.column(name))
    assert not [name for name in again.table.column_names if name.startswith("score_")]
    assert set(again.facts["prompts"]) == set(again.table["prompt_id"].to_pylist())


def test_the_page_gets_prompts_answers_tokens_and_every_rule(banked):
    _, bank = banked
    (found,) = token_data([bank])
    assert [rule["name"] for rule in found["rules"]] == bank.rules
    assert len(found["responses"]) == 6 == found["of_responses"]
    first = found["responses"][0]
    assert first["text"].endswith("?") or "How many" in first["text"]
    assert first["answer"].isdigit() and first["correct"] in (True, False)
    assert found["responses"][-1]["end"] == bank.table.num_rows
    names = [signal["name"] for signal in found["signals"]]
    assert {"student_entropy", "forward_kl", "teacher_mass_on_student_topk"} <= set(names)


def test_what_is_no_bank_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ConfigError, match="is no token bank"):
        read_bank(path)
    old = pa.table({"a": [1]}, metadata={"opd_bench": json.dumps({"run_id": "r"})})
    pq.write_table(old.replace_schema_metadata({"opd_bench": '{"run_id": "r"}'}), path)
    with pytest.raises(ConfigError, match=r"does not name its pair.*--token-bank"):
        read_bank(path)


def test_the_published_files_are_written_pair_by_pair(banked, tmp_path):
    found, bank = banked
    write_published([found.folder.path], tmp_path)
    name = bank.facts["pair"]
    overlap = json.loads((tmp_path / f"{name}.overlap.json").read_text())
    assert overlap["steps"] == [2] and "teachability" in overlap["rules"]
    with pytest.raises(ConfigError, match="was written already"):
        write_published([found.folder.path] * 2, tmp_path)
