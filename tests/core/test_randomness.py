"""Keyed randomness: uniform, independent, and the same wherever and whenever it is computed."""

from hashlib import blake2b

import numpy as np
import pytest
import torch
from scipy import stats

from bench.core.randomness import hash64, keyed_bits, keyed_uniform

WORD = 1 << 64


def splitmix64(state: int) -> int:
    """One output of the published generator, in Python integers."""
    state = (state + 0x9E3779B97F4A7C15) % WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % WORD
    return state ^ (state >> 31)


def reference_bits(seed, purpose, step, key, position) -> int:
    text = "\x1f".join(map(str, (seed, purpose, step, key)))
    start = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    return splitmix64((start + position * 0x9E3779B97F4A7C15) % WORD)


def test_bits_are_splitmix64_of_a_hash_of_the_key():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first output of seed 0
    keys = ["p0/0", "p0/1", "p9/3"]
    bits_BT = keyed_bits(5, "tie", 17, keys, (3, 40))
    for row, key in enumerate(keys):
        for position in range(40):
            expected = reference_bits(5, "tie", 17, key, position)
            assert int(bits_BT[row, position]) % WORD == expected


def test_frozen_values_so_that_no_past_run_is_reordered_unnoticed():
    assert hash64(0, "tie", 0, "p0/0") == -7089449376964867480
    assert keyed_bits(0, "tie", 3, ["p0/0"], (1, 3)).tolist() == [
        [-1183047706062461469, 7826762616442064753, 8060342971783543606]
    ]
    uniform = keyed_uniform(0, "selector", 0, None, (2, 2)) * 2**24
    assert uniform.tolist() == [[9127496.0, 11300926.0], [7911590.0, 4408495.0]]


def test_uniform_numbers_are_multiples_of_2_to_the_minus_24_in_0_1():
    uniform_BT = keyed_uniform(1, "selector", 2, None, (40, 500))
    assert uniform_BT.dtype == torch.float32
    assert float(uniform_BT.min()) >= 0 and float(uniform_BT.max()) < 1
    scaled_BT = uniform_BT.double() * 2**24
    assert torch.equal(scaled_BT, scaled_BT.round())
    # The top 24 of the 64 bits, as an unsigned number.
    top = [bits % WORD >> 40 for bits in keyed_bits(1, "selector", 2, None, (1, 50))[0].tolist()]
    assert scaled_BT[0, :50].tolist() == top


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_numbers_are_uniform(seed):
    value = keyed_uniform(seed, "selector", 0, None, (100, 400)).numpy().ravel().astype(float)
    assert stats.kstest(value, "uniform").pvalue > 1e-3
    count = np.histogram(value, bins=64, range=(0, 1))[0]
    assert stats.chisquare(count).pvalue > 1e-3
    low_bits = (value * 4096) % 1
    assert stats.kstest(low_bits, "uniform").pvalue > 1e-3


def pairs_of_keys():
    """Numbers of keys that differ in one thing: name -> (one, other)."""
    rows, positions = 60, 300
    shape = (rows, positions)
    base = keyed_uniform(0, "selector", 0, None, shape)
    tuples = [(f"p{row}", 0) for row in range(rows)]
    other_sample = [(f"p{row}", 1) for row in range(rows)]
    return {
        "next position": (base[:, :-1], base[:, 1:]),
        "next row": (base[:-1], base[1:]),
        "next step": (base, keyed_uniform(0, "selector", 1, None, shape)),
        "next seed": (base, keyed_uniform(1, "selector", 0, None, shape)),
        "other purpose": (base, keyed_uniform(0, "tie", 0, None, shape)),
        "seed and step swapped": (
            keyed_uniform(1, "selector", 2, None, shape),
            keyed_uniform(2, "selector", 1, None, shape),
        ),
        "other sample": (
            keyed_uniform(0, "selector", 0, tuples, shape),
            keyed_uniform(0, "selector", 0, other_sample, shape),
        ),
        "position itself": (base, torch.arange(positions).expand(shape) / positions),
        "row itself": (base, torch.arange(rows)[:, None].expand(shape) / rows),
    }


def test_numbers_whose_keys_differ_in_one_thing_are_independent():
    for name, pair in pairs_of_keys().items():
        one, other = (x.numpy().ravel() for x in pair)
        table = np.histogram2d(one, other, bins=8, range=((0, 1), (0, 1)))[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3, name
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(one.size), name


def test_a_response_has_its_numbers_wherever_it_stands_in_the_batch():
    keys = [("p1", 0), ("p1", 1), ("p2", 0)]
    bits_BT = keyed_bits(0, "tie", 0, keys, (3, 11))
    assert torch.equal(keyed_bits(0, "tie", 0, keys[::-1], (3, 11)), bits_BT.flip(0))
    assert torch.equal(keyed_bits(0, "tie", 0, keys[1:2], (1, 30))[:, :11], bits_BT[1:2])


def test_without_keys_the_row_number_is_the_key_as_list_or_tensor():
    bits_BT = keyed_bits(0, "tie", 0, None, (3, 5))
    assert torch.equal(keyed_bits(0, "tie", 0, [0, 1, 2], (3, 5)), bits_BT)
    assert torch.equal(keyed_bits(0, "tie", 0, torch.tensor([0, 1, 2]), (3, 5)), bits_BT)


def test_torch_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = keyed_uniform(0, "selector", 0, None, (2, 3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(keyed_uniform(0, "selector", 0, None, (2, 3)), one)


def test_missing_and_shared_row_keys_are_refused():
    with pytest.raises(ValueError, match="2 keys for 3"):
        keyed_bits(0, "tie", 0, ["a", "b"], (3, 2))
    with pytest.raises(ValueError, match="share a key"):
        keyed_bits(0, "tie", 0, ["a", "b", "a"], (3, 2))
