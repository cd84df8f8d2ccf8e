"""Loading: what a teacher and a student must agree on, and what is said when they do not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_pair import loaded_pair, pair_folder, save_model

from bench.core.config import Experiment, Runtime
from bench.core.errors import ConfigError
from bench.core.sampling import EXCLUDED_LOGIT, Vocabulary
from bench.pairs.models import content_sha256, load_pair
from bench.pairs.pair import Pair, get_pair
from bench.run.plan import make_plan


@pytest.fixture
def folder(tmp_path):
    """A pair of one's own to break."""
    copy = tmp_path / "pair"
    shutil.copytree(pair_folder(), copy)
    return copy


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_padded_vocabularies_of_unequal_size_are_cut_to_the_tokenizers():
    pair = loaded_pair()
    assert (pair.student.config.vocab_size, pair.teacher.config.vocab_size) == (672, 704)
    assert pair.vocabulary == Vocabulary(len(pair.tokenizer))
    assert pair.vocabulary.cut(torch.zeros(2, 704)).shape == (2, len(pair.tokenizer))


def test_an_excluded_id_has_probability_zero_and_no_gradient():
    logit_NV = torch.randn(3, 6, requires_grad=True)
    cut_NV = Vocabulary(5, (1, 3)).cut(logit_NV)
    assert cut_NV[:, [1, 3]].eq(EXCLUDED_LOGIT).all()
    probability_NV = cut_NV.softmax(-1)
    assert probability_NV[:, [1, 3]].eq(0).all()
    expected_N3 = logit_NV[:, [0, 2, 4]].softmax(-1)
    torch.testing.assert_close(probability_NV[:, [0, 2, 4]], expected_N3)
    (probability_NV[:, 0]).sum().backward()
    assert logit_NV.grad[:, [1, 3, 5]].eq(0).all()


def test_the_teacher_is_frozen_and_both_are_in_evaluation_mode():
    pair = loaded_pair()
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())
    assert all(parameter.requires_grad for parameter in pair.student.parameters())
    assert not pair.teacher.training and not pair.student.training


def test_tokenizers_that_differ_are_refused(folder):
    def swap(values):
        vocab = values["model"]["vocab"]
        vocab["A"], vocab["B"] = vocab["B"], vocab["A"]

    edit_json(folder / "teacher" / "tokenizer.json", swap)
    with pytest.raises(ConfigError, match="tokenizers differ in their vocab"):
        load_pair(get_pair(str(folder)))


def test_added_tokens_that_differ_leave_the_vocabulary(folder):
    def rename(values):
        (token,) = (t for t in values["added_tokens"] if t["content"] == "<|endoftext|>")
        token["content"] = "<|other|>"

    edit_json(folder / "teacher" / "tokenizer.json", rename)
    pair = load_pair(get_pair(str(folder)))
    pad = pair.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert pair.vocabulary == Vocabulary(657, excluded_ids=(pad,))


def test_stop_tokens_that_differ_are_refused_unless_the_pair_declares_them(folder):
    edit_json(
        folder / "teacher" / "generation_config.json", lambda values: values.update(eos_token_id=7)
    )
    with pytest.raises(ConfigError, match=r"student stops on \(656,\), the teacher on \(7,\)"):
        load_pair(get_pair(str(folder)))
    declared = Pair(
        "declared", str(folder / "teacher"), str(folder / "student"),
        stop_ids={"student": (656,), "teacher": (7,)},
    )  # fmt: skip
    pair = load_pair(declared)
    assert not pair.stops_agree
    assert (pair.student_stop_ids, pair.teacher_stop_ids) == ((656,), (7,))


def test_a_pair_that_declares_stops_for_one_side_only_is_refused():
    with pytest.raises(ConfigError, match="both 'student' and 'teacher'"):
        Pair("half", "t", "s", stop_ids={"student": (1,)})


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: shutil.rmtree(f / "teacher"), "is no folder that holds teacher"),
        (lambda f: (f / "teacher" / "model.safetensors").unlink(), "does not load"),
        (lambda f: (f / "student" / "config.json").unlink(), "does not load"),
        (lambda f: (f / "student" / "tokenizer.json").unlink(), "tokenizer.*student"),
        (
            lambda f: (f / "teacher" / "model.safetensors").write_bytes(
                (f / "teacher" / "model.safetensors").read_bytes()[:5000]
            ),
            "does not load",
        ),
    ],
)
def test_missing_or_truncated_files_are_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        load_pair(get_pair(str(folder)))


def test_a_model_with_fewer_logits_than_the_tokenizer_is_refused(folder):
    without_stops = {"pad_token_id": None, "eos_token_id": 7}
    save_model(folder / "teacher", "qwen3", width=24, vocabulary=640, seed=2, **without_stops)
    with pytest.raises(ConfigError, match="640 logits for a tokenizer of 657"):
        load_pair(get_pair(str(folder)))


def test_the_content_hash_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    student = folder / "student"
    before = content_sha256(str(student))
    shutil.copytree(student, tmp_path / "moved")
    assert content_sha256(str(tmp_path / "moved")) == before
    weights = bytearray((student / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (student / "model.safetensors").write_bytes(bytes(weights))
    assert content_sha256(str(student)) != before


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "adapter_model.bin", "model.gguf", "tf_model.h5", "modeling_own.py",
     "vocab.tiktoken", "merges", "spiece.spm", "additional_chat_templates/tool_use.jinja"],
)  # fmt: skip
def test_whatever_a_loader_may_read_is_in_the_hash(folder, name):
    student = folder / "student"
    before = content_sha256(str(student))
    (student / name).parent.mkdir(exist_ok=True)
    (student / name).write_bytes(b"one")
    one = content_sha256(str(student))
    (student / name).write_bytes(b"two")
    assert len({before, one, content_sha256(str(student))}) == 3


def test_prose_beside_a_model_is_not(folder):
    student = folder / "student"
    before = content_sha256(str(student))
    for name in ("README.md", "LICENSE", ".gitattributes", "loss.PNG"):
        (student / name).write_text("prose")
    (student / "logs").mkdir()
    assert content_sha256(str(student)) == before


def test_two_students_that_differ_in_a_pytorch_file_are_two_runs(folder, tmp_path):
    """Weights as torch saves them, without a safetensors file."""
    ids = []
    for scale in (1.0, 1.01):
        place = tmp_path / str(scale)
        shutil.copytree(folder, place)
        file = place / "student" / "model.safetensors"
        torch.save(
            {n: w * scale for n, w in load_file(file).items()},
            place / "student" / "pytorch_model.bin",
        )
        file.unlink()
        ids.append(make_plan(Experiment(pair=str(place)), Runtime(runs_dir=tmp_path)).run_id)
    assert ids[0] != ids[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    """By whatever loads the model: such a student would score 0.0 % without a word."""
    file = folder / "student" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "q_proj" in name)
    tensors[name][0, 0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"is broken: 1 weights hold NaN or infinity .{name}."):
        load_pair(get_pair(str(folder)))
