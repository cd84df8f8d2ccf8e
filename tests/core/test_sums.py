"""Checksums: what was written is what is read."""

import json

import pytest

from bench.core.errors import BenchError, ConfigError
from bench.core.files import read_json
from bench.core.sums import changed_files, read_sums, refuse_changed, sums_of, write_sums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("a.json", "model/weights", "model/config"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, sums_of(tmp_path, filter(lambda f: f.is_file(), tmp_path.rglob("*"))))
    return tmp_path


def test_an_untouched_folder_has_no_changed_file(folder):
    assert changed_files(folder) == [] and changed_files(folder, "model/") == []
    assert set(read_sums(folder)) == {"a.json", "model/weights", "model/config"}


def test_what_changed_is_named_and_only_under_what_is_asked(folder):
    (folder / "model" / "weights").write_text("other")
    (folder / "model" / "config").unlink()
    assert changed_files(folder) == ["model/config", "model/weights"]
    assert changed_files(folder, "a.json") == []
    with pytest.raises(BenchError, match="the run: model/config, model/weights changed .*; go"):
        refuse_changed(folder, "model/", "the run", "go")


def test_a_folder_without_sums_is_of_an_earlier_version(tmp_path):
    (tmp_path / "a").write_text("a")
    assert changed_files(tmp_path) == []


@pytest.mark.parametrize("content", ["[]", '{"a": 5}', "{", "", "[" * 100_000, "9" * 5000])
def test_damaged_sums_are_no_sums(tmp_path, content):
    (tmp_path / "sums.json").write_text(content)
    with pytest.raises(ConfigError, match="is damaged"):
        read_sums(tmp_path)


def test_what_is_no_json_is_said_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_json(tmp_path / "none")
    for content in (b"\xff", b"{", b"nul"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ConfigError, match="is damaged") as raised:
            read_json(tmp_path / "x")
        assert "\n" not in str(raised.value)
    (tmp_path / "x").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "x") == {"a": 1}
