"""Integers of 2 to 8 bits packed in 32-bit words, as GPTQ and AWQ store them.

Continuous: a stream of bits from the lowest on, so that a value may lie in two words (AutoGPTQ; for 2, 4 and 8 bits none
does). Planar: for every 32 values, first the words of their low bits, then those of the higher ones (GPTQModel,
utils/planar_packing.py), in planes whose widths divide 32.
"""

import math

import numpy as np

from ggufkit.checkpoints.source_quantization._reading import Array

WORD = 32
_PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def words_for(count: int, bits: int) -> int:
    """Count the words that hold so many values."""
    return -(-count * bits // WORD)


def unpack(words: Array, count: int, bits: int, *, planar: bool = False) -> Array:
    """Unpack words along the first axis: int32 [words, n] -> uint8 [count, n].

    There must be `words_for(count, bits)` words.
    """
    words = words.view(np.uint32)
    if planar and bits in _PLANES:
        return _unpack_planes(words, count, bits)
    period = bits // math.gcd(bits, WORD)  # words after which values begin with a word again
    values = period * WORD // bits
    periods = -(-len(words) // period)
    if missing := periods * period - len(words):
        words = np.concatenate([words, np.zeros((missing, words.shape[1]), np.uint32)])
    grouped = words.reshape(periods, period, -1)
    found = np.empty((periods, values, grouped.shape[2]), np.uint8)
    mask = np.uint32(2**bits - 1)
    for value in range(values):
        word, shift = divmod(value * bits, WORD)
        part = grouped[:, word] >> np.uint32(shift)
        if shift + bits > WORD:
            part |= grouped[:, word + 1] << np.uint32(WORD - shift)
        found[:, value] = part & mask
    return found.reshape(periods * values, -1)[:count]


def _unpack_planes(words: Array, count: int, bits: int) -> Array:
    grouped = words.reshape(-1, bits, words.shape[1])
    found = np.zeros((len(grouped), WORD, words.shape[1]), np.uint8)
    first = offset = 0
    for width in _PLANES[bits]:
        values = WORD // width
        for word in range(width):
            for value in range(values):
                part = (grouped[:, first + word] >> np.uint32(width * value)) & np.uint32(2**width - 1)
                found[:, word * values + value] |= (part << np.uint32(offset)).astype(np.uint8)
        first, offset = first + width, offset + width
    return found.reshape(-1, words.shape[1])[:count]
