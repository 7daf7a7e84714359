"""Error feedback on the grids of ggml's types: what rounding one column does wrong, the later ones make up for.

The method is GPTQ (E. Frantar et al., 2022): columns are rounded in order, and each error is carried on to the columns
behind it as the inverse of the inputs' moments says; eight columns at a time where a type stores patterns. Scales are
ggml's own: each block is encoded, with what was carried into it, when its turn comes. Sweeps follow, in which each
column, or eight of them, takes the best values of its grid while all others stay (cyclic coordinate descent); they
cannot make it worse.

The loss of a matrix W, float32 [n_out, n_in], and its rounded form Q is |W X - Q X'|^2, summed over all tokens: X are
the inputs that the untouched model gives it, X' those that it will get behind rounded matrices. Where only X' is known,
W is to do with X' what it did with X. (Asymmetric calibration: Y. Li et al., GPTAQ, 2025.)

Where it is known which errors of outputs go together in what the model says in the end (G, the second moments of its
gradients there), the loss is tr(G D D^T), with D in place of W X - Q X'. Then what rounding some rows does wrong, later
rows make up for, as columns do: the best that they can be, were there no grids, does not depend on X. (Both sides by
their second moments: J. Martens and R. Grosse, 2015; for rounding: A. Tseng et al., YAQA, 2025.)
"""

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.grids import Grid, grid_of, has_grid
from ggufkit.allocation.refinement.rounding import Rounding, compiled
from ggufkit.allocation.weights import encoded_as, through
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.llamacpp.ggml import Ggml

Floats = NDArray[np.float32]
Squares = NDArray[np.float64]

_DAMPING = 0.02  # of the mean of the diagonal
_MOST_DRIFT = 0.01  # of the inputs' squares: of models that small changes derange, more of it makes worse
_SWEEPS = 3
_ROUNDS = 5
# That make up for earlier ones: two gain another hundredth, 16 a thirtieth less. NumPy takes as long for any number.
_ROWS_TOGETHER, _WITHOUT_KERNELS = 4, 16
_ROWS_OF_A_THREAD, _WITHOUT_KERNELS_OF_A_THREAD = 2, 256  # at least: fewer take as long as these
_OUTPUT_DAMPING = 0.1  # of the mean of the diagonal of G: as good as less of it on other text, and safer


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the inputs of a matrix, float64 [n_in, n_in], rows being inputs of a token.

    Attributes:
        given: X'^T X' of the inputs X' that it will get.
        tokens: how many they are.
        drift: (X - X')^T X', where X is what the untouched model gives it; None: that is the same.
        inherited: (X - X')^T (X - X').
    """

    given: Squares
    tokens: int
    drift: Squares | None = None
    inherited: Squares | None = None

    def with_more(self, other: "Moments") -> "Moments":
        """Return the sums over the inputs of both."""
        drift, inherited = (
            None if one is None or more is None else one + more
            for one, more in ((self.drift, other.drift), (self.inherited, other.inherited))
        )
        return Moments(self.given + other.given, self.tokens + other.tokens, drift, inherited)


class Refined(NamedTuple):
    """Refined rows, float32 [n_rows, n_in]: the `values` that a model will compute with, and what to store for them.

    Of most types that is the same; of some, llama-quantize only stores values if it is `handed` others.
    """

    values: Floats
    handed: Floats


def loss(weights: Floats, rounded: Floats, moments: Moments, outputs: Squares | None = None) -> float:
    """Return tr(G D D^T) of D = W X - Q X' = W (X - X') + (W - Q) X'; without `outputs`, which are G, |D|^2."""

    def seen(rows: Squares) -> Squares:
        return rows if outputs is None else outputs @ rows

    difference = (weights - rounded).astype(np.float64)
    found = np.einsum("ij,ij->", seen(difference @ moments.given), difference)
    if moments.drift is not None and moments.inherited is not None:
        own = weights.astype(np.float64)
        found += 2 * np.einsum("ij,ij->", seen(own @ moments.drift), difference)
        found += np.einsum("ij,ij->", seen(own @ moments.inherited), own)
    return float(found)


class Feedback:
    """The feedback of one matrix's inputs; and of its outputs, where these are known: without, rows are independent."""

    def __init__(self, moments: Moments, outputs: Squares | None = None, *, threads: int = 1) -> None:
        """Prepare for inputs whose moments are known. `outputs` is G, float64 [n_out, n_out].

        So many `threads` share the rows where there are enough of them, which changes last bits at most.
        """
        damped, mean = _damped(moments.given, _DAMPING)
        inverse = np.linalg.inv(damped)
        # H^-1 = U^T U with an upper triangular U, whose rows say how errors are carried on.
        self._rounding = Rounding(
            damped.astype(np.float32), np.linalg.cholesky(inverse).T.astype(np.float32, order="C")
        )
        # W (1 + S) is the matrix of real numbers that does with X' best what W does with X. Where little of X is left,
        # that would be to do less of everything.
        self._shift = (moments.drift / mean) @ inverse if _is_slight(moments) and moments.drift is not None else None
        self._across = None if outputs is None else _carried_on(_damped(outputs, _OUTPUT_DAMPING)[0])
        self._threads = threads

    def refined(self, library: Ggml, weights: Floats, kind: TensorType, importance: Floats | None) -> Refined:
        """Round rows, float32 [n_rows, n_in], with feedback, to values that lie on the grids of `kind`.

        Where outputs are known, these are all rows. `importance` is what llama-quantize weighs columns with, float32
        [n_in].
        """
        weights = self.aimed_at(weights)
        rounded = functools.partial(self._rounded, library, kind=kind, importance=importance)
        with ThreadPoolExecutor(self._threads) as pool:
            if self._across is None:
                return _joined(pool.map(rounded, self._parts(weights)))
            current, found = np.array(weights, np.float32), []
            together = _ROWS_TOGETHER if compiled() else _WITHOUT_KERNELS
            for start in range(0, len(weights), together):
                rows, later = slice(start, start + together), slice(start + together, None)
                found.append(_joined(pool.map(rounded, self._parts(current[rows]))))
                errors = current[rows] - found[-1].values
                own, carry = self._across[rows, rows], self._across[rows, later]
                current[later] -= (carry.T @ np.linalg.solve(own.T, errors)).astype(np.float32)
            return _joined(found)

    def _rounded(self, library: Ggml, weights: Floats, *, kind: TensorType, importance: Floats | None) -> Refined:
        """Round rows independently of each other.

        Where llama-quantize finds other grids than ours in what it is handed, they are rounded once more on those: a
        row as long as that has not failed to help twice in a row.
        """
        handed = _rounded_in_order(library, weights, kind, self._rounding, importance).handed
        if not has_grid(kind):
            return Refined(stored(library, handed, kind, importance), handed)
        best, rows = _stored(library, handed, kind, importance), np.arange(len(weights))
        current, least = best.rows(rows), self._losses(weights, best.values)
        was_better = np.ones(len(rows), bool)
        for _ in range(_ROUNDS):
            current = _stored(library, _swept(weights[rows], current, kind, self._rounding), kind, importance)
            losses = self._losses(weights[rows], current.values)
            is_better = losses < least[rows]
            found, better = current.rows(is_better), rows[is_better]
            best.values[better], best.handed[better], least[better] = found.values, found.handed, losses[is_better]
            goes_on = is_better | was_better
            if not goes_on.any():
                break
            rows, current, was_better = rows[goes_on], current.rows(goes_on), is_better[goes_on]
        return Refined(best.values, best.handed)

    def _parts(self, rows: Floats) -> list[Floats]:
        """Cut rows into parts for the threads."""
        least = _ROWS_OF_A_THREAD if compiled() else _WITHOUT_KERNELS_OF_A_THREAD
        return np.array_split(rows, max(1, min(self._threads, len(rows) // least)))

    def aimed_at(self, weights: Floats) -> Floats:
        """Return what would be best if there were no grid, float32 [n_rows, n_in]."""
        return weights if self._shift is None else (weights + weights @ self._shift).astype(np.float32)

    def _losses(self, weights: Floats, rounded: Floats) -> NDArray[np.float64]:
        """Return the loss of each row, float64 [n_rows]."""
        difference = weights - rounded
        seen = difference @ self._rounding.moments
        losses: NDArray[np.float64] = np.einsum("ij,ij->i", seen, difference, dtype=np.float64)
        return losses


def left_across_rows(outputs: Squares) -> float:
    """Return what feedback from every row to the later ones leaves of the loss of rows that know nothing of each other.

    `outputs` is G, float64 [n_out, n_out]. What rounding adds to rows, r, becomes errors M r, M being (U / diag U)^T.
    """
    carry = _carried_on(_damped(outputs, _OUTPUT_DAMPING)[0])
    errors = (carry / np.diag(carry)[:, None]).T
    return float(np.einsum("ij,ij->", outputs @ errors, errors) / np.trace(outputs))


def refined(library: Ggml, weights: Floats, kind: TensorType, moments: Moments, importance: Floats | None) -> Refined:
    """Refine a whole matrix, float32 [n_out, n_in]. As `Feedback`."""
    return Feedback(moments).refined(library, weights, kind, importance)


def _is_slight(moments: Moments) -> bool:
    """Whether inputs have drifted so little that making up for it pays."""
    if moments.inherited is None:
        return False
    return float(np.trace(moments.inherited)) <= _MOST_DRIFT * float(np.trace(moments.given))


def _damped(moments: Squares, share: float) -> tuple[Squares, float]:
    """Make moments invertible, in units of their mean square; a column that no input reaches keeps to itself."""
    mean = max(float(np.diag(moments).mean()), 1e-30)
    damped = moments / mean
    damped[np.diag_indices_from(damped)] += share
    return damped, mean


def _carried_on(damped: Squares) -> Squares:
    """Return the upper triangular U of the inverse U^T U of moments."""
    found: Squares = np.linalg.cholesky(np.linalg.inv(damped)).T
    return found


class _Stored(NamedTuple):
    """Rows as llama-quantize stores them: their values, what it was handed, and the bytes, uint8 [n_rows, n_bytes]."""

    values: Floats
    handed: Floats
    encoded: NDArray[np.uint8]

    def rows(self, which: NDArray[Any]) -> "_Stored":
        """Return some of them."""
        return _Stored(self.values[which], self.handed[which], self.encoded[which])


def _stored(library: Ggml, handed: Floats, kind: TensorType, importance: Floats | None) -> _Stored:
    encoded = encoded_as(library, handed, kind, handed.shape[1], importance)
    values = dequantize(encoded, int(kind), handed.size).reshape(handed.shape)
    return _Stored(values, handed, encoded.reshape(len(handed), -1))


def _rounded_in_order(
    library: Ggml, weights: Floats, kind: TensorType, rounding: Rounding, importance: Floats | None
) -> Refined:
    """Round rows block by block, each on the grid that it gets with what was carried into it; then sweep."""
    current = np.array(weights, np.float32)
    found = np.empty_like(current)
    columns, step = current.shape[1], kind.block_size
    grids: list[Grid | BookGrid] = []
    for start in range(0, columns, step):
        end = start + step
        block, encoded = _encoded(library, current, start, kind, importance)
        grid = grid_of(encoded, kind, len(block))
        if grid is None:
            own = rounding.carry[start:end, start:end]
            found[:, start:end] = dequantize(encoded, int(kind), block.size).reshape(block.shape)
            errors = np.linalg.solve(own.T, (block - found[:, start:end]).T).T.astype(np.float32)
        else:
            grids.append(grid)
            found[:, start:end], errors = rounding.rounded(grid, block, start)
        current[:, end:] -= errors @ rounding.carry[start:end, end:]
    if not grids:
        return Refined(found, found)
    for _ in range(_SWEEPS):
        _sweep(weights, found, rounding, grids, step)
    return Refined(found, _handed(found, grids, step))


def _swept(weights: Floats, rows: _Stored, kind: TensorType, rounding: Rounding) -> Floats:
    """Let every column take its best value on the grids of stored rows; return what to hand."""
    found = rows.values.copy()
    blocks = np.split(rows.encoded, found.shape[1] // kind.block_size, axis=1)
    grids = [grid for block in blocks if (grid := grid_of(np.ascontiguousarray(block), kind, len(found)))]
    _sweep(weights, found, rounding, grids, kind.block_size)
    return _handed(found, grids, kind.block_size)


def _encoded(
    library: Ggml, values: Floats, start: int, kind: TensorType, importance: Floats | None
) -> tuple[Floats, NDArray[np.uint8]]:
    """Take the block of columns that begins at `start`, and encode it as llama-quantize does."""
    end = start + kind.block_size
    block = np.ascontiguousarray(values[:, start:end])
    weighing = None if importance is None else np.ascontiguousarray(importance[start:end])
    encoded = np.empty(block.size // kind.block_size * kind.block_bytes, np.uint8)
    library.quantize(block, int(kind), kind.block_size, encoded, weighing)
    return block, encoded


def _sweep(weights: Floats, found: Floats, rounding: Rounding, grids: Sequence[Grid | BookGrid], step: int) -> None:
    """Let the columns in turn take their best values while the others stay; changes `found`."""
    for number, grid in enumerate(grids):
        columns = slice(number * step, (number + 1) * step)
        pull = ((weights - found) @ rounding.moments[:, columns]).astype(np.float32, copy=False)
        found[:, columns] = rounding.swept(grid, found[:, columns], pull, columns.start)


def _joined(parts: Iterable[Refined]) -> Refined:
    return Refined(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _handed(values: Floats, grids: Sequence[Grid | BookGrid], step: int) -> Floats:
    """Return what llama-quantize has to be given so that it stores values of these grids."""
    blocks = [grid.handed(values[:, number * step : (number + 1) * step]) for number, grid in enumerate(grids)]
    found: Floats = np.concatenate(blocks, axis=1)
    return found


def stored(library: Ggml, values: Floats, kind: TensorType, importance: Floats | None) -> Floats:
    """Return what llama-quantize makes of values, float32 of the same shape."""
    return through(library, values, kind, values.shape[1], importance).reshape(values.shape)
