"""Searching the scales of blocks whose weights lie on levels: better steps, scales and minima for the same layout.

By turns, each scale (and minimum) takes the best of the whole numbers around it while its block's steps stay, and the
steps become those with which the levels found fit best, rounded to float16. No turn can make a block worse. What a
weight x counts is its column's importance times the fourth root of x^2 plus the block's mean square: in ggml's encoder
it is the square root; without any, large weights pay for what importance cannot know of other text.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.quantization.layouts import LevelLayout, Scales

Floats = NDArray[np.float32]

_AROUND = (0.76, 0.8, 0.84, 0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.09, 1.12, 1.16, 1.2)  # times a scale, or a step
_NEXT = (-2, -1, 0, 1, 2)  # more than a scale, where each has its minimum
_BESIDE = (-1, 1)
_STEPS = (0.9, 0.95, 1.05, 1.1)
_COHERENCE = np.float32(2)  # c of the loss; 1 is as good, 5 less so
_GREATEST = np.float32(np.finfo(np.float16).max)


class LevelSearch:
    """Searches for some rows: `values`, float32 [n_rows, n_columns], and their columns' importance, [n_columns]."""

    def __init__(self, layout: LevelLayout, values: Floats, importance: Floats, block: int) -> None:
        self._layout, self._in_block = layout, block // layout.group
        squares = np.square(values).reshape(-1, block)
        squares += squares.mean(axis=1, keepdims=True)
        weights = importance * np.sqrt(np.sqrt(squares)).reshape(values.shape)
        # The weights of a group lie along the first axis, so that all sums run over long rows.
        self._values = np.ascontiguousarray(values.reshape(-1, layout.group).T)
        self._weights = np.ascontiguousarray(weights.reshape(-1, layout.group).T)
        self._pulls = self._weights * self._values
        totals = np.einsum("ij,ij->j", self._pulls, self._values)
        self._shares = np.divide(_COHERENCE, totals, out=np.zeros_like(totals), where=totals > 0)
        self._levels, self._spare = np.empty_like(self._values), np.empty_like(self._values)
        self._table = None if layout.has_equal_steps else _table_of(layout.levels)

    def better(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return blocks, uint8 [n_blocks, block bytes], with better scales and the levels that suit them."""
        found = blocks.copy()
        scales = self._better(self._layout.read(blocks))
        self._layout.write(found, scales, self._codes(scales))
        return found

    def losses(self, values: Floats) -> Floats:
        """Return what each block would lose with these values, float32 [n_rows, n_columns]."""
        np.subtract(values.reshape(-1, self._layout.group).T, self._values, out=self._spare)
        return self._of_blocks(self._lost())

    def _better(self, scales: Scales) -> Scales:
        """Return scales that lose less, block by block, or else those that are given."""
        found = self._turned(self._turned(scales))
        if self._layout.least == self._layout.most:
            return found
        losses = self._of_blocks(self._losses(found))
        for factor in _STEPS:
            other = self._turned(self._with_steps(found, np.float32(factor)))
            lost = self._of_blocks(self._losses(other))
            better = np.repeat(lost < losses, self._in_block)
            losses, found = np.minimum(lost, losses), self._merged(better, other, found)
        return self._turned(found)

    def _turned(self, scales: Scales) -> Scales:
        return self._fitted(self._numbered(scales))

    def _with_steps(self, scales: Scales, factor: np.float32) -> Scales:
        """Take other steps, and the whole numbers that change least."""
        layout = self._layout
        numbers = np.clip(np.rint(scales.scales / factor), layout.least, layout.most)
        found = replace(scales, steps=_halves(scales.steps * factor), scales=numbers)
        if scales.minima is None or scales.minimum_steps is None:
            return found
        return replace(
            found,
            minimum_steps=_halves(scales.minimum_steps * factor),
            minima=np.clip(np.rint(scales.minima / factor), 0, layout.most_minimum),
        )

    # ---- whole numbers

    def _numbered(self, scales: Scales) -> Scales:
        """Try other whole numbers for each group; where a block has one scale only, other steps."""
        best, found = self._losses(scales), scales
        for candidate in self._candidates(scales):
            lost = self._losses(candidate)
            better = lost < best
            best, found = np.where(better, lost, best), self._merged(better, candidate, found)
        return found

    def _candidates(self, scales: Scales) -> Iterator[Scales]:
        layout = self._layout
        if layout.least == layout.most:
            for factor in _AROUND:
                yield self._with_minima(replace(scales, steps=_halves(scales.steps * np.float32(factor))))
        elif scales.minima is not None:
            for more in _NEXT:
                numbers = np.clip(scales.scales + np.float32(more), layout.least, layout.most)
                candidate = replace(scales, scales=numbers)
                if more:
                    yield candidate
                fitting = self._with_minima(candidate)
                yield fitting
                if fitting.minima is not None:
                    for less in _BESIDE:
                        minima = np.clip(fitting.minima + np.float32(less), 0, layout.most_minimum)
                        yield replace(fitting, minima=minima)
        else:
            for factor in _AROUND:
                for sign in (1, -1):
                    numbers = np.clip(np.rint(scales.scales * np.float32(factor * sign)), layout.least, layout.most)
                    yield replace(scales, scales=numbers)

    def _with_minima(self, scales: Scales) -> Scales:
        """Let minima be those that suit the levels found with the ones that are given."""
        if scales.minima is None or scales.minimum_steps is None:
            return scales
        scale, minimum = self._of_groups(scales)
        self._round(scale, minimum)
        np.multiply(self._levels, scale, out=self._spare)
        self._spare -= self._values
        self._spare *= self._weights
        total = self._weights.sum(axis=0)
        wanted = np.divide(self._spare.sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
        wanted = wanted.reshape(scales.minima.shape)
        if self._layout.least == self._layout.most:
            return replace(scales, minimum_steps=_halves(wanted))
        steps = scales.minimum_steps
        numbers = np.divide(wanted, steps, out=np.zeros_like(wanted), where=steps != 0)
        return replace(scales, minima=np.clip(np.rint(numbers), 0, self._layout.most_minimum))

    def _merged(self, better: NDArray[np.bool_], candidate: Scales, scales: Scales) -> Scales:
        """Take the candidate's numbers, or steps, where they are better, bool [n_groups]."""

        def merged(new: Floats | None, old: Floats | None) -> Floats | None:
            if new is None or old is None or new is old:
                return old
            return np.where(better.reshape(len(new), -1)[:, : new.shape[1]], new, old)

        steps, numbers = merged(candidate.steps, scales.steps), merged(candidate.scales, scales.scales)
        assert steps is not None
        assert numbers is not None
        return Scales(
            steps,
            numbers,
            merged(candidate.minimum_steps, scales.minimum_steps),
            merged(candidate.minima, scales.minima),
        )

    # ---- steps

    def _fitted(self, scales: Scales) -> Scales:
        """Let each block have the steps with which its levels fit best, where that is better."""
        before = self._of_blocks(self._losses(scales))
        if scales.minima is None or scales.minimum_steps is None:
            np.multiply(self._levels, self._weights, out=self._spare)
            squares = np.einsum("ij,ij->j", self._spare, self._levels)
            products = np.einsum("ij,ij->j", self._spare, self._values)
            numbers = scales.scales.reshape(-1)
            across = products * numbers
            above = (1 + _COHERENCE) * self._of_blocks(across)
            below = self._of_blocks(squares * numbers * numbers + across * across * self._shares)
            steps = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
            candidate = replace(scales, steps=_halves(steps[:, None]))
        else:
            candidate = self._fitted_with_minima(scales)
        better = self._of_blocks(self._losses(candidate)) < before
        return self._merged(np.repeat(better, self._in_block), candidate, scales)

    def _fitted_with_minima(self, scales: Scales) -> Scales:
        """Solve for both steps of each block: of values step * u - minimum_step * v."""
        assert scales.minima is not None
        assert scales.minimum_steps is not None
        numbers, minima = scales.scales.reshape(-1), scales.minima.reshape(-1)
        np.multiply(self._levels, self._weights, out=self._spare)
        squares = np.einsum("ij,ij->j", self._spare, self._levels)
        products = np.einsum("ij,ij->j", self._spare, self._values)
        levels = self._spare.sum(axis=0)
        values = np.einsum("ij,ij->j", self._weights, self._values)
        across_u, across_v = numbers * products, minima * values
        uu = self._of_blocks(numbers * numbers * squares + across_u * across_u * self._shares)
        uv = self._of_blocks(numbers * minima * levels + across_u * across_v * self._shares)
        vv = self._of_blocks(minima * minima * self._weights.sum(axis=0) + across_v * across_v * self._shares)
        ux, vx = ((1 + _COHERENCE) * self._of_blocks(across) for across in (across_u, across_v))
        determinant = uu * vv - uv * uv
        usable = determinant > 1e-6 * uu * vv
        determinant = np.where(usable, determinant, np.ones_like(determinant))
        steps = _halves((vv * ux - uv * vx) / determinant)
        minimum_steps = _halves((uv * ux - uu * vx) / determinant)
        return replace(
            scales,
            steps=np.where(usable[:, None], steps[:, None], scales.steps),
            minimum_steps=np.where(usable[:, None], minimum_steps[:, None], scales.minimum_steps),
        )

    # ---- losses

    def _losses(self, scales: Scales) -> Floats:
        """Return the loss of each group with the nearest levels, float32 [n_groups]; the levels are kept."""
        scale, minimum = self._of_groups(scales)
        self._round(scale, minimum)
        np.multiply(self._levels, scale, out=self._spare)
        if minimum is not None:
            self._spare -= minimum
        self._spare -= self._values
        return self._lost()

    def _lost(self) -> Floats:
        """Return what each group loses whose errors are in `_spare`, which is changed."""
        along = np.einsum("ij,ij->j", self._spare, self._pulls)
        np.square(self._spare, out=self._spare)
        self._spare *= self._weights
        found: Floats = self._spare.sum(axis=0) + along * along * self._shares
        return found

    def _codes(self, scales: Scales) -> NDArray[np.uint8]:
        """Return the numbers of the nearest levels, uint8 [n_blocks, block size]."""
        self._round(*self._of_groups(scales))
        if self._layout.has_equal_steps:
            numbers = self._levels - self._layout.levels[0]
        else:
            numbers = np.searchsorted(self._layout.levels, self._levels)
        return np.ascontiguousarray(numbers.astype(np.uint8).T).reshape(-1, self._in_block * self._layout.group)

    def _round(self, scale: Floats, minimum: Floats | None) -> None:
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        source = self._values
        if minimum is not None:
            source = np.add(self._values, minimum, out=self._levels)
        np.multiply(source, inverse, out=self._levels)
        low, high = self._layout.levels[0], self._layout.levels[-1]
        if self._table is None:
            np.rint(self._levels, out=self._levels)
            np.clip(self._levels, low, high, out=self._levels)
            return
        np.clip(self._levels, low, high, out=self._levels)
        self._levels -= low
        self._levels *= 2
        self._table.take(self._levels.astype(np.int32), out=self._levels, mode="clip")

    def _of_groups(self, scales: Scales) -> tuple[Floats, Floats | None]:
        scale = (scales.steps * scales.scales).reshape(-1)
        if scales.minima is None or scales.minimum_steps is None:
            return scale, None
        return scale, (scales.minimum_steps * scales.minima).reshape(-1)

    def _of_blocks(self, groups: Floats) -> Floats:
        found: Floats = groups.reshape(-1, self._in_block).sum(axis=1)
        return found


def _table_of(levels: Floats) -> Floats:
    """List the nearest level of each half unit from the first one on: bounds between levels are whole halves."""
    places = levels[0] + np.arange(int(2 * (levels[-1] - levels[0])) + 1, dtype=np.float32) / 2
    found: Floats = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, places, side="right")]
    return found


def _halves(values: NDArray[Any]) -> Floats:
    """Round to float16."""
    found: Floats = np.clip(values, -_GREATEST, _GREATEST).astype(np.float16).astype(np.float32)
    return found
