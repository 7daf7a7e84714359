"""Rounding the blocks of a matrix: its columns in order with feedback, and sweeps afterwards.

Where numba is installed the loops over columns are machine code; without, they are NumPy's, with the same results but
for the last bits, in twenty times the time where few rows are rounded together.
"""

import functools
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.grids import Grid

Floats = NDArray[np.float32]


def is_compiled() -> bool:
    """Whether `kernels` will be there, as far as can be told without loading them, which takes a second."""
    return find_spec("numba") is not None


@functools.cache
def kernels() -> ModuleType | None:
    """Return the compiled loops; None where numba is not installed, or does not go with this NumPy or this disk."""
    try:
        from ggufkit.allocation.refinement import kernels as compiled
    except (ImportError, RuntimeError):  # the latter: there is no folder in which compiled code could be kept
        return None
    return compiled


class Rounding:
    """Rounds blocks of columns, for inputs with moments M whose inverse is U^T U.

    Args:
        moments: M, float32 [n_in, n_in].
        carry: U, upper triangular, float32 [n_in, n_in].
    """

    def __init__(self, moments: Floats, carry: Floats) -> None:
        self.moments, self.carry = moments, carry
        self._backs: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        self._inverses: dict[tuple[int, int], Floats] = {}

    def rounded(self, grid: Grid | BookGrid, block: Floats, start: int) -> tuple[Floats, Floats]:
        """Round the columns of a block in order; return their values, and the errors that are to be carried on.

        `block` are the columns from `start` on, float32 [n_rows, n]; it is changed.
        """
        carry = self.carry[start : start + block.shape[1], start : start + block.shape[1]]
        compiled = kernels()
        found, errors = np.empty_like(block), np.empty_like(block)
        if compiled is None:
            _rounded(grid, block, carry, *self._carried_back(start, block.shape[1], grid.width), found, errors)
        elif isinstance(grid, BookGrid):
            backs, metrics = self._carried_back(start, block.shape[1], grid.width)
            compiled.round_book_block(block, carry, backs, metrics, *_book(grid), found, errors)
        else:
            compiled.round_block(block, carry, *_grid(grid), found, errors)
        return found, errors

    def sweep(self, grid: Grid | BookGrid, block: Floats, pull: Floats, start: int) -> None:
        """Let the columns of a block in turn take their best values while the others stay; changes `block`.

        `pull` is (W - Q) M at these columns, W being what is wanted and Q what there is; it is changed as well.
        """
        own = self.moments[start : start + block.shape[1], start : start + block.shape[1]]
        inverses = self._inverted(start, block.shape[1], grid.width)
        compiled = kernels()
        if compiled is None:
            _sweep(grid, block, pull, own, inverses)
        elif isinstance(grid, BookGrid):
            compiled.sweep_book_block(block, pull, own, inverses, *_book(grid))
        else:
            compiled.sweep_block(block, pull, own, *_grid(grid))

    def _carried_back(self, start: int, columns: int, width: int) -> tuple[Floats, Floats]:
        """Return the inverses B of the carry's diagonal blocks, and B B^T, float32 [n / width, width, width]."""
        if (start, width) not in self._backs:
            backs = np.linalg.inv(_diagonal(self.carry, start, columns, width).astype(np.float64))
            metrics = backs @ backs.transpose(0, 2, 1)
            self._backs[start, width] = backs.astype(np.float32), metrics.astype(np.float32)
        return self._backs[start, width]

    def _inverted(self, start: int, columns: int, width: int) -> Floats:
        """Return the inverses of the moments' diagonal blocks, float32 [n / width, width, width]."""
        if (start, width) not in self._inverses:
            own = _diagonal(self.moments, start, columns, width).astype(np.float64)
            self._inverses[start, width] = np.linalg.inv(own).astype(np.float32)
        return self._inverses[start, width]


def _diagonal(matrix: Floats, start: int, columns: int, width: int) -> Floats:
    """Return blocks of the diagonal, [n / width, width, width]."""
    return np.stack([matrix[at : at + width, at : at + width] for at in range(start, start + columns, width)])


def _rounded(
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


def _sweep(grid: Grid | BookGrid, block: Floats, pull: Floats, own: Floats, inverses: Floats) -> None:
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


def _grid(grid: Grid) -> tuple[Floats, Floats, int, Floats, bool]:
    return grid.scales, grid.offsets, grid.group, grid.levels, grid.has_equal_steps


def _book(grid: BookGrid) -> tuple[Floats, int, Floats, int, bool]:
    book = grid.book
    return grid.scales, grid.group, book.products, book.patterns.shape[1], book.is_even
