"""bench doctor: a sound pair passes every check; what only a loaded pair shows is probed."""

import json

import pytest
import torch
from command import call
from diagnosed_pair import diagnosis, edit, edit_tokenizer, rename_token, states
from qwen_pair import ENDOFTEXT, IM_END, qwen_folder
from real_data import needs_data
from small_pair import pair_folder

from bench.core.config import Experiment, Runtime
from bench.core.sampling import Vocabulary
from bench.pairs.models import load_pair
from bench.run import doctor as doctor_module
from bench.run.plan import make_plan


@needs_data
@pytest.mark.parametrize("architecture, tied", [("qwen3", True), ("qwen2", False)])
def test_a_sound_pair_passes_every_check(architecture, tied):
    found = diagnosis(qwen_folder(architecture, tied))
    assert states(found) == {}
    assert list(found) == [
        "data", "tokenizers", "student weights", "teacher weights", "vocabulary", "stop tokens",
        "chat template", "thinking mode", "generation defaults", "embeddings", "settings",
        "prompt lengths", "memory", "disk space", "teacher against itself", "teacher determinism",
    ]  # fmt: skip
    assert "student 151,936 logits, teacher 152,064, tokenizer 151,669 ids: both cut to the first "
    assert "151,936" in found["vocabulary"].said and "152,064" in found["vocabulary"].said
    assert found["vocabulary"].said.endswith("both cut to the first 151,669")
    assert "<|endoftext|> (151643), <|im_end|> (151645)" in found["stop tokens"].said
    sides = ("tied", "untied") if tied else ("untied", "tied")
    assert found["embeddings"].said == f"student {sides[0]}, teacher {sides[1]}"
    pair = load_pair(
        make_plan(Experiment(pair=str(qwen_folder(architecture, tied))), Runtime()).pair
    )
    assert pair.vocabulary == Vocabulary(151_669)
    assert pair.student_stop_ids == pair.teacher_stop_ids == (ENDOFTEXT, IM_END)


def swap_ids(values):
    vocab = values["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]


def drop_merge(values):
    values["model"]["merges"].pop()


@needs_data
@pytest.mark.parametrize("change, part", [(swap_ids, "vocab"), (drop_merge, "merges")])
def test_tokenizers_that_differ_fail(pair, change, part):
    edit_tokenizer(pair / "teacher", change)
    found = diagnosis(pair)
    assert found["tokenizers"].state == "fail"
    assert f"differ in their {part}" in found["tokenizers"].said
    assert "teacher determinism" not in found


@needs_data
def test_added_tokens_that_differ_warn_and_fail_where_the_template_writes_them(pair):
    rename_token(pair / "teacher", "<|quad_start|>", "<|other|>")
    found = diagnosis(pair)
    assert states(found) == {"tokenizers": "warn"}
    assert "1 of them left out" in found["vocabulary"].said
    rename_token(pair / "teacher", "<|im_start|>", "<|User|>")
    found = diagnosis(pair)
    assert found["chat template"].state == "fail"
    assert "[151644]" in found["chat template"].said
    assert "--chat plain" in found["chat template"].advice
    assert states(diagnosis(pair, chat="plain", thinking="pair")) == {"tokenizers": "warn"}


@needs_data
def test_missing_weights_and_files_fail(pair):
    edit(pair / "student" / "config.json", tie_word_embeddings=False)
    found = diagnosis(pair)
    assert found["student weights"].state == "fail"
    assert "lack 1 weights (lm_head.weight)" in found["student weights"].said
    (pair / "teacher" / "model.safetensors").unlink()
    edit(pair / "student" / "config.json", tie_word_embeddings=True)
    assert diagnosis(pair)["teacher weights"].state == "fail"
    (pair / "teacher" / "tokenizer.json").unlink()
    found = diagnosis(pair)
    assert states(found) == {"teacher tokenizer": "fail"}


@needs_data
def test_missing_data_fails(pair, monkeypatch, tmp_path):
    monkeypatch.setenv("OPD_BENCH_DATA", str(tmp_path))
    found = diagnosis(pair, eval_tasks=["aime25"])
    assert found["data"].state == "fail"
    assert "bench data fetch aime25" in found["data"].advice


def in_training_mode(models):
    def load(pair, tokenizers, **settings):
        loaded = models(pair, tokenizers, **settings)
        loaded.teacher.config.attention_dropout = 0.5
        for layer in loaded.teacher.model.layers:
            layer.self_attn.attention_dropout = 0.5
        loaded.teacher.train()
        return loaded

    return load


def test_a_teacher_that_answers_itself_otherwise_fails(monkeypatch):
    monkeypatch.setattr(doctor_module, "load_pair", in_training_mode(doctor_module.load_pair))
    found = diagnosis(pair_folder(), thinking="pair")
    assert found["teacher against itself"].state == "fail"
    assert found["teacher determinism"].state == "fail"


def test_a_teacher_that_is_not_finite_fails(monkeypatch):
    load = doctor_module.load_pair

    def broken(pair, tokenizers, **settings):
        loaded = load(pair, tokenizers, **settings)
        with torch.no_grad():
            loaded.teacher.model.norm.weight[0] = torch.nan
        return loaded

    monkeypatch.setattr(doctor_module, "load_pair", broken)
    found = diagnosis(pair_folder(), thinking="pair")
    assert found["teacher against itself"].state == "fail"
    assert found["teacher determinism"].state == "fail"


def test_a_teacher_that_depends_on_the_batch_is_told_by_how_much(monkeypatch):
    score = doctor_module.score_rollout

    def shifted(by):
        def scored(*args):
            found = score(*args)
            if args[-1].micro_batch == 1:
                found.values["teacher_logprob_BT"] += by
            return found

        return scored

    for by, state in ((1e-5, "pass"), (1e-2, "warn"), (1.0, "fail")):
        monkeypatch.setattr(doctor_module, "score_rollout", shifted(by))
        assert diagnosis(pair_folder(), thinking="pair")["teacher determinism"].state == state


def test_the_command_prints_every_check_and_fails_where_a_run_would(capsys, tmp_path):
    arguments = ["doctor", "--device", "cpu", "--runs-dir", tmp_path, "--json"]
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    found = json.loads(out)
    assert {check["state"] for check in found} == {"pass"} and len(found) == 16
    code, out, err = call(capsys, *arguments, "--pair", "qwen3-1.7b-from-4b")
    assert code == 1
    failed = [check for check in json.loads(out) if check["state"] == "fail"]
    assert any("hf download Qwen/Qwen3-1.7B --revision 70d244cc" in c["advice"] for c in failed)
    assert "failed: " in err and "student tokenizer" in err
    code, out, _ = call(capsys, "doctor", "--device", "cpu", "--runs-dir", tmp_path)
    assert code == 0 and "teacher determinism" in out


def test_extras_that_are_not_installed_are_said(monkeypatch):
    monkeypatch.setattr("bench.pairs.adapters.find_spec", lambda name: None)
    found = diagnosis(pair_folder(), lora=4)["packages"]
    assert found.state == "fail" and 'pip install "opd-bench[lora]"' in found.said
