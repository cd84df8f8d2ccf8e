"""Folders of models from anybody: one line says what is wrong, and nothing in them runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_pair import pair_folder

from bench.core.errors import BenchError, ConfigError
from bench.core.sums import sums_of, write_sums
from bench.pairs.models import load_model, load_pair, load_tokenizer, read_agreement
from bench.pairs.pair import embedded_pair_names, get_pair


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(pair_folder() / "student", tmp_path / "model")


def edited(folder, name="config.json", **changes):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"is quantised \(gptq\)"),
        ({"quantization_config": "x"}, r"is quantised \(x\)"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2 has been toggled on"),
        ({"hidden_size": "abc"}, "'hidden_size' expected int"),
        ({"hidden_size": 32}, "other shapes than config.json says"),
        ({"num_key_value_heads": 2}, "other shapes than config.json says"),
        (
            {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "has no place for .* weights",
        ),
        ({"model_type": "llama"}, "LlamaForCausalLM, which config.json asks for, has no place"),
        ({"model_type": "qwen99"}, "does not load"),
        ({"hidden_act": "zz"}, "does not load"),
        ({"rope_parameters": 5}, "does not load"),
    ],
)
def test_what_a_configuration_says_wrong_is_one_line(folder, changes, why):
    with pytest.raises(ConfigError, match=why) as raised:
        load_model(edited(folder, **changes))
    assert "\n" not in str(raised.value) and "model" in str(raised.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_broken_side_file_is_no_missing_one(folder, name, content):
    """transformers takes a generation config that it cannot read for none: other stop tokens."""
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_model(str(folder)), load_tokenizer(str(folder))
    assert "\n" not in str(raised.value) and name in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_called_one(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    with pytest.raises(ConfigError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        load_model(str(folder))


def test_stop_tokens_that_are_none_are_refused(folder):
    with pytest.raises(ConfigError, match="eos_token_id: 'x' names no token"):
        from bench.pairs.agreement import id_set

        id_set("x")


@pytest.mark.parametrize("answer", ["y\n", ""])
def test_code_of_a_model_is_not_run_whatever_is_typed(folder, tmp_path, monkeypatch, answer):
    """transformers asks on the terminal where nothing is said of it."""
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import Qwen3Config, Qwen3ForCausalLM\n"
        "class EvilConfig(Qwen3Config):\n    model_type = 'evil'\n"
        "class Evil(Qwen3ForCausalLM):\n    config_class = EvilConfig\n"
    )
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil",
            "AutoTokenizer": ["evil.Evil", None]}  # fmt: skip
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    for model_type in ("evil", "qwen3"):
        edited(folder, auto_map=code, model_type=model_type)
        edited(folder, "tokenizer_config.json", auto_map=code)
        for load in (load_model, load_tokenizer):
            try:
                load(str(folder))
            except ConfigError as error:
                assert "\n" not in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("name", embedded_pair_names())
def test_the_embedded_pairs_are_as_they_were_built(name, tmp_path):
    from bench.pairs.pair import get_pair as named

    source = named(name).student.rpartition("/")[0]
    place = shutil.copytree(source, tmp_path / "pair")
    load_pair(get_pair(str(place)))
    weights = bytearray((place / "teacher" / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (place / "teacher" / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(BenchError, match="teacher/model.safetensors changed since it was written"):
        load_pair(get_pair(str(place)))
    assert read_agreement(get_pair(str(place)))  # of the tokenizers alone


def test_a_model_that_was_changed_on_purpose_loads_without_its_sums(tmp_path):
    place = shutil.copytree(pair_folder(), tmp_path / "pair")
    files = [file for file in (place / "student").rglob("*") if file.is_file()]
    write_sums(place, sums_of(place, files))
    state = load_file(place / "student" / "model.safetensors")
    state["model.norm.weight"] += 1
    save_file(state, place / "student" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BenchError, match=r"delete sums.json above it if the change is meant"):
        load_model(str(place / "student"))
    (place / "sums.json").unlink()
    found = load_model(str(place / "student"))
    assert found.model.norm.weight.equal(torch.nn.Parameter(state["model.norm.weight"]))
