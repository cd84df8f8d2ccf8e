"""Memory for time: recomputation, half precision and offload save what they say, and change
nothing."""

import json
from copy import deepcopy

import pytest
import torch
from kept import kept_bytes
from losses import CONTEXT
from small_pair import loaded_pair, pair_folder, rollout
from steps import run_steps, same, trainer, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.errors import ConfigError
from bench.core.logits import head_logits
from bench.core.objectives import OBJECTIVES
from bench.core.progress import Progress
from bench.core.stopping import StopRequest
from bench.pairs.models import load_model
from bench.selection.formulas import Chunk
from bench.selection.signals import SIGNAL_NAMES
from bench.train.hidden_states import PassSettings, hidden_states
from bench.train.logit_gradients import logit_gradient_norm
from bench.train.loop import train
from bench.train.objectives import token_loss
from bench.train.placement import (
    Offloaded,
    check_offload,
    hold_in_bfloat16,
    is_bfloat16,
    recomputed,
    shares_weights,
)

WHOLE = PassSettings(micro_batch=64, logit_chunk=1 << 24)
CPU = torch.device("cpu")


class Calls(nn.Module):
    """Counts what enters a module inside the layers, in recomputation too."""

    def __init__(self, model):
        super().__init__()
        self.count = 0
        for layer in model.base_model.layers:
            layer.mlp.register_forward_pre_hook(self.heard)

    def heard(self, *_):
        self.count += 1


# --- recomputed activations ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputation_changes_no_bit_and_does_happen(tmp_path, dtype):
    plain = trainer(tmp_path / "a", dtype=dtype, selector="full")
    less = trainer(tmp_path / "b", {"gradient_checkpointing": True}, dtype=dtype, selector="full")
    calls = [Calls(found.pair.student) for found in (plain, less)]
    one, other = run_steps(plain), run_steps(less)
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    assert [line["grad_norm"] for line in one] == [line["grad_norm"] for line in other]
    assert same(weights(plain), weights(less))
    layers, steps = less.pair.student.config.num_hidden_layers, less.experiment.steps
    assert calls[1].count - calls[0].count == layers * steps


def test_recomputed_layers_keep_their_inputs_alone():
    pair = loaded_pair()
    sequence_BL = rollout(pair).sequence_BL
    whole = kept_bytes(pair.student, sequence_BL)
    with recomputed(pair.student):
        less = kept_bytes(pair.student, sequence_BL)
    assert less < whole / 4
    assert kept_bytes(pair.student, sequence_BL) == whole


def test_dropout_stays_off_where_layers_are_recomputed():
    pair = loaded_pair()
    with recomputed(pair.student):
        layer = pair.student.base_model.layers[0]
        assert layer.training and not layer.self_attn.training and not pair.student.training
    assert not any(module.training for module in pair.student.modules())


def test_a_model_without_layers_to_recompute_is_named():
    message = "gradient_checkpointing: Linear has no layers"
    with pytest.raises(ConfigError, match=message), recomputed(nn.Linear(2, 2)):
        pass


# --- half precision ------------------------------------------------------------------------------


class Dtypes(TorchDispatchMode):
    """Operation -> dtypes of its floating-point results."""

    def __init__(self):
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.seen.setdefault(func.overloadpacket.__name__, set()).add(value.dtype)
        return result


@pytest.mark.parametrize("objective", ["reverse_kl", "jsd", "sampled_reverse_kl"])
def test_bfloat16_is_in_the_products_and_float32_in_divergences_and_loss(tmp_path, objective):
    found = trainer(tmp_path, dtype="bfloat16", selector="teachability", objective=objective)
    sample = found.rollout(0)
    with Dtypes() as ran, found.accelerator.autocast():
        signals, scored = found.signals(sample, 0, _timer(found))
        selection = found.select(signals, sample, 0)
        outputs = found.gradient(sample, selection, scored.teacher_hidden_ND)
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert ran.seen["mm"] == ran.seen[attention] - {torch.float32} == {torch.bfloat16}
    for name in ("exp", "log", "sum", "linalg_vecdot"):  # softmax, divergences, loss
        assert torch.bfloat16 not in ran.seen.get(name, set()), name
    assert "exp" in ran.seen and "log" in ran.seen
    for value in signals.computed().values():
        assert not value.is_floating_point() or value.dtype == torch.float32
    assert isinstance(outputs.loss, float)
    for parameter in found.pair.student.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32


def test_autocast_changes_no_divergence_loss_or_gradient_norm():
    generator = torch.Generator().manual_seed(0)
    student_NV, teacher_NV = (4 * torch.randn(9, 300, generator=generator) for _ in range(2))
    token_N = torch.randint(300, (9,), generator=generator)

    context_N = {name: torch.linspace(0.1, 1, 9) for name in CONTEXT}

    def everything() -> list[torch.Tensor]:
        chunk = Chunk(student_NV, teacher_NV, token_N, 8)
        found = list(chunk.signals(SIGNAL_NAMES).values())
        for objective in OBJECTIVES:
            found.append(token_loss(objective, student_NV, teacher_NV, token_N, None, context_N))
            found.append(logit_gradient_norm(chunk, objective, {}))
        return found

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        inside = everything()
    assert all(torch.equal(one, other) for one, other in zip(plain, inside, strict=True))


def test_a_rule_computes_outside_autocast(tmp_path):
    found = trainer(tmp_path, dtype="bfloat16", selector="teachability", steps=1)
    honest, seen = found.select, []

    def select(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return honest(*arguments)

    found.select = select
    run_steps(found)
    assert seen == [False]


def _timer(found):
    from bench.train.metrics import Timer

    return Timer(found.totals.seconds, found.accelerator.device)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("released", [True, False])
def test_a_teacher_held_in_bfloat16_gives_the_same_bits(architecture, tied, released):
    pair = loaded_pair(architecture, tied)
    sample = rollout(pair)
    teacher = pair.teacher
    if released:  # as the released weights are: bfloat16 values
        for parameter in teacher.parameters():
            parameter.data = parameter.data.bfloat16().float()
    held = deepcopy(teacher)
    hold_in_bfloat16(held)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = [hidden_states(m, sample, sample.mask_BT, WHOLE) for m in (teacher, held)]
        logits = [
            head_logits(model, hidden_ND, pair.vocabulary)
            for model, hidden_ND in zip((teacher, held), states, strict=True)
        ]
    assert states[0].dtype == states[1].dtype == torch.float32
    assert logits[1].dtype == torch.bfloat16
    assert torch.equal(*states) and torch.equal(*logits)
    sizes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in (teacher, held)]
    assert sizes[1] < sizes[0] * (0.55 if released else 0.85)
    is_half = held.get_input_embeddings().weight.dtype == torch.bfloat16
    assert is_half == released


def test_bfloat16_values_are_told_from_others():
    values = torch.randn(10_000, 3)
    assert not is_bfloat16(values)
    assert is_bfloat16(values.bfloat16().float())


def test_training_holds_the_teacher_in_bfloat16_and_ends_in_the_same_place(tmp_path, monkeypatch):
    settings = {"dtype": "bfloat16", "selector": "cc", "keep": 0.3}
    held = trainer(tmp_path / "a", **settings)
    train(held, Progress("off"), StopRequest(), dict)
    monkeypatch.setattr("bench.train.setup.hold_in_bfloat16", lambda model: None)
    plain = trainer(tmp_path / "b", **settings)
    train(plain, Progress("off"), StopRequest(), dict)
    assert same(weights(held), weights(plain))
    for model, other in (
        (held.teacher, plain.teacher),
        (held.setup.reference, plain.setup.reference),
    ):
        projection = "base_model.layers.0.self_attn.q_proj.weight"
        assert model.get_parameter(projection.removeprefix("base_")).dtype == torch.bfloat16
        assert other.get_parameter(projection.removeprefix("base_")).dtype == torch.float32
    assert held.pair.student.dtype == torch.float32


# --- offload -------------------------------------------------------------------------------------


def storages(model) -> dict[str, int]:
    return {name: p.untyped_storage().data_ptr() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_the_teachers_layers_are_here_only_while_they_run(tmp_path, tied):
    """On the CPU, `here` and `away` are two copies on one device: what moves is the same."""
    pair = {"pair": str(pair_folder("qwen3", tied)), "selector": "teachability", "keep": 0.3}
    plain, moved = (trainer(tmp_path / name, **pair) for name in "ab")
    offloaded = Offloaded(moved.teacher, moved.pair.student, CPU)
    away = storages(moved.teacher)
    seen = {"student": [], "teacher": []}
    moved.pair.student.base_model.register_forward_hook(
        lambda *_: seen["student"].append(storages(moved.teacher))
    )
    moved.teacher.base_model.register_forward_hook(
        lambda *_: seen["teacher"].append(storages(moved.teacher))
    )
    lines = [run_steps(found) for found in (plain, moved)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    assert same(weights(plain), weights(moved))
    assert offloaded.moves == len(seen["teacher"]) == moved.experiment.steps
    assert all(found == away for found in seen["student"])
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    for found in seen["teacher"]:
        stayed = {name for name in away if found[name] == away[name]}
        assert stayed == {head}
    whole = sum(p.numel() for p in moved.teacher.parameters())
    assert offloaded.bytes == 4 * (whole - moved.teacher.get_output_embeddings().weight.numel())


def test_offload_keeps_half_precision(tmp_path):
    pair = loaded_pair()
    hold_in_bfloat16(pair.teacher)
    offloaded = Offloaded(pair.teacher, pair.student, CPU)
    offloaded.come()
    projection = pair.teacher.base_model.layers[0].self_attn.q_proj.weight
    assert projection.dtype == torch.bfloat16
    assert projection.data_ptr() not in {home.data_ptr() for home in offloaded._home}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_its_teacher_offloaded_ends_in_the_same_place(tmp_path, monkeypatch, dtype):
    """With what asks for the teacher out of turn: a measured gain, and the shadow panel."""
    monkeypatch.setattr("bench.train.setup.check_offload", lambda *_: None)
    settings = {"log_signals": ("gain_BT",), "shadow": ("random", "forward_kl")}
    found = []
    for offload in (False, True):
        run = trainer(
            tmp_path / str(offload), settings | {"offload_teacher": offload},
            selector="entropy", keep=0.3, dtype=dtype, steps=2,
        )  # fmt: skip
        train(run, Progress("off"), StopRequest(), dict)
        found.append(run)
    assert same(weights(found[0]), weights(found[1]))
    one, other = (without_seconds(run.folder) for run in found)
    assert one == other


def without_seconds(folder) -> list[dict]:
    """The lines of metrics.jsonl and of shadow.jsonl, costs aside."""
    lines = []
    for name in ("metrics.jsonl", "shadow.jsonl"):
        for line in map(json.loads, (folder.path / name).read_text().splitlines()):
            lines.append({k: v for k, v in line.items() if k not in COSTS})
    return lines


COSTS = ("seconds", "peak_memory_bytes")


def test_offload_is_refused_where_it_frees_nothing(tmp_path):
    with pytest.raises(ConfigError, match="offload_teacher: not accepted on the CPU"):
        trainer(tmp_path, {"offload_teacher": True})
    model = load_model(str(pair_folder() / "student"))
    assert shares_weights(model, model)
    with pytest.raises(ConfigError, match="one model in memory"):
        check_offload(model, model, torch.device("cuda"))
