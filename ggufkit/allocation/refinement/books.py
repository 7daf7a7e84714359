"""The values that rows can take in types whose weights lie in patterns: eight neighbours at a time, from a book.

A weight is scale * magnitude * sign. Magnitudes come in patterns of four (IQ3) or eight (IQ2) that a book lists; signs
are free, or the number of negative ones among eight is even.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.layouts import PatternLayout, pattern_layout_of, pattern_scales_of, patterns_of

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_ENTRIES_AT_ONCE = 1 << 18  # of a book, times rows: what is compared stays in the cache


@dataclass(frozen=True)
class Book:
    """The patterns of a type, float32 [n_patterns, 4 or 8], and whether negative signs come in even numbers.

    `stretched`: what llama-quantize multiplies scales with after it has found them (ggml-quants.c calls it a fudge
    factor), so that what is stored comes back larger by as much, or smaller.
    """

    patterns: Floats
    is_even: bool
    stretched: float

    @functools.cached_property
    def products(self) -> Floats:
        """Return the products of each two values of a pattern, and then the values, float32 [.., n_patterns]."""
        values = self.patterns.T
        length = len(values)
        pairs = [values[left] * values[right] for left in range(length) for right in range(left, length)]
        return np.ascontiguousarray([*pairs, *values])


@dataclass(frozen=True, slots=True)
class BookGrid:
    """The grid of some rows: `scales` are float32 [n_rows, n_groups], for groups of so many weights."""

    book: Book
    scales: Floats
    group: int
    width: ClassVar[int] = 8  # weights that are rounded together: those whose signs depend on each other

    def nearest(self, values: Floats, column: int, metric: Floats) -> Floats:
        """Return values that are near to eight columns from `column` on, float32 [n_rows, 8]; mostly the nearest.

        The distance of errors e is e^T M e; `metric` is M, float32 [8, 8].
        """
        scales = self.scales[:, column // self.group]
        found = np.zeros_like(values)
        step = max(1, _ENTRIES_AT_ONCE // len(self.book.patterns))
        usable = np.flatnonzero(scales > 0)
        length = self.book.patterns.shape[1]
        parts = [slice(place, place + length) for place in range(0, self.width, length)]
        squares = [_squares(self.book.patterns, metric[part, part]) for part in parts]
        for start in range(0, len(usable), step):
            rows = usable[start : start + step]
            wanted = values[rows] / scales[rows, None]
            found[rows] = _nearest(self.book, wanted, metric, parts, squares) * scales[rows, None]
        return found

    def handed(self, values: Floats) -> Floats:
        """Return what llama-quantize has to be given so that it stores values of this grid, float32 [n_rows, n].

        It looks for scales as if magnitudes were 1, 3, 5 ... times the smallest, of which some differ a little.
        """
        scales = np.repeat(self.scales, self.group, axis=1)
        levels = np.unique(self.book.patterns)
        magnitudes = np.divide(np.abs(values), scales, out=np.zeros_like(values), where=scales > 0)
        places = np.searchsorted((levels[1:] + levels[:-1]) / 2, magnitudes)
        odd = levels[0] * (1 + 2 * places).astype(np.float32)
        found: Floats = np.sign(values) * odd * scales / np.float32(self.book.stretched)
        return found


def _nearest(book: Book, wanted: Floats, metric: Floats, parts: Sequence[slice], squares: Sequence[Floats]) -> Floats:
    """Return near signed patterns to rows of eight, whose scale is 1; `squares` are those of `_squares`, by part.

    Signs are those of the weights, but for what a book does not have; of each part the pattern is the nearest then.
    """
    signs = np.where(wanted < 0, np.float32(-1), np.float32(1))
    if book.is_even:
        odd = np.flatnonzero((signs < 0).sum(axis=1) % 2)
        # The sign of the one that it costs least.
        cheapest = np.argmin(np.abs(wanted[odd]) * np.sqrt(np.diag(metric)), axis=1)
        signs[odd, cheapest] *= -1
    found = np.zeros_like(wanted)
    for part, own in zip(parts, squares, strict=True):  # first each as if the others had no errors
        found[:, part] = _signed(book.patterns, own, wanted[:, part] @ metric[part, part], signs[:, part])
    for part, own in zip(parts, squares, strict=True) if len(parts) > 1 else ():
        errors = wanted - found
        errors[:, part] = wanted[:, part]
        found[:, part] = _signed(book.patterns, own, errors @ metric[:, part], signs[:, part])
    return found


def _signed(patterns: Floats, squares: Floats, pull: NDArray[Any], signs: Floats) -> Floats:
    """Return s * p, with given signs s, for which (s p)^T M (s p) - 2 (s p)^T pull is smallest."""
    length = patterns.shape[1]
    # p^T M p depends on the signs, of which as many kinds occur as they differ from the first one's.
    kinds = ((signs[:, 1:] != signs[:, :1]) << np.arange(length - 1)).sum(axis=1)
    costs = squares[kinds]
    costs -= (pull * signs * 2) @ patterns.T
    chosen: Floats = patterns[costs.argmin(axis=1)] * signs
    return chosen


def _squares(patterns: Floats, metric: Floats) -> Floats:
    """Return p^T M p of all patterns for every kind of signs, float32 [2^(length - 1), n_patterns]."""
    length = patterns.shape[1]
    flips = (np.arange(1 << (length - 1))[:, None] >> np.arange(length - 1)) & 1
    signs = np.concatenate([np.ones((len(flips), 1)), 1 - 2 * flips], axis=1).astype(np.float32)
    signed = signs[:, None, :] * patterns
    found: Floats = np.einsum("kpi,kpi->kp", signed @ metric, signed, dtype=np.float32)
    return found


# What llama-quantize multiplies scales with after it has found them (ggml-quants.c).
_STRETCHED = {TensorType.IQ3_S: 1.033, TensorType.IQ3_XXS: 1.0125, TensorType.IQ2_S: 0.9875}


def has_book(kind: TensorType) -> bool:
    """Whether a type's values come from a book that is known here."""
    return pattern_layout_of(kind) is not None


def book_grid_of(encoded: Bytes, kind: TensorType, rows: int) -> BookGrid:
    """Read the grid of whole encoded rows, uint8."""
    layout = _layout(kind)
    scales = pattern_scales_of(encoded.reshape(-1, kind.block_bytes), layout).reshape(rows, -1)
    return BookGrid(_book(kind), scales, layout.group)


@functools.cache
def _book(kind: TensorType) -> Book:
    return Book(patterns_of(kind), _layout(kind).is_even, _STRETCHED.get(kind, 1.0))


def _layout(kind: TensorType) -> PatternLayout:
    layout = pattern_layout_of(kind)
    assert layout is not None, kind
    return layout
