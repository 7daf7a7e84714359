"""The values that encoded rows can take: the scales and offsets of ggml's blocks, and the levels between them.

A weight of a group (16 or 32 neighbours in a row) is scale * level + offset, in float32 and in the order in which ggml
computes it, so that decoded blocks lie on their grid exactly.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid, book_grid_of, has_book
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.layouts import level_layout_of

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


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
    layout = level_layout_of(kind)
    if layout is None:
        return None
    found = layout.read(encoded.reshape(-1, kind.block_bytes))
    scales = found.steps * found.scales
    offsets = np.zeros_like(scales)
    if found.minimum_steps is not None and found.minima is not None:
        offsets = -(found.minimum_steps * found.minima)
    return Grid(layout.levels, scales.reshape(rows, -1), offsets.reshape(rows, -1), layout.group)


def has_grid(kind: TensorType) -> bool:
    """Whether `grid_of` knows the type."""
    return level_layout_of(kind) is not None or has_book(kind)
