"""The innermost loops of refining as machine code (numba): those of `rounding`, row by row.

Nothing but arrays and numbers here, in float32 throughout, and without fused or reordered arithmetic: what is
scale * level + offset lies on the grid to the last bit. Arrays are contiguous, rows first.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _entry(*arguments: str) -> Callable[[_Function], _Function]:
    """Compile a function that Python calls, now, for these arguments only.

    Two processes that compile it at the same time then write the same; and what cannot be kept on disk is compiled by
    every process, which takes some seconds.
    """
    signature = f"void({', '.join(arguments)})"

    def compiled(function: _Function) -> _Function:
        try:
            found: _Function = numba.njit(signature, cache=True, nogil=True)(function)
        except Exception:  # noqa: BLE001 - no place for it, or what is there is damaged; an error of ours comes again
            found = numba.njit(signature, nogil=True)(function)
        return found

    return compiled


def _inner(function: _Function) -> _Function:
    """Compile a function with those that call it."""
    found: _Function = numba.njit(nogil=True)(function)
    return found


def _searching(function: _Function) -> _Function:
    """As `_inner`, for one that compares several numbers at a time, as if none were NaN."""
    found: _Function = numba.njit(nogil=True, fastmath={"nnan", "nsz"})(function)
    return found


_ROWS, _BLOCKS, _LEVELS = "float32[:,::1]", "float32[:,:,::1]", "float32[::1]"
_NUMBER, _FLAG = "int64", "boolean"


# ---- levels of a grid


@_inner
def _nearest(value: Any, scale: Any, offset: Any, levels: Floats, has_equal_steps: bool) -> Any:
    """Return the value of the grid that is nearest."""
    if scale == 0:
        return offset
    wanted = (value - offset) / scale
    if has_equal_steps:
        level = min(max(np.rint(wanted), levels[0]), levels[-1])
    else:
        place = 0
        while place < len(levels) - 1 and (levels[place] + levels[place + 1]) / np.float32(2) < wanted:
            place += 1
        level = levels[place]
    return scale * level + offset


@_entry(_ROWS, _ROWS, _ROWS, _ROWS, _NUMBER, _LEVELS, _FLAG, _ROWS, _ROWS)
def round_block(
    block: Floats,
    carry: Floats,
    scales: Floats,
    offsets: Floats,
    group: int,
    levels: Floats,
    has_equal_steps: bool,
    found: Floats,
    errors: Floats,
) -> None:
    """Round the columns of a block in order, and carry errors on within it. As `Rounding.rounded`."""
    rows, columns = block.shape
    for row in range(rows):
        for column in range(columns):
            place = column // group
            value = _nearest(block[row, column], scales[row, place], offsets[row, place], levels, has_equal_steps)
            error = (block[row, column] - value) / carry[column, column]
            found[row, column], errors[row, column] = value, error
            for later in range(column + 1, columns):
                block[row, later] -= error * carry[column, later]


@_entry(_ROWS, _ROWS, _ROWS, _ROWS, _ROWS, _NUMBER, _LEVELS, _FLAG)
def sweep_block(
    block: Floats,
    pull: Floats,
    metric: Floats,
    scales: Floats,
    offsets: Floats,
    group: int,
    levels: Floats,
    has_equal_steps: bool,
) -> None:
    """Let the columns of a block in turn take their best values. As `Rounding.swept`."""
    rows, columns = block.shape
    for row in range(rows):
        for column in range(columns):
            place, own = column // group, metric[column, column]
            wanted = block[row, column] + pull[row, column] / own
            value = _nearest(wanted, scales[row, place], offsets[row, place], levels, has_equal_steps)
            change = value - block[row, column]
            if change == 0 or (change * own - np.float32(2) * pull[row, column]) * change > 0:
                continue
            block[row, column] += change
            for later in range(column + 1, columns):
                pull[row, later] -= change * metric[column, later]


# ---- patterns of a book


@_searching
def _cheapest(costs: Floats) -> Any:
    """Return where the smallest of some numbers is, the first one of several; with NaN any place."""
    least = costs[0]
    for number in range(1, len(costs)):
        least = min(least, costs[number])
    place = 0
    while place < len(costs) - 1 and costs[place] != least:
        place += 1
    return place


@_inner
def _squares(products: Floats, metric: Floats, first: int, signs: Floats, length: int, costs: Floats) -> None:
    """Compute (s p)^T M (s p) of all patterns p, for the columns from the first one on and their signs s.

    `products` are of each two values of a pattern, i before j, and then of each value, float32 [.., n_patterns].
    """
    costs[:] = 0
    term = 0
    for left in range(length):
        for right in range(left, length):
            factor = metric[first + left, first + right] * signs[left] * signs[right]
            if right > left:
                factor *= np.float32(2)
            for number in range(len(costs)):
                costs[number] += factor * products[term, number]
            term += 1


@_inner
def _squares_by_signs(products: Floats, metric: Floats, length: int, signs: Floats, tables: Floats) -> None:
    """Compute the squares of patterns of four for all signs that differ, float32 [2, 8, n_patterns]."""
    for part in range(len(tables)):
        for kind in range(len(tables[part])):
            signs[0] = np.float32(1)
            for place in range(1, length):
                signs[place] = np.float32(1 - 2 * ((kind >> (place - 1)) & 1))
            _squares(products, metric, part * length, signs, length, tables[part, kind])


@_inner
def _of_four(patterns: Floats, squares: Floats, pull: Floats, signs: Floats, costs: Floats) -> Any:
    """Return which pattern p of four makes its square less 2 (s p)^T pull smallest; `patterns` are [4, n_patterns]."""
    first = np.float32(-2) * pull[0] * signs[0]
    second = np.float32(-2) * pull[1] * signs[1]
    third = np.float32(-2) * pull[2] * signs[2]
    fourth = np.float32(-2) * pull[3] * signs[3]
    for number in range(len(costs)):
        costs[number] = (
            squares[number]
            + first * patterns[0, number]
            + second * patterns[1, number]
            + third * patterns[2, number]
            + fourth * patterns[3, number]
        )
    return _cheapest(costs)


@_inner
def _of_eight(patterns: Floats, products: Floats, metric: Floats, pull: Floats, signs: Floats, costs: Floats) -> Any:
    """Return which pattern p of eight makes (s p)^T M (s p) - 2 (s p)^T pull smallest."""
    length = len(patterns)
    _squares(products, metric, 0, signs, length, costs)
    for place in range(length):
        factor = np.float32(-2) * pull[place] * signs[place]
        for number in range(len(costs)):
            costs[number] += factor * patterns[place, number]
    return _cheapest(costs)


@_inner
def _nearest_pattern(
    wanted: Floats,
    metric: Floats,
    roots: Floats,
    products: Floats,
    tables: Floats,
    length: int,
    is_even: bool,
    signs: Floats,
    pull: Floats,
    costs: Floats,
    found: Floats,
) -> None:
    """Find signed patterns, whose scale is 1, near to eight weights. As `books.BookGrid.nearest`."""
    width = len(wanted)
    patterns = products[len(products) - length :]
    negative = 0
    for place in range(width):
        signs[place] = np.float32(1)
        if wanted[place] < 0:
            signs[place] = np.float32(-1)
            negative += 1
    if is_even and negative % 2:
        cheapest = 0
        for place in range(1, width):
            if abs(wanted[place]) * roots[place] < abs(wanted[cheapest]) * roots[cheapest]:
                cheapest = place
        signs[cheapest] = -signs[cheapest]
    rounds = 1 if length == width else 2  # first each part as if the others had no errors
    for number in range(rounds):
        for part in range(width // length):
            first = part * length
            for place in range(length):
                total = np.float32(0)
                for other in range(width):
                    if first <= other < first + length:
                        total += wanted[other] * metric[other, first + place]
                    elif number:
                        total += (wanted[other] - found[other]) * metric[other, first + place]
                pull[place] = total
            own = signs[first : first + length]
            if length == width:
                best = _of_eight(patterns, products, metric, pull, own, costs)
            else:
                kind = 0
                for place in range(1, length):
                    if own[place] != own[0]:
                        kind += 1 << (place - 1)
                best = _of_four(patterns, tables[part, kind], pull, own, costs)
            for place in range(length):
                found[first + place] = patterns[place, best] * own[place]


@_entry(_ROWS, _ROWS, _BLOCKS, _BLOCKS, _ROWS, _NUMBER, _ROWS, _NUMBER, _FLAG, _ROWS, _ROWS)
def round_book_block(
    block: Floats,
    carry: Floats,
    backs: Floats,
    metrics: Floats,
    scales: Floats,
    group: int,
    products: Floats,
    length: int,
    is_even: bool,
    found: Floats,
    errors: Floats,
) -> None:
    """Round the columns of a block in order, eight at a time, and carry errors on within it.

    `backs` are the inverses of the carry's diagonal blocks, and `metrics` those times their transposes, float32
    [n_parts, 8, 8]. `products` are of each two of the `length` values of a pattern, and then of each value, float32
    [.., n_patterns].
    """
    rows, columns = block.shape
    width = backs.shape[1]
    roots, wanted, nearest = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    signs, pull = np.empty(width, np.float32), np.empty(width, np.float32)
    costs = np.empty(products.shape[1], np.float32)
    tables = np.empty((width // length if length < width else 0, 8, len(costs)), np.float32)
    for part in range(columns // width):
        first = part * width
        metric = metrics[part]
        for place in range(width):
            roots[place] = np.sqrt(metric[place, place])
        _squares_by_signs(products, metric, length, signs, tables)
        for row in range(rows):
            scale = scales[row, first // group]
            if scale > 0:
                for place in range(width):
                    wanted[place] = block[row, first + place] / scale
                _nearest_pattern(wanted, metric, roots, products, tables, length, is_even, signs, pull, costs, nearest)
            for place in range(width):
                found[row, first + place] = nearest[place] * scale if scale > 0 else np.float32(0)
            for place in range(width):
                total = np.float32(0)
                for other in range(width):
                    total += (block[row, first + other] - found[row, first + other]) * backs[part, other, place]
                errors[row, first + place] = total
            for place in range(width):
                error = errors[row, first + place]
                for later in range(first + width, columns):
                    block[row, later] -= error * carry[first + place, later]


@_entry(_ROWS, _ROWS, _ROWS, _BLOCKS, _ROWS, _NUMBER, _ROWS, _NUMBER, _FLAG)
def sweep_book_block(
    block: Floats,
    pulls: Floats,
    metric: Floats,
    inverses: Floats,
    scales: Floats,
    group: int,
    products: Floats,
    length: int,
    is_even: bool,
) -> None:
    """Let eight columns in turn take their best values. `inverses` are of the metric's diagonal blocks, [.., 8, 8]."""
    rows, columns = block.shape
    width = inverses.shape[1]
    own = np.empty((width, width), np.float32)
    roots, wanted, nearest = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    signs, pull, change = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    costs = np.empty(products.shape[1], np.float32)
    tables = np.empty((width // length if length < width else 0, 8, len(costs)), np.float32)
    for part in range(columns // width):
        first = part * width
        own[:] = metric[first : first + width, first : first + width]
        for place in range(width):
            roots[place] = np.sqrt(own[place, place])
        _squares_by_signs(products, own, length, signs, tables)
        for row in range(rows):
            scale = scales[row, first // group]
            if scale > 0:
                for place in range(width):
                    total = np.float32(0)
                    for other in range(width):
                        total += pulls[row, first + other] * inverses[part, other, place]
                    wanted[place] = (block[row, first + place] + total) / scale
                _nearest_pattern(wanted, own, roots, products, tables, length, is_even, signs, pull, costs, nearest)
            is_changed = False
            for place in range(width):
                value = nearest[place] * scale if scale > 0 else np.float32(0)
                change[place] = value - block[row, first + place]
                is_changed = is_changed or change[place] != 0
            if not is_changed:
                continue
            gain = np.float32(0)
            for place in range(width):
                total = np.float32(-2) * pulls[row, first + place]
                for other in range(width):
                    total += change[other] * own[other, place]
                gain += total * change[place]
            if gain > 0:  # a nearer pattern is there already
                continue
            for place in range(width):
                block[row, first + place] += change[place]
            for place in range(width):
                for later in range(first + width, columns):
                    pulls[row, later] -= change[place] * metric[first + place, later]
