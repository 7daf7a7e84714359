"""Rounding the blocks of a matrix: its columns in order with feedback, and sweeps afterwards.

Where numba is installed the loops over columns are machine code; without, they are NumPy's, with the same results but
for the last bits. NumPy takes as long for a few rows as for hundreds.
"""

import functools
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.grids import Grid

Floats = NDArray[np.float32]


@functools.cache
def compiled() -> ModuleType | None:
    """Return the module of compiled loops; None where numba is not installed, or does not work on this machine."""
    try:
        from ggufkit.allocation.refinement import kernels
    except Exception:  # noqa: BLE001 - it is absent, its LLVM cannot be loaded, NumPy is too new: each has its errors
        return None
    return kernels


class Rounding:
    """Rounds blocks of columns, for inputs with moments M whose inverse is U^T U.

    Args:
        moments: M, float32 [n_in, n_in].
        carry: U, upper triangular, float32 [n_in, n_in].
    """

    def __init__(self, moments: Floats, carry: Floats) -> None:
        self.moments, self.carry = moments, carry
        # By the first column of a block, how many it has, and how many of them are rounded together.
        self._blocks: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        self._backs: dict[tuple[int, int, int], tuple[Floats, Floats]] = {}
        self._inverses: dict[tuple[int, int, int], Floats] = {}

    def rounded(self, grid: Grid | BookGrid, block: Floats, start: int) -> tuple[Floats, Floats]:
        """Round the columns of a block in order; return their values, and the errors that are to be carried on.

        `block` are the columns from `start` on, float32 [n_rows, n]; it is changed.
        """
        kernels = compiled()
        _, carry = self._block(start, block.shape[1])
        found, errors = np.empty_like(block), np.empty_like(block)
        if kernels is None:
            backs, metrics = self._carried_back(start, block.shape[1], grid.width)
            _round_columns(grid, block, carry, backs, metrics, found, errors)
        elif isinstance(grid, BookGrid):
            backs, metrics = self._carried_back(start, block.shape[1], grid.width)
            kernels.round_book_block(block, carry, backs, metrics, *_of_book(grid), found, errors)
        else:
            kernels.round_block(block, carry, *_of_grid(grid), found, errors)
        return found, errors

    def swept(self, grid: Grid | BookGrid, block: Floats, pull: Floats, start: int) -> Floats:
        """Let the columns of a block in turn take their best values while the others stay; return the block.

        `pull` is (W - Q) M at these columns, W being what is wanted and Q what there is; it is changed.
        """
        kernels = compiled()
        own, _ = self._block(start, block.shape[1])
        found = np.array(block, order="C")
        if kernels is None:
            _sweep_columns(grid, found, pull, own, self._inverted(start, block.shape[1], grid.width))
        elif isinstance(grid, BookGrid):
            inverses = self._inverted(start, block.shape[1], grid.width)
            kernels.sweep_book_block(found, pull, own, inverses, *_of_book(grid))
        else:
            kernels.sweep_block(found, pull, own, *_of_grid(grid))
        return found

    def _block(self, start: int, columns: int) -> tuple[Floats, Floats]:
        """Return the blocks of M and U that belong to some columns, float32 [n, n]."""
        if (start, columns) not in self._blocks:
            place = slice(start, start + columns)
            self._blocks[start, columns] = (
                np.ascontiguousarray(self.moments[place, place]),
                np.ascontiguousarray(self.carry[place, place]),
            )
        return self._blocks[start, columns]

    def _carried_back(self, start: int, columns: int, width: int) -> tuple[Floats, Floats]:
        """Return the inverses B of the carry's diagonal blocks, and B B^T, float32 [n / width, width, width]."""
        if (start, columns, width) not in self._backs:
            backs = np.linalg.inv(_diagonal(self.carry, start, columns, width).astype(np.float64))
            metrics = backs @ backs.transpose(0, 2, 1)
            self._backs[start, columns, width] = backs.astype(np.float32), metrics.astype(np.float32)
        return self._backs[start, columns, width]

    def _inverted(self, start: int, columns: int, width: int) -> Floats:
        """Return the inverses of the moments' diagonal blocks, float32 [n / width, width, width]."""
        if (start, columns, width) not in self._inverses:
            own = _diagonal(self.moments, start, columns, width).astype(np.float64)
            self._inverses[start, columns, width] = np.linalg.inv(own).astype(np.float32)
        return self._inverses[start, columns, width]


def _diagonal(matrix: Floats, start: int, columns: int, width: int) -> Floats:
    """Return blocks of the diagonal, [n / width, width, width]."""
    return np.stack([matrix[at : at + width, at : at + width] for at in range(start, start + columns, width)])


def _round_columns(
    grid: Grid | BookGrid,
    block: Floats,
    carry: Floats,
    backs: Floats,
    metrics: Floats,
    found: Floats,
    errors: Floats,
) -> None:
    for number, (back, metric) in enumerate(zip(backs, metrics, strict=True)):
        column = number * grid.width
        part, rest = slice(column, column + grid.width), slice(column + grid.width, None)
        found[:, part] = grid.nearest(block[:, part], column, metric)
        errors[:, part] = (block[:, part] - found[:, part]) @ back
        block[:, rest] -= errors[:, part] @ carry[part, rest]


def _sweep_columns(grid: Grid | BookGrid, block: Floats, pull: Floats, own: Floats, inverses: Floats) -> None:
    for number, inverse in enumerate(inverses):
        column = number * grid.width
        part = slice(column, column + grid.width)
        metric = own[part, part]
        wanted = (block[:, part] + pull[:, part] @ inverse).astype(np.float32, copy=False)
        change = grid.nearest(wanted, column, metric) - block[:, part]
        # What comes from a book is near, but a nearer pattern may be there already.
        change[np.einsum("ri,ri->r", change @ metric - 2 * pull[:, part], change) > 0] = 0
        block[:, part] += change
        pull -= change @ own[part]


def _of_grid(grid: Grid) -> tuple[Floats, Floats, int, Floats, bool]:
    scales, offsets = np.ascontiguousarray(grid.scales), np.ascontiguousarray(grid.offsets)
    return scales, offsets, grid.group, grid.levels, grid.has_equal_steps


def _of_book(grid: BookGrid) -> tuple[Floats, int, Floats, int, bool]:
    book = grid.book
    return np.ascontiguousarray(grid.scales), grid.group, book.products, book.patterns.shape[1], book.is_even
