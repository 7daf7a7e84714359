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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ggufkit.allocation.refinement.books import BookGrid
from ggufkit.allocation.refinement.grids import Grid, grid_of, has_grid
from ggufkit.allocation.weights import through
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.dequantize import dequantize
from ggufkit.llamacpp.ggml import Ggml

Floats = NDArray[np.float32]
Squares = NDArray[np.float64]

_DAMPING = 0.02  # of the mean of the diagonal
_MOST_DRIFT = 0.01  # of the inputs' squares: of models that small changes derange, more of it makes worse
_SWEEPS = 3
_ROUNDS = 5
_ROWS_TOGETHER = (
    16  # that make up for earlier ones; twice as many gain less by a thirtieth, half as many take twice as long
)
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

    def __init__(self, moments: Moments, outputs: Squares | None = None) -> None:
        """Prepare for inputs whose moments are known. `outputs` is G, float64 [n_out, n_out]."""
        damped, mean = _damped(moments.given, _DAMPING)
        inverse = np.linalg.inv(damped)
        # H^-1 = U^T U with an upper triangular U, whose rows say how errors are carried on.
        self._carry: Floats = np.linalg.cholesky(inverse).T.astype(np.float32)
        self._moments: Floats = damped.astype(np.float32)
        # W (1 + S) is the matrix of real numbers that does with X' best what W does with X. Where little of X is left,
        # that would be to do less of everything.
        self._shift = (moments.drift / mean) @ inverse if _is_slight(moments) and moments.drift is not None else None
        self._across = None if outputs is None else _carried_on(_damped(outputs, _OUTPUT_DAMPING)[0])

    def refined(self, library: Ggml, weights: Floats, kind: TensorType, importance: Floats | None) -> Refined:
        """Round rows, float32 [n_rows, n_in], with feedback, to values that lie on the grids of `kind`.

        Where outputs are known, these are all rows. `importance` is what llama-quantize weighs columns with, float32
        [n_in].
        """
        weights = self.aimed_at(weights)
        if self._across is None:
            return self._rounded(library, weights, kind, importance)
        current, parts = np.array(weights, np.float32), []
        for start in range(0, len(weights), _ROWS_TOGETHER):
            rows, later = slice(start, start + _ROWS_TOGETHER), slice(start + _ROWS_TOGETHER, None)
            parts.append(self._rounded(library, current[rows], kind, importance))
            errors = current[rows] - stored(library, parts[-1].handed, kind, importance)
            own, carry = self._across[rows, rows], self._across[rows, later]
            current[later] -= (carry.T @ np.linalg.solve(own.T, errors)).astype(np.float32)
        return Refined(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _rounded(self, library: Ggml, weights: Floats, kind: TensorType, importance: Floats | None) -> Refined:
        """Round rows independently of each other.

        Where llama-quantize finds other grids than ours in what it is handed, they are rounded once more on those, as
        often as that helps.
        """
        best = _refined_rows(library, weights, kind, self._moments, self._carry, importance)
        if not has_grid(kind):
            return best
        least = self._losses(weights, stored(library, best.handed, kind, importance))
        current = best
        for _ in range(_ROUNDS):
            current = _swept_as_stored(library, weights, current.handed, kind, self._moments, importance)
            losses = self._losses(weights, stored(library, current.handed, kind, importance))
            is_better = losses < least
            if not is_better.any():
                break
            best = Refined(*(np.where(is_better[:, None], new, old) for new, old in zip(current, best, strict=True)))
            least = np.minimum(losses, least)
        return best

    def aimed_at(self, weights: Floats) -> Floats:
        """Return what would be best if there were no grid, float32 [n_rows, n_in]."""
        return weights if self._shift is None else (weights + weights @ self._shift).astype(np.float32)

    def _losses(self, weights: Floats, rounded: Floats) -> NDArray[np.float64]:
        """Return the loss of each row, float64 [n_rows]."""
        difference = weights - rounded
        losses: NDArray[np.float64] = np.einsum("ij,ij->i", difference @ self._moments, difference, dtype=np.float64)
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


def _refined_rows(
    library: Ggml, weights: Floats, kind: TensorType, moments: Floats, carry: Floats, importance: Floats | None
) -> Refined:
    current = np.array(weights, np.float32)
    found = np.empty_like(current)
    columns, step = current.shape[1], kind.block_size
    grids: list[Grid | BookGrid] = []
    for start in range(0, columns, step):
        end = start + step
        block, encoded = _encoded(library, current, start, kind, importance)
        grid = grid_of(encoded, kind, len(block))
        own = carry[start:end, start:end]
        if grid is None:
            found[:, start:end] = dequantize(encoded, int(kind), block.size).reshape(block.shape)
            errors = np.linalg.solve(own.T, (block - found[:, start:end]).T).T.astype(np.float32)
        else:
            grids.append(grid)
            found[:, start:end], errors = _rounded_block(grid, block, own)
        current[:, end:] -= errors @ carry[start:end, end:]
    if not grids:
        return Refined(found, found)
    for _ in range(_SWEEPS):
        _sweep(weights, found, moments, grids, step)
    return Refined(found, _handed(found, grids, step))


def _rounded_block(grid: Grid | BookGrid, block: Floats, carry: Floats) -> tuple[Floats, Floats]:
    """Round the columns of one block in order; return their values, and the errors that are to be carried on."""
    found, errors = np.empty_like(block), np.empty_like(block)
    for column in range(0, block.shape[1], grid.width):
        part, rest = slice(column, column + grid.width), slice(column + grid.width, None)
        back = np.linalg.inv(carry[part, part].astype(np.float64))
        found[:, part] = grid.nearest(block[:, part], column, (back @ back.T).astype(np.float32))
        errors[:, part] = (block[:, part] - found[:, part]) @ back.astype(np.float32)
        block[:, rest] -= errors[:, part] @ carry[part, rest]
    return found, errors


def _swept_as_stored(
    library: Ggml, weights: Floats, handed: Floats, kind: TensorType, moments: Floats, importance: Floats | None
) -> Refined:
    """Let every column take its best value on the grids that llama-quantize finds in what it is handed."""
    found = np.empty_like(handed)
    columns, step = handed.shape[1], kind.block_size
    grids = []
    for start in range(0, columns, step):
        block, encoded = _encoded(library, handed, start, kind, importance)
        found[:, start : start + step] = dequantize(encoded, int(kind), block.size).reshape(block.shape)
        grid = grid_of(encoded, kind, len(block))
        if grid is None:
            return Refined(found, handed)
        grids.append(grid)
    _sweep(weights, found, moments, grids, step)
    return Refined(found, _handed(found, grids, step))


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


def _sweep(weights: Floats, found: Floats, moments: Floats, grids: Sequence[Grid | BookGrid], step: int) -> None:
    """Let the columns in turn take their best values while the others stay; changes `found`."""
    for number, grid in enumerate(grids):
        start, end = number * step, (number + 1) * step
        own, block = moments[start:end, start:end], found[:, start:end]
        pull = (weights - found) @ moments[:, start:end]
        for column in range(0, step, grid.width):
            part = slice(column, column + grid.width)
            metric = own[part, part]
            back = np.linalg.inv(metric.astype(np.float64)).astype(np.float32)
            wanted = (block[:, part] + pull[:, part] @ back).astype(np.float32, copy=False)
            change = grid.nearest(wanted, column, metric) - block[:, part]
            # What comes from a book is near, but a nearer pattern may be there already.
            change[np.einsum("ri,ri->r", change @ metric - 2 * pull[:, part], change) > 0] = 0
            block[:, part] += change
            pull -= change @ own[part]


def _handed(values: Floats, grids: Sequence[Grid | BookGrid], step: int) -> Floats:
    """Return what llama-quantize has to be given so that it stores values of these grids."""
    blocks = [grid.handed(values[:, number * step : (number + 1) * step]) for number, grid in enumerate(grids)]
    found: Floats = np.concatenate(blocks, axis=1)
    return found


def stored(library: Ggml, values: Floats, kind: TensorType, importance: Floats | None) -> Floats:
    """Return what llama-quantize makes of values, float32 of the same shape."""
    return through(library, values, kind, values.shape[1], importance).reshape(values.shape)
