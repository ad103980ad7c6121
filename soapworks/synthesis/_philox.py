"""Random words as a function of their address: Philox4x64-10 in NumPy and in torch.

A counter-based generator has no state to hand on: word w of stream s of image i is computed from
(key, s, i, w) alone, in any order, by anyone, on any device. The CPU takes NumPy's generator, a GPU
the same words from integer arithmetic in torch.

The generator is that of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2,
3" (SC 2011). Block b = 1, 2, ... of a stream is the cipher of the counter (b, stream, image, 0)
and yields four words. Blocks start at 1 because NumPy steps its counter before it reads.
"""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Key: TypeAlias = tuple[int, int]
"""Two unsigned 64-bit words."""

WORDS_PER_BLOCK = 4
_N_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def generator(key: Key, stream: int, index: int) -> np.random.Philox:
    """Return NumPy's generator at the start of an image's stream."""
    counter = np.array([0, stream, index, 0], dtype=np.uint64)
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)


def words(key: Key, stream: int, index: int, n_words: int) -> NDArray[np.uint64]:
    """Return the first words of an image's stream, (n_words,) uint64."""
    return generator(key, stream, index).random_raw(n_words)


def torch_words(
    key: Key, n_words: dict[int, int], indices: "torch.Tensor"
) -> dict[int, "torch.Tensor"]:
    """Compute words of several streams of many images in torch.

    Parameters
    ----------
    key
        As for `words`.
    n_words
        Number of words for each stream.
    indices : (n,) int64
        Images.

    Returns
    -------
    dict
        For each stream an (n, n_words) int64 tensor with the bits that `words` returns (torch
        has no arithmetic on unsigned 64-bit integers).
    """
    import torch

    n_blocks = {stream: -(-n // WORDS_PER_BLOCK) for stream, n in n_words.items()}
    # All streams go through the rounds together: the cost is launching small kernels.
    block = torch.cat([torch.arange(1, n + 1, device=indices.device) for n in n_blocks.values()])
    stream = torch.cat(
        [torch.full((n,), s, dtype=torch.int64, device=indices.device) for s, n in n_blocks.items()]
    )
    shape = (len(indices), len(block))
    counter = (
        block.expand(shape),
        stream.expand(shape),
        indices[:, None].expand(shape),
        torch.zeros((), dtype=torch.int64, device=indices.device).expand(shape),
    )
    mixed = torch.stack(_encipher(counter, key), dim=-1)
    found: dict[int, torch.Tensor] = {}
    start = 0
    for number, n in n_blocks.items():
        found[number] = mixed[:, start : start + n].flatten(1)[:, : n_words[number]]
        start += n
    return found


_Counter: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]"


def _encipher(counter: _Counter, key: Key) -> _Counter:
    """Run the ten rounds on counters, int64 taken as unsigned."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_N_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0 = high1.bitwise_xor_(c1).bitwise_xor_(_signed(k0))
        c2 = high0.bitwise_xor_(c3).bitwise_xor_(_signed(k1))
        c1, c3 = low1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK_64, (k1 + _KEY_STEPS[1]) & _MASK_64
    return c0, c1, c2, c3


def _multiply(a: "torch.Tensor", m: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return both words of the 128-bit product of unsigned words.

    By halves of 32 bits, as in long multiplication. int64 products wrap to the right bits; a right
    shift copies the sign, so each one is masked back to the upper half as unsigned.
    """
    m_high, m_low = m >> 32, m & _MASK_32
    a_high, a_low = (a >> 32) & _MASK_32, a & _MASK_32
    cross_low = a_high * m_low
    cross_high = a_low * m_high
    # Three summands below 2**32: the carry into the high word cannot overflow.
    carry = ((a_low * m_low) >> 32) & _MASK_32
    carry += cross_low & _MASK_32
    carry += cross_high & _MASK_32
    high = a_high * m_high
    high += (cross_low >> 32) & _MASK_32
    high += (cross_high >> 32) & _MASK_32
    high += carry >> 32
    return high, a * _signed(m)


def _signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word
