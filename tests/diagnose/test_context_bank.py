"""The bank holds the signals of its contexts, and is named by all that they depend on."""

import json

import pytest
import torch
from small_diagnosis import DIAGNOSIS, experiment, full, runtime

from bench.core.errors import ConfigError
from bench.diagnose import run_diagnostic as module
from bench.diagnose.context_bank import ContextBank, depends_on_k
from bench.diagnose.diagnosis import Diagnosis
from bench.pairs.models import load_model, read_agreement
from bench.pairs.pair import get_pair
from bench.selection.formulas import signals_from_logits
from bench.selection.signals import SIGNAL_NAMES
from bench.tasks.prompt_sets import get_prompts


def test_columns_are_the_signals_of_dense_logits(bank, pair):
    student, teacher = (load_model(f"{pair}/{side}") for side in ("student", "teacher"))
    part, row = 1, 2
    rollout = bank.rollout(part)
    length = int(rollout.mask_BT[row].sum())
    start = int(rollout.prompt_length_B[row])
    sequence = rollout.sequence_BL[row : row + 1, : start + length]
    place = torch.arange(start - 1, start + length - 1)
    with torch.no_grad():
        dense = [bank.vocabulary.cut(m(sequence).logits)[:, place] for m in (student, teacher)]
    token_BT = rollout.token_BT[row : row + 1, :length]
    mine = bank.response_N == part * 5 + row
    assert mine.sum() == length
    for k in (2, 4):
        wanted = signals_from_logits(*dense, token_BT, token_BT >= 0, k=k)
        whole = bank.signals(SIGNAL_NAMES, k)
        for name in SIGNAL_NAMES:
            found = getattr(whole, name)[whole.mask_BT][torch.from_numpy(mine)]
            expected = getattr(wanted, name)[0]
            assert torch.allclose(found.float(), expected.float(), atol=1e-5), (name, k)


def test_signals_that_do_not_name_a_topk_do_not_depend_on_k(make_batch):
    batch = make_batch()
    one, other = (
        signals_from_logits(
            batch.student_logits_BTV, batch.teacher_logits_BTV, batch.token_BT, batch.mask_BT, k=k
        )
        for k in (2, 5)
    )
    for name in SIGNAL_NAMES:
        if not depends_on_k(name):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        elif name.endswith("_BTK"):  # a list at a smaller K is the start of a longer one
            assert torch.equal(getattr(one, name), getattr(other, name)[..., :2]), name


def test_the_bank_is_named_by_its_content(pair, folder):
    def name(diagnosis=None, **settings):
        return ContextBank(
            full(pair, **settings),
            Diagnosis.parse(DIAGNOSIS | (diagnosis or {})),
            runtime(folder),
        ).id

    assert name() == name(steps=9, learning_rate=1e-2)  # the update's settings are not the bank's
    others = [name({"responses": 14}), name({"positions": 9}), name({"k_sweep": [2, 3]}),
              name(seed=1), name(temperature=0.5), name(dtype="bfloat16")]  # fmt: skip
    assert len({name(), *others}) == 7


def test_the_bank_of_a_prompt_file_holds_what_no_update_draws(pair, tmp_path):
    file = tmp_path / "own.jsonl"
    lines = [{"problem": f"Tom has {n} apples and buys {n + 3}.", "answer": str(2 * n + 3)}
             for n in range(40)]  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = experiment(pair, prompts=str(file), instruction="")
    diagnosis = Diagnosis.parse({**DIAGNOSIS, "update_seeds": [0, 1]})
    found = module.diagnose(settings, diagnosis, runtime(tmp_path))
    assert (found["n_prompts"], found["update_seeds"]) == (12, [0, 1])
    held_out = {prompt.id for prompt in ContextBank(settings, diagnosis, runtime(tmp_path)).prompts}
    assert len(held_out) == 12
    agreement = read_agreement(get_pair(pair))
    prompts = get_prompts(settings).prepare(agreement.tokenizer, agreement.chat)
    for seed in (0, 1):
        for step in range(settings.steps):
            drawn = {p.id for p in prompts.draw(step, settings.prompts_per_step, seed)}
            assert len(drawn) == 4 and not drawn & held_out
    with pytest.raises(
        ConfigError, match="responses: .* has 0 prompts that no update draws, not 12"
    ):
        ContextBank(experiment(pair, prompts=str(file), steps=10), diagnosis, runtime(tmp_path))
