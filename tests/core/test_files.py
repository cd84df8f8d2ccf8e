"""Files and folders written whole: what is there after an error, and what counts as stale."""

import pytest
import torch

from bench.core.arrays import read_tensor, write_tensor
from bench.core.files import folder_written_whole, is_stale, write_bytes, written_whole


@pytest.fixture
def full_disk(monkeypatch):
    """Turns every flush to the disk into an error, once it is called."""

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr("os.fsync", no_space)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "page.md"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and names(tmp_path) == ["page.md"]


def test_a_full_disk_leaves_the_old_tensor(tmp_path, full_disk):
    path = tmp_path / "hidden.safetensors"
    write_tensor(path, torch.arange(3.0))
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        write_tensor(path, torch.zeros(9))
    assert read_tensor(path, "cpu").tolist() == [0, 1, 2] and names(tmp_path) == [path.name]


def test_a_full_disk_leaves_the_old_folder(tmp_path, full_disk):
    def write(text):
        with folder_written_whole(tmp_path / "model") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / f"{text}.txt").write_text(text)

    write("first")
    (tmp_path / ".model.tmp").mkdir()  # what a killed process left
    write("second")
    assert names(tmp_path / "model" / "deep") == ["second.txt"]
    full_disk()
    with pytest.raises(OSError, match="No space left"):
        write("third")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model" / "deep") == ["second.txt"]


def test_a_file_is_stale_where_its_bytes_differ_and_a_picture_where_it_is_missing(tmp_path):
    for name in ("a.svg", "a.png"):
        assert is_stale(tmp_path / name, b"new")
        write_bytes(tmp_path / name, b"old")
        assert not is_stale(tmp_path / name, b"old")
    assert is_stale(tmp_path / "a.svg", b"new") and not is_stale(tmp_path / "a.png", b"new")
