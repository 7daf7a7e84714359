"""The blocks of ggml's types whose weights lie in patterns: four or eight neighbours at a time, from a book.

A weight is step * scale * magnitude * sign. Magnitudes come in patterns that a book lists; signs are free, or the
number of negative ones among eight is even. Layouts are those of ggml-common.h; the books themselves are read from
libggml, by decoding one block for each entry.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCK = 256  # weights
EIGHT = 8  # weights whose signs are stored together
MOST_NUMBER = 15  # that a scale may have
_FIRST = 2  # the byte in which the number of the first pattern begins

_T = TensorType


@dataclass(frozen=True, slots=True)
class PatternLayout:
    """How the blocks of a type are made up.

    A group of so many weights has one of 16 scales, each `unit` * (n + `offset`), n being its number. `entries` are the
    patterns of the book, of `length` weights each; `high` is the byte in which the upper bits of their numbers begin.
    """

    group: int
    unit: float
    offset: float
    entries: int
    length: int
    numbers: Callable[[Bytes], Bytes]  # reads the numbers of scales, uint8 [n_blocks, n_groups]
    write: Callable[[Bytes, Bytes, NDArray[np.uint16], Bytes], None]  # puts these, patterns and signs into blocks
    high: int | None = None
    is_even: bool = False


def pattern_layout_of(kind: TensorType) -> PatternLayout | None:
    """Return how blocks of a type are made up; None for types without a book that is known here."""
    return _LAYOUTS.get(kind)


def steps_of(blocks: Bytes) -> Floats:
    """Read the steps of blocks, float32 [n_blocks]."""
    return np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32).reshape(-1)


def pattern_scales_of(blocks: Bytes, layout: PatternLayout) -> Floats:
    """Read what patterns are multiplied with, float32 [n_blocks, n_groups]."""
    numbers = layout.numbers(blocks).astype(np.float32)
    found: Floats = steps_of(blocks)[:, None] * (numbers + np.float32(layout.offset)) * np.float32(layout.unit)
    return found


@functools.cache
def patterns_of(kind: TensorType) -> Floats:
    """Read a book from libggml, float32 [n_patterns, 4 or 8]; magnitudes are in units of the scales."""
    layout = _LAYOUTS[kind]
    blocks = np.zeros((layout.entries, kind.block_bytes), np.uint8)
    blocks[:, 1] = 0x3C  # 1.0, as float16
    number = np.arange(layout.entries)
    blocks[:, _FIRST] = number & 255
    if layout.high is not None:
        blocks[:, layout.high] = number >> 8
    values = dequantize(blocks.reshape(-1), int(kind), layout.entries * BLOCK).reshape(layout.entries, BLOCK)
    found: Floats = (values[:, : layout.length] / pattern_scales_of(blocks, layout)[:, :1]).astype(
        np.float32, copy=False
    )
    return found


# ---- fields


def _nibbles(packed: Bytes) -> Bytes:
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def _packed_nibbles(numbers: Bytes) -> Bytes:
    return numbers[:, ::2] | (numbers[:, 1::2] << np.uint8(4))


def _words(values: NDArray[np.unsignedinteger]) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _sevens(negative: Bytes) -> NDArray[np.uint32]:
    """Leave out each eighth sign, which the others tell; four in a word, uint32 [n_blocks, 8]."""
    sevens = (negative & 127).astype(np.uint32).reshape(len(negative), -1, 4)
    places = np.array([0, 7, 14, 21], np.uint32)
    found: NDArray[np.uint32] = np.bitwise_or.reduce(sevens << places, axis=-1)
    return found


def _upper(patterns: NDArray[np.uint16], each: int) -> Bytes:
    """Pack what numbers have above 8 bits, `each` bits of it, into bytes."""
    parts = (patterns >> 8).reshape(len(patterns), -1, 8 // each).astype(np.uint8)
    packed = parts[..., 0].copy()
    for place in range(1, 8 // each):
        packed |= parts[..., place] << (each * place)
    return packed


def _numbers_iq3_s(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[:, 106:110])


def _write_iq3_s(blocks: Bytes, numbers: Bytes, patterns: NDArray[np.uint16], negative: Bytes) -> None:
    blocks[:, 2:66] = patterns & 255
    blocks[:, 66:74] = _upper(patterns, 1)
    blocks[:, 74:106] = negative
    blocks[:, 106:110] = _packed_nibbles(numbers)


def _numbers_iq3_xxs(blocks: Bytes) -> Bytes:
    return (np.ascontiguousarray(blocks[:, 66:98]).view("<u4") >> 28).astype(np.uint8)


def _write_iq3_xxs(blocks: Bytes, numbers: Bytes, patterns: NDArray[np.uint16], negative: Bytes) -> None:
    blocks[:, 2:66] = patterns
    blocks[:, 66:98] = _words((_sevens(negative) | (numbers.astype(np.uint32) << 28)).astype("<u4"))


def _numbers_iq2_s(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[:, 74:82])


def _write_iq2_s(blocks: Bytes, numbers: Bytes, patterns: NDArray[np.uint16], negative: Bytes) -> None:
    blocks[:, 2:34] = patterns & 255
    blocks[:, 34:66] = negative
    blocks[:, 66:74] = _upper(patterns, 2)
    blocks[:, 74:82] = _packed_nibbles(numbers)


def _numbers_iq2_xs(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[:, 66:74])


def _write_iq2_xs(blocks: Bytes, numbers: Bytes, patterns: NDArray[np.uint16], negative: Bytes) -> None:
    blocks[:, 2:66] = _words((patterns | ((negative & 127).astype(np.uint16) << 9)).astype("<u2"))
    blocks[:, 66:74] = _packed_nibbles(numbers)


def _numbers_iq2_xxs(blocks: Bytes) -> Bytes:
    return (np.ascontiguousarray(blocks[:, 2:66]).view("<u4")[:, 1::2] >> 28).astype(np.uint8)


def _write_iq2_xxs(blocks: Bytes, numbers: Bytes, patterns: NDArray[np.uint16], negative: Bytes) -> None:
    words = np.empty((len(blocks), 16), "<u4")
    words[:, ::2] = np.ascontiguousarray(patterns.astype(np.uint8)).view("<u4")
    words[:, 1::2] = _sevens(negative) | (numbers.astype(np.uint32) << 28)
    blocks[:, 2:66] = _words(words)


_LAYOUTS = {
    _T.IQ3_S: PatternLayout(32, 2, 0.5, 512, 4, _numbers_iq3_s, _write_iq3_s, high=66),
    _T.IQ3_XXS: PatternLayout(32, 0.5, 0.5, 256, 4, _numbers_iq3_xxs, _write_iq3_xxs, is_even=True),
    _T.IQ2_S: PatternLayout(16, 0.25, 0.5, 1024, 8, _numbers_iq2_s, _write_iq2_s, high=66),
    _T.IQ2_XS: PatternLayout(16, 0.25, 0.5, 512, 8, _numbers_iq2_xs, _write_iq2_xs, high=3, is_even=True),
    _T.IQ2_XXS: PatternLayout(32, 0.25, 0.5, 256, 8, _numbers_iq2_xxs, _write_iq2_xxs, is_even=True),
}
