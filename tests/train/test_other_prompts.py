"""Models after other prompts: CROP's divergences, negatives, a third model on the top K."""

import re

import numpy as np
import pytest
import torch
from small_pair import loaded_pair, prompts, rollout
from steps import trainer

from bench.core.config import Experiment, Runtime
from bench.core.errors import BenchError, ConfigError
from bench.core.processes import ALONE
from bench.run.plan import make_plan
from bench.tasks.arithmetic import make_problem
from bench.tasks.prompts import Arithmetic
from bench.tasks.rewordings import SYNONYMS, one_change, paraphrase
from bench.train.hidden_states import PassSettings
from bench.train.other_prompts import logprob_on_topk, negatives, prompt_jsd, topk_jsd

WHOLE = PassSettings(micro_batch=64, logit_chunk=1 << 24)
PIECES = PassSettings(micro_batch=2, logit_chunk=3000)


def log_softmax(x) -> np.ndarray:
    x = np.asarray(x, float)
    return (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )


def jsd(log_a, log_b, k) -> float:
    """CROP's, by its words, of one position."""
    sides = []
    for log_x in (log_a, log_b):
        top = set(np.argsort(-log_x)[:k].tolist())
        sides.append({v: np.exp(log_x[v]) for v in top})
    union = set(sides[0]) | set(sides[1])
    a, b = ([side.get(v, 0.0) for v in union] for side in sides)
    a, b = (np.array([*x, max(0.0, 1 - sum(x))]) for x in (a, b))
    m = (a + b) / 2
    return sum((x[x > 0] * np.log(x[x > 0] / m[x > 0])).sum() for x in (a, b)) / 2


@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_divergence_of_two_top_k_lists(k, scale):
    generator = torch.Generator().manual_seed(1)
    one, other = (scale * torch.randn(7, 12, generator=generator) for _ in range(2))
    log_a, log_b = log_softmax(one), log_softmax(other)
    expected = [jsd(a, b, k) for a, b in zip(log_a, log_b, strict=True)]
    found_N = topk_jsd(one.log_softmax(-1), other.log_softmax(-1), k)
    np.testing.assert_allclose(found_N.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert found_N.max() <= np.log(2) + 1e-6
    assert not topk_jsd(one.log_softmax(-1), one.log_softmax(-1), k).any()


@pytest.mark.parametrize("settings", [WHOLE, PIECES])
def test_a_model_under_two_prompts(settings):
    """By hand for one response; known hidden states change nothing."""
    pair, row = loaded_pair(), 3
    sample = rollout(pair)
    told = {p.id: Arithmetic().draw(0, 4, 0)[i].one_change for i, p in enumerate(prompts())}
    encoded = [pair.tokenizer(told[name])["input_ids"] for name in sample.prompt_id_B]
    found_N = prompt_jsd(pair.student, sample, encoded, pair.vocabulary, settings, ALONE)
    response = sample.token_BT[row, : sample.length_B[row]].tolist()
    sides = []
    for tokens in (sample.sequence_BL[row, : sample.prompt_length_B[row]].tolist(), encoded[row]):
        logits = pair.student(torch.tensor([[*tokens, *response]])).logits[0, len(tokens) - 1 : -1]
        sides.append(log_softmax(pair.vocabulary.cut(logits).detach().numpy()))
    expected = [jsd(a, b, 64) for a, b in zip(*sides, strict=True)]
    start = int(sample.mask_BT[:row].sum())
    found = found_N[start : start + len(response)].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert max(expected) > 1e-3


def test_a_third_model_on_the_students_candidates():
    pair = loaded_pair()
    sample = rollout(pair)
    for settings in (WHOLE, PIECES):
        found_NK = logprob_on_topk(
            pair.teacher, pair.student, sample, 5, pair.vocabulary, settings, ALONE
        )
        row, at = 2, int(sample.mask_BT[:2].sum())
        whole = sample.sequence_BL[row : row + 1]
        place = int(sample.prompt_length_B[row]) - 1
        student, teacher = (
            pair.vocabulary.cut(model(whole).logits[0, place]).log_softmax(-1)
            for model in (pair.student, pair.teacher)
        )
        expected = teacher[student.topk(5).indices]
        torch.testing.assert_close(found_NK[at], expected, atol=1e-4, rtol=1e-4)


def test_a_negative_is_another_prompt_whatever_the_order():
    drawn = prompts(8)
    found = negatives(drawn)
    assert all(found[p.id].id != p.id for p in drawn)
    assert {k: v.id for k, v in found.items()} == {
        k: v.id for k, v in negatives(drawn[::-1]).items()
    }
    assert len({p.id for p in found.values()}) > 2
    with pytest.raises(BenchError, match="prompts_per_step: 1 is not accepted"):
        negatives(drawn[:1])


# --- the embedded task told again ----------------------------------------------------------------


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def test_a_paraphrase_has_the_same_arithmetic_in_other_words():
    for i in range(300):
        problem = make_problem("train", i, 1)
        other = paraphrase(problem)
        assert numbers(other) == numbers(problem.question) and other == paraphrase(problem)
        olds, news = problem.question.split(". ")[1:-1], other.split(". ")[1:-1]
        for old, new, step in zip(olds, news, problem.steps, strict=True):
            verb = new.split()[1]
            assert verb != step.verb and verb in SYNONYMS[step.verb]
            assert old.split()[2:4] == new.split()[2:4]
            assert len(old.split()) == len(new.split())
            assert len(old.split()) == 4 or old.split()[-1] != new.split()[-1]


def test_a_change_is_of_one_operand_and_keeps_the_task_within_its_range():
    for i in range(300):
        problem = make_problem("train", i, 1)
        other = one_change(problem)
        assert re.sub(r"\d+", "#", other) == re.sub(r"\d+", "#", problem.question)
        old, new = numbers(problem.question), numbers(other)
        assert sum(a != b for a, b in zip(old, new, strict=True)) == 1 and old[0] == new[0]
        value = new[0]
        for operand, step in zip(new[1:], problem.steps, strict=True):
            value += operand if step.operation == "+" else -operand
            assert 2 <= operand <= 20 and 0 <= value <= 99


def test_the_drawn_prompts_carry_both():
    for prompt in Arithmetic().draw(3, 5, 2):
        assert prompt.paraphrase.endswith("?\n") and prompt.one_change.endswith("?\n")
        assert len({prompt.text, prompt.paraphrase, prompt.one_change}) == 3


def test_a_prompt_file_needs_columns_for_a_rule_of_other_wordings(tmp_path):
    import json

    file = tmp_path / "p.jsonl"
    row = {"question": "1 + 1?", "answer": "2", "said": "One and one?", "changed": "1 + 2?"}
    file.write_text("\n".join(json.dumps({**row, "question": f"{i} + 1?"}) for i in range(8)))
    values = {"selector": "crop", "prompts": str(file), "keep": 0.2, "prompts_per_step": 4}
    with pytest.raises(ConfigError, match=r"columns: .*each paraphrase and each one_change"):
        make_plan(Experiment.parse(values), Runtime())
    values["columns"] = {"paraphrase": "said", "one_change": "nothing"}
    one = make_plan(Experiment.parse(values), Runtime(runs_dir=tmp_path))
    with pytest.raises(ConfigError, match="row 1: no text in column 'nothing'; it has question"):
        one.prompts.problems()
    values["columns"]["one_change"] = "changed"
    found = make_plan(Experiment.parse(values), Runtime(runs_dir=tmp_path)).prompts.problems()
    assert found[0].paraphrase == "One and one?" and found[0].one_change == "1 + 2?"
    values.pop("pair", None)
    line = trainer(tmp_path, **{**values, "steps": 1}).step(0)
    assert line["signals"]["paraphrase_jsd_BT"]["all"] > 0


def test_the_prompts_sums_are_of_the_right_models(tmp_path):
    """The teacher's divergences are not the student's; each reads the prompt it is named after."""
    names = ("one_change_jsd_BT", "paraphrase_jsd_BT", "teacher_one_change_jsd_BT",
             "teacher_paraphrase_jsd_BT")  # fmt: skip
    one = trainer(tmp_path, {"log_signals": names}, selector="random", keep=0.5, steps=1)
    line = one.step(0)
    means = [line["signals"][name]["all"] for name in names]
    assert len(set(means)) == 4 and min(means) > 0


@pytest.mark.parametrize("selector, passes", [("crop", 0), ("credit", 1), ("crop_teacher", 4)])
def test_the_teachers_further_passes_count_in_the_cost(tmp_path, selector, passes):
    """Beside its scoring pass, or the loss's over what is selected, where there is none."""
    one = trainer(tmp_path, selector=selector, keep=0.3, steps=1)
    line = one.step(0)
    own = line["sampled_tokens"] if selector == "credit" else line["trained_tokens"]
    assert one.totals.scored == passes * line["sampled_tokens"] + own
