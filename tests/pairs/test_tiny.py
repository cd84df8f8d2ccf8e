"""The embedded pairs: tokenizer, shipped weights, builder."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen3Config

from bench.core.errors import ConfigError
from bench.pairs.pair import ASSETS, get_pair
from bench.pairs.tiny.build import RECIPES, build_model, build_pair, retune_teacher
from bench.pairs.tiny.card import readme_text
from bench.pairs.tiny.pretrain import greedy_accuracy, training_batch
from bench.pairs.tiny.tokenizer import build_tokenizer
from bench.tasks.arithmetic import make_problem, prompt_text, solution_text

PAIRS = ("tiny-qwen3", "tiny-qwen2.5")
CLASSES = {"tiny-qwen3": "Qwen3ForCausalLM", "tiny-qwen2.5": "Qwen2ForCausalLM"}
MIB = 2**20


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def texts(count):
    for index in range(count):
        problem = make_problem("train", index)
        for style in ("equation", "verb"):
            yield prompt_text(problem), solution_text(problem, [style] * len(problem.steps))


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("Zoë  has\n\n 12½ cups\t😀 #### 7", " leading", "trailing \n", "unknownword"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens_and_words_are_one(tokenizer):
    ids = tokenizer.encode("Mia has 120 cups.")
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "Mia", " has", "Ġ", "1", "2", "0", " cups", ".",
    ]  # fmt: skip


def test_prompt_and_response_tokenise_alone_as_they_do_together(tokenizer):
    for prompt, response in texts(300):
        together = tokenizer.encode(prompt + response)
        assert tokenizer.encode(prompt) + tokenizer.encode(response) == together
        assert tokenizer.decode(together) == prompt + response


def test_at_least_256_tokens_are_in_real_use(tokenizer):
    used = {i for pair in texts(1000) for text in pair for i in tokenizer.encode(text)}
    assert len(used) >= 256
    byte_pieces = [t for t in tokenizer.convert_ids_to_tokens(sorted(used)) if len(t) == 1]
    assert set(byte_pieces) == set("0123456789+-=.ĠĊ")  # every word is one token


def test_the_wordings_part_at_the_first_token_of_a_step(tokenizer):
    firsts = {"equation": set(), "verb": set()}
    for index in range(500):
        problem = make_problem("train", index)
        for style, seen in firsts.items():
            lines = solution_text(problem, [style] * len(problem.steps)).split("\n")[:-1]
            seen.update(tokenizer.encode(line)[0] for line in lines)
    assert not firsts["equation"] & firsts["verb"]
    assert len(firsts["verb"]) > 16


@pytest.mark.parametrize("config_class", [Qwen3Config, Qwen2Config])
def test_the_tokenizer_reloads_as_it_was_built_beside_either_model(
    config_class, tokenizer, tmp_path
):
    config_class().save_pretrained(tmp_path)  # AutoTokenizer picks its class by the model's
    tokenizer.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert (again.eos_token, again.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for prompt, response in texts(100):
        assert again.encode(prompt + response) == tokenizer.encode(prompt + response)
        assert again.decode(again.encode(prompt + response)) == prompt + response


def test_training_targets_are_the_response_and_its_eos_alone(tokenizer):
    recipe = RECIPES["tiny-qwen2.5"].student
    token_BT, label_BT = training_batch(5, recipe, tokenizer, seed=0)
    assert len(token_BT) == recipe.batch_size
    for tokens, labels in zip(token_BT, label_BT, strict=True):
        is_target = labels != -100
        assert torch.equal(tokens[is_target], labels[is_target])
        response = labels[is_target]
        assert response[-1] == tokenizer.eos_token_id
        assert tokenizer.pad_token_id not in response
        before = tokenizer.decode(tokens[: is_target.nonzero()[0, 0]])
        assert before.endswith("have now?\n")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_shipped_models_load_with_transformers_alone(name, role, tokenizer):
    folder = ASSETS / name / role
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == CLASSES[name]
    low, high = {"teacher": (1_000_000, 1_200_000), "student": (200_000, 350_000)}[role]
    assert low <= model.num_parameters() <= high
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
    assert not model.generation_config.do_sample
    for sampling in ("temperature", "top_p", "top_k", "repetition_penalty"):
        assert getattr(model.generation_config, sampling) is None
    shipped = AutoTokenizer.from_pretrained(folder)
    assert shipped.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name", PAIRS)
def test_teacher_and_student_pad_the_vocabulary_differently(name, tokenizer):
    sizes = {"student": 704, "teacher": 768}  # multiples of 64 beyond the 657 tokens
    assert len(tokenizer) == 657
    recipe = RECIPES[name]
    for role, size in sizes.items():
        assert AutoConfig.from_pretrained(ASSETS / name / role).vocab_size == size
        built = build_model(recipe.architecture, getattr(recipe, role), tokenizer, seed=0)
        assert built.config.vocab_size == size


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("role", "low", "high"), [("teacher", 0.9, 1.0), ("student", 0.25, 0.55)])
def test_shipped_accuracy_is_within_the_bounds(name, role, low, high, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name / role)
    problems = [make_problem("tune", index) for index in range(120)]
    slack = 0.08  # two standard errors of a share near 0.4 on 120 problems
    assert low - slack <= greedy_accuracy(model, tokenizer, problems) <= high + slack


def test_all_weights_together_stay_within_16_mib():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors")) <= 16 * MIB


@pytest.mark.parametrize("name", PAIRS)
def test_the_card_is_of_the_shipped_build(name):
    card = json.loads((ASSETS / name / "card.json").read_text())
    build = json.loads((ASSETS / name / "build.json").read_text())
    assert card["build"] == build
    assert (ASSETS / name / "README.md").read_text() == readme_text(name, card)
    assert build["recipe"]["architecture"] == RECIPES[name].architecture
    for role in ("teacher", "student"):
        shipped, current = build["recipe"][role], getattr(RECIPES[name], role)
        assert shipped == json.loads(json.dumps(vars(current)))


def test_the_card_shows_the_regimes_apart():
    """The pairs differ as promised: off-support mass, accuracies, and room for distillation."""
    cards = {name: json.loads((ASSETS / name / "card.json").read_text()) for name in PAIRS}
    for k in ("4", "16"):
        matched, mismatched = (cards[name]["off_support"][k] for name in PAIRS)
        assert mismatched >= 3 * matched
    for name, lift in (("tiny-qwen3", 0.15), ("tiny-qwen2.5", 0.10)):
        assert cards[name]["full"]["lift"] >= lift
        assert cards[name]["accuracy"]["teacher"]["tune"] >= 0.9
        assert 0.25 <= cards[name]["accuracy"]["student"]["tune"] <= 0.55
    assert min(cards["tiny-qwen2.5"]["teacher_by_wording"].values()) >= 0.9


def tiny_recipe(name, steps, stop_at=None):
    recipe = RECIPES[name]
    shape = {"width": 16, "layers": 1, "intermediate": 16, "heads": 2, "kv_heads": 1}
    small = {**shape, "batch_size": 4}
    return replace(
        recipe,
        teacher=replace(recipe.teacher, **small, steps=steps, save_every=1),
        student=replace(
            recipe.student, **small, steps=steps, save_every=1, stop_at=stop_at,
            eval_every=1, eval_problems=2,
        ),
    )  # fmt: skip


def weights(pair_dir, role):
    return AutoModelForCausalLM.from_pretrained(pair_dir / role).state_dict()


class Killed(Exception):
    pass


@pytest.mark.parametrize("victim", ["student", "teacher"])
def test_a_killed_build_resumes_to_the_same_weights(victim, tmp_path):
    recipe = tiny_recipe("tiny-qwen2.5", steps=3)

    def kill(label, step, steps, fields):
        if label.endswith(victim) and step == 2:
            raise Killed

    quiet = lambda *_: None  # noqa: E731
    build_pair("tiny-qwen2.5", tmp_path / "whole", recipe=recipe, progress=quiet)
    with pytest.raises(Killed):
        build_pair("tiny-qwen2.5", tmp_path / "cut", recipe=recipe, progress=kill)
    seen = []
    build_pair(
        "tiny-qwen2.5", tmp_path / "cut", recipe=recipe,
        progress=lambda label, step, *_: seen.append((label, step)),
    )  # fmt: skip
    assert seen[0] == (f"tiny-qwen2.5 {victim}", 2)  # step 1 came from the checkpoint
    for role in ("student", "teacher"):
        whole, cut = weights(tmp_path / "whole", role), weights(tmp_path / "cut", role)
        assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {
        "build.json",
        "student",
        "sums.json",
        "teacher",
    }


def test_the_student_stops_at_the_first_evaluation_that_meets_its_target(tmp_path):
    recipe = tiny_recipe("tiny-qwen3", steps=3, stop_at=0.0)
    out = build_pair("tiny-qwen3", tmp_path / "pair", recipe=recipe, progress=lambda *_: None)
    trained = json.loads((out / "build.json").read_text())["trained"]
    assert (trained["student"]["steps"], trained["teacher"]["steps"]) == (1, 3)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    quiet = lambda *_: None  # noqa: E731
    recipe = tiny_recipe("tiny-qwen3", steps=1)
    build_pair("tiny-qwen3", tmp_path, recipe=recipe, progress=quiet)
    before = (tmp_path / "build.json").stat().st_mtime_ns
    build_pair("tiny-qwen3", tmp_path, recipe=recipe, progress=quiet)
    assert (tmp_path / "build.json").stat().st_mtime_ns == before  # complete: left as it is
    with pytest.raises(ValueError, match="another build"):
        build_pair("tiny-qwen3", tmp_path, recipe=recipe, seed=1, progress=quiet)
    with pytest.raises(ValueError, match=r"style_share must lie in \[0, 1\]"):
        build_pair("tiny-qwen3", tmp_path, style_share=1.5, progress=quiet)
    (tmp_path / "build.json").unlink()
    with pytest.raises(ValueError, match="not empty"):
        build_pair("tiny-qwen3", tmp_path, recipe=recipe, progress=quiet)
    assert (tmp_path / "teacher" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="known are tiny-qwen3"):
        build_pair("tiny-qwen4", tmp_path, progress=quiet)


def test_retuning_changes_the_teacher_and_keeps_the_student(tmp_path):
    recipe, quiet = tiny_recipe("tiny-qwen2.5", steps=2), lambda *_: None
    pair = build_pair("tiny-qwen2.5", tmp_path / "pair", recipe=recipe, progress=quiet)
    out = retune_teacher(pair, tmp_path / "retuned", 0.7, steps=2, progress=quiet)
    before, after = weights(pair, "student"), weights(out, "student")
    assert all(torch.equal(before[key], after[key]) for key in before)
    before, after = weights(pair, "teacher"), weights(out, "teacher")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert (
        json.loads((out / "build.json").read_text())["retuned"]["teacher"]["equation_share"] == 0.7
    )
    assert get_pair(str(out)).facts == {"style_share": 0.7}
    assert get_pair(str(pair)).facts == {}
    with pytest.raises(ConfigError, match=r"style_share must lie in \[0, 1\], got 7"):
        retune_teacher(pair, tmp_path / "other", 7, steps=2, progress=quiet)
    with pytest.raises(ConfigError, match="only a pair built here"):
        retune_teacher(tmp_path, tmp_path / "other", 0.7, steps=2, progress=quiet)


def test_the_seed_decides_the_initial_weights(tokenizer):
    recipe = tiny_recipe("tiny-qwen3", steps=1).student
    first, same, other = (
        build_model("qwen3", recipe, tokenizer, seed).model.embed_tokens.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
