"""What rules may ask for beyond the two models' logits: answers, groups and other prompts."""

import re
from dataclasses import replace

import pytest
import torch
from small_pair import loaded_pair, prompts, rollout

from bench.core.errors import BenchError
from bench.tasks.arithmetic import make_problem, solution_text
from bench.tasks.prompts import Arithmetic, Prompt, counterfactual
from bench.train.extra_signals import (
    after,
    counterfactual_logprob,
    group_B,
    reward_B,
)
from bench.train.hidden_states import PassSettings
from bench.train.scoring import sampled_logprob, score_rollout
from bench.train.setup import load_reference

WHOLE = PassSettings(micro_batch=64, logit_chunk=1 << 24)
PIECES = PassSettings(micro_batch=2, logit_chunk=3000)


def test_a_counterfactual_prompt_has_other_numbers_and_nothing_else():
    for prompt in prompts(30):
        text = counterfactual(prompt)
        assert re.sub(r"\d+", "#", text) == re.sub(r"\d+", "#", prompt.text)
        old, new = re.findall(r"\d+", prompt.text), re.findall(r"\d+", text)
        assert [len(n) for n in old] == [len(n) for n in new]
        for before, now in zip(old, new, strict=True):
            assert before != now and (len(now) == 1 or now[0] != "0")
        assert len(set(zip(old, new, strict=True))) == len(set(old))  # equal numbers stay equal
        assert counterfactual(prompt) == text
    assert counterfactual(Prompt("a", "4 and 4", "", "train")) != "4 and 4"
    with pytest.raises(BenchError, match="'a' has no number"):
        counterfactual(Prompt("a", "no number", "", "train"))


def test_the_same_responses_after_their_own_prompts_are_the_same_rollout():
    pair = loaded_pair()
    sample = rollout(pair)
    own = [
        sample.sequence_BL[row, : int(length)].tolist()
        for row, length in enumerate(sample.prompt_length_B)
    ]
    same = after(sample, own)
    assert torch.equal(same.sequence_BL, sample.sequence_BL)
    longer = after(sample, [[5, *tokens, 7] for tokens in own])
    for row, start in enumerate(longer.prompt_length_B.tolist()):
        n = sample.length_B[row]
        assert longer.sequence_BL[row, start : start + n].tolist() == (
            sample.token_BT[row, :n].tolist()
        )


@pytest.mark.parametrize("settings", [WHOLE, PIECES])
def test_a_models_log_probability_of_the_sampled_tokens_is_that_of_the_scoring_pass(settings):
    pair = loaded_pair()
    sample = rollout(pair)
    found_N = sampled_logprob(pair.teacher, sample, pair.vocabulary, settings)
    scored = score_rollout(
        pair.student, pair.teacher, sample, pair.vocabulary, ("teacher_logprob_BT",), 4, WHOLE
    )
    torch.testing.assert_close(found_N, scored.values["teacher_logprob_BT"], atol=1e-5, rtol=1e-5)


def test_the_counterfactual_pass_reads_the_other_prompt():
    pair = loaded_pair()
    sample = rollout(pair)
    found_N = counterfactual_logprob(pair.student, sample, prompts(), pair, WHOLE)
    own_N = sampled_logprob(pair.student, sample, pair.vocabulary, WHOLE)
    assert found_N.shape == own_N.shape and float((found_N - own_N).abs().mean()) > 1e-3
    # By hand, one response: its own tokens after the other prompt's.
    row = 3
    text = counterfactual(prompts()[1])
    tokens = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
    response = sample.token_BT[row, : sample.length_B[row]].tolist()
    logits = pair.student(torch.tensor([[*tokens, *response]])).logits[0, len(tokens) - 1 : -1]
    logprob = torch.log_softmax(pair.vocabulary.cut(logits).float(), -1)
    expected = logprob[torch.arange(len(response)), torch.tensor(response)].detach()
    start = int(sample.mask_BT[:row].sum())
    torch.testing.assert_close(
        found_N[start : start + len(response)], expected, atol=1e-4, rtol=1e-4
    )


def test_rewards_check_the_answer_that_evaluation_would_read():
    pair = loaded_pair()
    problem = make_problem("train", 0)
    prompt = prompts(1)[0]
    right = solution_text(problem, ["equation"] * len(problem.steps))
    wrong = right.replace(f"#### {problem.answer}", f"#### {int(problem.answer) + 1}")
    stop = pair.student_stop_ids[0]
    texts = [
        (right, True, 1.0),
        (right, False, 1.0),  # cut off right after the answer
        (wrong, True, 0.0),
        (right.partition("####")[0], True, 0.0),
    ]
    sample = rollout(pair)
    for text, stops, expected in texts:
        tokens = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = [*tokens, stop] if stops else tokens
        one = replace(
            sample,
            token_BT=torch.tensor([tokens]),
            mask_BT=torch.ones(1, len(tokens), dtype=torch.bool),
            prompt_id_B=(prompt.id,),
            finish_reason_B=("stop" if stops else "length",),
            sequence_BL=torch.tensor([[1, 2, 3, *tokens]]),
            prompt_length_B=torch.tensor([3]),
            row_key_B=(f"{prompt.id}/0",),
            length_B=(len(tokens),),
        )
        assert reward_B(one, [prompt], Arithmetic().is_correct, pair).tolist() == [expected]


def test_responses_to_one_prompt_are_a_group():
    assert group_B(rollout(loaded_pair(), count=3)).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_reference_is_a_copy_that_training_does_not_move():
    pair = loaded_pair()
    reference = load_reference("student", pair)
    assert all(not p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in pair.student.parameters())
    with torch.no_grad():
        next(pair.student.parameters()).add_(1)
    assert not torch.equal(next(pair.student.parameters()), next(reference.parameters()))
