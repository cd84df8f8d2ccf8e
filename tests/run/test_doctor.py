"""Preflight: a sound pair passes, and every check fires on the fault that it is for."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from command import call
from qwen_pair import ENDOFTEXT, IM_END, LARGE, SMALL, qwen_folder, save
from real_data import needs_data
from small_pair import pair_folder

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.sampling import Vocabulary
from bench.pairs.models import load_pair, pair_chat
from bench.run import doctor as doctor_module
from bench.run import preflight as preflight_module
from bench.run.doctor import diagnose
from bench.run.plan import make_plan
from bench.run.preflight import preflight
from bench.run.run_experiment import run_experiment

QUICK = {
    "thinking": "off", "prompts_per_step": 4, "max_new_tokens": 8, "steps": 1, "eval_items": 2,
}  # fmt: skip


@pytest.fixture
def pair(tmp_path):
    """A sound pair of one's own to break: Qwen3 classes, real tokenizer, unequal vocabularies."""
    folder = tmp_path / "pair"
    shutil.copytree(qwen_folder("qwen3", True), folder)
    return folder


def edit(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def edit_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def diagnosis(folder, **settings):
    """check name -> Check."""
    runtime = settings.pop("runtime", Runtime(device="cpu"))
    experiment = Experiment.parse({**QUICK, "pair": str(folder), **settings})
    return {check.name: check for check in diagnose(experiment, runtime)}


def states(found):
    return {name: check.state for name, check in found.items() if check.state != "pass"}


@needs_data
@pytest.mark.parametrize("architecture, tied", [("qwen3", True), ("qwen2", False)])
def test_a_sound_pair_passes_every_check(architecture, tied):
    found = diagnosis(qwen_folder(architecture, tied))
    assert states(found) == {}
    assert list(found) == [
        "data", "tokenizers", "student weights", "teacher weights", "vocabulary", "stop tokens",
        "chat template", "thinking mode", "generation defaults", "embeddings", "prompt lengths",
        "memory", "disk space", "teacher against itself", "teacher determinism",
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


def rename_token(folder, name, new):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace(f'"{name}"', f'"{new}"'))


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
def test_a_head_smaller_than_the_tokenizer_fails(pair):
    save(pair / "teacher", "qwen3", vocabulary=151_660, tied=True, seed=2)
    found = diagnosis(pair)
    assert found["vocabulary"].state == "fail"
    assert "151660 logits for a tokenizer of 151669 ids" in found["vocabulary"].said


@needs_data
def test_stop_tokens_that_differ_fail_unless_declared(pair):
    edit(pair / "student" / "generation_config.json", eos_token_id=ENDOFTEXT)
    found = diagnosis(pair)
    assert found["stop tokens"].state == "fail"
    assert (
        "student stops on (151643,), the teacher on (151643, 151645)" in found["stop tokens"].said
    )
    assert states(diagnosis(pair, stop_ids=[ENDOFTEXT, IM_END])) == {}


@needs_data
def test_a_template_whose_end_of_turn_is_no_stop_fails(pair):
    found = diagnosis(pair, stop_ids=[ENDOFTEXT])
    assert found["stop tokens"].state == "fail"
    assert "ends a turn with <|im_end|> (151645)" in found["stop tokens"].said
    assert "--stop-ids 151643 --stop-ids 151645" in found["stop tokens"].advice
    found = diagnosis(pair, stop_ids=[ENDOFTEXT], chat="plain", thinking="pair")
    assert found["stop tokens"].state == "warn"
    assert "also stop on [151645]" in found["stop tokens"].said


@needs_data
def test_stops_that_differ_as_the_pair_declares_warn(pair, monkeypatch):
    from bench.run import plan as plan_module

    own = plan_module.pair_of

    def declaring(experiment):
        stops = {"student": (ENDOFTEXT, IM_END), "teacher": (ENDOFTEXT,)}
        return replace(own(experiment), stop_ids=stops)

    monkeypatch.setattr(plan_module, "pair_of", declaring)
    found = diagnosis(pair)
    assert found["stop tokens"].state == "warn"
    assert "leaves the mask" in found["stop tokens"].said


@needs_data
def test_a_stop_that_left_the_vocabulary_fails_and_a_declared_common_one_stays(pair):
    """R1-distilled Qwen calls 151643 and 151645 otherwise."""
    for name, new in (("<|endoftext|>", "<|end_of_sentence|>"), ("<|im_end|>", "<|Assistant|>")):
        rename_token(pair / "teacher", name, new)
    plain = {"chat": "plain", "thinking": "pair"}
    found = diagnosis(pair, **plain)
    assert found["stop tokens"].state == "fail"
    assert "no response could end" in found["stop tokens"].said
    experiment = Experiment.parse({**plain, "pair": str(pair), "stop_ids": [ENDOFTEXT]})
    loaded = load_pair(make_plan(experiment, Runtime()).pair)
    assert loaded.vocabulary == Vocabulary(151_669, excluded_ids=(IM_END,))
    assert diagnosis(pair, **plain, stop_ids=[ENDOFTEXT])["stop tokens"].state == "warn"


@pytest.fixture(scope="module")
def sound():
    """cheap(**settings): name -> Check of preflight, on one sound pair that is loaded once."""
    models = load_pair(plan_of(qwen_folder("qwen3", True)).pair)

    def cheap(runtime=Runtime(device="cpu"), template=None, **settings):  # noqa: B008
        plan = plan_of(qwen_folder("qwen3", True), **settings)
        own = models.tokenizer.chat_template
        try:
            if template is not None:
                models.tokenizer.chat_template = template
            loaded = replace(models, chat=pair_chat(plan.pair, models.tokenizer))
            prompts = plan.prompts.prepare(loaded.tokenizer, loaded.chat)
            return {check.name: check for check in preflight(plan, loaded, prompts, runtime)}
        finally:
            models.tokenizer.chat_template = own

    return cheap


def plan_of(folder, **settings):
    return make_plan(Experiment.parse({**QUICK, "pair": str(folder), **settings}), Runtime())


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


@needs_data
@pytest.mark.parametrize(
    "settings, state, said",
    [
        ({"thinking": "off"}, "pass", "off, in training and in evaluation"),
        ({"thinking": "pair"}, "warn", "takes its own default"),
        ({"thinking": "on"}, "warn", "most thoughts are cut off"),
        ({"thinking": "on", "max_new_tokens": 4096}, "pass", "on, in training"),
        ({"thinking": "off", "chat": "plain"}, "warn", "plain text has no mode"),
        ({"thinking": "pair", "chat": "plain"}, "pass", "none: plain text"),
        ({"thinking": "off", "template": TEMPLATE}, "warn", "the template ignores it"),
        ({"thinking": "off", "template": "{{ raise_exception('no') }}"}, "warn", "template fails"),
    ],
)
def test_thinking_modes(sound, settings, state, said):
    found = sound(**settings)["thinking mode"]
    assert found.state == state and said in found.said


@needs_data
def test_templates_that_differ_or_fail(sound):
    assert "the same on both sides" in sound()["chat template"].said
    found = sound(template=TEMPLATE)["chat template"]
    assert found.state == "warn" and "both sides are fed the student's" in found.said
    found = sound(template="{{ raise_exception('no') }}")["chat template"]
    assert found.state == "fail" and "--chat plain" in found.advice


@needs_data
def test_generation_defaults_that_would_leak_warn(pair):
    edit(
        pair / "student" / "generation_config.json", do_sample=True, repetition_penalty=1.05,
        temperature=0.7, top_p=0.8, top_k=20,
    )  # fmt: skip
    found = diagnosis(pair)
    assert states(found) == {"generation defaults": "warn"}
    for leak in ("temperature 0.7", "top_p 0.8", "top_k 20", "repetition_penalty 1.05"):
        assert leak in found["generation defaults"].said
    assert "teacher" not in found["generation defaults"].said


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
def test_a_tie_that_the_config_denies_fails(pair):
    plan = make_plan(Experiment.parse({**QUICK, "pair": str(pair)}), Runtime())
    loaded = load_pair(plan.pair)
    assert preflight_module.check_embeddings(loaded).state == "pass"
    loaded.teacher.config.tie_word_embeddings = True
    found = preflight_module.check_embeddings(loaded)
    assert (found.state, found.said) == (
        "fail", "the teacher is untied and its config says otherwise",
    )  # fmt: skip


@needs_data
def test_lengths_beyond_the_positions_fail_and_long_prompts_warn(sound, tmp_path, pair):
    found = sound(max_new_tokens=4096)["prompt lengths"]
    assert found.state == "fail" and "exceed the student's 4,096 positions" in found.said
    found = sound(eval_max_new_tokens=16384)["prompt lengths"]
    assert found.state == "fail" and "16,384 more in evaluation" in found.said
    file = tmp_path / "own.jsonl"
    rows = [{"problem": f"{number}? " + "word " * (number % 2 * 60)} for number in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"prompts": str(file), "instruction": ""}
    found = sound(**own, max_prompt_tokens=70)["prompt lengths"]
    assert found.state == "warn" and "50.0% over the cap of 70" in found.said
    assert sound(**own)["prompt lengths"].state == "pass"
    assert diagnosis(pair, **own, max_prompt_tokens=2)["prompts"].state == "fail"


@needs_data
def test_memory_and_disk_against_what_there_is(sound, monkeypatch, tmp_path):
    def with_memory(free, total):
        has = ("a toy", free, total)
        monkeypatch.setattr(preflight_module, "device_memory", lambda runtime: has)
        return sound()["memory"]

    assert with_memory(2**40, 2**40).state == "pass"
    assert with_memory(2**20, 2**40).state == "warn"
    found = with_memory(2**20, 2**20)
    assert found.state == "fail" and "a toy has 1.0 MiB" in found.said

    def with_disk(free):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda place: usage)
        return sound(runtime=Runtime(device="cpu", runs_dir=tmp_path / "a" / "b"))["disk space"]

    assert with_disk(2**40).state == "pass"
    assert with_disk(2**25).state == "warn"
    found = with_disk(2**10)
    assert found.state == "fail" and f"free in {tmp_path}" in found.said


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
    assert {check["state"] for check in found} == {"pass"} and len(found) == 15
    code, out, err = call(capsys, *arguments, "--pair", "qwen3-1.7b-from-4b")
    assert code == 1
    failed = [check for check in json.loads(out) if check["state"] == "fail"]
    assert any("hf download Qwen/Qwen3-1.7B --revision 70d244cc" in c["advice"] for c in failed)
    assert "failed: " in err and "student tokenizer" in err
    code, out, _ = call(capsys, "doctor", "--device", "cpu", "--runs-dir", tmp_path)
    assert code == 0 and "teacher determinism" in out


@needs_data
def test_a_run_refuses_what_the_doctor_fails(pair, tmp_path):
    runtime = Runtime(device="cpu", runs_dir=tmp_path / "runs", progress="off")
    wrong = Experiment.parse({**QUICK, "pair": str(pair), "stop_ids": [ENDOFTEXT]})
    with pytest.raises(
        ConfigError, match=r"refused by bench doctor: stop tokens.*--stop-ids 151643"
    ):
        run_experiment(wrong, runtime)
    assert not list(tmp_path.glob("runs/*/experiment.json"))


@needs_data
def test_local_prompts_train_a_pair_of_the_real_vocabulary(tmp_path):
    """From a JSONL file through the real template to a scored checkpoint."""
    folder = qwen_folder("qwen2", True)
    file = tmp_path / "own.jsonl"
    rows = [{"text": f"What is {n} + {n}?", "gold": str(2 * n)} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = run_experiment(
        Experiment.parse({
            **QUICK, "steps": 2, "selector": "entropy", "keep": 0.25,
            "teacher": str(folder / "teacher"), "student": str(folder / "student"),
            "prompts": str(file), "columns": {"question": "text", "answer": "gold"},
            "eval_tasks": ["aime25", "gsm8k"], "eval_samples": 2, "eval_max_new_tokens": 4,
        }),
        Runtime(device="cpu", runs_dir=tmp_path / "runs", progress="off"),
    )  # fmt: skip
    assert record.tokens["sampled"] == 64 and record.tokens["trained"] == 16
    scores = record.scores["trained"]["aime25"]
    assert (scores["n"], scores["samples"], scores["temperature"]) == (2, 2, 0.6)
    assert (SMALL, LARGE) == (151_936, 152_064)
    report = json.loads((tmp_path / "runs" / record.run_id / "prompts.json").read_text())
    assert report["kept"] == 8 and report["tokens"]["longest"] < 60
    samples = json.loads((tmp_path / "runs" / record.run_id / "evaluations.json").read_text())
    assert len(samples["teacher"]["gsm8k"]["sample_IK"][0]) == 2


def test_extras_that_are_not_installed_are_said(monkeypatch):
    monkeypatch.setattr("bench.pairs.adapters.find_spec", lambda name: None)
    found = diagnosis(pair_folder(), lora=4)["packages"]
    assert found.state == "fail" and 'pip install "opd-bench[lora]"' in found.said
