"""A sound pair to break."""

import shutil

import pytest
from qwen_pair import qwen_folder


@pytest.fixture
def pair(tmp_path):
    """A sound pair of one's own to break: Qwen3 classes, real tokenizer, unequal vocabularies."""
    folder = tmp_path / "pair"
    shutil.copytree(qwen_folder("qwen3", True), folder)
    return folder
