"""Tensors and columns on disk: safetensors and parquet, written whole or not at all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.files import written_whole


def write_tensor(path: Path, value: Tensor) -> None:
    """One tensor, whole or not at all."""
    with written_whole(path) as temporary:
        save_file({"value": value.contiguous().cpu()}, temporary)


def read_tensor(path: Path, device: torch.device | str) -> Tensor:
    return load_file(path, device=str(device))["value"]


def write_table(path: Path, table: pa.Table, compression: str = "snappy") -> None:
    """One parquet file, whole or not at all."""
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression=compression)


def read_column(path: Path, name: str) -> np.ndarray:
    array = pq.read_table(path, columns=[name]).column(name).combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return array.to_numpy()


def column_array(value: Tensor | np.ndarray) -> pa.Array:
    """(N,) as a plain column, (N, K) as a column of lists; ids as 32-bit integers."""
    array = value.cpu().numpy() if isinstance(value, Tensor) else value
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
