"""Rollouts through vLLM, on a stand-in: what is asked of it, what is made of its answers."""

import os
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
import vllm_stand_in
from small_pair import loaded_pair, prompts, rollout, sampling

from bench.core.config import Experiment
from bench.core.errors import BenchError, ConfigError
from bench.core.processes import ALONE
from bench.core.randomness import keyed_uniform
from bench.core.sampling import EXCLUDED_LOGIT, Vocabulary
from bench.pairs.adapters import add_adapter
from bench.train import vllm_rollout
from bench.train.hidden_states import PassSettings
from bench.train.vllm_rollout import VllmSampler, VllmSettings, request_seed, shared_weights

STOPS = tuple(range(0, 657, 11))
ROLLOUT = ["wake weights", "reload", "wake kv_cache", "generate", "sleep"]


@pytest.fixture(scope="module")
def pair():
    return loaded_pair()


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    vllm_stand_in.install(monkeypatch)


def make_sampler(pair, vocabulary=None, model=None, processes=ALONE, **settings) -> VllmSampler:
    return VllmSampler(
        model or pair.student,
        vocabulary or pair.vocabulary,
        VllmSettings(
            **{
                "dtype": "float32", "max_length": 96, "batch": 16, "memory": 0.3,
                "check_every": 10, **settings,
            }
        ),
        processes,
    )  # fmt: skip


def sample(sampler, pair, count=4, model=None, given=None, **settings):
    return sampler.sample(
        model or pair.student,
        pair.tokenizer,
        sampling(**{"prompts": given or prompts(count), "stop_ids": STOPS, **settings}),
        PassSettings(64, 2048),
    )


def moved(model, by: float):
    """A copy with other weights."""
    other = deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("mask_stop", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_random_numbers_give_the_rollout_of_the_transformers_path(
    pair, mask_stop, temperature
):
    settings = {"mask_stop": mask_stop, "temperature": temperature}
    expected = rollout(pair, **settings)
    sampler = make_sampler(pair)
    uniform_BT = keyed_uniform(0, "rollout", 0, expected.row_key_B, (8, 12))
    seeds = [request_seed(0, 0, key) for key in expected.row_key_B]
    sampler.engine.uniform = dict(zip(seeds, uniform_BT, strict=True))
    found = sample(sampler, pair, **settings)
    for name in ("token_BT", "mask_BT", "sequence_BL", "prompt_length_B"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    for name in ("prompt_id_B", "finish_reason_B", "row_key_B", "length_B"):
        assert getattr(found, name) == getattr(expected, name)
    torch.testing.assert_close(
        found.student_logprob_BT, expected.student_logprob_BT, atol=1e-5, rtol=0
    )
    assert {"stop", "length"} == set(found.finish_reason_B)
    assert found.student_logprob_BT.dtype == torch.float32
    assert 0 <= sampler.difference < 1e-5


def test_every_sampling_parameter_is_given(pair):
    sampler = make_sampler(pair)
    sample(sampler, pair, temperature=0.9)
    keys = [f"{prompt.id}/{sample}" for prompt in prompts() for sample in range(2)]
    assert len(sampler.engine.requests) == len(keys)
    for key, (prompt, parameters) in zip(keys, sampler.engine.requests, strict=True):
        assert set(prompt) == {"prompt_token_ids"}
        assert parameters.given == {
            "n": 1, "temperature": 0.9, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "seed": request_seed(0, 0, key), "ignore_eos": True, "stop_token_ids": list(STOPS),
            "max_tokens": 12, "min_tokens": 0, "logit_bias": None, "logprobs": 0,
            "detokenize": False,
        }  # fmt: skip


def test_the_engine_has_no_weights_no_defaults_and_the_shared_vocabulary(pair):
    engine = make_sampler(pair).engine
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert engine.config.vocab_size == pair.vocabulary.size == 657
    assert pair.student.config.vocab_size == 672
    assert (engine.generation_config, engine.dtype) == ("vllm", "float32")
    assert (engine.max_model_len, engine.max_num_seqs) == (96, 16)
    assert engine.gpu_memory_utilization == 0.3
    assert engine.skip_tokenizer_init and not engine.enable_prefix_caching
    assert engine.distributed_executor_backend == "uni"
    several = make_sampler(pair, processes=SimpleNamespace(size=2), max_length=10_000).engine
    assert several.distributed_executor_backend == "external_launcher"
    assert several.tensor_parallel_size == 1
    assert several.max_model_len == pair.student.config.max_position_embeddings == 512


def test_the_engine_sleeps_between_rollouts_and_wakes_for_its_weights_first(pair):
    sampler = make_sampler(pair)
    assert sampler.engine.calls == ["create", "sleep"]
    sample(sampler, pair, count=1)
    sample(sampler, pair, count=1, step=1)
    assert sampler.engine.calls == ["create", "sleep", *ROLLOUT, *ROLLOUT]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
def test_changed_weights_change_the_samples(architecture, tied):
    pair = loaded_pair(architecture, tied)
    sampler = make_sampler(pair, check_every=1)
    first = sample(sampler, pair)
    other = sample(sampler, pair, model=moved(pair.student, 0.05))
    assert sample(sampler, pair).token_BT.tolist() == first.token_BT.tolist()
    assert other.token_BT.tolist() != first.token_BT.tolist()
    assert sampler.difference < 1e-5


def test_stale_weights_are_caught_on_the_next_checked_step(pair):
    sampler = make_sampler(pair, check_every=3)
    sample(sampler, pair, step=0)
    sampler.engine.is_stale = True
    trained = moved(pair.student, 0.02)
    sample(sampler, pair, step=1, model=trained)
    sample(sampler, pair, step=2, model=trained)
    with pytest.raises(BenchError, match=r"differ .* by 0\.\d+ nats .*at most 0\.001.* stale"):
        sample(sampler, pair, step=3, model=trained)


def test_the_first_rollout_is_checked_whatever_its_step(pair):
    sampler = make_sampler(pair, check_every=1000)
    sampler.engine.is_stale = True  # the random weights that it was made with
    with pytest.raises(BenchError, match="stale"):
        sample(sampler, pair, step=7)
    with pytest.raises(BenchError, match="stale"):
        sample(sampler, pair, step=8)


def test_probabilities_that_are_no_numbers_are_no_agreement(pair, monkeypatch):
    sampler = make_sampler(pair)
    real = vllm_rollout.sampled_logprob
    monkeypatch.setattr(vllm_rollout, "sampled_logprob", lambda *given: real(*given) * torch.nan)
    with pytest.raises(BenchError, match="by nan nats"):
        sample(sampler, pair)


def test_a_response_depends_on_its_key_alone(pair):
    sampler = make_sampler(pair)
    forwards = sample(sampler, pair)
    backwards = sample(sampler, pair, given=prompts()[::-1])
    alone = sample(sampler, pair, given=prompts()[2:3])
    for other in (backwards, alone):
        for row, key in enumerate(other.row_key_B):
            at = forwards.row_key_B.index(key)
            assert other.length_B[row] == forwards.length_B[at]
            n = other.length_B[row]
            assert torch.equal(other.token_BT[row, :n], forwards.token_BT[at, :n])
    for change in ({"seed": 1}, {"step": 1}):
        assert sample(sampler, pair, **change).token_BT.tolist() != forwards.token_BT.tolist()
    assert not torch.equal(forwards.token_BT[0], forwards.token_BT[1])


def test_ids_that_left_the_vocabulary_are_never_sampled(pair):
    excluded = tuple(range(0, 600, 2))
    sampler = make_sampler(pair, vocabulary=Vocabulary(657, excluded))
    found = sample(sampler, pair, stop_ids=(655,))
    tokens = set(found.token_BT[found.mask_BT].tolist())
    assert len(tokens) > 3
    assert not tokens & set(excluded)
    assert max(tokens) < 657
    biases = sampler.engine.requests[0][1].logit_bias
    assert biases == dict.fromkeys(excluded, EXCLUDED_LOGIT)
    with pytest.raises(ConfigError, match="exclude 1024 ids; .* differ in 1025"):
        make_sampler(pair, vocabulary=Vocabulary(657, tuple(range(1025))))


def test_the_models_own_end_token_stops_nothing_that_the_pair_does_not_name(pair):
    settings = {"stop_ids": (655,), "max_new_tokens": 40}
    expected = sample(make_sampler(pair), pair, **settings)
    ended = deepcopy(pair.student)
    ended.config.eos_token_id = int(expected.token_BT[0, 3])
    sampler = make_sampler(pair, model=ended)
    assert sampler.engine.config.eos_token_id == ended.config.eos_token_id
    assert torch.equal(sample(sampler, pair, **settings).token_BT, expected.token_BT)


def test_weights_have_their_checkpoint_names_and_the_ends_are_cut(pair):
    sent = dict(shared_weights(pair.student, pair.vocabulary))
    assert sent.keys() == dict(pair.student.named_parameters()).keys()
    assert sent["model.embed_tokens.weight"].shape == (657, 16)
    untied = loaded_pair(tied=False)
    sent = dict(shared_weights(untied.student, untied.vocabulary))
    assert sent["lm_head.weight"].shape == sent["model.embed_tokens.weight"].shape == (657, 16)


def test_adapters_are_sent_inside_the_weights_that_they_adapt(pair):
    plain = dict(shared_weights(pair.student, pair.vocabulary))
    adapted = loaded_pair().student
    add_adapter(adapted, Experiment(lora=4))
    for name, parameter in adapted.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)
    sent = dict(shared_weights(adapted, pair.vocabulary))
    assert sent.keys() == plain.keys()
    changed = {name for name in sent if not torch.equal(sent[name], plain[name])}
    assert changed == {name for name in plain if name.endswith("proj.weight")}
    merged = deepcopy(pair.student)
    for name, parameter in merged.named_parameters():
        parameter.data[: len(sent[name])] = sent[name]  # the rows beyond the vocabulary stay
    ids_BL = torch.arange(20).view(2, 10)
    rows = pair.vocabulary.size
    torch.testing.assert_close(
        merged(ids_BL).logits[..., :rows], adapted(ids_BL).logits[..., :rows], atol=1e-4, rtol=1e-4
    )


def test_sharded_weights_are_sent_whole(pair):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        whole = dict(shared_weights(pair.student, pair.vocabulary))
        sharded = deepcopy(pair.student)
        fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (1,)))
        assert type(sharded.lm_head.weight).__name__ == "DTensor"
        for name, weight in shared_weights(sharded, pair.vocabulary):
            assert type(weight) is not type(sharded.lm_head.weight)
            assert torch.equal(weight, whole[name])
    finally:
        dist.destroy_process_group()


def test_what_vllm_would_change_silently_is_an_error(pair):
    sampler = make_sampler(pair, max_length=70)
    for temperature in (0.005, 2.5):
        with pytest.raises(ConfigError, match="temperature: .* not accepted by vllm: 0.01 to 2.0"):
            sample(sampler, pair, temperature=temperature)
    with pytest.raises(ConfigError, match="need .* tokens, the engine was built for 70"):
        sample(sampler, pair, max_new_tokens=60)
    assert sampler.engine.calls == ["create", "sleep"]
    sampler.engine.finish_reason = "abort"
    with pytest.raises(BenchError, match="vllm ended a response after .* of 12 tokens: abort"):
        sample(sampler, pair)


def test_a_missing_vllm_says_how_to_get_it(pair, monkeypatch):
    monkeypatch.setattr(vllm_rollout, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "opd-bench\[vllm\]"'):
        make_sampler(pair)
