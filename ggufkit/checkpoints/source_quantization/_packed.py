"""Integers of 2 to 8 bits packed in words, as GPTQ and AWQ store them, and in planes, as HQQ and BitNet do.

Continuous: a stream of bits from the lowest on, so that a value may lie in two words (AutoGPTQ; of 2, 4 and 8 bits none
does). Planar: for every 32 values, first the words of their low bits, then those of the higher ones (GPTQModel,
utils/planar_packing.py), in planes whose widths divide 32.
"""

import math
from collections.abc import Sequence

import numpy as np

from ggufkit.checkpoints.source_quantization._reading import Array
from ggufkit.checkpoints.tensors import StoredTensor

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


def read_planes(tensor: StoredTensor, span: range, item: str, bits: int, shifts: Sequence[int]) -> Array:
    """Read values `span` of a tensor whose items hold several, a whole plane apart: uint8 [len(span)].

    Of n items of type `item` (numpy's name), value i is that of item i % n, shifted right by shifts[i // n].
    """
    size = np.dtype(item).itemsize
    items = tensor.size // size
    found = np.empty(len(span), np.uint8)
    place = span.start
    while place < span.stop:
        plane, first = divmod(place, items)
        count = min(items - first, span.stop - place)
        stored = np.empty(count, item)
        tensor.read_into(stored.view(np.uint8).data, first * size)
        shifted = (stored >> stored.dtype.type(shifts[plane])) & stored.dtype.type(2**bits - 1)
        found[place - span.start : place - span.start + count] = shifted
        place += count
    return found
