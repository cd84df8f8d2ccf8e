"""Tensors and columns on disk: safetensors and parquet, written whole or not at all."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.files import written_whole

SUM = "sha256"
"""In the metadata of a tensor's file; files of earlier versions have none."""


def write_tensor(path: Path, value: Tensor) -> None:
    """One tensor with its checksum, whole or not at all."""
    value = value.contiguous().cpu()
    with written_whole(path) as temporary:
        try:
            save_file({"value": value}, temporary, metadata={SUM: _sum(value)})
        except SafetensorError as error:  # a full disk, told in its own way
            raise OSError(errno.EIO, str(error), str(path)) from error


def read_tensor(path: Path, device: torch.device | str) -> Tensor:
    """Raises BenchError for a file that is not as it was written."""
    with _whole(path), safe_open(path, "pt", device="cpu") as file:
        value = file.get_tensor("value")
        if (file.metadata() or {}).get(SUM) not in (None, _sum(value)):
            raise ValueError("its checksum is another")
    return value.to(device)


def _sum(value: Tensor) -> str:
    return hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def write_table(path: Path, table: pa.Table, compression: str = "snappy") -> None:
    """One parquet file with checksums of its pages, whole or not at all."""
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression=compression, write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Raises BenchError for a file that is not as it was written."""
    with _whole(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:  # pyarrow's are of these
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise BenchError(
            f"{path} is damaged ({said}); delete it, and the same command makes it again"
        ) from error


def read_column(path: Path, name: str) -> np.ndarray:
    array = read_table(path, [name]).column(name).combine_chunks()
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
