"""Random words: torch's integer arithmetic against NumPy's generator, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soapworks.synthesis._philox import _multiply, torch_words, words

WORD = st.integers(0, 2**64 - 1)
INDEX = st.integers(0, 2**63 - 1)


def as_int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


@settings(deadline=None)
@given(k0=WORD, k1=WORD, index=INDEX)
def test_torch_words_are_numpys(k0, k1, index):
    found = torch_words((k0, k1), {0: 13, 9: 6}, torch.tensor([index, 0]))
    for stream, n_words in ((0, 13), (9, 6)):
        for row, i in enumerate((index, 0)):
            oracle = np.random.Philox(
                key=np.array([k0, k1], dtype=np.uint64),
                counter=np.array([0, stream, i, 0], dtype=np.uint64),
            ).random_raw(n_words)
            assert np.array_equal(found[stream][row].numpy().view(np.uint64), oracle)


@settings(deadline=None)
@given(a=WORD, m=WORD)
def test_multiply_gives_both_words_of_the_product(a, m):
    high, low = _multiply(torch.tensor([as_int64(a)]), m)
    assert (int(high) % 2**64, int(low) % 2**64) == divmod(a * m, 2**64)


@pytest.mark.parametrize("other", [((1, 3), 0, 0), ((2, 2), 0, 0), ((1, 2), 1, 0), ((1, 2), 0, 1)])
def test_every_part_of_the_address_matters(other):
    here, there = words((1, 2), 0, 0, 4096), words(*other, 4096)
    assert not np.intersect1d(here, there).size


def test_words_are_the_published_ones():
    # The known answer of the Random123 library for counter and key 0; NumPy steps it to 0 first.
    source = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.full(4, 2**64 - 1, np.uint64))
    assert [hex(w) for w in source.random_raw(4)] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]
