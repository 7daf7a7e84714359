"""Stored matrices whose leading axis is the inputs, read as if the outputs came first, as everywhere else."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ggufkit.checkpoints.source_quantization._packed import WORD, words_for
from ggufkit.checkpoints.source_quantization._reading import HELD, Array, read_columns
from ggufkit.checkpoints.tensors import Shape, StoredTensor

_ELEMENTS = 2**21  # of a piece, decoded: few enough to stay small, enough for the many short reads to be worth it


@dataclass(frozen=True, slots=True)
class Transposed:
    """A stored matrix, seen with its axes exchanged: reading whole rows of it reads columns."""

    stored: StoredTensor

    @property
    def name(self) -> str:
        """The stored tensor's."""
        return self.stored.name

    @property
    def dtype(self) -> str:
        """The stored tensor's."""
        return self.stored.dtype

    @property
    def shape(self) -> Shape:
        """[columns, rows]."""
        return self.stored.shape[::-1]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.stored.size

    @property
    def position(self) -> tuple[str, int]:
        """Where the stored tensor lies."""
        return self.stored.position

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with whole rows from byte `start`."""
        width = self.shape[1] * HELD[self.dtype].itemsize
        columns = range(start // width, (start + len(buffer)) // width)
        buffer[:] = np.ascontiguousarray(read_columns(self.stored, columns).T).reshape(-1).view(np.uint8).data


def rows_at_once(outputs: int, inputs: int) -> int:
    """Choose how many outputs to decode together: a multiple of 32, for packed words to be whole."""
    return min(-(-outputs // WORD) * WORD, max(WORD, _ELEMENTS // max(1, inputs) // WORD * WORD))


def unpacked_columns(
    tensor: StoredTensor, rows: range, bits: int, unpack: Callable[[Array, int], Array], correct: int = 0
) -> Array:
    """Read columns of a matrix that is packed along its columns: uint8 [len(rows), tensor.shape[0]].

    `unpack` takes words [words, n] and the number of values, and gives [values, n]. `correct` is added to every word.
    """
    period = WORD // math.gcd(bits, WORD)  # values after which one begins with a word
    first = rows.start // period * period
    last = min(words_for(-(-rows.stop // period) * period, bits), tensor.shape[1])
    words = read_columns(tensor, range(words_for(first, bits), last)).view(np.uint32)
    if correct:
        words = words + np.uint32(correct)  # wraps around, as it did when it was taken off
    values = unpack(np.ascontiguousarray(words.T), rows.stop - first)
    return values[rows.start - first :]
