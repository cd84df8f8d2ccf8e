"""The real public files, where a folder with them is given."""

import os
from functools import cache
from pathlib import Path

import pytest

from bench.tasks.data_files import FOLDER_VARIABLE

FOLDER = Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None

needs_data = pytest.mark.skipif(
    FOLDER is None,
    reason=f"{FOLDER_VARIABLE} is not set: it names the folder with the real public data files",
)


@cache
def qwen3_tokenizer():
    """The real Qwen3 tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    assert FOLDER is not None
    return AutoTokenizer.from_pretrained(FOLDER / "qwen3-tokenizer")
