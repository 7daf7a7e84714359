"""Searching the scales of blocks whose weights lie in patterns: better steps and scales for the same layout.

By turns, each scale takes the best of the numbers around its own while its block's step stays, and the step becomes the
one with which the patterns found fit best, rounded to float16. No turn can make a block worse. A weight counts what its
column's importance says. With given signs and scales, no other pattern of the book has smaller errors.
"""

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.layouts.patterns import (
    BLOCK,
    EIGHT,
    MOST_NUMBER,
    PatternLayout,
    patterns_of,
    steps_of,
)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_STEPS = (0.95, 1.05)  # times a block's step: where to search as well
_NEXT = (-1, 1)  # more than a scale's number
_AT_ONCE = 1 << 17  # losses, of patterns with all of a book: they stay in the cache
_COHERENCE = np.float32(3)  # c of the loss; 2 to 5 are as good, without it these types are worse than ggml's
_GREATEST = np.float32(np.finfo(np.float16).max)


class PatternSearch:
    """Searches for some rows: `values`, float32 [n_rows, n_columns], and their columns' importance, [n_columns]."""

    def __init__(self, kind: TensorType, layout: PatternLayout, values: Floats, importance: Floats) -> None:
        self._layout = layout
        self._in_block = BLOCK // layout.group
        weights = np.ascontiguousarray(np.broadcast_to(importance, values.shape))
        self._values = values.reshape(-1, layout.length)
        self._signs = np.where(values < 0, np.float32(-1), np.float32(1)).reshape(-1, EIGHT)
        if layout.is_even:
            _make_even(self._signs, values.reshape(-1, EIGHT), weights.reshape(-1, EIGHT))
        magnitudes = (values.reshape(-1, EIGHT) * self._signs).reshape(-1, layout.length)
        self._weights = weights.reshape(-1, layout.length)
        self._weighted = magnitudes * self._weights
        self._squares = np.einsum("ij,ij->i", self._weighted, magnitudes)
        self._totals = self._squares.reshape(-1, self._in_block, layout.group // layout.length).sum(axis=2)
        self._shares = np.divide(_COHERENCE, self._totals, out=np.zeros_like(self._totals), where=self._totals > 0)
        self._patterns = patterns_of(kind)
        # The loss of weights x with a scale s and a pattern p is the sum of w p^2 s^2 - 2 w x p s + w x^2.
        self._book = np.ascontiguousarray(np.concatenate([np.square(self._patterns), -2 * self._patterns], axis=1).T)
        self._chosen = np.zeros(len(self._weights), np.intp)
        self._least = np.empty(len(self._weights), np.float32)

    def better(self, blocks: Bytes) -> Bytes:
        """Return blocks, uint8 [n_blocks, block bytes], that lose no more with signs and patterns that suit them."""
        steps, numbers = steps_of(blocks), self._layout.numbers(blocks).astype(np.float32)
        steps, numbers = self._turned(*self._turned(steps, numbers))
        losses = self._of_blocks(self._losses(steps, numbers))
        for factor in _STEPS:
            others = self._turned(*self._with_steps(steps, numbers, np.float32(factor)))
            lost = self._of_blocks(self._losses(*others))
            better = lost < losses
            losses = np.minimum(lost, losses)
            steps, numbers = np.where(better, others[0], steps), np.where(better[:, None], others[1], numbers)
        steps, numbers = self._turned(steps, numbers)
        self._losses(steps, numbers)
        found = blocks.copy()
        found[:, :2] = steps.astype("<f2").view(np.uint8).reshape(-1, 2)
        patterns = self._chosen.astype(np.uint16).reshape(len(blocks), -1)
        negative = np.packbits(self._signs < 0, axis=1, bitorder="little").reshape(len(blocks), -1)
        self._layout.write(found, numbers.astype(np.uint8), patterns, negative)
        return found

    def losses(self, values: Floats) -> Floats:
        """Return what each block would lose with these values, float32 [n_rows, n_columns]."""
        errors = values.reshape(self._values.shape) - self._values
        weighted = errors * self._weights
        squares, along = (
            np.einsum("ij,ij->i", weighted, each).reshape(*self._totals.shape, -1).sum(axis=2)
            for each in (errors, self._values)
        )
        return self._of_blocks(squares + along * along * self._shares)

    def _turned(self, steps: Floats, numbers: Floats) -> tuple[Floats, Floats]:
        """Let each group have the best of the scales around its own, and then each block the best step."""
        best, found = self._losses(steps, numbers), numbers
        for more in _NEXT:
            tried = np.clip(numbers + np.float32(more), 0, MOST_NUMBER)
            lost = self._losses(steps, tried)
            better = lost < best
            best, found = np.minimum(lost, best), np.where(better, tried, found)
        before = self._of_blocks(self._losses(steps, found))
        fitted = self._fitted(steps, found)
        better = self._of_blocks(self._losses(fitted, found)) < before
        return np.where(better, fitted, steps), found

    def _with_steps(self, steps: Floats, numbers: Floats, factor: np.float32) -> tuple[Floats, Floats]:
        """Take other steps, and the numbers with which scales change least."""
        offset = np.float32(self._layout.offset)
        return _halves(steps * factor), np.clip(np.rint((numbers + offset) / factor - offset), 0, MOST_NUMBER)

    def _fitted(self, steps: Floats, numbers: Floats) -> Floats:
        """Return the steps with which the patterns fit best that were found last."""
        patterns = self._patterns[self._chosen]
        squares = np.einsum("ij,ij,ij->i", self._weights, patterns, patterns)
        products = np.einsum("ij,ij->i", self._weighted, patterns)
        scales = (numbers + np.float32(self._layout.offset)) * np.float32(self._layout.unit)
        across = products.reshape(*scales.shape, -1).sum(axis=2) * scales
        below = squares.reshape(*scales.shape, -1).sum(axis=2) * scales * scales
        below = (below + across * across * self._shares).sum(axis=1)
        above = ((1 + _COHERENCE) * across).sum(axis=1)
        return _halves(np.divide(above, below, out=steps.copy(), where=below > 0))

    def _losses(self, steps: Floats, numbers: Floats) -> Floats:
        """Return the loss of each group with the nearest patterns, float32 [n_blocks, n_groups]; these are kept."""
        scales = steps[:, None] * (numbers + np.float32(self._layout.offset)) * np.float32(self._layout.unit)
        each = np.repeat(scales.reshape(-1), self._layout.group // self._layout.length)[:, None]
        factors = np.concatenate([self._weights * np.square(each), self._weighted * each], axis=1)
        step = _AT_ONCE // len(self._patterns)
        for start in range(0, len(factors), step):
            part = slice(start, start + step)
            losses = factors[part] @ self._book
            chosen = losses.argmin(axis=1)
            self._chosen[part] = chosen
            self._least[part] = np.take_along_axis(losses, chosen[:, None], axis=1)[:, 0]
        found: Floats = (self._least + self._squares).reshape(*scales.shape, -1).sum(axis=2)
        products = np.einsum("ij,ij->i", self._weighted, self._patterns[self._chosen])
        along = self._totals - scales * products.reshape(*scales.shape, -1).sum(axis=2)
        found += along * along * self._shares
        return found

    def _of_blocks(self, groups: Floats) -> Floats:
        found: Floats = groups.sum(axis=1)
        return found


def _make_even(signs: Floats, values: Floats, weights: Floats) -> None:
    """Turn the sign that it costs least where the number of negative ones among eight is odd."""
    odd = np.flatnonzero((signs < 0).sum(axis=1) % 2)
    cheapest = np.argmin(np.square(values[odd]) * weights[odd], axis=1)
    signs[odd, cheapest] *= -1


def _halves(values: Floats) -> Floats:
    """Round to float16."""
    return np.minimum(values, _GREATEST).astype(np.float16).astype(np.float32)
