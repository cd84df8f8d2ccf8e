"""Preflight: every check fires on the fault that it is for."""

import json
import shutil
from dataclasses import replace

import pytest
from diagnosed_pair import QUICK, diagnosis, edit, rename_token, states
from qwen_pair import ENDOFTEXT, IM_END, qwen_folder, save
from real_data import needs_data

from bench.core.config import Experiment, Runtime
from bench.core.sampling import Vocabulary
from bench.pairs.models import load_pair, pair_chat
from bench.run import preflight as preflight_module
from bench.run.plan import make_plan
from bench.run.preflight import check_settings, preflight


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


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, None),
        ({"learning_rate": 2e-3}, None),
        ({"learning_rate": 1e-6}, "learning_rate 1e-06 (the pair's: 0.0003)"),
        ({"max_new_tokens": 4}, "max_new_tokens 4 (the pair's: 64)"),
        ({"dtype": "bfloat16"}, "dtype bfloat16 (the pair's: float32)"),
        ({"steps": 1, "seed": 5}, None),
    ],
)
def test_a_setting_far_from_the_pairs_is_told(given, said):
    check = check_settings(make_plan(Experiment(**given), Runtime(progress="off")))
    assert check.state == ("pass" if said is None else "warn")
    assert said is None or said in check.said


def test_settings_that_are_the_pairs_are_told(tmp_path):
    plan = make_plan(Experiment(pair="qwen3-1.7b-from-4b", steps=7), Runtime(progress="off"))
    assert plan.of_pair["learning_rate"] == 1e-6 and "steps" not in plan.of_pair
    check = check_settings(plan)
    assert check.state == "pass"
    assert "learning_rate 1e-06" in check.said and "eval_tasks math500 aime24" in check.said
