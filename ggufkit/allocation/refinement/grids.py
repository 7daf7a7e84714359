"""The values that encoded rows can take: the scales and offsets of ggml's blocks, and the levels between them.

A weight of a group (16 or 32 neighbours in a row) is scale * level + offset. Layouts and arithmetic are those of
ggml-common.h and ggml-quants.c, in float32 and in the same order, so that decoded blocks lie on their grid exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid, book_grid_of, has_book
from ggufkit.gguf_file.tensor_types import TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_T = TensorType
# ggml-common.h, kvalues_iq4nl
_NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of some rows: `scales` and `offsets` are float32 [n_rows, n_groups], `levels` float32, rising."""

    levels: Floats
    scales: Floats
    offsets: Floats
    group: int  # weights that share a scale
    width: ClassVar[int] = 1

    def nearest(self, values: Floats, column: int, metric: Floats) -> Floats:  # noqa: ARG002 - as of books
        """Return the values of the grid that are nearest to one column, float32 [n_rows, 1]."""
        place = slice(column // self.group, column // self.group + 1)
        scales, offsets = self.scales[:, place], self.offsets[:, place]
        usable = scales != 0
        wanted = np.divide(values - offsets, scales, out=np.zeros_like(values), where=usable)
        found: Floats = scales * self._rounded(wanted) + offsets
        return found

    def handed(self, values: Floats) -> Floats:
        """Return what llama-quantize has to be given so that it stores values of this grid: themselves."""
        return values

    @property
    def has_equal_steps(self) -> bool:
        """Whether the levels are whole numbers without gaps."""
        return bool(self.levels[-1] - self.levels[0] == len(self.levels) - 1)

    def _rounded(self, wanted: Floats) -> Floats:
        levels = self.levels
        if self.has_equal_steps:
            whole: Floats = np.clip(np.rint(wanted), levels[0], levels[-1])
            return whole
        return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, wanted)]


def grid_of(encoded: Bytes, kind: TensorType, rows: int) -> Grid | BookGrid | None:
    """Read the grid of whole encoded rows, uint8; None for types that are not known here."""
    if has_book(kind):
        return book_grid_of(encoded, kind, rows)
    reader = _READERS.get(kind)
    if reader is None:
        return None
    read, low, high, group = reader
    levels = np.array(_NON_LINEAR if low is None else range(low, high + 1), np.float32)
    scales, offsets = read(encoded.reshape(-1, kind.block_bytes))
    return Grid(levels, scales.reshape(rows, -1), offsets.reshape(rows, -1), group)


def _half(blocks: Bytes, place: int) -> Floats:
    """Read the float16 at a place of every block, float32 [n_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, place : place + 2]).view("<f2").astype(np.float32)


def _plain(blocks: Bytes) -> tuple[Floats, Floats]:
    scales = _half(blocks, 0)
    return scales, np.zeros_like(scales)


def _with_minimum(blocks: Bytes) -> tuple[Floats, Floats]:
    return _half(blocks, 0), _half(blocks, 2)


def _q2_k(blocks: Bytes) -> tuple[Floats, Floats]:
    packed = blocks[:, :16]
    return _half(blocks, 80) * (packed & 15), -(_half(blocks, 82) * (packed >> 4))


def _q3_k(blocks: Bytes) -> tuple[Floats, Floats]:
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = np.concatenate([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = _half(blocks, 108) * ((low | (high << 4)).astype(np.float32) - 32)
    return scales, np.zeros_like(scales)


def _q45_k(blocks: Bytes) -> tuple[Floats, Floats]:
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return _half(blocks, 0) * scales, -(_half(blocks, 2) * minima)


def _q6_k(blocks: Bytes) -> tuple[Floats, Floats]:
    scales = _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return scales, np.zeros_like(scales)


def _iq4_xs(blocks: Bytes) -> tuple[Floats, Floats]:
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2")
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    bits = ((high >> (2 * np.arange(8, dtype=np.uint16))) & 3).astype(np.uint8)
    scales = _half(blocks, 0) * ((low | (bits << 4)).astype(np.float32) - 32)
    return scales, np.zeros_like(scales)


_Read = Callable[[Bytes], tuple[Floats, Floats]]
# For each type: how its scales are read, its levels (None: the non-linear ones), and the weights of a group.
_READERS: dict[TensorType, tuple[_Read, int | None, int, int]] = {
    _T.Q4_0: (_plain, -8, 7, 32),
    _T.Q4_1: (_with_minimum, 0, 15, 32),
    _T.Q5_0: (_plain, -16, 15, 32),
    _T.Q5_1: (_with_minimum, 0, 31, 32),
    _T.Q8_0: (_plain, -127, 127, 32),
    _T.Q2_K: (_q2_k, 0, 3, 16),
    _T.Q3_K: (_q3_k, -4, 3, 16),
    _T.Q4_K: (_q45_k, 0, 15, 32),
    _T.Q5_K: (_q45_k, 0, 31, 32),
    _T.Q6_K: (_q6_k, -32, 31, 16),
    _T.IQ4_NL: (_plain, None, 0, 32),
    _T.IQ4_XS: (_iq4_xs, None, 0, 32),
}


def has_grid(kind: TensorType) -> bool:
    """Whether `grid_of` knows the type."""
    return kind in _READERS or has_book(kind)
