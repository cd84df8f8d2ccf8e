"""Evaluation: the right answers score, item by item, and what is asked in vain is refused."""

import subprocess
import sys

import pytest
from byte_model import END, STOP

from bench.core.errors import ConfigError
from bench.tasks.arithmetic import make_problem, prompt_text
from bench.tasks.evaluate import evaluate
from bench.tasks.protocol import Asking, check_tasks, task_names


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
    assert [sample.text for (sample,) in result.sample_IK] == [
        f"#### {gold}",
        problems[1].answer,
        "no answer here, and ",
        planted[3],
        "",
        "#### 1<pad>2",
    ]
    assert result.parse_failure_rate == 4 / 6
    assert result.truncation_rate == 2 / 6
    expected_tokens = [5 + len(gold) + 1, len(problems[1].answer) + 1, 20, 20, 1, 9]
    assert result.mean_response_tokens == pytest.approx(sum(expected_tokens) / 6)


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


def test_importing_evaluate_is_cheap():
    code = (
        "import sys, bench.tasks.evaluate, bench.tasks.protocol as e;"
        "e.task_names(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lm_eval", "transformers", "datasets"} & set(done.stdout.split())
