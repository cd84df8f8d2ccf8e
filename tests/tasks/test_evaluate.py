"""Evaluation: what lm-eval is asked, what it may touch, and what comes back."""

import json
import logging
import random
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bench.core.errors import ConfigError
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.tasks.evaluate import evaluate
from bench.tasks.protocol import TASK_FOLDER, Asking, check_tasks, task_names
from bench.tasks.results import TaskResult

SPECIAL = ("<pad>", "<bos>", "<end>", "<stop>")
PAD, BOS, END, STOP = range(4)


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte; adds <bos> unless told not to, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    backend.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<end>"
    )


@pytest.fixture
def model(tokenizer):
    """Random weights, large enough for responses to depend on the prompt."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


class Scripted:
    """Stands in for `model.generate`: answers each prompt by `reply(prompt)`, token ids or text."""

    def __init__(self, tokenizer, reply):
        self.tokenizer, self.reply = tokenizer, reply
        self.prompts: list[str] = []
        self.prompt_ids: list[list[int]] = []
        self.calls: list[dict] = []

    def __call__(self, input_ids, attention_mask, max_new_tokens, **settings):
        self.calls.append({"max_new_tokens": max_new_tokens, **settings})
        replies = []
        for ids, is_prompt in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            n_pad = is_prompt.count(0)
            assert is_prompt == [0] * n_pad + [1] * (len(ids) - n_pad)
            self.prompt_ids.append(ids[n_pad:])
            self.prompts.append(self.tokenizer.decode(ids[n_pad:]))
            reply = self.reply(self.prompts[-1])
            if isinstance(reply, str):
                reply = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
            replies.append(reply[:max_new_tokens])
        width = max(map(len, replies))
        padded = [reply + [PAD] * (width - len(reply)) for reply in replies]
        return torch.cat([input_ids, torch.tensor(padded)], 1)


@pytest.fixture
def script(model, tokenizer, monkeypatch):
    def install(reply):
        scripted = Scripted(tokenizer, reply)
        monkeypatch.setattr(model, "generate", scripted)
        return scripted

    return install


def gold_answers(*splits):
    problems = [make_problem(split, index) for split in splits for index in range(1000)]
    return {prompt_text(problem): problem.answer for problem in problems}


def test_gold_answers_score_one_and_items_come_in_order(model, tokenizer, script):
    answers = gold_answers("eval", "tune")
    script(lambda prompt: f"some steps\n#### {answers[prompt]}<end>")
    results = evaluate(model, tokenizer, ["tiny_math", "tiny_math_tune"], stop_ids=[END])
    assert list(results) == ["tiny_math", "tiny_math_tune"]
    for split, result in zip(("eval", "tune"), results.values(), strict=True):
        assert (result.metric, result.n, result.mean) == ("exact_match", 1000, 1.0)
        assert result.score_I == (1.0,) * 1000
        assert result.item_id_I == tuple(make_problem(split, i).id for i in range(1000))
        assert result.parse_failure_rate == result.truncation_rate == 0.0


def test_answers_of_other_problems_score_only_where_they_coincide(model, tokenizer, script):
    problems = [make_problem("eval", index) for index in range(1000)]
    shifted = dict(
        zip(
            map(prompt_text, problems),
            [p.answer for p in problems[1:] + problems[:1]],
            strict=True,
        )
    )
    expected = tuple(float(shifted[prompt_text(p)] == p.answer) for p in problems)
    script(lambda prompt: f"#### {shifted[prompt]}<end>")
    result = evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], batch_size=333)["tiny_math"]
    assert result.score_I == expected
    assert 0 < result.mean == sum(expected) / 1000 < 0.05


def test_prompts_reach_the_model_token_for_token_as_in_training(model, tokenizer, script):
    scripted = script(lambda prompt: "<end>")
    evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=40, batch_size=16)
    texts = [prompt_text(make_problem("eval", index)) for index in range(40)]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert all(ids[-1] == tokenizer.convert_tokens_to_ids("Ċ") for ids in encoded)  # "\n"
    assert sorted(scripted.prompt_ids) == sorted(encoded)
    assert sorted(scripted.prompts) == sorted(texts)
    lengths = [len(ids) for ids in scripted.prompt_ids]
    assert lengths == sorted(lengths, reverse=True)


def test_rates_lengths_and_texts_of_planted_responses(model, tokenizer, script):
    problems = [make_problem("eval", index) for index in range(6)]
    gold = problems[0].answer
    planted = [
        f"#### {gold}<end>#### 7",  # right, and what follows the stop does not count
        f"{problems[1].answer}<stop>",  # no marker: nothing to extract
        "no answer here, and no stop either, only words",  # truncated at 20
        f"#### {problems[3].answer}".rjust(20),  # right, at the last moment
        "<end>",
        "#### 1<pad>2<stop>",  # a special token does not glue two numbers together
    ]
    of_prompt = dict(zip(map(prompt_text, problems), planted, strict=True))
    script(of_prompt.__getitem__)
    asking = Asking(max_new_tokens=20)
    result = evaluate(
        model, tokenizer, ["tiny_math"], stop_ids=[END, STOP], asking=asking, limit=6
    )["tiny_math"]
    assert result.score_I == (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    assert result.response_I == (
        f"#### {gold}",
        problems[1].answer,
        "no answer here, and ",
        planted[3],
        "",
        "#### 1<pad>2",
    )
    assert result.parse_failure_rate == 4 / 6
    assert result.truncation_rate == 2 / 6
    expected_tokens = [5 + len(gold) + 1, len(problems[1].answer) + 1, 20, 20, 1, 9]
    assert result.mean_response_tokens == pytest.approx(sum(expected_tokens) / 6)


def test_generation_config_does_not_leak(model, tokenizer):
    settings = {"stop_ids": [END], "limit": 12, "asking": Asking(max_new_tokens=12)}
    plain = evaluate(model, tokenizer, ["tiny_math"], **settings)
    leaky = GenerationConfig(
        repetition_penalty=1.3,
        do_sample=True,
        temperature=0.1,
        no_repeat_ngram_size=1,
        max_length=3,
    )
    leaky.suppress_tokens = list(range(40, len(tokenizer)))
    model.generation_config = leaky
    assert evaluate(model, tokenizer, ["tiny_math"], **settings) == plain
    assert model.generation_config is leaky
    ids = tokenizer("1 + 1", return_tensors="pt")
    heard = model.eval().generate(**ids, max_new_tokens=12, pad_token_id=PAD)
    assert heard[:, 6:].max() < 40, "the planted config would have changed the answers"


def test_greedy_decoding_passes_every_parameter(model, tokenizer, script):
    scripted = script(lambda prompt: "<end>")
    asking = Asking(max_new_tokens=12)
    evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2, asking=asking)
    assert scripted.calls == [
        {
            "do_sample": False,
            "repetition_penalty": 1.0,
            "num_beams": 1,
            "max_new_tokens": 12,
            "eos_token_id": [END],
            "pad_token_id": PAD,
            "suppress_tokens": None,
            "use_cache": True,
            "synced_gpus": False,
        }
    ]


def sample_texts(model, tokenizer, **settings):
    how = {name: settings.pop(name) for name in ("samples", "top_p") if name in settings}
    asking = Asking(max_new_tokens=12, temperature=settings.pop("temperature", 0.7), **how)
    result = evaluate(
        model, tokenizer, ["tiny_math"], stop_ids=[END], asking=asking, **{"limit": 8, **settings}
    )["tiny_math"]
    return [[sample.text for sample in samples] for samples in result.sample_IK]


def test_a_sample_is_a_function_of_seed_item_and_number_alone(model, tokenizer):
    texts = sample_texts(model, tokenizer, samples=3)
    assert [len(samples) for samples in texts] == [3] * 8
    assert len({text for samples in texts for text in samples}) == 24
    assert sample_texts(model, tokenizer, samples=3, batch_size=5) == texts
    assert sample_texts(model, tokenizer, samples=3, limit=4) == texts[:4]
    assert sample_texts(model, tokenizer, samples=1) == [samples[:1] for samples in texts]
    assert sample_texts(model, tokenizer, samples=3, seed=1) != texts


def test_a_small_top_p_is_greedy_decoding(model, tokenizer):
    greedy = sample_texts(model, tokenizer, temperature=0.0)
    assert sample_texts(model, tokenizer, top_p=1e-6) == greedy
    assert sample_texts(model, tokenizer, top_p=0.95) != greedy


def test_several_greedy_samples_are_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="samples: 4 of 'tiny_math' at temperature 0"):
        sample_texts(model, tokenizer, temperature=0.0, samples=4)


def test_the_score_of_an_item_is_its_share_of_right_samples(model, tokenizer, monkeypatch):
    problems = [make_problem("eval", index) for index in range(3)]
    right = {problem.id: count for problem, count in zip(problems, (0, 1, 4), strict=True)}
    answers = {problem.id: problem.answer for problem in problems}

    def respond(model, tokenizer, decoding, report, prompts, keys, processes):
        from bench.tasks.responses import Response

        places = [key.split("/") for key in keys]
        texts = [
            f"#### {answers[item] if int(number) < right[item] else 'none'}"
            for _, item, number in places
        ]
        return [Response(text, 7, text.endswith("none")) for text in texts]

    monkeypatch.setattr("bench.tasks.evaluate.respond", respond)
    asking = Asking(samples=4, temperature=1.0)
    result = evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], asking=asking, limit=3)[
        "tiny_math"
    ]
    assert result.score_I == (0, 0.25, 1)
    assert result.mean == pytest.approx(5 / 12)
    assert result.pass_at_k == pytest.approx(2 / 3)
    assert (result.n, result.k) == (3, 4)
    assert result.parse_failure_rate == result.truncation_rate == pytest.approx(7 / 12)
    assert result.comparison_failure_rate == 0


def test_results_repeat_and_do_not_depend_on_the_batch_size(model, tokenizer):
    first, *others = (
        evaluate(
            model,
            tokenizer,
            ["tiny_math_tune"],
            stop_ids=[END, *range(10, 14)],
            limit=24,
            asking=Asking(max_new_tokens=24),
            batch_size=size,
        )
        for size in (24, 24, 1, 7)
    )
    assert all(other == first for other in others)
    result = first["tiny_math_tune"]
    assert len(set(result.response_I)) > 12
    assert 0 < result.truncation_rate < 1


def random_states():
    return (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


@pytest.mark.parametrize("fails", [False, True])
def test_model_tokenizer_generators_and_streams_are_left_as_they_were(
    model, tokenizer, script, monkeypatch, fails
):
    def reply(prompt):
        assert not any(module.training for module in model.modules())
        random.random(), np.random.random(), torch.rand(1)
        if fails:
            raise KeyError("broken model")
        return "<end>"

    script(reply)
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    model.train()
    model.model.layers[1].eval()
    logger = logging.getLogger("lm_eval")
    monkeypatch.setattr(logger, "propagate", True)

    def observe():
        return (
            [module.training for module in model.modules()],
            model.generation_config,
            tokenizer.padding_side,
            tokenizer.pad_token_id,
            (sys.stdout, sys.stderr),
            (list(logger.handlers), logger.level, logger.propagate),
            random_states(),
        )

    before = observe()
    if fails:
        with pytest.raises(KeyError, match="broken model"):
            evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2)
    else:
        evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2)
    assert observe() == before


def test_noise_goes_to_the_log_and_progress_to_the_terminal(
    model, tokenizer, script, tmp_path, capfd
):
    def reply(prompt):
        print("printed by a library")
        print("complained by a library", file=sys.stderr)
        logging.getLogger("transformers.generation").warning("warned by transformers")
        other = threading.Thread(target=print, args=["drawn by another thread"])
        other.start()
        other.join()
        return "<end>"

    script(reply)
    log_file = tmp_path / "lm_eval.log"
    log_file.write_text("earlier\n")
    evaluate(
        model,
        tokenizer,
        ["tiny_math"],
        stop_ids=[END],
        limit=3,
        batch_size=2,
        log_file=log_file,
        progress=lambda task, done, total: print(f"{task} {done}/{total}"),
    )
    shown, complained = capfd.readouterr()
    assert complained == ""
    drawn = ["drawn by another thread"]
    assert shown.splitlines() == [
        *("tiny_math 0/3", *drawn * 2, "tiny_math 2/3", *drawn, "tiny_math 3/3")
    ]
    log = log_file.read_text()
    assert log.startswith("earlier\n")
    for noise in ("printed", "complained", "warned by transformers", "Building contexts"):
        assert noise in log


def test_nothing_is_shown_without_a_log_file_and_nothing_is_asked_of_the_network(
    model, tokenizer, monkeypatch, capfd
):
    def refuse(*_):
        raise AssertionError("evaluation opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    evaluate(
        model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2, asking=Asking(max_new_tokens=4)
    )
    assert capfd.readouterr() == ("", "")


def test_limit_keeps_the_first_items(model, tokenizer, script):
    script(lambda prompt: "<end>")
    result = evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=5)["tiny_math"]
    assert result.item_id_I == tuple(make_problem("eval", index).id for index in range(5))
    assert result.n == 5


def test_an_unknown_task_is_named_with_the_nearest_and_all_known(model, tokenizer, script):
    scripted = script(lambda prompt: "<end>")
    with pytest.raises(ConfigError, match=r"'tiny_mth'.*'tiny_math'.*aime24.*tiny_math_tune"):
        evaluate(model, tokenizer, ["tiny_math", "tiny_mth"], stop_ids=[END])
    assert not scripted.calls
    check_tasks(task_names())


@pytest.mark.parametrize(
    "setting",
    [
        {"stop_ids": []},
        {"batch_size": 0},
        {"max_new_tokens": 0},
        {"limit": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0, "temperature": 1.0},
        {"top_p": 1.1, "temperature": 1.0},
        {"samples": 0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(model, tokenizer, setting):
    name = next(iter(setting))
    of_call = {"stop_ids": [END], "batch_size": 1, "limit": 1}
    call = {key: setting.get(key, value) for key, value in of_call.items()}
    asking = Asking(**{key: value for key, value in setting.items() if key not in of_call})
    with pytest.raises(ConfigError, match=name):
        evaluate(model, tokenizer, ["tiny_math"], asking=asking, **call)


def test_a_missing_item_is_an_error(model, tokenizer, script, monkeypatch):
    from lm_eval import evaluator

    def forgetful(*args, evaluate_all=evaluator.evaluate, **kwargs):
        output = evaluate_all(*args, **kwargs)
        output["samples"]["tiny_math"].pop()
        return output

    monkeypatch.setattr(evaluator, "evaluate", forgetful)
    script(lambda prompt: "<end>")
    with pytest.raises(ValueError, match="n is 4, but there are 3 scores"):
        evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=4)


def test_a_result_survives_json(model, tokenizer, script):
    script(lambda prompt: "#### 3<end>")
    result = evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=3)["tiny_math"]
    assert TaskResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_task_files_are_named_for_their_task():
    class Loader(yaml.SafeLoader):
        """Reads `!function` as a plain word."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    for name in task_names():
        with open(TASK_FOLDER / f"{name}.yaml") as file:
            assert yaml.load(file, Loader)["task"] == name  # a SafeLoader
    maths = ["aime24", "aime25", "amc23", "gsm8k", "math500", "minerva", "olympiadbench"]
    assert task_names() == [*maths, "tiny_math", "tiny_math_tune"]


def test_importing_evaluate_is_cheap():
    code = (
        "import sys, bench.tasks.evaluate, bench.tasks.protocol as e;"
        "e.task_names(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lm_eval", "transformers", "datasets"} & set(done.stdout.split())


def test_padded_rows_of_the_head_are_never_generated(model, tokenizer):
    """A head with more rows than the tokenizer has ids: the extra ones are made the likeliest."""
    wider = Qwen3ForCausalLM(
        type(model.config)(**{**model.config.to_dict(), "vocab_size": len(tokenizer) + 7})
    )
    torch.nn.init.constant_(wider.lm_head.weight, 0.0)
    with torch.no_grad():
        wider.lm_head.weight[len(tokenizer) :] = 1.0
        wider.model.norm.weight.fill_(1.0)
    ids = []
    inner = wider.generate
    wider.generate = lambda **kwargs: ids.append(inner(**kwargs)) or ids[-1]
    evaluate(
        wider, tokenizer, ["tiny_math"], stop_ids=[END], limit=3, asking=Asking(max_new_tokens=4)
    )
    assert int(ids[0].max()) < len(tokenizer)
