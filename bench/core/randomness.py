"""Keyed randomness: every random number is a hash of what it is for, never of when it was drawn.

Logging, world size, micro-batches and resume therefore cannot shift it. Imports no sibling.
"""

from collections.abc import Hashable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # splitmix64's constants, as signed 64-bit integers
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)

RowKeys = Sequence[Hashable] | Tensor


def hash64(*parts: object) -> int:
    """A signed 64-bit hash of the parts' text, the same on every machine and Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's >> on int64 copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser: a bijection on 64-bit integers."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _row_keys(row_key_B: RowKeys | None, rows: int) -> Sequence[object]:
    if row_key_B is None:
        return list(range(rows))
    keys = row_key_B.tolist() if isinstance(row_key_B, Tensor) else list(row_key_B)
    if len(keys) != rows:
        raise ValueError(f"row_key_B: {len(keys)} keys for {rows} responses")
    if len({str(key) for key in keys}) != rows:
        raise ValueError("row_key_B: two responses share a key; each needs its own")
    return keys


def keyed_bits(
    seed: int,
    purpose: str,
    step: int,
    row_key_B: RowKeys | None,
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """int64 (B, T): 64 hashed bits for each response's positions."""
    rows, positions = shape
    keys = [hash64(seed, purpose, step, key) for key in _row_keys(row_key_B, rows)]
    key_B1 = torch.tensor(keys, dtype=torch.int64, device=device).view(rows, 1)
    position_1T = torch.arange(positions, device=device)[None]
    return _mix(key_B1 + (position_1T + 1) * _GOLDEN)


def keyed_uniform(
    seed: int,
    purpose: str,
    step: int,
    row_key_B: RowKeys | None,
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """float32 (B, T) in [0, 1): multiples of 2^-24."""
    bits_BT = keyed_bits(seed, purpose, step, row_key_B, shape, device)
    return _shift_right(bits_BT, 40).to(torch.float32) * 2.0**-24
