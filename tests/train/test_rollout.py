"""Rollouts: on-policy, masked from the first token to the stop, keyed so nothing shifts them."""

import pytest
import torch
from dense import dense_logits
from keyed_sampler import KeyedSampler
from scipy import stats
from small_pair import loaded_pair, prompts, rollout, sampling
from transformers import GenerationConfig, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM

from bench.core import decode as decode_module
from bench.core.randomness import keyed_uniform
from bench.core.sampling import Vocabulary, nucleus
from bench.train.hidden_states import PassSettings, hidden_states
from bench.train.rollout import sample_rollout


@pytest.fixture(scope="module")
def pair():
    return loaded_pair()


@pytest.fixture(scope="module")
def sample(pair):
    return rollout(pair)


def test_the_mask_runs_from_the_first_token_to_the_stop_token(sample):
    stops = set(range(0, 657, 11))
    lengths = sample.mask_BT.sum(1).tolist()
    assert len(set(lengths)) > 2
    for row, reason in enumerate(sample.finish_reason_B):
        tokens = sample.token_BT[row, : lengths[row]].tolist()
        assert (
            sample.mask_BT[row].tolist()
            == [t < lengths[row] for t in range(12)][: sample.mask_BT.shape[1]]
        )
        assert not stops & set(tokens[:-1])
        assert (tokens[-1] in stops) == (reason == "stop")
        assert reason == "stop" or lengths[row] == 12
    assert {"stop", "length"} == set(sample.finish_reason_B)


def test_the_stop_position_leaves_the_mask_where_teacher_and_student_stop_differently(pair, sample):
    without = rollout(pair, mask_stop=False)
    for row, reason in enumerate(sample.finish_reason_B):
        shorter = int(sample.mask_BT[row].sum()) - (reason == "stop")
        assert int(without.mask_BT[row].sum()) == shorter
    assert torch.equal(without.token_BT, sample.token_BT)


def test_sequences_are_prompt_then_response_then_padding(pair, sample):
    for row, key in enumerate(sample.row_key_B):
        prompt = prompts()[row // 2]
        assert key == f"{prompt.id}/{row % 2}"
        assert sample.prompt_id_B[row] == prompt.id
        ids = pair.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        length = int(sample.mask_BT[row].sum())
        assert int(sample.prompt_length_B[row]) == len(ids)
        sequence = sample.sequence_BL[row].tolist()
        assert sequence[: len(ids)] == ids
        assert sequence[len(ids) : len(ids) + length] == sample.token_BT[row, :length].tolist()


def test_recorded_log_probabilities_are_those_of_the_model(pair, sample):
    with torch.no_grad():
        logprob_BTV = dense_logits(pair, pair.student, sample).log_softmax(-1)
    expected_BT = logprob_BTV.gather(-1, sample.token_BT[..., None])[..., 0]
    torch.testing.assert_close(
        sample.student_logprob_BT[sample.mask_BT], expected_BT[sample.mask_BT], atol=1e-4, rtol=1e-4
    )


def test_the_batch_sampled_at_once_changes_no_token(pair, sample):
    for batch in (1, 3):
        other = rollout(pair, batch=batch)
        assert torch.equal(other.token_BT, sample.token_BT)
        assert torch.equal(other.mask_BT, sample.mask_BT)


def generated(pair, sample, max_new_tokens: int):
    """Tokens and log-probabilities that transformers' own `generate` samples for the same rows."""
    prompt_tokens = [
        sample.sequence_BL[row, :length].tolist()
        for row, length in enumerate(sample.prompt_length_B.tolist())
    ]
    longest = max(map(len, prompt_tokens))
    uniform_BT = keyed_uniform(
        0, "rollout", 0, sample.row_key_B, (len(prompt_tokens), max_new_tokens)
    )
    sampler = KeyedSampler(uniform_BT, pair.vocabulary, 1.0)
    output_BL = pair.student.generate(
        torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompt_tokens]),
        attention_mask=torch.tensor(
            [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompt_tokens]
        ),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, use_cache=True, pad_token_id=0,
            eos_token_id=list(range(0, 657, 11)),
        ),
        logits_processor=LogitsProcessorList([sampler]),
    )  # fmt: skip
    return output_BL[:, longest:], torch.stack(sampler.logprob_TB, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_responses_are_those_of_generate_to_the_last_bit(pair, dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        sample = rollout(pair)
        token_BT, logprob_BT = generated(pair, sample, max_new_tokens=12)
    assert token_BT.shape == sample.token_BT.shape
    assert torch.equal(token_BT[sample.mask_BT], sample.token_BT[sample.mask_BT])
    assert torch.equal(logprob_BT[sample.mask_BT], sample.student_logprob_BT[sample.mask_BT])


def test_finished_rows_leave_the_batch_and_change_no_other(pair, monkeypatch):
    before = rollout(pair, count=8, max_new_tokens=40)
    rows = []
    forward = decode_module._Rows.forward
    monkeypatch.setattr(
        decode_module._Rows,
        "forward",
        lambda self, model: (rows.append(len(self.row_R)), forward(self, model))[1],
    )
    monkeypatch.setattr(decode_module, "DROP_EVERY", 3)
    monkeypatch.setattr(decode_module, "LEAST_ROWS", 3)
    after = rollout(pair, count=8, max_new_tokens=40)
    assert rows[:3] == [16, 16, 16]
    assert rows[-1] == 3
    assert torch.equal(after.token_BT, before.token_BT)
    assert after.finish_reason_B == before.finish_reason_B
    torch.testing.assert_close(
        after.student_logprob_BT, before.student_logprob_BT, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("every", [1, 8, 64])
def test_rows_that_left_change_no_token_and_hardly_a_number(pair, every, monkeypatch):
    monkeypatch.setattr(decode_module, "DROP_EVERY", every)
    monkeypatch.setattr(decode_module, "LEAST_ROWS", 1)
    sample = rollout(pair, max_new_tokens=64)
    token_BT, logprob_BT = generated(pair, sample, max_new_tokens=64)
    mask_BT = sample.mask_BT
    assert len(set(sample.length_B)) > 3
    assert torch.equal(token_BT[mask_BT], sample.token_BT[mask_BT])
    bound = {"rtol": 0, "atol": 0 if every == 64 else 1e-5}
    torch.testing.assert_close(logprob_BT[mask_BT], sample.student_logprob_BT[mask_BT], **bound)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [None, 6])
def test_masks_are_those_that_the_model_makes_itself(attention, window):
    """Through torch's attention or not, with layers that look a few tokens back or all the way."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, initializer_range=0.3,
        use_sliding_window=window is not None, sliding_window=window, max_window_layers=1,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    model.set_attn_implementation(attention)
    prompts = [[5] * 3, [7, 8, 9, 10, 11, 12, 13], [20, 21]]
    assert ("sliding_attention" in model.config.layer_types) == (window is not None)
    assert decode_module._takes_masks(model) == (attention == "sdpa" and window is None)
    found = decode_module.decode(
        model, prompts, 12, decode_module.greedy(Vocabulary(64)), (1,), keeps_hidden=True
    )
    width = max(map(len, prompts))
    output_BL = model.generate(
        torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=12, eos_token_id=1, pad_token_id=1
        ),
    )
    for row, ids in zip(found, output_BL[:, width:].tolist(), strict=True):
        assert row.token_T.tolist()[: len(ids)] == ids


@pytest.mark.parametrize("mask_stop", [True, False])
def test_hidden_states_kept_while_sampling_are_those_of_the_scoring_pass(
    pair, mask_stop, monkeypatch
):
    monkeypatch.setattr(decode_module, "DROP_EVERY", 4)
    kept = rollout(pair, count=6, batch=5, mask_stop=mask_stop, keeps_hidden=True)
    scored_ND = hidden_states(pair.student, kept, kept.mask_BT, PassSettings(64, 4096))
    assert kept.student_hidden_ND.shape == scored_ND.shape
    torch.testing.assert_close(kept.student_hidden_ND, scored_ND, atol=1e-5, rtol=0)
    assert rollout(pair).student_hidden_ND is None


def test_sampling_leaves_the_mode_of_the_model(pair):
    pair.student.train()
    pair.student.lm_head.eval()
    before = [module.training for module in pair.student.modules()]
    rollout(pair, count=1)
    assert [module.training for module in pair.student.modules()] == before
    pair.student.eval()


def test_a_response_does_not_depend_on_what_else_is_sampled(pair, sample):
    fewer = rollout(pair, count=2)
    rows, positions = fewer.token_BT.shape
    assert torch.equal(fewer.token_BT, sample.token_BT[:rows, :positions])


def test_another_step_seed_or_sample_draws_other_tokens(pair, sample):
    assert not torch.equal(sample.token_BT[0], sample.token_BT[1])
    for change in ({"seed": 1}, {"step": 1}):
        assert rollout(pair, **change).token_BT.tolist() != sample.token_BT.tolist()


def test_global_generators_are_neither_used_nor_moved(pair, sample):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(rollout(pair).token_BT, sample.token_BT)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_models_generation_config_never_leaks_in(pair, sample, monkeypatch):
    leaky = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=1.5,
        no_repeat_ngram_size=2, min_new_tokens=11, eos_token_id=[3], pad_token_id=5,
    )  # fmt: skip
    monkeypatch.setattr(pair.student, "generation_config", leaky)
    again = rollout(pair)
    assert torch.equal(again.token_BT, sample.token_BT)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_frequencies_are_the_models_probabilities(temperature):
    rows = 20_000
    logit_V = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0, 9.0])
    vocabulary = Vocabulary(size=5)  # the last id is padding of the head
    uniform_BT = keyed_uniform(0, "rollout", 0, None, (rows, 1))
    sampler = KeyedSampler(uniform_BT, vocabulary, temperature)
    scores = sampler(torch.zeros(rows, 1), logit_V.expand(rows, 6).clone())
    token_B = scores.argmax(-1)
    assert int((scores > -torch.inf).sum()) == rows
    probability_V = (logit_V[:5] / temperature).softmax(-1).double()
    count_V = torch.bincount(token_B, minlength=6)
    assert int(count_V[5]) == 0
    expected = (probability_V[:4] / probability_V[:4].sum() * rows).numpy()
    assert stats.chisquare(count_V[:4].numpy(), expected).pvalue > 1e-3
    logprob_B = sampler.logprob_TB[0]
    torch.testing.assert_close(logprob_B, probability_V.log().float()[token_B])


def test_ids_that_left_the_vocabulary_are_never_sampled(pair):
    excluded = tuple(range(0, 600, 2))
    vocabulary = Vocabulary(pair.vocabulary.size, excluded)
    sample = sample_rollout(
        pair.student, pair.tokenizer, vocabulary,
        sampling(samples=1, max_new_tokens=8, stop_ids=(656,)), batch=8,
    )  # fmt: skip
    tokens = set(sample.token_BT[sample.mask_BT].tolist())
    assert len(tokens) > 3
    assert not tokens & set(excluded)


@pytest.mark.parametrize("uniform, token", [(0.0, 1), (1 - 2**-24, 3)])
def test_the_ends_of_the_unit_interval_sample_no_impossible_token(uniform, token):
    sampler = KeyedSampler(torch.tensor([[uniform]]), Vocabulary(5, (0, 4)), 1.0)
    assert int(sampler(torch.zeros(1, 1), torch.zeros(1, 5)).argmax()) == token


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p():
    probability_BV = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25]]).double()
    for top_p, kept in [
        (1e-9, [[1], [0]]),
        (0.5, [[1], [0, 1]]),
        (0.51, [[1, 3], [0, 1, 2]]),
        (0.75, [[1, 3], [0, 1, 2]]),
        (0.76, [[1, 2, 3], [0, 1, 2, 3]]),
        (0.999, [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ]:
        found_BV = nucleus(probability_BV, top_p)
        assert [row.nonzero().flatten().tolist() for row in found_BV] == kept
        assert found_BV[found_BV > 0].equal(probability_BV[found_BV > 0])


def test_sampling_inside_the_nucleus_follows_the_renormalised_distribution():
    logit_V = torch.tensor([0.0, 2.0, 1.0, 1.5, -1.0])
    uniform_BT = (torch.arange(1000) / 1000)[:, None]
    sampler = KeyedSampler(uniform_BT, Vocabulary(4), 0.5, top_p=0.9)
    picked_B = sampler(torch.zeros(1000, 1), logit_V.expand(1000, 5)).argmax(-1)
    p_V = (logit_V[:4].double() / 0.5).softmax(-1)  # 1, 3, 2, 0 from the likeliest on
    expected_V = torch.tensor([0.0, p_V[1], p_V[2], p_V[3]]) / (1 - p_V[0])
    assert p_V[1] + p_V[3] < 0.9 < 1 - p_V[0]
    share_V = torch.bincount(picked_B, minlength=4) / 1000
    torch.testing.assert_close(share_V, expected_V.float(), atol=2e-3, rtol=0)
