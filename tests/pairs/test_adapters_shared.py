"""A teacher or a reference that is the base itself: the same numbers, weights held once."""

from copy import deepcopy

import pytest
import torch
from lora_student import LORA
from small_pair import pair_folder
from steps import QUIET, experiment, run_steps, same, trainer, weights

from bench.core.config import Experiment, Runtime
from bench.pairs.adapters import add_adapter, weight_sharing_copy
from bench.pairs.models import load_model, load_pair
from bench.run.plan import make_plan
from bench.run.run_experiment import open_trainer
from bench.train.setup import place_frozen
from bench.train.trainer import Trainer


def self_distilled(tmp_path, side="student", **values) -> tuple[Trainer, Trainer]:
    """(one model in memory, two of them): the teacher has the student's files."""
    folder = str(pair_folder() / side)
    settings = {**LORA, "teacher": folder, "student": folder, **values}
    runtime = Runtime.parse({"runs_dir": tmp_path, **QUIET})
    found = []
    for is_one in (True, False):
        plan = make_plan(experiment(**settings), runtime)
        assert plan.is_one_model
        found.append(open_trainer(plan, load_pair(plan.pair, one_model=is_one), runtime))
    return found[0], found[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_model_in_memory_equals_two(tmp_path, dtype):
    one, two = self_distilled(tmp_path, selector="reverse_kl", keep=0.5, dtype=dtype)
    for found in (one, two):  # an untrained adapter leaves nothing to distil
        with torch.no_grad():
            for name, parameter in found.pair.student.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
        place_frozen(found.setup, found.experiment, found.runtime)
    lines, others = run_steps(one), run_steps(two)
    assert lines[0]["signals"]["reverse_kl_BT"]["all"] > 0.1
    for line, other in zip(lines, others, strict=True):
        for name in ("loss", "grad_norm", "trained_tokens"):
            assert line[name] == other[name]
    assert same(weights(one), weights(two))


def test_the_one_model_s_weights_are_held_once(tmp_path):
    one, two = self_distilled(tmp_path)

    def held(found: Trainer) -> int:
        parameters = [*found.pair.student.parameters(), *found.teacher.parameters()]
        sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
        return sum(sizes.values())

    base = sum(p.numel() * 4 for p in one.teacher.parameters())
    assert held(two) - held(one) == base
    assert not any("lora" in name for name, _ in one.teacher.named_modules())


def test_teacher_and_student_are_one_model_only_where_files_and_adapters_say_so():
    folder = str(pair_folder() / "student")
    same_files = {"teacher": folder, "student": folder}
    assert make_plan(experiment(**LORA, **same_files), Runtime()).is_one_model
    assert not make_plan(experiment(**same_files), Runtime()).is_one_model
    assert not make_plan(experiment(**LORA), Runtime()).is_one_model


def test_a_reference_shares_the_frozen_weights(tmp_path):
    plain = trainer(tmp_path / "a", selector="cc", keep=0.5, lora=4)
    own = {id(p) for p in plain.pair.student.parameters()}
    assert all(id(p) in own for p in plain.setup.reference.parameters())
    full = trainer(tmp_path / "b", selector="cc", keep=0.5)
    own = {id(p) for p in full.pair.student.parameters()}
    assert not any(id(p) in own for p in full.setup.reference.parameters())


def test_a_weight_sharing_copy_is_the_same_function_on_the_same_parameters():
    model = load_model(str(pair_folder("qwen2") / "student"))
    shared, copied = weight_sharing_copy(model), deepcopy(model)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = shared(ids).logits
        add_adapter(model, Experiment(lora=2))
        model.base_model.layers[0].mlp.up_proj.lora_B["default"].weight.fill_(0.5)
        assert torch.equal(shared(ids).logits, before) and torch.equal(copied(ids).logits, before)
        assert not torch.equal(model(ids).logits, before)
