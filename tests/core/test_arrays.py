"""Arrays on disk: what is damaged is said, and is not another array."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from bench.core.arrays import column_array, read_column, read_tensor, write_table, write_tensor
from bench.core.errors import BenchError


@pytest.mark.parametrize("value", [torch.randn(50, 8), torch.ones(3, dtype=torch.bfloat16)])
def test_a_tensor_comes_back_and_any_bit_of_it_counts(tmp_path, value):
    path = tmp_path / "x.safetensors"
    write_tensor(path, value)
    assert read_tensor(path, "cpu").equal(value)
    content = path.read_bytes()
    for place in (len(content) - 1, len(content) - value.numel() * value.element_size()):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(BenchError, match="is damaged .*delete it") as raised:
            read_tensor(path, "cpu")
        assert "\n" not in str(raised.value)
    for cut in (0, 20, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(BenchError, match="is damaged"):
            read_tensor(path, "cpu")


def test_a_column_comes_back_and_any_bit_of_it_counts(tmp_path):
    path = tmp_path / "x.parquet"
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 4)).astype(np.float32)
    write_table(path, pa.table({"a": column_array(values), "b": column_array(values[:, 0])}))
    assert np.array_equal(read_column(path, "a"), values)
    content = path.read_bytes()
    for place in rng.integers(0, len(content), 60):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            same = np.array_equal(read_column(path, "a"), values)
        except BenchError as error:
            assert "\n" not in str(error)
        else:
            assert same  # of the other column, or of no value
    path.write_bytes(content[:100])
    with pytest.raises(BenchError, match="is damaged"):
        read_column(path, "a")
