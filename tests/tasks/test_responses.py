"""Responses: prompts as in training, every parameter passed, each sample its key's alone."""

import pytest
import torch
from byte_model import END, PAD
from transformers import GenerationConfig, Qwen3ForCausalLM

from bench.core.errors import ConfigError
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.tasks.evaluate import evaluate
from bench.tasks.protocol import Asking
from bench.tasks.responses import Decoding, respond


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


@pytest.mark.parametrize("padded_rows", [0, 7])
def test_greedy_responses_are_those_of_generate(model, tokenizer, padded_rows):
    torch.manual_seed(1)
    shape = {**model.config.to_dict(), "vocab_size": len(tokenizer) + padded_rows}
    model = Qwen3ForCausalLM(type(model.config)(**shape)).eval()
    stops = (END, *range(10, 20))
    texts = [prompt_text(make_problem("eval", index)) for index in range(24)]
    decoding = Decoding(stops, 24, 0.0, 1.0, batch_size=9, seed=0)
    found = respond(model, tokenizer, decoding, lambda *_: None, texts, texts)
    for text, response in zip(texts, found, strict=True):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        output_1L = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
            eos_token_id=list(stops), pad_token_id=PAD,
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)) or None,
        )  # fmt: skip
        expected = output_1L[0, ids.shape[1] :].tolist()
        assert response.tokens == len(expected)
        assert response.is_truncated == (expected[-1] not in stops)
        assert response.text == tokenizer.decode(
            expected if response.is_truncated else expected[:-1],
            clean_up_tokenization_spaces=False,
        )
    assert len({response.tokens for response in found}) > 2


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
    assert len({sample.text for (sample,) in result.sample_IK}) > 12
    assert 0 < result.truncation_rate < 1


def test_padded_rows_of_the_head_are_never_generated(model, tokenizer):
    """A head with more rows than the tokenizer has ids: the extra ones are made the likeliest."""
    wider = Qwen3ForCausalLM(
        type(model.config)(**{**model.config.to_dict(), "vocab_size": len(tokenizer) + 7})
    )
    torch.nn.init.constant_(wider.lm_head.weight, 0.0)
    with torch.no_grad():
        wider.lm_head.weight[len(tokenizer) :] = 1.0
        wider.model.norm.weight.fill_(1.0)
    decoding = Decoding((END,), 4, 0.0, 1.0, batch_size=3, seed=0)
    found = respond(wider, tokenizer, decoding, lambda *_: None, ["1", "2", "3"], ["1", "2", "3"])
    beyond = {wider.config.vocab_size - 1 - row for row in range(7)}
    assert all(response.tokens == 4 or not response.is_truncated for response in found)
    said = tokenizer([response.text for response in found], add_special_tokens=False)["input_ids"]
    assert not beyond & {token for ids in said for token in ids}
    assert all(response.text for response in found if response.is_truncated)
